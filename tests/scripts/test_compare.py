"""The command line of comparisons: what it shows and writes, and mistakes in one sentence."""

import shutil
from functools import partial
from pathlib import Path

import pytest

from bnrepro.records import write_run
from scripts import compare
from tests import commands
from tests.commands import code_of, refusal
from tests.records_fixtures import small_run


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs, `runs/one` and `runs/two`, in the current folder."""
    monkeypatch.chdir(tmp_path)
    # As in a pipe of a user whose shell says nothing of the terminal.
    monkeypatch.delenv("COLUMNS", raising=False)
    for name in ("one", "two"):
        write_run(small_run(tmp_path / "runs" / name))
    return tmp_path / "runs"


output = partial(commands.output, main=compare.main)


def test_any_number_of_runs_is_compared_with_all_that_is_asked(runs, capsys):
    shown = output(capsys, "runs/one", "runs/two", "--baseline=plain", "--steps-to=0.95")
    assert all(text in shown for text in ("┃ run: variant ", "│ two: batch_norm "))
    assert all(text in shown for text in ("+2.67 ± 1.43**", "never", "evaluation (step 20)"))
    assert "data set" not in shown
    shown = output(capsys, "runs/one", "--at=10", "--metric=test/sigmoid_input/p50")
    assert "step 10 test/sigmoid_input/p50" in shown
    shown = output(capsys, "runs/one", "runs/two", "--rows=run,dataset", "--columns=variant")
    assert [line.split("│")[1:3] for line in shown.splitlines()[3:5]] == [
        [" one ", " mnist   "],
        [" two ", " mnist   "],
    ]
    assert "test/accuracy, %, last evaluation" in shown


def test_a_run_of_an_earlier_version_has_the_defaults_of_later_keys(runs, capsys):
    shown = output(capsys, "runs/one", "--rows=variant,model.norm_placement")
    assert "│ plain " in shown and shown.count("│ before ") == 2


def test_the_width_is_that_of_the_terminal_or_all_that_a_pipe_needs(runs, capsys, monkeypatch):
    shutil.copytree("runs/one", "runs/a_name_that_is_longer_than_others")
    arguments = ["runs/one", "runs/a_name_that_is_longer_than_others", "--baseline=plain"]
    whole = "a_name_that_is_longer_than_others: batch_norm"
    assert whole in output(capsys, *arguments)
    monkeypatch.setenv("COLUMNS", "60")
    shown = output(capsys, *arguments)
    assert whole not in shown
    assert max(map(len, shown.splitlines())) <= 60


@pytest.mark.parametrize(
    ("suffix", "form", "sign"),
    [
        (".md", "markdown", "| variant "),
        (".csv", "csv", "run,variant,mean"),
        (".tex", "latex", r"\begin{tabular}"),
        (".HTML", "html", "<table>"),
        (".txt", "text", "━"),
    ],
)
def test_the_format_is_the_one_asked_for_or_the_files(runs, capsys, tmp_path, suffix, form, sign):
    path = tmp_path / "new" / f"table{suffix}"
    said = output(capsys, "runs/one", f"--output={path}")
    assert said == f"The comparison is in {path}.\n"
    text = path.read_text(encoding="utf-8")
    assert sign in text
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    # The format goes before the suffix.
    other = tmp_path / "table.dat"
    output(capsys, "runs/one", f"--output={other}", f"--format={form}")
    assert other.read_text(encoding="utf-8") == text
    assert output(capsys, "runs/one", f"--format={form}") == text


@pytest.mark.parametrize("path", ["", "runs", "file/table.md"])
def test_an_output_that_cannot_be_written_is_one_sentence(runs, capsys, tmp_path, path):
    (tmp_path / "file").touch()
    message = refusal(capsys, compare.main, "runs/one", f"--output={path}")
    assert message.startswith(f"cannot write {Path(path)}: ")
    assert {file.name for file in tmp_path.iterdir()} == {"runs", "file"}


@pytest.mark.parametrize(
    ("argument", "message"),
    [("x" * 300, "File name too long\n"), ("--step=0.9", "unrecognized arguments: --step=0.9\n")],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(runs, capsys, argument, message):
    assert refusal(capsys, compare.main, "runs/one", argument).endswith(message)


def test_bad_workdirs_are_left_out_where_that_is_asked_for(runs, capsys):
    metrics = runs / "two" / "metrics.csv"
    metrics.write_text(metrics.read_text()[:-9])
    sentence = "cannot read runs/two/metrics.csv: it is cut short: its last line is incomplete\n"
    assert refusal(capsys, compare.main, "runs/one", "runs/two") == sentence
    compare.main(["runs/one", "runs/two", "runs", "--skip-bad"])
    captured = capsys.readouterr()
    assert captured.err == (
        f"left out: {sentence}left out: runs is not a workdir: it has no config.json\n"
    )
    assert "│ plain " in captured.out
    assert code_of(compare.main, "runs/two", "--skip-bad") == 2
    message = f"left out: {sentence}error: no workdir is left to compare\n"
    assert capsys.readouterr().err == message
