"""Trials from a study to records: each exactly once, whatever its workers did."""

import dataclasses
import itertools
import json
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import optuna
import pandas as pd
import pytest
import sqlalchemy
from filelock import FileLock
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from bnrepro.comparison import run as run_module
from bnrepro.comparison.config import common_config, with_settings
from bnrepro.comparison.keys import ConfigError
from bnrepro.comparison.run import run_comparison
from bnrepro.records import RecordsError, complete_file, read_run
from bnrepro.sweep import engines
from bnrepro.sweep import progress as progress_module
from bnrepro.sweep import study as study_module
from bnrepro.sweep import worker as worker_module
from bnrepro.sweep.plan import Plan
from bnrepro.sweep.progress import Display, check_storage, collect, progress_of
from bnrepro.sweep.space import SweepError, grid, make_space
from bnrepro.sweep.study import SharedStudy, finished
from bnrepro.sweep.worker import load_data, work
from bnrepro.training.checkpoints import CheckpointError, Checkpoints
from scripts.sweep import report as sweep_report
from tests.programs import made_once
from tests.small_dataset import small_config, small_dataset

RATE, NAME, LIMIT = "optimizer.learning_rate", "normalizer.name", "normalizer.r_max"
GRID = {RATE: [0.1, 1.0], NAME: ["none", "batch_renorm"]}


@pytest.fixture(scope="module", autouse=True)
def dataset():
    make_program = made_once(worker_module.make_program)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "load_dataset", lambda *_, **__: small_dataset())
        for module in (run_module, worker_module):
            patch.setattr(module, "make_program", make_program)
        yield


CONFIG = common_config(small_config(**{"model.hidden": [6]}))


def make_plan(folder, varied=GRID, sampler="grid", trials=None, config=CONFIG, **changes):
    space = make_space(varied)
    settings = {"trials": trials or len(grid(space, None)), "name": "sweep"}
    settings |= {"storage": f"sqlite:///{folder}/sweep.db", "checkpoints": folder / "checkpoints"}
    return Plan(config, space, sampler, **settings | changes)


@pytest.fixture
def opened():
    """Opens the study of a plan, with its trials in the queue."""
    studies = []

    def open_study(plan):
        studies.append(SharedStudy(plan))
        studies[-1].refill()
        return studies[-1]

    yield open_study
    for study in studies:
        study.close()


@pytest.fixture
def fast_heart(monkeypatch):
    """A dead worker's trials are retried after seconds, and every evaluation is saved."""
    monkeypatch.setattr(study_module, "HEARTBEAT", 1)
    monkeypatch.setattr(worker_module, "SAVE_EVERY", 0)


def take(study, count=100):
    """Takes so many trials, whatever programs they make."""
    claims = []
    while len(claims) < count:
        missing = count - len(claims)
        if not (more := study.claim(lambda settings, unfinished, most=missing: most)):
            break
        claims += more
    return claims


def refill_until(study, index, state):
    """The trial of that index once it has the state, which takes a while after a death."""
    for _ in range(100):
        study.refill()
        if (trial := study.trials()[index]).state == state:
            return trial
        time.sleep(0.1)
    raise AssertionError(f"trial {index} is {trial.state}")


