"""A short form of each trial of scripts/torture.py."""

import pytest

from scripts import torture
from tests import xla_flags
from tests.commands import code_of

SHORT = ("--config.seeds=1", "--config.steps=300", "--config.model.hidden=(20,20)")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    # One device, as the command has by itself.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", xla_flags(devices=1))
        yield torture.Bench(tmp_path_factory.mktemp("torture") / "bench", *SHORT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trial", "size"),
    [
        (torture.killed, {"count": 1}),
        (torture.told_to_end, {"count": 1}),
        (torture.damaged, {"count": 10}),
        (torture.full_disk, {}),
        (torture.memory, {"evaluations": 50}),
        (torture.mistakes, {"wrong": torture.MISTAKES[::16]}),
        (torture.strangers, {"every": 12}),
        (torture.sweep_killed, {"workers": 2, "trials": 4, "every": 3}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_run_survives(bench, trial, size):
    result = trial(bench, **size)
    if result.of == 0:
        pytest.skip(result.seen)
    assert result.passed == result.of, result


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--trials=kiled", "--trials names no trial: 'kiled'"),
        ("--output=held/file/x", "cannot write to held/file"),
        ("--workdir=held", "--workdir=held must be a new or an empty folder"),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(
    tmp_path, monkeypatch, capsys, option, sentence
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "file").touch()
    assert code_of(torture.main, "--workdir=new", option) == 2
    assert sentence in capsys.readouterr().err
    assert {path.name for path in tmp_path.rglob("*")} == {"held", "file"}
