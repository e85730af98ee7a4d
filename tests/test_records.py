"""A workdir is complete or absent, reads back what was written, and is not overwritten unasked."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from bnrepro import records
from bnrepro.records import (
    METRIC_COLUMNS,
    RecordsError,
    complete_file,
    lock_workdir,
    metric_rows,
    open_sweep,
    open_workdir,
    read_run,
    write_run,
)
from tests.records_fixtures import small_run


@pytest.fixture
def run(tmp_path):
    """A finished run, in its workdir."""
    run = small_run(tmp_path / "w")
    write_run(run)
    return run


def test_what_was_written_reads_back_to_the_last_digit(tmp_path):
    run = small_run(tmp_path / "w", extra=[("plain", 0, 5, "train", "loss", 0.1 + 0.2)])
    write_run(run)
    again = read_run(run.workdir)
    pd.testing.assert_frame_equal(again.metrics, run.metrics, check_exact=True)
    assert tuple(again.metrics.columns) == METRIC_COLUMNS
    assert again.config == run.config
    assert again.provenance == run.provenance


def test_a_file_is_complete_or_absent(tmp_path):
    path = tmp_path / "file.txt"
    with pytest.raises(KeyboardInterrupt), complete_file(path) as beside:
        beside.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RecordsError, match=r"file\.txt: encoder error"), complete_file(path):
        raise OSError("encoder error -2")  # as Pillow does
    path.write_text("old")
    with complete_file(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("written", range(3))
def test_records_with_a_new_trial_can_be_read_however_far_they_are_written(
    run, written, monkeypatch
):
    variants, files = {**run.config["variants"], "new": {}}, iter(range(3))
    row = ("new", 0, 0, "test", "loss", 1.0)
    metrics = pd.concat([run.metrics, metric_rows([row])], ignore_index=True)

    @contextmanager
    def killed(path):
        if next(files) == written:
            raise KeyboardInterrupt
        with complete_file(path) as beside:
            yield beside

    monkeypatch.setattr(records, "complete_file", killed)
    with pytest.raises(KeyboardInterrupt):
        write_run(replace(run, config=run.config | {"variants": variants}, metrics=metrics))
    read_run(run.workdir)


def test_the_settings_of_a_variant_are_flat_and_its_own_go_first(tmp_path):
    changes = {
        "data_dir": "/data",
        "model": {"hidden": (2, 3), "init_std": 0.1},
        "variants": {"plain": {}, "other": {"model": {"init_std": 0.2}}},
    }
    run = small_run(tmp_path, **changes)
    settings = run.settings("other")
    assert settings["model.hidden"] == [2, 3]
    assert (settings["model.init_std"], run.settings("plain")["model.init_std"]) == (0.2, 0.1)
    assert settings["steps"] == 20
    assert not {"data_dir", "variants", "baseline"} & set(settings)


def test_a_new_workdir_holds_the_config_and_no_numbers(tmp_path):
    config = small_run(tmp_path).config
    run = open_workdir(tmp_path / "a" / "b", config)
    assert json.loads((tmp_path / "a" / "b" / "config.json").read_text()) == config
    assert run.metrics.empty
    assert not run.finished("plain")


def test_the_same_config_opens_what_is_there_wherever_the_data_lies_and_however_it_is_read(run):
    again = open_workdir(run.workdir, run.config | {"data_dir": "/elsewhere", "data_workers": 8})
    assert len(again.metrics) == len(run.metrics)


def test_another_config_is_refused_with_the_keys_that_differ_and_loses_nothing(run):
    with pytest.raises(RecordsError, match=r"steps: 20 there, 40 here.*--overwrite"):
        open_workdir(run.workdir, run.config | {"steps": 40})
    assert len(read_run(run.workdir).metrics) == len(run.metrics)


def test_the_workdir_of_a_sweep_is_refused_without_a_list_of_its_trials(tmp_path):
    trials = {f"trial {i}": {"seeds": i} for i in range(1_000)}
    write_run(small_run(tmp_path, {}, variants=trials, baseline="trial 0", sweep={"trials": 1_000}))
    with pytest.raises(RecordsError, match="holds a sweep, not a run") as error:
        open_workdir(tmp_path, small_run(tmp_path).config)
    assert len(str(error.value)) < 300


def test_a_sweep_goes_neither_where_a_run_is_nor_among_foreign_files(tmp_path):
    write_run(small_run(tmp_path))
    with pytest.raises(RecordsError, match="holds a run, not a sweep"):
        open_sweep(tmp_path)
    (tmp_path / "config.json").rename(tmp_path / "thesis.tex")
    with pytest.raises(RecordsError, match="no sweep wrote: thesis"):
        open_sweep(tmp_path)


def test_finished_records_may_get_further_variants_and_unfinished_ones_may_not(run):
    more = run.config | {"variants": run.config["variants"] | {"later": {}}, "baseline": "later"}
    again = open_workdir(run.workdir, more)
    assert again.variants == ["later", *sorted(run.variants)]
    assert len(again.metrics) == len(run.metrics)
    assert read_run(run.workdir).config == more
    # The new one has not finished.
    with pytest.raises(RecordsError, match="variants only here: third"):
        open_workdir(run.workdir, more | {"variants": more["variants"] | {"third": {}}})
    with pytest.raises(RecordsError, match="variants only there: later"):
        open_workdir(run.workdir, run.config)


def test_a_workdir_that_a_user_has_put_files_into_is_locked_as_well(run):
    (run.workdir / "notes.txt").write_text("mine")
    with (
        lock_workdir(run.workdir),
        pytest.raises(RecordsError, match="is in use by another process"),
        lock_workdir(run.workdir),
    ):
        pass


def test_overwriting_removes_what_was_made_of_the_old_numbers(run, tmp_path):
    (run.workdir / "summary.csv").write_text("old")
    (run.workdir / "figures").mkdir()
    # As where the home directory is small.
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "10").write_text("a checkpoint")
    (run.workdir / "checkpoints").symlink_to(tmp_path / "disk")
    new = open_workdir(run.workdir, run.config | {"steps": 40}, overwrite=True)
    assert new.metrics.empty
    assert {path.name for path in run.workdir.iterdir()} == {
        "config.json",
        "metrics.csv",
        "provenance.json",
    }


def test_overwriting_that_was_interrupted_is_taken_up(run, monkeypatch):
    (run.workdir / "figures").mkdir()
    listed = Path.iterdir

    def interrupted(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", lambda path: iter(sorted(listed(path))))
        patch.setattr(shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_workdir(run.workdir, run.config, overwrite=True)
    assert open_workdir(run.workdir, run.config, overwrite=True).metrics.empty


@pytest.mark.parametrize("name", ["thesis.tex", "figures/thesis.svg"])
def test_a_folder_of_something_else_is_refused_even_when_overwriting(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("precious")
    with pytest.raises(RecordsError, match=f"no run of ours wrote: {name.split('/')[0]}"):
        open_workdir(tmp_path, {"baseline": "plain", "variants": {}}, overwrite=True)
    assert path.read_text() == "precious"


def test_a_workdir_whose_making_was_interrupted_is_taken_up(run):
    (run.workdir / "config.json").unlink()
    assert open_workdir(run.workdir, run.config).metrics.empty


def test_a_workdir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordsError, match=r"cannot write to .*file: it is not a folder"):
        open_workdir(tmp_path / "file", {})


HEADER = "variant,seed,step,split,metric,value\n"
VARIANTS = '{"seeds": 1, "steps": 1, "variants": {"a": '


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "config.json"),
        ("config.json", "[]", "one JSON object"),
        ("config.json", "[" * 100_000, "config.json"),
        ("config.json", '{"seeds": "3", "steps": 1}', "an integer seeds, got '3'"),
        ("config.json", '{"seeds": 1}', "an integer steps, got None"),
        ("config.json", '{"seeds": 1, "steps": 1}', "variants, an object of objects"),
        ("config.json", VARIANTS + "3}}", "an object of objects"),
        ("config.json", VARIANTS + '{"digits": "2"}}}', "integer variants.a.digits, got '2'"),
        ("config.json", VARIANTS + '{}}, "baseline": ["a"]}', "one of its variants as baseline"),
        ("config.json", VARIANTS + '{}}, "baseline": "b"}', "one of its variants as baseline"),
        ("metrics.csv", HEADER + "plain,0,1", "is cut short"),
        ("metrics.csv", HEADER + "a,0,1,b,c,?\n", "metrics.csv"),
        ("metrics.csv", HEADER + f"a,{10**30},1,b,c,1\n", "metrics.csv"),
        ("metrics.csv", HEADER + 2 * "a,0,1,b,c,1\n", "two values for one metric"),
        ("metrics.csv", HEADER + "a,0,1,b,c,1\n", r"a variant that config\.json lacks: 'a'"),
        ("provenance.json", "{}", "must name the dataset"),
        ("metrics.csv", "a,b\n1,2\n", "columns variant"),
    ],
)
def test_a_damaged_file_is_named(run, name, content, message):
    (run.workdir / name).write_text(content)
    with pytest.raises(RecordsError, match=message):
        read_run(run.workdir)


def test_a_variant_is_finished_when_every_seed_got_to_the_end_or_diverged(tmp_path):
    run = small_run(tmp_path)
    assert run.finished("plain")
    assert not run.finished("missing")
    cut = run.metrics[(run.metrics["step"] < 20) | (run.metrics["seed"] < 2)]
    short = type(run)(run.workdir, run.config, cut, {})
    assert not short.finished("plain")
    row = metric_rows([("plain", 2, 13, "train", "diverged", 1.0)])
    diverged = type(run)(run.workdir, run.config, pd.concat([cut, row]), {})
    assert diverged.finished("plain")


def test_the_baseline_comes_first_the_others_by_name(tmp_path):
    changes = {"variants": {"b": {}, "a": {}, "plain": {}}}
    assert small_run(tmp_path, **changes).variants == ["plain", "a", "b"]