def finish(study, claim, score=0.5):
    study.finish(claim, score, [(claim.name, 0, 20, "test", "accuracy", score)], 1.0)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The plan, folder, study and records of a sweep of `GRID`."""
    folder = tmp_path_factory.mktemp("swept")
    plan = make_plan(folder)
    with closing(SharedStudy(plan)) as study:
        study.refill()
        work(plan)
        yield plan, folder, study, collect(study, folder)


def test_the_records_of_a_sweep_have_every_trial_as_a_variant(swept):
    plan, folder, _, run = swept
    read = read_run(folder)
    assert read.variants == run.variants == [f"trial {i}" for i in range(4)]
    settings = [(read.settings(name)[NAME], read.settings(name)[RATE]) for name in read.variants]
    assert settings == [("none", 0.1), ("none", 1.0), ("batch_renorm", 0.1), ("batch_renorm", 1.0)]
    assert all(read.finished(name) for name in read.variants)
    assert (read.provenance["dataset"], read.provenance["classes"]) == ("small/1.0.0", 2)
    assert read.provenance["command"].startswith("python -m scripts.sweep")
    assert set(read.provenance["seconds"]) == set(read.variants)
    assert read.config["sweep"]["vary"] == GRID
    assert read.config["sweep"]["trials"] == plan.trials


@pytest.fixture
def begun(tmp_path, opened):
    """The study of a sweep of `GRID`, one trial of which has finished."""
    study = opened(make_plan(tmp_path))
    study.register({"dataset": "mnist", "started": "1"})
    finish(study, take(study, 1)[0])
    return study


def test_the_recorded_command_has_no_password(tmp_path, begun, monkeypatch):
    url = "postgresql://me:secret@host/x"
    begun.plan = dataclasses.replace(begun.plan, storage=url)
    monkeypatch.setattr(sys, "argv", ["sweep.py", f"--storage={url}", "--prune"])
    command = collect(begun, tmp_path).provenance["command"]
    assert command == "python -m scripts.sweep '--storage=postgresql://me:***@host/x' --prune"


def test_of_machines_that_share_a_workdir_one_tells_the_trackers(tmp_path, begun):
    told = []
    trackers = [lambda run, name: told.append(name)]
    with FileLock(tmp_path / "tensorboard" / ".lock"):  # what the first holds until it ends
        collect(begun, tmp_path, trackers)
    assert told == []
    collect(begun, tmp_path, trackers)
    assert told == ["trial 0"]


def test_a_trial_is_what_an_experiment_with_its_settings_is(swept, tmp_path):
    *_, run = swept
    name = "trial 3"
    variants = {name: run.config["variants"][name]}
    alone = run_comparison(CONFIG | {"variants": variants, "baseline": name}, tmp_path / "w")
    keys = ["variant", "seed", "step", "split", "metric"]
    ours, theirs = (r.metrics.set_index(keys)["value"].sort_index() for r in (run, alone))
    ours = ours.loc[[name]]
    assert list(ours.index) == list(theirs.index)
    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)


def test_a_workdir_with_the_trials_of_another_storage_is_refused(swept, tmp_path, opened):
    plan, folder, study, _ = swept
    check_storage(study, folder)
    elsewhere = dataclasses.replace(plan, storage=f"sqlite:///{tmp_path}/new.db")
    with pytest.raises(SweepError, match="no such file"):
        SharedStudy(elsewhere)
    assert not list(tmp_path.iterdir())
    (tmp_path / "new.db").touch()
    with closing(SharedStudy(elsewhere)) as new, pytest.raises(RecordsError, match="not in this"):
        check_storage(new, folder)
    # Of another sweep, trials may have the same names.
    other = opened(make_plan(tmp_path, config=CONFIG | {"steps": 40}))
    with pytest.raises(RecordsError, match="not in this --storage under the name sweep; give"):
        check_storage(other, folder)


def test_a_finished_sweep_is_not_trained_again(swept, monkeypatch):
    plan, _, study, _ = swept
    monkeypatch.setattr(worker_module, "train_variants", lambda *args: pytest.fail("trained"))
    study.refill()
    work(plan)
    assert len(study.trials()) == 4


def test_trials_that_diverge_are_recorded_and_the_others_go_on(tmp_path, opened):
    # Each step multiplies the weights by 1 - 3e6, so that they are infinite after six.
    plan = make_plan(tmp_path, {"optimizer.weight_decay": [0.0, 1e6]})
    study = opened(plan)
    work(plan)
    run = collect(study, tmp_path)
    diverged = run.metrics[run.metrics["metric"] == "diverged"]
    assert diverged[["variant", "seed"]].to_numpy().tolist() == [["trial 1", 0], ["trial 1", 1]]
    assert run.finished("trial 0")
    assert run.finished("trial 1")
    progress = progress_of(study.plan, study.trials())
    assert (progress.finished, progress.done) == (2, 1.0)
    assert progress.text.startswith("2 of 2 trials, 1 with a diverged seed, best")
    assert [index for index, *_ in progress.best] == [0, 1]
    assert progress.best[1][2] == 0


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc"])
def test_workers_share_the_points_that_a_sampler_draws_within_the_space(sampler, tmp_path, opened):
    varied = {RATE: "log(0.01,3)", "batch_size": [6, 12], NAME: ["none", "batch_norm"]}
    plan = make_plan(tmp_path, varied, sampler, 12)
    first, second = opened(plan), opened(plan)
    claims = [claim for _ in range(3) for study in (first, second) for claim in take(study, 2)]
    settings = [claim.settings for claim in sorted(claims, key=lambda claim: claim.index)]
    assert settings == plan.points or sampler == "tpe"
    assert sorted(claim.index for claim in claims) == list(range(12))
    assert len({own[RATE] for own in settings}) == 12
    assert all(0.01 <= own[RATE] <= 3 for own in settings)
    assert {own["batch_size"] for own in settings} <= {6, 12}


def test_trials_that_tpe_proposes_later_are_checked_all_over_the_space(tmp_path):
    varied = {RATE: "log(1,16)", LIMIT: "uniform(1,17)"}
    settings = make_plan(tmp_path, varied, "tpe", 1).to_check
    points = [(np.log2(one[RATE]) / 4, (one[LIMIT] - 1) / 16) for one in settings]
    counts, *_ = np.histogram2d(*zip(*points, strict=True), bins=16, range=((0, 1), (0, 1)))
    assert counts.min() == 1  # in each sixteenth of both


def test_of_a_sweep_that_is_to_have_fewer_trials_now_the_rest_is_left(tmp_path, opened):
    plan = make_plan(tmp_path, {RATE: "log(0.01,3)"}, "random", 6)
    study = opened(plan)
    for claim in take(study, 1):
        finish(study, claim)
    fewer = opened(dataclasses.replace(plan, trials=3))
    assert [claim.index for claim in take(fewer, 100)] == [1, 2]
    assert (fewer.waiting(), study.waiting()) == (0, 3)


def test_workers_that_claim_at_the_same_moment_never_get_the_same_trial(tmp_path, opened):
    plan = make_plan(tmp_path, {RATE: "log(0.01,3)"}, "random", 12)
    studies = [opened(plan) for _ in range(4)]
    together = threading.Barrier(len(studies))

    def claim_all(study):
        together.wait()
        indices = []
        while claims := take(study, 1):
            indices += [claim.index for claim in claims]
        return indices

    with ThreadPoolExecutor(len(studies)) as pool:
        taken = [index for indices in pool.map(claim_all, studies) for index in indices]
    assert sorted(taken) == list(range(12))


@pytest.mark.usefixtures("fast_heart")
@pytest.mark.parametrize(("owner", "function"), [(SharedStudy, "report"), (Checkpoints, "save")])
def test_a_worker_that_was_taken_for_dead_goes_on_with_its_next_trial(
    tmp_path, monkeypatch, opened, owner, function
):
    config = with_settings(CONFIG, {"checkpoint.every": 1})
    varied = {RATE: [0.1, 1.0], NAME: ["none"]}
    plan = make_plan(tmp_path, varied, at_once=1, config=config)
    study = opened(plan)
    original, failed = getattr(owner, function), []

    def taken_away(self, *args):
        if not failed:
            failed.append(study._study.tell(0, state=TrialState.FAIL).number)
            if owner is Checkpoints:
                raise CheckpointError("the folder was removed while Orbax wrote to it")
        original(self, *args)

    monkeypatch.setattr(owner, function, taken_away)
    work(plan)
    assert failed == [0]
    states = [trial.state for trial in study.trials().values()]
    assert states == [TrialState.FAIL, TrialState.COMPLETE]


@pytest.mark.usefixtures("fast_heart")
def test_what_a_dead_worker_had_is_anothers_until_it_has_ended_too_many(
    tmp_path, monkeypatch, opened
):
    monkeypatch.setattr(study_module, "MAX_RETRIES", 1)
    plan = make_plan(tmp_path, {RATE: "log(0.01,3)"}, "random", 2)
    study, living = opened(plan), opened(plan)
    (dead,) = take(study, 1)
    with living.alive():
        (alive,) = take(living, 1)
        refill_until(study, 0, TrialState.WAITING)
        assert study.trials()[1].state == TrialState.RUNNING
        (again,) = take(study)
        assert (again.index, again.settings) == (dead.index, dead.settings)
        # What the dead one says after all is not heard.
        with pytest.raises(UpdateFinishedTrialError):
            finish(study, dead, 0.75)
        with pytest.raises(SweepError, match="trial 0 was started 2 times"):
            refill_until(study, 0, TrialState.WAITING)
        # What happened before is forgiven: the next command gives it more memory, perhaps.
        (last,) = take(opened(plan))
        finish(study, last, 0.25)
        finish(living, alive, 0.5)
    run = collect(study, tmp_path)
    finals = run.metrics[run.metrics["metric"] == "accuracy"].set_index("variant")["value"]
    assert finals.to_dict() == {"trial 0": 0.25, "trial 1": 0.5}


def test_a_retried_trial_has_its_settings_in_whatever_order_the_keys_come(tmp_path, opened):
    varied = {RATE: [0.1, 1.0], LIMIT: [1.0, 3.0]}
    claims = take(opened(make_plan(tmp_path, varied)))
    for claim in claims:
        claim.trial.study.tell(claim.trial, state=TrialState.FAIL)
    again = take(opened(make_plan(tmp_path, dict(reversed(varied.items())))))
    assert [claim.settings for claim in again] == [claim.settings for claim in claims]


def test_a_trial_that_was_enqueued_twice_is_trained_once(tmp_path, opened):
    study = opened(make_plan(tmp_path))
    first, *_ = claims = take(study)
    first.trial.study.enqueue_trial({RATE: 0.1, NAME: "none"}, user_attrs={"index": 0})
    assert [claim.index for claim in claims] == [0, 1, 2, 3]
    assert study.waiting() == 0
    assert take(study) == []


def test_another_sweep_is_refused_with_the_difference_but_for_what_is_no_setting(tmp_path, opened):
    opened(make_plan(tmp_path))
    elsewhere = with_settings(CONFIG, {"data_dir": "/elsewhere", "checkpoint.every": 3})
    opened(make_plan(tmp_path, config=elsewhere))
    for changes, message in [
        ({"config": CONFIG | {"steps": 40}}, "steps: 20 there, 40 here"),
        ({"varied": {**GRID, RATE: [0.1, 2.0]}}, r"learning_rate: \[0.1, 1.0\] there"),
        ({"sampler": "random"}, "search: grid there, random here"),
    ]:
        with pytest.raises(RecordsError, match=message):
            SharedStudy(make_plan(tmp_path, **changes))


def test_a_study_of_someone_else_is_refused_and_kept(tmp_path):
    plan = make_plan(tmp_path)
    # Without a pool, whose connections nobody would close.
    storage = optuna.storages.RDBStorage(plan.storage, {"poolclass": sqlalchemy.NullPool})
    theirs = optuna.create_study(study_name=plan.name, storage=storage)
    theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(RecordsError, match=r"named sweep \(not one of ours\)"):
        SharedStudy(plan)
    assert (len(theirs.trials), theirs.user_attrs) == (1, {})


def test_a_sweep_made_before_a_config_key_existed_is_resumed_with_the_default(tmp_path, opened):
    plan = make_plan(tmp_path)
    without = {key: value for key, value in CONFIG.items() if key != "augment"}
    before = opened(dataclasses.replace(plan, config=without))
    finish(before, take(before, 1)[0])
    assert [claim.index for claim in take(opened(plan))] == [1, 2, 3]
    with pytest.raises(RecordsError, match="augment: none there, crop here"):
        SharedStudy(make_plan(tmp_path, config=CONFIG | {"augment": "crop"}))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:////no/such/folder/x.db", "cannot use the storage sqlite"),
        (f"sqlite:///{__file__}", "file is not a database"),
        ("sqlite://", "cannot use the storage sqlite://: workers do not share memory"),
        ("mysql+nodriver://u:secret@localhost/x", "cannot use the storage"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_sentence_without_its_password(url, message, tmp_path):
    with pytest.raises(SweepError, match=message) as caught:
        SharedStudy(make_plan(tmp_path, storage=url))
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_worker_with_other_data_is_refused(begun):
    begun.register({"dataset": "mnist", "started": "2"})
    with pytest.raises(RecordsError, match="digits, but the others have mnist"):
        begun.register({"dataset": "digits", "started": "3"})
    # These did not say what it holds, as in an earlier version; the first is now another.
    begun.register({"dataset": "mnist", "sha256": "0a", "started": "0"})
    begun.register({"dataset": "mnist", "sha256": "0a", "started": "4"})
    with pytest.raises(RecordsError, match="has mnist with other content, but the others have mni"):
        begun.register({"dataset": "mnist", "sha256": "0b", "started": "5"})


def test_what_does_not_fit_the_data_set_is_found_before_the_first_trial(tmp_path):
    small, large = CONFIG["batch_size"], 10_000 * CONFIG["microbatch_size"]
    with pytest.raises(ConfigError, match=f"batch_size={large}: batch_size must be"):
        load_data(make_plan(tmp_path, {"batch_size": [small, large]}))


def test_trials_train_on_one_device_each_however_many_a_single_run_spreads_over(tmp_path):
    devices = {"devices.data": 2, "devices.seeds": 2, "devices.synchronized": True}
    load_data(make_plan(tmp_path, config=with_settings(CONFIG, devices)))


def test_of_a_random_design_only_its_own_trials_are_checked_against_the_data(tmp_path, monkeypatch):
    checked = []
    monkeypatch.setattr(worker_module, "make_job", lambda _, config, *__: checked.append(config))
    plan = make_plan(tmp_path, {"normalizer.window": "uniform(1,10000)"}, "random", 3)
    load_data(plan)
    windows = [config["normalizer"]["window"] for config in checked]
    assert windows == [point["normalizer.window"] for point in plan.points]


def test_hopeless_trials_are_pruned_and_say_when(tmp_path, monkeypatch, opened):
    relu = with_settings(CONFIG, {"model.activation": "relu", "model.init": "lecun_normal"})
    plan = make_plan(tmp_path, {RATE: [0.1, 1.0, 1e-6]}, config=relu, prune=True, at_once=1)
    study = opened(plan)
    # With fewer than five finished trials, Optuna prunes nothing.
    pruner = optuna.pruners.MedianPruner(n_startup_trials=1)
    monkeypatch.setattr(optuna.pruners, "MedianPruner", lambda: pruner)
    work(plan)
    run = collect(study, tmp_path)
    progress = progress_of(study.plan, study.trials())
    assert progress.text.startswith("3 of 3 trials, 1 pruned, best")
    assert sorted(index for index, *_ in progress.best) == [0, 1]
    pruned = run.metrics[run.metrics["variant"] == "trial 2"]
    assert pruned["step"].max() == 10
    assert not run.finished("trial 2")


def test_the_records_get_each_evaluation_when_it_happens(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(progress_module, "PAUSE", 0)
    config = with_settings(CONFIG, {"checkpoint.every": 0})
    study = opened(make_plan(tmp_path, {RATE: [0.1, 1.0]}, config=config))
    display, last_steps = Display(study, tmp_path, []), []

    def look():
        display.update()
        if (tmp_path / "config.json").exists():
            last_steps.append(read_run(tmp_path).metrics.groupby("variant")["step"].max().to_dict())
        return False

    work(study.plan, look)
    assert last_steps == [{"trial 0": step, "trial 1": step} for step in (0, 10, 20)]


@pytest.mark.parametrize(
    "damaged", ["", "[[", "3", "[[]]", '[["trial 0", 0]]', '[["trial 0", 0, [], "test", "x", 1]]']
)
def test_rows_that_cannot_be_read_or_are_of_other_groups_are_left_out(damaged, tmp_path, opened):
    study = opened(make_plan(tmp_path))
    study.register({"dataset": "mnist", "started": "1"})
    rows = [[trial, 0, 10, "test", "accuracy", 0.5] for trial in ("trial 0", "trial 1", "x")]
    texts = (damaged, json.dumps(rows))
    for claim, name, text in zip(take(study, 2), ("0" * 32, "1" * 32), texts, strict=True):
        study.begin([claim], name)
        with complete_file(tmp_path / "checkpoints" / name / "rows") as path:
            path.write_text(text)
    assert collect(study, tmp_path).variants == ["trial 1"]


def long_plan(folder):
    """Two trials that run together, with a checkpoint at each of 20 evaluations."""
    config = with_settings(CONFIG, {"steps": 200, "checkpoint.every": 1})
    return make_plan(folder, {RATE: [0.1, 1.0]}, config=config)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The metrics of `long_plan`."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with closing(SharedStudy(long_plan(folder))) as study:
        study.refill()
        work(study.plan)
        return collect(study, folder).metrics


@pytest.fixture
def resumed(monkeypatch):
    """The step that each training went on from."""
    steps, train = [], worker_module.train_variants

    def spy(*args, **kwargs):
        for step, rows in train(*args, **kwargs):
            if kwargs["checkpoints"] not in seen:
                seen.append(kwargs["checkpoints"])
                steps.append(step)
            yield step, rows

    seen = []
    monkeypatch.setattr(worker_module, "train_variants", spy)
    return steps


@pytest.fixture
def interrupted(tmp_path, opened, resumed, fast_heart):
    """The study of `long_plan`, whose worker was told to end after step 40."""
    study, asked = opened(long_plan(tmp_path)), itertools.count()
    work(study.plan, lambda: next(asked) >= 5)
    return study


# A worker process, which a report of its own kills.
WORKER = """
import os, signal
from bnrepro.comparison import run
from bnrepro.sweep import study, worker
from tests.small_dataset import small_dataset

