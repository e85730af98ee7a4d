"""Variants that differ in numbers are one program, and each is what it is alone."""

from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnrepro.comparison import variant
from bnrepro.comparison.config import common_config, of_test_minibatches, with_settings
from bnrepro.comparison.keys import TRACED
from bnrepro.comparison.program import make_program
from bnrepro.comparison.run import make_job
from bnrepro.comparison.variant import train_variants
from bnrepro.training.checkpoints import Checkpoints, copy_newest, saved_steps
from tests.programs import made_once
from tests.small_dataset import small_config, small_dataset

# Two values of each traced number, far enough apart to be seen after 20 steps.
VALUES = {
    "optimizer.learning_rate": (0.1, 0.5),
    "optimizer.momentum": (0.0, 0.9),
    "optimizer.weight_decay": (0.0, 0.3),
    "normalizer.momentum": (0.5, 0.9),
    "normalizer.epsilon": (1e-5, 0.3),
    "normalizer.r_max": (1.0, 3.0),
    "normalizer.d_max": (0.0, 5.0),
    "model.dropout": (0.0, 0.4),
    "model.init_std": (0.1, 0.4),
}
BASE = {key: low for key, (low, _) in VALUES.items()}
HIGH = {key: high for key, (_, high) in VALUES.items()}


def config():
    settings = {"model.hidden": (6,), "normalizer.name": "batch_renorm", "measures": ()}
    settings |= {"devices.strategy": "single"}  # which compiles in half the time
    settings |= {f"normalizer.{key}": 0.0 for key in ("warmup", "r_max_end", "d_max_end")}
    return common_config(small_config(**settings, **BASE))


make_once = made_once(make_program)


def make(config):
    return make_once(*make_job("x", config, small_dataset()))


def values(program, variants, **options):
    """{variant: values in the order of steps and metrics}, (seeds, all else)."""
    *_, (_, rows) = train_variants(program, variants, **options)
    seeds = sorted({row[1] for row in rows})
    return {
        name: np.array([[row[5] for row in rows if row[:2] == (name, seed)] for seed in seeds])
        for name in variants
    }


@pytest.fixture
def program():
    return make(config())


@pytest.fixture(scope="module")
def together():
    variants = {"base": BASE, "all": HIGH}
    variants |= {key: BASE | {key: high} for key, high in HIGH.items()}
    return variants, values(make(config()), variants)


def test_slow_steps_are_fewer_at_once_with_the_same_numbers(program, together, monkeypatch):
    longer = program._replace(config=program.config | {"steps": 40})
    variants, found, asked = together[0], [], []

    def should_stop(step):
        asked.append(step)

    for seconds in (60.0, 0.0):
        monkeypatch.setattr(variant, "_SLOW", seconds)
        found.append(values(longer, variants, should_stop=should_stop)["base"])
    np.testing.assert_array_equal(*found)
    # Evaluations are 10 steps apart. The first dispatch, which compiles, does not count.
    assert asked == [*range(0, 40, 10), 0, 10, 20, 25, *range(27, 40)]


def test_every_traced_number_does_something(together):
    _, trained = together
    assert set(VALUES) == set(TRACED)
    for key in TRACED:
        assert np.abs(trained[key] - trained["base"]).max() > 1e-3, key


@pytest.mark.parametrize(("name", "settings"), [("base", BASE), ("all", HIGH)])
def test_a_variant_in_a_program_with_others_is_what_it_is_as_a_config_of_its_own(
    name, settings, together
):
    alone = values(make(with_settings(config(), settings)), {"alone": {}})["alone"]
    np.testing.assert_allclose(together[1][name], alone, rtol=2e-4, atol=2e-5)


def test_dropped_variants_are_trained_no_further_and_the_others_as_if_nothing_had_happened(
    program, together
):
    variants, trained = together
    kept, *others = reversed(variants)
    dropped, counts = set(), []
    for step, rows in train_variants(program, variants, dropped=dropped):
        counts.append(sum(row[2] == step and row[3] == "test" for row in rows))
        if step == 10:
            dropped.update(others)
    finals = [row[5] for row in rows if row[0] == kept and row[1] == 0]
    np.testing.assert_allclose(finals, trained[kept][0], rtol=2e-4, atol=2e-5)
    # Loss and accuracy of two seeds, at the end of one variant.
    assert counts == [4 * len(variants), 4 * len(variants), 4]


