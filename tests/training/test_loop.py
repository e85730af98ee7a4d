"""Many steps of many seeds in one program do what single steps of single seeds do."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnrepro.data.samplers import epochs
from bnrepro.data.sources import take_images
from bnrepro.models import make_normalizer
from bnrepro.models.mlp import MLP
from bnrepro.training.evaluation import evaluate, in_batches
from bnrepro.training.loop import make_train_steps
from bnrepro.training.optimizers import make_optimizer
from bnrepro.training.state import initial_states
from bnrepro.training.step import Task, train_step
from tests.training.test_devices import choose

EXAMPLES, BATCH, MICROBATCH, STEPS = 40, 8, 4, 6
SEEDS = jnp.array([5, 9])


def draw(key, step):
    return {"index": epochs(EXAMPLES, BATCH)(key, step)}


def take(arrays, drawn):
    batch = take_images(arrays, drawn, classes=3, digits=1)
    return {**batch, "images": batch["images"].astype(jnp.float32) / 255}


def task_of(normalizer="batch_renorm"):
    ramp = {"r_max": 3.0, "d_max": 5.0, "warmup": 0.0, "r_max_end": 0.3, "d_max_end": 0.2}
    norm = make_normalizer(normalizer, steps=20, momentum=0.9, epsilon=1e-5, num_groups=1, **ramp)
    model = MLP(3, nn.sigmoid, norm, nn.initializers.normal(0.5), hidden=(7, 6))
    return Task(model, make_optimizer("sgd", learning_rate=0.5))


def states_of(seeds, task):
    init = partial(
        initial_states,
        build=lambda numbers: (task.model, task.optimizer),
        example=jnp.zeros((1, 4, 4, 1)),
        ema_decay=0.0,
    )
    return jax.jit(init)(seeds, {})


def train_steps(task, **measures):
    return make_train_steps(
        build=lambda numbers: (task.model, task.optimizer),
        draw=draw,
        take=take,
        steps_at_once=10,
        microbatch_size=MICROBATCH,
        ema_decay=0.0,
        devices=choose("single", batch_size=BATCH),
        **measures,
    )


def assert_close(actual, expected, rtol=1e-4):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=1e-5), actual, expected)


def numbers(state):
    return state.params, state.batch_stats, state.step


def test_a_loop_over_steps_and_seeds_equals_single_steps_of_each_seed_alone(data):
    task = task_of()
    together, metrics = train_steps(task)(states_of(SEEDS, task), data, (), 0, STEPS)
    sampler = jax.jit(epochs(EXAMPLES, BATCH))
    single = jax.jit(partial(train_step, task=task))
    for i in range(len(SEEDS)):
        state = jax.tree.map(lambda x: x[0], states_of(SEEDS[i : i + 1], task))
        losses = []
        for step in range(STEPS):
            index = sampler(state.sample_key, jnp.int32(step))
            x, y = np.asarray(data[0], np.float32)[index] / 255, np.asarray(data[1])[index]
            x, y = x.reshape(2, MICROBATCH, 4, 4, 1), y.reshape(2, MICROBATCH)
            state, out = single(state, {"images": x, "labels": y})
            losses.append(out["loss"])
        assert_close(numbers(jax.tree.map(lambda x, i=i: x[i], together)), numbers(state))
        assert_close(metrics["loss"][i, :STEPS], np.array(losses))
    kernels = together.params["logits"]["kernel"]
    assert (kernels[0] != kernels[1]).any()


def test_stopping_between_changes_nothing_to_the_last_bit(data):
    task = task_of()
    steps = train_steps(task)
    whole, metrics = steps(states_of(SEEDS, task), data, (), 0, STEPS)
    first, before = steps(states_of(SEEDS, task), data, (), 0, 2)
    parted, after = steps(first, data, (), 2, STEPS - 2)
    jax.tree.map(np.testing.assert_array_equal, numbers(parted), numbers(whole))
    for metric, values in metrics.items():
        joined = np.concatenate([before[metric][:, :2], after[metric][:, : STEPS - 2]], axis=1)
        np.testing.assert_array_equal(joined, values[:, :STEPS])


def test_a_seed_draws_the_same_weights_and_minibatches_whatever_the_normalizer():
    plain, normed = (states_of(SEEDS, task_of(name)) for name in ("none", "batch_norm"))
    for layer in ("dense_0", "dense_1", "logits"):
        np.testing.assert_array_equal(plain.params[layer]["kernel"], normed.params[layer]["kernel"])
    np.testing.assert_array_equal(
        jax.random.key_data(plain.sample_key), jax.random.key_data(normed.sample_key)
    )


def evaluated(variables, data, index, task, **options):
    batches = in_batches({"index": np.asarray(index)}, **options.pop("batches", {}))
    return evaluate(variables, data, batches, model=task.model, take=take, **options).means()


@pytest.mark.parametrize("size", [None, 7])
def test_evaluation_uses_the_stored_averages_whatever_the_size_of_its_batches(data, size):
    task = task_of("batch_norm")
    state = jax.tree.map(lambda x: x[0], states_of(SEEDS, task))
    whole = evaluated(
        state.evaluated, data, range(EXAMPLES), task, batches={"size": size, "spread": 3}
    )
    images, labels = (np.asarray(x) for x in data)
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


def test_minibatch_statistics_are_those_of_each_microbatch_and_nothing_stored_changes(data):
    task = task_of("batch_norm")
    variables = jax.tree.map(lambda x: x[0], states_of(SEEDS, task)).evaluated
    # Averages that would give nonsense if they were used.
    variables["batch_stats"] = jax.tree.map(lambda x: x + 100, variables["batch_stats"])
    before = jax.tree.map(np.array, variables)
    measured = evaluated(
        variables, data, range(24), task, batches={"size": 8, "spread": 2}, microbatch_size=4
    )
    losses, hits = [], []
    images, labels = (np.asarray(x) for x in data)
    for index in np.arange(24).reshape(6, 4):
        logits, _ = task.model.apply(
            variables, jnp.float32(images[index]) / 255, train=True, mutable=["batch_stats"]
        )
        log_probabilities = jax.nn.log_softmax(logits)
        losses.append(-log_probabilities[np.arange(4), labels[index]].mean())
        hits.append((logits.argmax(-1) == labels[index]).mean())
    assert_close(measured, {"loss": np.mean(losses), "accuracy": np.mean(hits)})
    jax.tree.map(np.testing.assert_array_equal, variables, before)