class Killed(study.SharedStudy):
    def report(self, claims, step):
        if step == 150:
            os.kill(os.getpid(), signal.SIGKILL)
        super().report(claims, step)

study.HEARTBEAT, worker.SAVE_EVERY, worker.SharedStudy = 1, 0, Killed
run.load_dataset = lambda *_, **__: small_dataset()
worker.main()
"""


@pytest.mark.usefixtures("fast_heart")
def test_the_trials_of_a_killed_worker_go_on_from_its_checkpoint_with_the_same_numbers(
    tmp_path, opened, resumed, undisturbed
):
    study = opened(long_plan(tmp_path))
    worker = subprocess.run([sys.executable, "-c", WORKER], input=pickle.dumps(study.plan))
    assert worker.returncode == -signal.SIGKILL
    for index in study.trials():
        refill_until(study, index, TrialState.WAITING)
    work(study.plan)
    assert resumed in ([130], [140])
    pd.testing.assert_frame_equal(collect(study, tmp_path).metrics, undisturbed)
    assert not [*(tmp_path / "checkpoints").iterdir()]


@pytest.mark.usefixtures("fast_heart")
def test_a_worker_whose_resumed_trials_are_all_pruned_takes_the_next(tmp_path, opened, monkeypatch):
    plan = dataclasses.replace(long_plan(tmp_path), prune=True, at_once=1)
    study, asked = opened(plan), itertools.count()
    work(plan, lambda: next(asked) >= 5)
    # What the others have reported meanwhile may make them hopeless where they are resumed.
    monkeypatch.setattr(SharedStudy, "hopeless", lambda self, claim, score, step: claim.index == 0)
    work(plan)
    states = [trial.state for trial in study.trials().values()]
    assert states == [TrialState.PRUNED, TrialState.COMPLETE]


def test_a_worker_that_is_told_to_end_saves_its_trials_and_gives_them_back(
    tmp_path, interrupted, resumed, undisturbed
):
    study = interrupted
    assert {trial.state for trial in study.trials().values()} == {TrialState.WAITING}
    assert progress_of(study.plan, study.trials()).finished == 0
    so_far = collect(study, tmp_path)
    known = undisturbed[undisturbed["step"] <= 40]
    pd.testing.assert_frame_equal(so_far.metrics, known.reset_index(drop=True))
    report = sweep_report(so_far)
    assert report.table.empty and "0 of 2 trials" in report.caption
    work(study.plan)
    assert resumed == [0, 40]
    pd.testing.assert_frame_equal(collect(study, tmp_path).metrics, undisturbed)


@pytest.mark.parametrize("saved", [True, False])
def test_the_records_keep_the_rows_of_trials_that_are_about_to_go_on(tmp_path, interrupted, saved):
    before = collect(interrupted, tmp_path)
    for checksums in () if saved else tmp_path.glob("checkpoints/*/*.json"):
        checksums.unlink()
    worker_module._begin(interrupted, take(interrupted))
    pd.testing.assert_frame_equal(collect(interrupted, tmp_path).metrics, before.metrics)


def test_trials_that_were_trained_together_may_go_on_apart(
    tmp_path, interrupted, resumed, undisturbed
):
    # There is no room for both at once any more.
    work(dataclasses.replace(interrupted.plan, at_once=1))
    assert resumed == [0, 40, 40]
    found = collect(interrupted, tmp_path).metrics
    pd.testing.assert_frame_equal(found, undisturbed, rtol=1e-3)
    assert not [*(tmp_path / "checkpoints").iterdir()]


@pytest.mark.slow
@pytest.mark.usefixtures("fast_heart")
def test_a_trial_goes_on_that_was_trained_together_with_one_that_was_pruned(
    tmp_path, opened, resumed, undisturbed, monkeypatch
):
    def hopeless(self, claim, score, step):
        return claim.index == 0

    monkeypatch.setattr(SharedStudy, "hopeless", hopeless)
    plan, asked = dataclasses.replace(long_plan(tmp_path), prune=True, at_once=2), itertools.count()
    study = opened(plan)
    work(plan, lambda: next(asked) >= 5)
    assert progress_of(plan, study.trials()).text.startswith("1 of 2 trials, 1 pruned")
    work(plan)
    assert resumed == [0, 40]
    found = collect(study, tmp_path).metrics
    other = undisturbed[undisturbed["variant"] == "trial 1"].reset_index(drop=True)
    found = found[found["variant"] == "trial 1"].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, other, rtol=1e-3)


@pytest.mark.slow
def test_trials_start_anew_where_their_checkpoints_are_unusable(tmp_path, interrupted, resumed):
    for file in tmp_path.glob("checkpoints/*/*/states/**/*"):
        if file.is_file():
            file.write_bytes(b"")
    work(interrupted.plan)
    assert resumed == [0, 0]
    assert len(finished(interrupted.trials())) == 2


def test_a_worker_takes_its_fair_share_at_most_also_without_the_workdirs_disk(tmp_path, opened):
    rates = [0.1, 0.2, 0.3, 0.5, 0.7, 1.0]
    plan = make_plan(tmp_path, {RATE: rates}, workers=2, commands=2)
    (tmp_path / "file").touch()
    study = opened(dataclasses.replace(plan, checkpoints=tmp_path / "file" / "checkpoints"))
    work(study.plan)
    groups = Counter(trial.user_attrs["group"] for trial in study.trials().values())
    # By itself, it would take four of two seeds each at once.
    assert [*groups.values()] == [2, 1, 1, 1, 1]


@pytest.mark.parametrize(("visible", "gpus"), [("", []), ("-1", []), ("3,5", ["3", "5"])])
def test_the_gpus_of_local_workers_are_those_that_cuda_shows(monkeypatch, visible, gpus):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert engines._gpus() == gpus


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("os.kill(os.getpid(), 9)", r"killed 3 times, .* signal 9"),
        ("print('A warning.\\nerror: a sentence', file=sys.stderr); sys.exit(2)", r"^a sentence$"),
        ("1 / 0", r"exited with code 1: Traceback"),
    ],
)
def test_workers_that_cannot_work_are_replaced_no_more(code, message, tmp_path, monkeypatch):
    def start(folder, worker, environment):
        with (folder / f"{worker}.txt").open("w") as errors:
            command = [sys.executable, "-Sc", f"import os, sys; {code}"]
            return subprocess.Popen(command, stderr=errors)

    monkeypatch.setattr(engines, "_start", start)
    monkeypatch.setattr(engines, "_MAX_KILLED", 1)
    impatient = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: time.sleep(0.1))
    monkeypatch.setattr(engines, "time", impatient)
    with pytest.raises(SweepError, match=message):
        engines.run_local(make_plan(tmp_path), 2, lambda: 20)
