"""TensorBoard and Weights & Biases are told of each seed's settings and metrics, once."""

import dataclasses
import errno
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from bnrepro import trackers
from bnrepro.errors import UserError
from bnrepro.records import RecordsError
from tests.records_fixtures import small_run

VARIANTS = {"plain": {}, "batch_norm": {"normalizer": {"name": "batch_norm"}}}


def run_with_settings(workdir, **changes):
    return small_run(workdir, model={"hidden": (2, 3)}, variants=VARIANTS, **changes)


def tell(tracker, run, last_step):
    """Tells of the rows of plain up to a step."""
    rows = run.metrics[(run.metrics["variant"] == "plain") & (run.metrics["step"] <= last_step)]
    tracker(dataclasses.replace(run, metrics=rows), "plain")


def read_events(folder):
    """Scalars by step and tag, and the messages to the HPARAMS tab by tag."""
    (path,) = folder.iterdir()
    data, scalars, messages = path.read_bytes(), {}, {}
    while data:  # a record: length (8 bytes), its checksum (4), the event, its checksum (4)
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "hparams":
                content = value.metadata.plugin_data.content
                messages[value.tag] = HParamsPluginData.FromString(content)
            else:
                assert (event.step, value.tag) not in scalars
                scalars[event.step, value.tag] = value.simple_value
        data = data[16 + length :]
    return scalars, messages


def settings_of(messages):
    hparams = messages["_hparams_/session_start_info"].session_start_info.hparams
    return {key: getattr(value, value.WhichOneof("kind")) for key, value in hparams.items()}


def test_tensorboard_gets_the_metrics_of_each_seed_and_beside_them_its_settings(tmp_path):
    # None is not a value that the tab knows.
    trackers.TensorBoard()(run_with_settings(tmp_path, optimizer={"momentum": None}), "batch_norm")
    folder = tmp_path / "tensorboard" / "batch_norm"
    assert sorted(path.name for path in folder.glob("seed*")) == ["seed_0", "seed_1", "seed_2"]
    scalars, messages = read_events(folder / "seed_1")
    np.testing.assert_allclose(scalars[10, "test/accuracy"], 0.91)
    assert len(scalars) == 3
    expected = {"dataset": "mnist", "seeds": 3, "first_seed": 0, "steps": 20, "batch_size": 60}
    expected |= {"eval_every": 10, "preview": False, "model.hidden": "[2, 3]"}
    expected |= {"normalizer.name": "batch_norm", "variant": "batch_norm", "seed": 1}
    assert settings_of(messages) == expected
    # A third one, of columns, would hide the settings that another run has.
    assert set(messages) == {"_hparams_/session_start_info", "_hparams_/session_end_info"}


def test_tensorboard_gets_rows_as_they_come_each_once(tmp_path):
    """Also of a process that died, from the one that goes on; of a finished variant, none.

    A trial of a sweep may start over, and then has fewer rows for a while.
    """
    run = run_with_settings(tmp_path)
    folder = tmp_path / "tensorboard" / "plain" / "seed_1"
    dead, alive, later = (trackers.TensorBoard() for _ in range(3))
    steps = ((dead, 0), (dead, 10), (alive, 10), (alive, 0), (alive, 20), (later, 0))
    known = []
    for tracker, last_step in steps:
        tell(tracker, run, last_step)
        known.append({step for step, _ in read_events(folder)[0]})
    assert known == [{0}, {0, 10}, {0, 10}, {0, 10}, {0, 10, 20}, {0, 10, 20}]
    assert len(list(folder.iterdir())) == 1
    assert len(read_events(folder)[1]) == 2


def test_a_pruned_trial_is_complete_at_its_last_step(tmp_path, wandb):
    run = run_with_settings(tmp_path, sweep={"trials": 2})
    tell_all = [trackers.TensorBoard(), trackers.WandB("norms")]
    for seconds in ({}, {"plain": 3.0}):
        run.provenance["seconds"] = seconds
        for tracker in tell_all:
            tell(tracker, run, 10)
        assert [log.finished for log in wandb.runs.values()] == [bool(seconds)] * 3
        _, messages = read_events(tmp_path / "tensorboard" / "plain" / "seed_1")
        assert ("_hparams_/session_end_info" in messages) == bool(seconds)


