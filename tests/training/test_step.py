"""One step against the same step written out in NumPy or with flax and optax alone."""

from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bnrepro import BatchNorm, BatchRenorm
from bnrepro.models.mabn import MovingAverageBatchNorm
from bnrepro.training.optimizers import make_optimizer, make_schedule
from bnrepro.training.state import NOT_DIVERGED, initial_states
from bnrepro.training.step import Task, train_step


class Network(nn.Module):
    norm: type[nn.Module] | None

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(8, name="dense")(x)
        if self.norm is not None:
            x = self.norm(use_running_average=not train, momentum=0.9, name="norm")(x)
        return nn.Dense(3, name="logits")(nn.relu(x))


def first_state(model, optimizer, ema_decay=0.0):
    build = partial(initial_states, build=lambda numbers: (model, optimizer))
    states = build(jnp.zeros(1, jnp.int32), {}, example=jnp.zeros((1, 5)), ema_decay=ema_decay)
    return jax.tree.map(lambda x: x[0], states)


@cache
def setup(norm=BatchNorm, ema_decay=0.0, learning_rate=0.1, parts=1):
    model, optimizer = Network(norm), make_optimizer("sgd", learning_rate=learning_rate)
    state = jax.jit(partial(first_state, model, optimizer, ema_decay))()
    task = Task(model, optimizer, ema_decay, accumulation_steps=parts)
    return model, state, jax.jit(partial(train_step, task=task))


def batch(microbatches, size, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(microbatches, size, 5)).astype(np.float32)
    labels = rng.integers(0, 3, (microbatches, size))
    return {"images": jnp.asarray(images), "labels": jnp.asarray(labels, jnp.int32)}


def microbatch(batch, i):
    return jax.tree.map(lambda x: x[i : i + 1], batch)


def assert_close(actual, expected):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6), actual, expected)


def test_one_microbatch_is_a_step_of_flax_and_optax_alone():
    _, state, step = setup()
    given = batch(1, 12)
    images, labels = given["images"], given["labels"]
    new_state, metrics = step(state, given)

    flax_model = Network(nn.BatchNorm)

    def loss_fn(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, updates = flax_model.apply(variables, images[0], train=True, mutable="batch_stats")
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[0])
        return losses.mean(), (logits, updates["batch_stats"])

    (loss, (logits, batch_stats)), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(
        state.params
    )
    assert_close(new_state.params, jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads))
    assert_close(new_state.batch_stats, batch_stats)
    assert_close(metrics["loss"], loss)
    assert_close(metrics["accuracy"], (logits.argmax(-1) == labels[0]).mean())
    assert int(new_state.step) == 1


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(
    "norm", [BatchNorm, BatchRenorm, partial(MovingAverageBatchNorm, window=2, warmup=3)]
)
def test_gradient_and_statistics_are_the_means_of_what_each_microbatch_gives_by_itself(norm, parts):
    _, state, alone = setup(norm)
    *_, step = setup(norm, parts=parts)
    for seed in range(1, 5):  # past the warm-up
        state, _ = alone(state, batch(1, 4, seed))
    given = batch(4, 4)
    new_state, metrics = step(state, given)
    each = [alone(state, microbatch(given, i)) for i in range(4)]
    # Of SGD, the mean of the updates is the update of the mean gradient.
    for field in ("params", "batch_stats"):
        mean = jax.tree.map(lambda *x: sum(x) / 4, *(getattr(new, field) for new, _ in each))
        assert_close(getattr(new_state, field), mean)
    # The counter of Batch Renorm counts steps, not microbatches.
    types = partial(jax.tree.map, lambda x: x.dtype)
    assert types(new_state.batch_stats) == types(state.batch_stats)
    for metric in ("loss", "accuracy"):
        assert_close(metrics[metric], sum(m[metric] for _, m in each) / 4)


def test_a_gradient_computed_in_parts_needs_less_memory():
    given = batch(64, 32)

    def temporaries(parts):
        _, state, step = setup(parts=parts)
        update = jax.jit(lambda given: step(state, given)[0].params)
        return update.lower(given).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(8) < temporaries(1) / 4


def test_averages_of_all_parameters_follow_the_recursion():
    _, state, step = setup(ema_decay=0.75)
    expected = {"params": state.params, "batch_stats": state.batch_stats}
    # (1 + t) / (10 + t) until that exceeds the decay, at t = 26.
    for t in range(30):
        state, _ = step(state, batch(1, 6, seed=t))
        decay = min(0.75, (1 + t) / (10 + t))
        now = {"params": state.params, "batch_stats": state.batch_stats}
        expected = jax.tree.map(lambda a, b, d=decay: d * a + (1 - d) * b, expected, now)
    assert_close(state.average, expected)
    assert state.evaluated is state.average


