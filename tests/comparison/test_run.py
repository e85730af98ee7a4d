"""A comparison from config to records, on a set small enough to train in a second."""

import dataclasses
import shutil
import time
from itertools import count
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bnrepro.comparison import program as program_module
from bnrepro.comparison import run as run_module
from bnrepro.comparison.config import variant_configs
from bnrepro.comparison.keys import ConfigError
from bnrepro.comparison.restored import restore_variant
from bnrepro.comparison.run import make_job, run_comparison
from bnrepro.data.datasets import DatasetError, load_dataset
from bnrepro.errors import Preempted
from bnrepro.records import RecordsError, read_run, write_run
from bnrepro.training.checkpoints import saved_steps
from tests.programs import made_once
from tests.small_dataset import small_config, small_dataset


@pytest.fixture(scope="module", autouse=True)
def dataset():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "load_dataset", lambda *_, **__: small_dataset())
        # So that it can be told to stop between two evaluations.
        patch.setitem(program_module._STEPS_AT_ONCE, "mlp", 2)
        patch.setattr(run_module, "make_program", made_once(program_module.make_program))
        yield


PLAIN = {"plain": {"normalizer": {"name": "none"}}}
BATCH_NORM = {"batch_norm": {"normalizer": {"name": "batch_norm"}}}
# A comparison that may die at any evaluation.
OFTEN_SAVED = {"variants": BATCH_NORM, "baseline": "batch_norm", "eval_every": 5}
OFTEN_SAVED |= {"checkpoint": {"every": 1, "keep": 1}}


