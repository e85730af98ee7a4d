"""Many steps of many seeds in one program do what single steps of single seeds do."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnrepro.comparison.config import common_config
from bnrepro.comparison.program import make_training
from bnrepro.comparison.run import make_job
from bnrepro.data.samplers import epochs
from bnrepro.data.sources import take_images
from bnrepro.training.evaluation import evaluate, in_batches
from bnrepro.training.step import Task, train_step
from tests.small_dataset import small_config, small_dataset

BATCH, MICROBATCH, STEPS = 8, 4, 6
SEEDS = np.array([5, 9])
DATA = tuple(map(jnp.asarray, (small_dataset().train_images, small_dataset().train_labels)))
EXAMPLES = len(DATA[1])
SETTINGS = {
    "batch_size": BATCH, "microbatch_size": MICROBATCH, "binary_input": False,
    "devices.strategy": "single", "model.hidden": (7, 6), "model.init_std": 0.5,
    "normalizer.momentum": 0.9, "normalizer.warmup": 0.0, "normalizer.r_max_end": 0.3,
    "normalizer.d_max_end": 0.2, "optimizer.learning_rate": 0.5,
}  # fmt: skip


def take(arrays, drawn):
    batch = take_images(arrays, drawn, classes=2, digits=1)
    return {**batch, "images": batch["images"].astype(jnp.float32) / 255}


@cache
def made(normalizer="batch_renorm", measures=(), measure_every=10):
    """A task, what makes its states of some seeds, and what trains them."""
    settings = SETTINGS | {"normalizer.name": normalizer}
    settings |= {"measures": measures, "measure_every": measure_every}
    config = common_config(small_config(**settings))
    build, init, train_steps = make_training(*make_job("a variant", config, small_dataset()))
    return Task(*build({})), partial(init, numbers={}), train_steps


def of_run(i, tree):
    return jax.tree.map(lambda x: x[i], tree)


def assert_close(actual, expected, rtol=1e-4):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=1e-5), actual, expected)


def numbers(state):
    return state.params, state.batch_stats, state.step


def test_a_loop_over_steps_and_seeds_equals_single_steps_of_each_seed_alone():
    task, init, train_steps = made()
    together, metrics = train_steps(init(SEEDS), DATA, (), 0, STEPS)
    sampler = jax.jit(epochs(EXAMPLES, BATCH))
    single = jax.jit(partial(train_step, task=task))
    for i in range(len(SEEDS)):
        state = of_run(0, init(SEEDS[i : i + 1]))
        losses = []
        for step in range(STEPS):
            index = sampler(state.sample_key, jnp.int32(step))
            x, y = np.asarray(DATA[0], np.float32)[index] / 255, np.asarray(DATA[1])[index]
            x, y = x.reshape(2, MICROBATCH, 4, 4, 1), y.reshape(2, MICROBATCH)
            state, out = single(state, {"images": x, "labels": y})
            losses.append(out["loss"])
        assert_close(numbers(of_run(i, together)), numbers(state))
        assert_close(metrics["loss"][i, :STEPS], np.array(losses))
    kernels = together.params["logits"]["kernel"]
    assert (kernels[0] != kernels[1]).any()


def test_stopping_between_changes_nothing_to_the_last_bit():
    _, init, train_steps = made()
    whole, metrics = train_steps(init(SEEDS), DATA, (), 0, STEPS)
    first, before = train_steps(init(SEEDS), DATA, (), 0, 2)
    parted, after = train_steps(first, DATA, (), 2, STEPS - 2)
    jax.tree.map(np.testing.assert_array_equal, numbers(parted), numbers(whole))
    for metric, values in metrics.items():
        joined = np.concatenate([before[metric][:, :2], after[metric][:, : STEPS - 2]], axis=1)
        np.testing.assert_array_equal(joined, values[:, :STEPS])


def test_a_seed_draws_the_same_weights_and_minibatches_whatever_the_normalizer():
    plain, normed = (made(name)[1](SEEDS) for name in ("none", "batch_norm"))
    for layer in ("dense_0", "dense_1", "logits"):
        np.testing.assert_array_equal(plain.params[layer]["kernel"], normed.params[layer]["kernel"])
    np.testing.assert_array_equal(
        jax.random.key_data(plain.sample_key), jax.random.key_data(normed.sample_key)
    )


def evaluated(variables, index, task, batches, **options):
    batches = in_batches({"index": np.asarray(index)}, **batches)
    return evaluate(variables, DATA, batches, model=task.model, take=take, **options).means()


@pytest.mark.parametrize("size", [None, 7])
def test_evaluation_uses_the_stored_averages_whatever_the_size_of_its_batches(size):
    task, init, _ = made("batch_norm")
    state = of_run(0, init(SEEDS))
    whole = evaluated(state.evaluated, range(EXAMPLES), task, {"size": size, "spread": 3})
    images, labels = map(np.asarray, DATA)
    # A fresh network's averages are 0 and 1: the normalizer passes its input on.
    x = images.astype(np.float64).reshape(EXAMPLES, -1) / 255
    for layer in ("dense_0", "dense_1"):
        x = x @ np.asarray(state.params[layer]["kernel"], np.float64) / np.sqrt(1 + 1e-5)
        x = 1 / (1 + np.exp(-x))
    logits = x @ np.asarray(state.params["logits"]["kernel"], np.float64)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(EXAMPLES), labels]
    assert_close(whole, {"loss": losses.mean(), "accuracy": (logits.argmax(-1) == labels).mean()})


def test_batches_hold_each_example_once_and_padding():
    drawn, present = in_batches({"index": np.arange(2_500)}, spread=2)
    assert drawn["index"].shape == present.shape == (4, 625)
    drawn, present = in_batches({"index": np.arange(10, 15)}, size=2, spread=2)
    np.testing.assert_array_equal(present, [[1, 1], [1, 1], [1, 0], [0, 0]])
    np.testing.assert_array_equal(drawn["index"][present == 1], np.arange(10, 15))


def test_minibatch_statistics_are_those_of_each_microbatch_and_nothing_stored_changes():
    task, init, _ = made("batch_norm")
    variables = of_run(0, init(SEEDS)).evaluated
    # Averages that would give nonsense if they were used.
    variables["batch_stats"] = jax.tree.map(lambda x: x + 100, variables["batch_stats"])
    before = jax.tree.map(np.array, variables)
    measured = evaluated(variables, range(24), task, {"size": 8, "spread": 2}, microbatch_size=4)
    losses, hits = [], []
    images, labels = map(np.asarray, DATA)
    for index in np.arange(24).reshape(6, 4):
        logits, _ = task.model.apply(
            variables, jnp.float32(images[index]) / 255, train=True, mutable=["batch_stats"]
        )
        log_probabilities = jax.nn.log_softmax(logits)
        losses.append(-log_probabilities[np.arange(4), labels[index]].mean())
        hits.append((logits.argmax(-1) == labels[index]).mean())
    assert_close(measured, {"loss": np.mean(losses), "accuracy": np.mean(hits)})
    jax.tree.map(np.testing.assert_array_equal, variables, before)