def test_the_first_step_with_a_loss_that_is_not_finite_is_remembered():
    _, state, step = setup(norm=None)
    given = batch(1, 6)
    state, _ = step(state, given)
    assert int(state.diverged_at) == NOT_DIVERGED
    for _ in range(3):
        state, _ = step(state, given | {"images": given["images"] * jnp.inf})
    assert int(state.diverged_at) == 2


@pytest.mark.parametrize(
    ("name", "settings", "theirs"),
    [
        ("adam", {}, optax.adam(0.1)),
        ("adam", {"epsilon": 1.0}, optax.adam(0.1, eps=1.0)),
        ("rmsprop", {}, optax.rmsprop(0.1)),
        ("rmsprop", {"rms_decay": 0.5, "epsilon": 1.0}, optax.rmsprop(0.1, decay=0.5, eps=1.0)),
        ("sgd", {}, optax.sgd(0.1)),
        ("sgd", {"momentum": 0.5}, optax.sgd(0.1, momentum=0.5)),
        ("sgd", {"clip_norm": 0.5}, optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1))),
    ],
)
def test_optimizers_and_their_settings_are_those_of_optax(name, settings, theirs):
    def two_updates(optimizer):
        params, grads = {"w": jnp.arange(3.0)}, {"w": jnp.array([1.0, -2.0, 0.5])}
        _, state = optimizer.update(grads, optimizer.init(params), params)
        return optimizer.update(grads, state, params)[0]

    ours = make_optimizer(name, learning_rate=0.1, **settings)
    assert_close(two_updates(ours), two_updates(theirs))


def test_weight_decay_adds_to_the_gradients_of_kernels_alone():
    params = {"kernel": jnp.array([[2.0, -4.0]]), "bias": jnp.array([2.0, -4.0])}
    grads = {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(2)}
    optimizer = make_optimizer("sgd", learning_rate=0.1, weight_decay=0.5)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    assert_close(updates, {"kernel": np.array([[-0.2, 0.1]]), "bias": np.array([-0.1, -0.1])})


@pytest.mark.parametrize(
    ("schedule", "right"),
    [
        ("constant", {0: 0.0, 10: 0.4, 20: 0.8, 60: 0.8, 100: 0.8}),
        # Half a cosine over the 80 steps after the warm-up.
        ("cosine", {10: 0.4, 20: 0.8, 40: 0.4 * (1 + np.sqrt(0.5)), 60: 0.4, 100: 0.0}),
        ("exponential", {20: 0.8, 25: 0.8 * np.sqrt(0.5), 30: 0.4, 40: 0.2}),
        ("step", {20: 0.8, 29: 0.8, 30: 0.4, 39: 0.4, 40: 0.2}),
    ],
)
def test_learning_rates_follow_their_schedule(schedule, right):
    """Of 100 steps, 20 of warm-up, and a factor 1/2 every 10."""
    rate = make_schedule(schedule, 0.8, steps=100, warmup=0.2, decay_rate=0.5, decay_every=0.1)
    for step, expected in right.items():
        np.testing.assert_allclose(rate(step), expected, rtol=1e-5, atol=1e-7)
    assert make_schedule("constant", 0.8, steps=100) == 0.8
    # The last of 20 steps is left to the schedule.
    short = make_schedule(schedule, 0.8, steps=20, warmup=0.98, decay_rate=0.5, decay_every=0.1)
    np.testing.assert_allclose(short(19), 0.8, rtol=1e-6)


def test_the_loss_of_an_auxiliary_head_counts_two_fifths_and_is_not_recorded():
    """Its gradient is 0.4 / n * (softmax - one-hot) x, which the other logits do not change."""

    class TwoHeads(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            head = nn.Dense(3, use_bias=False, name="head")
            self.sow("intermediates", "auxiliary_logits", head(x))
            return nn.Dense(3, name="logits")(x)

    model, optimizer = TwoHeads(), make_optimizer("sgd", learning_rate=1.0)
    state = first_state(model, optimizer)
    examples = batch(2, 4)
    new, metrics = train_step(state, examples, Task(model, optimizer))

    x = np.asarray(examples["images"], np.float64).reshape(8, 5)
    one_hot = np.eye(3)[np.asarray(examples["labels"]).ravel()]

    def softmax(logits):
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    kernel = np.asarray(state.params["head"]["kernel"], np.float64)
    expected = kernel - 0.4 / 8 * x.T @ (softmax(x @ kernel) - one_hot)
    assert_close(new.params["head"]["kernel"], expected)
    logits = state.params["logits"]
    predicted = softmax(x @ np.asarray(logits["kernel"], np.float64) + np.asarray(logits["bias"]))
    assert_close(metrics["loss"], -np.log((predicted * one_hot).sum(1)).mean())