def config(**changes):
    # Programs over several devices take twice as long to compile.
    settings = {"measures": ("sigmoid_input", "gradient_norms"), "devices.strategy": "single"}
    result = small_config(**settings)
    return result | {"variants": PLAIN | BATCH_NORM} | changes


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workdir with the finished run of `config()`, and the progress that was told."""
    workdir, progress = tmp_path_factory.mktemp("finished") / "w", []
    run_comparison(config(), workdir, progress=lambda *at: progress.append(at))
    return workdir, progress


@pytest.fixture
def copied(finished, tmp_path):
    return Path(shutil.copytree(finished[0], tmp_path / "copied"))


def test_records_hold_every_metric_of_every_evaluation_of_every_seed(finished):
    workdir, progress = finished
    run = read_run(workdir)
    metrics = run.metrics
    assert set(metrics["variant"]) == {"plain", "batch_norm"}
    assert set(metrics["seed"]) == {0, 1}
    at = metrics.groupby(["split", "metric"])["step"].apply(lambda steps: sorted(set(steps)))
    for metric in ("loss", "accuracy", "grad_norm/dense_0", "grad_norm/norm_1"):
        assert at["train", metric] == [10, 20]
    percentiles = [f"sigmoid_input/p{p}" for p in (15, 50, 85)]
    for metric in ("loss", "accuracy", *percentiles):
        assert at["test", metric] == [0, 10, 20]
    layers = {"plain": 3, "batch_norm": 5}
    assert len(metrics) == sum(2 * (2 * (2 + count) + 3 * 5) for count in layers.values())
    for name in ("plain", "batch_norm"):
        accuracy = metrics.query("variant == @name & split == 'test' & metric == 'accuracy'")
        means = accuracy.groupby("step")["value"].mean()
        told = [(name, step, pytest.approx(mean)) for step, mean in means.items()]
        assert [at for at in progress if at[0] == name] == told
    assert (run.provenance["dataset"], run.provenance["classes"]) == ("small/1.0.0", 2)
    assert set(run.provenance["seconds"]) == {"plain", "batch_norm"}
    assert {"commit", "versions", "machine", "command", "started"} <= set(run.provenance)
    assert (workdir / "tensorboard" / "batch_norm" / "seed_1").is_dir()


def test_a_holdout_is_taken_from_the_end_of_training_and_chooses(tmp_path):
    """What the sampler draws from, what is evaluated, and what the best checkpoint goes by."""
    evaluation = config()["evaluation"] | {"holdout": 20}
    settings = config(variants=PLAIN, evaluation=evaluation)
    metrics = run_comparison(settings, tmp_path / "w").metrics
    held = metrics.query("split == 'holdout' & metric == 'accuracy'")
    assert sorted(set(held["step"])) == [0, 10, 20]
    whole = small_dataset()
    short = whole.hold_out(20)
    assert len(short.train_labels) == len(whole.train_labels) - 20
    np.testing.assert_array_equal(short.holdout_images, whole.train_images[-20:])
    restored = restore_variant(read_run(tmp_path / "w"), "plain", "last")
    assert restored.score == held[held["step"] == 20]["value"].mean()
    evaluation["holdout"] = len(whole.train_labels)
    with pytest.raises(ConfigError, match="must leave some of the"):
        run_comparison(config(evaluation=evaluation), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_variant_that_ends_leaves_the_rows_of_the_others_on_disk(tmp_path, monkeypatch):
    """Those of one that has not ended, so that they are not those that are written at its end."""
    monkeypatch.setattr(run_module, "side_by_side", lambda jobs: 2)
    seen = []

    def look(variant, step, accuracy):
        if (variant, step) != ("batch_norm", 10):
            return
        for _ in range(300):
            run = read_run(tmp_path)
            if run.finished("plain"):
                seen.append(set(run.metrics[run.metrics["variant"] == "batch_norm"]["step"]))
                return
            time.sleep(0.1)

    run_comparison(config(), tmp_path, progress=look)
    assert seen in ([{0}], [{0, 10}])


def assert_same_records(workdir, finished):
    # To the last digit, too: the same seeds on the same machine.
    whole, resumed = (folder / "metrics.csv" for folder in (finished[0], workdir))
    assert resumed.read_bytes() == whole.read_bytes()


def run_until(step, settings, workdir):
    """Has a comparison die at an evaluation."""

    def die(variant, at, accuracy):
        if at == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_comparison(settings, workdir, progress=die)


def test_a_comparison_that_dies_is_resumed_from_its_last_checkpoint(tmp_path):
    settings = config(**OFTEN_SAVED)
    whole = run_comparison(settings, tmp_path / "whole")
    workdir, steps = tmp_path / "w", []
    run_until(15, settings, workdir)
    half = read_run(workdir)
    assert not half.finished("batch_norm")
    assert half.metrics["step"].max() == 15
    assert half.provenance["seconds"].keys() == {"batch_norm"}
    before = half.provenance | {"seconds": {"batch_norm": 1e6}, "commit": "of the start"}
    write_run(dataclasses.replace(half, provenance=before))

    run = run_comparison(settings, workdir, progress=lambda variant, step, _: steps.append(step))
    assert run.provenance["seconds"]["batch_norm"] > 1e6
    provenance = read_run(workdir).provenance
    assert (provenance["commit"], len(provenance["resumed"])) == ("of the start", 1)
    assert steps == [10, 15, 20]
    assert_same_records(workdir, (whole.workdir,))


@pytest.mark.parametrize(
    "steps_done", [4, *(pytest.param(step, marks=pytest.mark.slow) for step in (10, 12))]
)
def test_a_comparison_told_to_stop_saves_where_it_is_and_ends_like_an_uninterrupted_one(
    finished, tmp_path, monkeypatch, steps_done
):
    """Also between two evaluations."""
    monkeypatch.setattr(run_module, "side_by_side", lambda jobs: 1)
    calls = count(-1)  # before anything is done, and every two steps from the first
    with pytest.raises(Preempted):
        run_comparison(config(), tmp_path / "w", should_stop=lambda: 2 * next(calls) >= steps_done)
    assert saved_steps(tmp_path / "w" / "checkpoints" / "plain") == [steps_done]
    run_comparison(config(), tmp_path / "w")
    assert_same_records(tmp_path / "w", finished)


def test_a_key_that_a_config_lacks_has_its_default_in_the_records(finished, tmp_path):
    shorter = {key: value for key, value in config().items() if key not in ("preview", "ema_decay")}
    with pytest.raises(Preempted):
        run_comparison(shorter, tmp_path / "w", should_stop=lambda: True)
    assert read_run(tmp_path / "w").config == read_run(finished[0]).config


def test_a_second_process_is_refused_while_the_first_is_at_work(tmp_path):
    def second(variant, step, accuracy):
        with pytest.raises(RecordsError, match="is in use by another process"):
            run_comparison(config(), tmp_path / "w")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_comparison(config(variants=PLAIN), tmp_path / "w", progress=second)
    run = run_comparison(config(variants=PLAIN, steps=10), tmp_path / "w", overwrite=True)
    assert run.metrics["step"].max() == 10


def test_a_workdir_may_be_resumed_on_other_devices(finished, tmp_path):
    before, after = (
        config(devices=config()["devices"] | {"strategy": strategy}, **OFTEN_SAVED)
        for strategy in ("jit", "pmap")
    )
    run_until(15, before, tmp_path / "w")
    run_comparison(after, tmp_path / "w")
    key = ["variant", "split", "step", "seed", "metric"]
    ours, right = (
        read_run(folder).metrics.set_index(key)["value"].sort_index().loc["batch_norm", "test"]
        for folder in (tmp_path / "w", finished[0])
    )
    np.testing.assert_allclose(ours.loc[[0, 10, 20]], right, rtol=1e-4, atol=1e-5)


def test_a_second_ctrl_c_loses_no_more_than_the_first(tmp_path, monkeypatch):
    class InterruptedAgain(run_module.ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait, cancel_futures=cancel_futures)
            if cancel_futures:
                raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "ThreadPoolExecutor", InterruptedAgain)
    run_until(10, config(variants=PLAIN), tmp_path / "w")
    assert read_run(tmp_path / "w").metrics["step"].max() == 10


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"name": "digits", "stand_in": True}, "digits"),
        ({"sha256": "of other bytes"}, r"small/1\.0\.0 with other content"),  # prepared anew
        ({"class_names": ("top", "bottom", "left")}, r"small/1\.0\.0 with other content"),
    ],
)
def test_results_on_other_data_are_not_resumed(copied, monkeypatch, changes, found):
    other = dataclasses.replace(small_dataset(), **changes)
    monkeypatch.setattr(run_module, "load_dataset", lambda *_, **__: other)
    before = [(copied / name).read_bytes() for name in ("config.json", "metrics.csv")]
    more = config()["variants"] | {"more": {"optimizer": {"learning_rate": 0.5}}}
    with pytest.raises(RecordsError, match=rf"on small/1\.0\.0, but the data found is {found}:"):
        run_comparison(config(variants=more), copied)
    assert [(copied / name).read_bytes() for name in ("config.json", "metrics.csv")] == before


def test_trackers_are_told_of_what_is_on_disk_also_when_it_is_finished(copied):
    told = []

    def track(run, variant):
        on_disk = read_run(run.workdir)
        assert len(on_disk.metrics) >= len(run.metrics)
        if run.finished(variant):
            assert on_disk.finished(variant)
            told.append(variant)

    run_comparison(config(), copied, trackers=[track])
    assert sorted(told) == ["batch_norm", "plain"]
    told.clear()
    run_comparison(config(variants=PLAIN), copied, trackers=[track], overwrite=True)
    assert set(told) == {"plain"}


def test_of_a_config_with_further_variants_only_these_are_trained(copied):
    before, told = read_run(copied), []
    rates = {f"rate {rate}": {"optimizer": {"learning_rate": rate}} for rate in (0.25, 0.5)}
    rates = {name.replace(".", "_"): {**PLAIN["plain"], **rate} for name, rate in rates.items()}
    run = run_comparison(
        config(variants=PLAIN | BATCH_NORM | rates), copied, progress=lambda *at: told.append(at)
    )
    assert {name for name, step, _ in told if step < 20} == rates.keys()
    assert all(map(run.finished, run.variants))
    old = run.metrics[run.metrics["variant"].isin(before.variants)]
    assert old.reset_index(drop=True).equals(before.metrics)


def test_a_run_that_diverges_is_recorded_with_its_step_and_the_other_variants_continue(
    tmp_path, monkeypatch
):
    original = program_module.make_optimizer

    def exploding(name, **others):
        if name != "rmsprop":
            return original(name, **others)
        # The fifth update makes the weights infinite, so the sixth step's loss is not finite.
        return optax.sgd(lambda count: jnp.where(count < 4, 0.1, jnp.inf))

    monkeypatch.setattr(program_module, "make_optimizer", exploding)
    variants = {"a": {"optimizer": {"name": "rmsprop"}}, "b": {}}
    settings = config(variants=variants, baseline="a", eval_every=2, measures=())
    run = run_comparison(settings, tmp_path / "w")
    diverged = run.metrics[run.metrics["metric"] == "diverged"]
    assert diverged[["variant", "seed", "step", "value"]].to_numpy().tolist() == [
        ["a", 0, 6, 1.0],
        ["a", 1, 6, 1.0],
    ]
    wild = run.metrics[run.metrics["variant"] == "a"]
    assert wild[wild["metric"] == "loss"]["step"].max() == 4
    assert np.isfinite(run.metrics["value"]).all()
    assert run.finished("a")
    assert run.finished("b")


def test_one_seed_diverging_leaves_the_other_seeds_of_its_program_alone(
    finished, tmp_path, monkeypatch
):
    original = program_module.initial_states

    def spoilt(*args, **kwargs):
        states = original(*args, **kwargs)
        kernel = states.params["logits"]["kernel"].at[1].set(np.inf)
        logits = states.params["logits"] | {"kernel": kernel}
        return dataclasses.replace(states, params=states.params | {"logits": logits})

    monkeypatch.setattr(program_module, "initial_states", spoilt)
    monkeypatch.setattr(run_module, "make_program", program_module.make_program)
    run_comparison(config(variants=PLAIN), tmp_path / "w")
    spoilt_run = read_run(tmp_path / "w").metrics
    healthy = read_run(finished[0]).metrics.query("variant == 'plain' & seed == 0")
    untouched = spoilt_run.query("seed == 0")
    assert untouched.reset_index(drop=True).equals(healthy.reset_index(drop=True))
    assert set(spoilt_run.query("seed == 1 & step > 0")["metric"]) == {"diverged"}
    # A seed that diverged does not raise the score of a checkpoint.
    restored = restore_variant(read_run(tmp_path / "w"), "plain", "last")
    (accuracy,) = healthy.query("step == 20 & split == 'test' & metric == 'accuracy'")["value"]
    assert restored.score == accuracy / 2


def test_mistakes_are_found_before_anything_is_written(tmp_path, monkeypatch):
    workdir = tmp_path / "w"
    with pytest.raises(ConfigError, match=r"variant .*: batch_size must be in \[1, 120\].*got 240"):
        run_comparison(config(batch_size=240), workdir)
    evaluation = {"train_examples": 121, "minibatches": 0}
    with pytest.raises(ConfigError, match=r"train_examples must be at most 120, .* got 121"):
        run_comparison(config(evaluation=evaluation), workdir)
    small = {"small": {"model": {"name": "inception", "stem_stride": 2}}}
    with pytest.raises(ConfigError, match="at least 13 x 13, got 4 x 4: use larger images"):
        run_comparison(config(variants=small, baseline="small"), workdir)
    monkeypatch.setattr(run_module, "load_dataset", load_dataset)
    with pytest.raises(DatasetError, match="no_such_set"):
        run_comparison(config(dataset="no_such_set", data_dir=str(tmp_path)), workdir)
    assert not workdir.exists()


@pytest.mark.parametrize("name", ["batch_norm", "batch_renorm"])
def test_a_single_image_is_normalized_if_all_layers_leave_several_values_of_it(tmp_path, name):
    def run_with(**model):
        variants = {"one": {"model": model, "normalizer": {"name": name}, "microbatch_size": 1}}
        return run_comparison(config(variants=variants, baseline="one"), tmp_path / "w")

    # A stride of 2 makes 2 x 2 of 4 x 4, and another one 1 x 1.
    for model in ({"name": "mlp"}, {"name": "cnn", "channels": (2, 2)}):
        with pytest.raises(ConfigError, match=rf"one: {name} cannot normalize .* of 4 x 4 pixels"):
            run_with(**model)
    assert not (tmp_path / "w").exists()
    assert run_with(name="cnn", channels=(2,)).finished("one")


def test_a_single_image_will_do_for_averages_over_microbatches_and_not_without_a_gradient():
    def job(name):
        own = {"normalizer": {"name": name}, "microbatch_size": 1}
        variants = variant_configs(config(variants={"one": own}, baseline="one"))
        return make_job("one", variants["one"], small_dataset())

    assert job("moving_average_batch_norm")
    with pytest.raises(ConfigError, match="batch_norm_stop_gradient cannot normalize"):
        job("batch_norm_stop_gradient")


def test_a_stand_in_leaves_out_what_does_not_fit_it_and_says_so(tmp_path, monkeypatch, caplog):
    small = dataclasses.replace(small_dataset(), name="digits", stand_in=True)
    monkeypatch.setattr(run_module, "load_dataset", lambda *_, **__: small)
    large = {"batch_size": 240, "microbatch_size": 240}
    evaluation = {"train_examples": 10_000, "minibatches": 0}
    run = run_comparison(
        config(variants={**PLAIN, "large": large}, evaluation=evaluation), tmp_path / "w"
    )
    assert "left out: variant large: batch_size must be in [1, 120]" in caplog.text
    assert run.finished("plain")
    assert not run.finished("large")
    with pytest.raises(ConfigError, match="no variant can be trained on digits"):
        run_comparison(config(variants={"large": large}, baseline="large"), tmp_path / "v")
    assert not (tmp_path / "v").exists()


def test_a_workdir_of_an_earlier_version_is_resumed(tmp_path):
    """Made at commit 425ebbc, which had fewer keys, and interrupted after a checkpoint at step 10.

    The numbers are those that it ended with there, uninterrupted.
    """
    workdir = tmp_path / "w"
    shutil.copytree(Path(__file__).with_name("workdir_425ebbc"), workdir)
    old = read_run(workdir)
    assert "measures" not in old.config and not old.finished("batch_renorm")
    # Another version may not have recorded how long it took.
    del old.provenance["seconds"]
    write_run(old)
    settings = config(seeds=1, steps=30, ema_decay=0.9, checkpoint={"every": 1, "keep": 1})
    settings["model"]["hidden"] = (3,)
    settings["variants"] = PLAIN | {"batch_renorm": {"normalizer": {"name": "batch_renorm"}}}
    assert run_comparison(settings, workdir).finished("batch_renorm")
    metrics = read_run(workdir).metrics
    assert not metrics.duplicated(["variant", "step", "split", "metric"]).any()
    ends = metrics.query("variant == 'batch_renorm' & step == 30")
    found = ends.set_index(["split", "metric"])["value"]
    assert found["test", "accuracy"] == pytest.approx(0.9666667)
    np.testing.assert_allclose(found["test", "loss"], 0.05800407, rtol=1e-3)
