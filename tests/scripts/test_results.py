"""What is run again replaces what was shown."""

import signal
import sys
import threading

import pytest

from bnrepro.errors import UserError
from bnrepro.records import write_run
from bnrepro.report.report import write
from experiments import cli
from experiments.train import report
from scripts import results
from tests.commands import code_of, refusal
from tests.records_fixtures import ACCURACY, small_run
from tests.test_readme import RECORDS


def test_a_result_is_run_by_the_command_that_made_it():
    command = ["experiments.small_batch", "--config=configs/small_batch.py", "--config.seeds=10"]
    assert results.command_of("small_batch") == command
    for path in RECORDS:
        module, config, *_ = results.command_of(path.name)
        assert (
            module.startswith(("experiments.", "scripts.sweep")) and "--config=configs/" in config
        )


def test_rows_of_its_table_are_renewed_wherever_they_are_shown(tmp_path):
    def workdir(name, accuracy):
        run = small_run(tmp_path / name, accuracy)
        run.provenance["command"] = "python -m experiments.train"
        write_run(run)
        write(run, report(run))
        return tmp_path / name

    better = {key: (*values[:-1], values[-1] + 0.01) for key, values in ACCURACY.items()}
    old, new = workdir("old", ACCURACY), workdir("new", better)
    table = (old / "summary.md").read_text()
    (row,) = [line for line in table.splitlines() if line.startswith("| batch_norm ")]
    header = table.splitlines()[0]
    other = f"{header}\n{row}\n| batch_norm | of another table |\n"
    page = tmp_path / "page.md"
    page.write_text(f"All:\n\n{table}\nOne:\n\n{header}\n{row}\n\n{other}")
    results.keep(new, old, [page])
    renewed = (new / "summary.md").read_text()
    (newer,) = [line for line in renewed.splitlines() if line.startswith("| batch_norm ")]
    assert "94.67" in row and "95.67" in newer
    header = renewed.splitlines()[0]
    assert page.read_text() == f"All:\n\n{renewed}\nOne:\n\n{header}\n{newer}\n\n{other}"
    assert (old / "metrics.csv").read_bytes() == (new / "metrics.csv").read_bytes()
    assert sorted(path.name for path in (old / "figures").iterdir()) == [
        "accuracy.png", "accuracy.svg", "sigmoid_input.png", "sigmoid_input.svg",
    ]  # fmt: skip


# A label may be a number, as that of microbatches of one image.
OLD = "| | final |\n|:--|:--|\n| a | 1 |\n| b | 2 |\n| 1 | 4 |"


def test_a_table_that_has_other_rows_or_columns_is_replaced_as_a_whole():
    new = "| | final | seeds |\n|:----|:--|:--|\n| a | 3 | 9 |\n| longer | 4 | 9 |"
    page = f"Before.\n\n{OLD}\n\nAfter.\n"
    caption = "\n\nA caption.\n"
    assert results.renewed(page, OLD + caption, new + caption) == page.replace(OLD, new)
    some = "| | final |\n|:--|:--|\n| a | 1 |\n"
    renewed = "| | final | seeds |\n|:----|:--|:--|\n| a | 3 | 9 |\n"
    assert results.renewed(some, OLD + caption, new + caption) == renewed


def test_a_row_that_is_shown_and_gone_is_refused():
    with pytest.raises(UserError, match="shows the row 'b', which the new table lacks"):
        results.renewed(OLD.replace("| a | 1 |\n", ""), OLD, OLD.replace("| b |", "| c |"))


def test_a_ledger_is_kept_with_the_records_it_was_read_from(tmp_path):
    new, old = tmp_path / "new", tmp_path / "old"
    write_run(small_run(new / "sigmoid"))
    for name in ("ledger.csv", "ledger.md"):
        (new / name).write_text(f"new {name}")
    old.mkdir()
    (old / "registered.csv").write_text("claims")
    (old / "ledger.md").write_text("old")
    for name in ("checkpoints/state.json", "wandb/log.json", ".lock"):
        (new / "sigmoid" / name).parent.mkdir(exist_ok=True)
        (new / "sigmoid" / name).touch()
    results.keep(new, old, [])
    assert {path.relative_to(old).as_posix() for path in old.rglob("*.*")} == {
        "ledger.csv", "ledger.md", "registered.csv",
        "sigmoid/config.json", "sigmoid/metrics.csv", "sigmoid/provenance.json",
    }  # fmt: skip
    assert (old / "ledger.md").read_text() == "new ledger.md"


def test_a_result_that_is_not_kept_yet_is_run_only_if_it_is_named(tmp_path, monkeypatch):
    run = []
    for folder, name in (("results", "non_iid"), ("runs/results", "new")):
        began, more = (f"python -m {name} {o}" for o in ("--only=a --overwrite", "'--only=a b'"))
        made = small_run(tmp_path / folder / name)
        made.provenance.update(command=began, resumed=[{"command": more}])
        write_run(made)

    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "run", lambda command: run.append(command[2:]))
    monkeypatch.setattr(results, "keep", lambda *_: None)
    results.main([])
    kept = ["non_iid", "--only=a b", "--workdir=runs/results/non_iid"]
    assert run == [kept, ["scripts.claims", "--workdir=runs/results/claims"]]
    results.main(["--only=new"])
    assert run[2:] == [["new", "--only=a b", "--workdir=runs/results/new"]]
    (tmp_path / "runs/results/new/provenance.json").write_text("{")
    with pytest.raises(UserError, match="cannot read"):
        results.command_of("new")


def test_an_unknown_result_is_refused(capsys):
    assert "--only names no result: 'nothing'" in refusal(capsys, results.main, "--only=nothing")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("SIGINT", 130),  # reaches all processes of a terminal
        ("SIGTERM", 75),  # reaches only the one that it is sent to
    ],
)
def test_told_to_end_it_waits_until_the_command_has_saved_its_state(
    tmp_path, monkeypatch, name, code
):
    state = tmp_path / "state"
    saves = (
        "import os, pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        f"os.kill(os.getppid(), signal.{name})\n"
        "time.sleep(0.3)\n"
        f"pathlib.Path({str(state)!r}).touch()"
    )
    monkeypatch.setattr(cli, "_told", threading.Event())
    monkeypatch.setattr(results, "command_of", lambda name: [name])
    run = results.run
    monkeypatch.setattr(results, "run", lambda command: run([sys.executable, "-c", saves]))
    # Without a terminal, Python may have been started with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    before_term = signal.getsignal(signal.SIGTERM)
    cli.heed_sigterm()
    try:
        assert code_of(results.main, "--only=first,second") == code
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, before_term)
    assert state.exists()