def test_a_disk_without_room_for_tensorboard_is_one_sentence(tmp_path, monkeypatch):
    append = trackers._append

    def full(path, *events):
        append(path, *events[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(trackers, "_append", full)
    with pytest.raises(RecordsError, match=r"plain: No space left on device"):
        trackers.TensorBoard()(run_with_settings(tmp_path), "plain")


class FakeWandb(ModuleType):
    """What is used of the package, with the names of wandb 0.31; keeps what it is told."""

    class Error(Exception):
        pass

    def __init__(self):
        super().__init__("wandb")
        self.runs = {}

    def Settings(self, *, project):  # noqa: N802  (their name)
        if "/" in project:
            raise self.Error(f"Invalid project name {project!r}")

    def login(self, *, verify):
        assert verify

    def init(self, *, project, dir, id, name, config, group, reinit, resume, settings):
        assert (reinit, resume) == ("create_new", "allow")
        assert settings == {"console": "off", "silent": True}
        (Path(dir) / "wandb" / f"run-{id}").mkdir(parents=True)
        return self.runs.setdefault(id, _FakeRun(project, name, group, config))


class _FakeRun:
    def __init__(self, *made_with):
        self.made_with, self.logged, self.finished = made_with, {}, False

    def log(self, data, *, step):
        if step > max(self.logged, default=-1):  # else dropped, as W&B does
            self.logged[step] = data

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_wandb_gets_a_run_for_each_seed_with_its_settings_and_its_metrics_by_step(tmp_path, wandb):
    run = run_with_settings(tmp_path / "w")
    trackers.WandB("norms")(run, "batch_norm")
    first, second, _ = wandb.runs.values()
    project, name, group, config = second.made_with
    assert (project, name, group) == ("norms", "batch_norm seed 1", "w")
    assert config["model"] == {"hidden": [2, 3]}
    assert config["normalizer"] == {"name": "batch_norm"}
    assert (config["steps"], config["variant"], config["seed"]) == (20, "batch_norm", 1)
    accuracy = {0: 0.1, 10: 0.91, 20: 0.93}
    assert second.logged == {step: {"test/accuracy": value} for step, value in accuracy.items()}
    assert first.logged[20] == {
        "test/accuracy": 0.96,
        "test/sigmoid_input/p15": 2.15,
        "test/sigmoid_input/p50": 2.5,
        "test/sigmoid_input/p85": 2.85,
    }
    folder = run.workdir / "wandb" / "norms" / "batch_norm" / "wandb"
    assert {path.name for path in folder.iterdir()} == {f"run-{name}" for name in wandb.runs}


def test_wandb_is_told_as_rows_come_and_continues_its_run_after_a_death(tmp_path, wandb):
    run = run_with_settings(tmp_path)
    dead, alive = trackers.WandB("norms"), trackers.WandB("norms")
    for tracker, steps in ((dead, [0]), (dead, [0, 10]), (alive, [0, 10]), (alive, [0, 10, 20])):
        tell(tracker, run, steps[-1])
        logs = [(list(log.logged), log.finished) for log in wandb.runs.values()]
        assert logs == [(steps, steps[-1] == 20)] * 3
    wandb.runs.clear()
    trackers.WandB("norms")(run, "plain")
    assert not wandb.runs  # nothing twice
    trackers.WandB("others")(run, "plain")
    assert len(wandb.runs) == 3


@pytest.mark.parametrize("error", [FakeWandb.Error("has\ngone"), BrokenPipeError("has gone")])
def test_what_wandb_does_not_take_is_warned_of_and_goes_on_next_time(
    tmp_path, wandb, monkeypatch, caplog, error
):
    def fail(log, data, *, step):
        raise error

    run, track = run_with_settings(tmp_path), trackers.WandB("norms")
    tell(track, run, 0)
    with monkeypatch.context() as patch:
        patch.setattr(_FakeRun, "log", fail)
        tell(track, run, 10)
    assert "until the run is resumed: plain: has gone" in caplog.text
    assert [log.finished for log in wandb.runs.values()] == [True] * 3
    wandb.runs.clear()
    track(run, "plain")
    assert not wandb.runs
    trackers.WandB("norms")(run, "plain")
    assert len(wandb.runs) == 3


def test_the_same_numbers_have_the_same_wandb_run_and_those_after_overwriting_another(
    tmp_path, wandb
):
    run = run_with_settings(tmp_path)

    def ids(started):
        wandb.runs.clear()
        again = dataclasses.replace(run, provenance=run.provenance | {"started": started})
        trackers.WandB("norms")(again, "plain")
        shutil.rmtree(tmp_path / "wandb")
        return set(wandb.runs)

    assert ids("2026-01-01") == ids("2026-01-01")
    assert not ids("2026-01-01") & ids("2026-01-02")


def test_what_wandb_refuses_is_said_before_anything_is_trained(wandb, monkeypatch):
    with pytest.raises(UserError, match=r"cannot log to .*: Invalid project name 'a/b'"):
        trackers.WandB("a/b")

    def no_account(*, verify):
        raise wandb.Error("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(wandb, "login", no_account)
    with pytest.raises(UserError, match=r"cannot log to .*: No API key"):
        trackers.WandB("norms")