@pytest.mark.parametrize("name", ["base", "all"])
def test_a_variant_goes_on_alone_that_was_trained_together_with_another(
    name, program, together, tmp_path
):
    variants = {"base": BASE, "all": HIGH}
    # Between two evaluations.
    often = program._replace(source=program.source._replace(steps_at_once=5))
    with closing(Checkpoints(tmp_path / "both", keep=1)) as both:
        list(train_variants(often, variants, checkpoints=both, should_stop=lambda step: step == 15))
    copy_newest(tmp_path / "both", tmp_path / "copy")
    with closing(Checkpoints(tmp_path / "copy", keep=1)) as copy:
        alone = list(train_variants(program, {name: variants[name]}, checkpoints=copy))
    assert [step for step, _ in alone] == [15, 20]
    _, rows = alone[-1]
    assert {row[0] for row in rows} == {name}
    found = [[row[5] for row in rows if row[1] == seed] for seed in (0, 1)]
    np.testing.assert_allclose(found, together[1][name], rtol=2e-4, atol=2e-5)


def test_when_all_are_dropped_the_training_ends(program):
    steps = []
    for step, _ in train_variants(program, {"a": BASE}, dropped={"a"}):
        steps.append(step)
    assert steps == [0]


def test_a_network_that_overflows_until_its_moving_averages_are_its_own_is_trained():
    settings = {"model.hidden": (6,) * 14, "model.activation": "relu", "model.init_std": 1e3}
    own = common_config(small_config(**settings | {"normalizer.name": "batch_norm"}))
    *_, (_, rows) = train_variants(make(own), {"deep": {}})
    assert "diverged" not in {row[4] for row in rows}
    losses = [row[5] for row in rows if row[2] > 0 and row[3:5] == ("test", "loss")]
    assert len(losses) == 4 and np.isfinite(losses).all()


def test_a_checkpoint_that_is_still_being_written_gets_no_later_rows(program, tmp_path):
    begun = {}

    class SlowCheckpoints(Checkpoints):
        def save(self, step, states, notes, score):
            begun[step] = notes

    slow = SlowCheckpoints(tmp_path, keep=1)
    often = with_settings(program.config, {"eval_every": 5, "checkpoint.every": 1})
    values(program._replace(config=often), {"base": BASE}, checkpoints=slow)
    assert sorted(begun) == [5, 10, 15, 20]
    for step, notes in begun.items():
        assert max(row[2] for row in notes["rows"]) == step


def test_the_best_checkpoint_is_one_that_was_evaluated(program, tmp_path):
    """Not one between two evaluations, though it is the first to be saved."""
    often = program._replace(source=program.source._replace(steps_at_once=5))
    scores = {}

    class Scores(Checkpoints):
        def save(self, step, states, notes, score):
            scores[step] = score
            super().save(step, states, notes, score)

    for stops in ([15], []):
        with closing(Scores(tmp_path, keep=1)) as checkpoints:
            *_, (_, rows) = train_variants(
                often, {"a": BASE}, checkpoints=checkpoints, should_stop=stops.__contains__
            )
    finals = [row[5] for row in rows if row[2:5] == (20, "test", "accuracy")]
    assert scores[15] < 0
    assert scores[20] == np.mean(finals)
    assert saved_steps(tmp_path) == [20]


@pytest.mark.parametrize(("split", "count"), [("test", 0), ("holdout", 2)])
def test_with_a_holdout_its_loss_tells_what_has_diverged_and_not_the_test_sets(split, count):
    program = make(with_settings(config(), {"evaluation.holdout": 20}))

    def spoilt(*args):
        splits = program.evaluate(*args)
        splits[split] = splits[split] | {"loss": jnp.array([jnp.inf, jnp.inf])}
        return splits

    *_, (_, rows) = train_variants(program._replace(evaluate=spoilt), {"a": BASE})
    assert sum(row[4] == "diverged" for row in rows) == count


def test_test_minibatches_may_have_another_number_of_labels_than_those_of_training():
    """With batches of two minibatches of 2 labels x 3 images, normalized in whole, in training."""
    own = with_settings(
        config(),
        {
            "sampler.name": "labels",
            "sampler.labels_per_batch": 2,
            "sampler.examples_per_label": 3,
            "evaluation.minibatches": 1,
            "evaluation.labels_per_batch": 1,
        },
    )
    dataset = small_dataset()
    data = make_job("x", own, dataset).data
    drawn = data.test_sampler(jax.random.key(0), jnp.int32(0))
    for minibatch in dataset.test_labels[drawn].reshape(2, 3):
        assert len(set(minibatch)) == 1
    assert of_test_minibatches(own)["microbatch_size"] == 3
