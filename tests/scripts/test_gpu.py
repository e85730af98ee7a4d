"""What wants a GPU runs in slices, in order, and nothing runs twice."""

import pytest

from experiments.cli import PREEMPTED
from scripts import gpu, results
from tests.commands import code_of, refusal


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """The folder of results, and the exit codes of commands, which write what they are told to."""
    codes = dict.fromkeys(("first", "second", "third"), 0)
    started = []

    def run(command, seconds, environment):
        _, _, name, place = command
        started.append(name)
        assert 0 < seconds <= 60
        if not codes[name]:
            (tmp_path / "results" / f"{name}.md").write_text(place)
        return codes[name]

    monkeypatch.setattr(gpu, "COMMANDS", {f"{name}.md": name for name in codes})
    monkeypatch.setattr(gpu, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(results, "run", run)
    monkeypatch.setattr(gpu, "has_gpu", lambda: True)
    return codes, started


def test_a_slice_ends_where_the_time_is_over_and_the_next_goes_on_there(commands, capsys):
    codes, started = commands
    codes["second"] = PREEMPTED
    assert code_of(gpu.main, "--minutes=1") == 75
    assert started == ["first", "second"]
    assert capsys.readouterr().err.endswith("the time is up: run the same command again to go on\n")
    codes["second"] = 0
    gpu.main(["--minutes=1"])
    assert started == ["first", "second", "second", "third"]


def test_a_comparison_that_is_half_copied_is_run_again(commands, tmp_path, monkeypatch):
    codes, started = commands
    codes["comparison"] = 0
    monkeypatch.setattr(gpu, "COMMANDS", {"comparison": "comparison"})
    kept = tmp_path / "results" / "comparison"
    kept.mkdir(parents=True)
    monkeypatch.setattr(results, "keep", lambda *_: (kept / "summary.md").touch())
    gpu.main(["--minutes=1"])
    gpu.main(["--minutes=1"])
    assert started == ["comparison"]


def test_the_rest_runs_after_a_failure_whose_code_comes_at_the_end(commands, capsys):
    codes, started = commands
    codes |= {"first": 3, "third": 4}
    assert (code_of(gpu.main, "--minutes=1"), started) == (3, ["first", "second", "third"])
    assert capsys.readouterr().err.endswith(
        "first.md failed with exit code 3\nthird.md failed with exit code 4\n"
    )


def test_after_a_failure_there_may_be_more_to_do(commands):
    codes, _ = commands
    codes |= {"first": 3, "second": PREEMPTED}
    assert code_of(gpu.main, "--minutes=1") == PREEMPTED


def test_without_a_gpu_it_says_so_and_leaves_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "RESULTS", tmp_path / "results")
    assert "JAX finds no GPU here" in refusal(capsys, gpu.main)
    assert list(tmp_path.iterdir()) == []
