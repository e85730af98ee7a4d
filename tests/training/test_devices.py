"""The same step, however it is spread over eight devices."""

from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnrepro.data.samplers import by_label, epochs
from bnrepro.models import make_normalizer
from bnrepro.models.mlp import MLP
from bnrepro.training.devices import DATA, fetch, make_devices
from bnrepro.training.evaluation import evaluate, in_batches
from bnrepro.training.loop import make_train_steps
from bnrepro.training.optimizers import make_optimizer
from bnrepro.training.state import initial_states

EXAMPLES, BATCH, SEEDS = 160, 32, np.array([5, 9])


@cache
def data():
    rng = np.random.default_rng(0)
    labels = np.sort(rng.permutation(np.arange(EXAMPLES) % 4)).astype(np.int32)
    images = rng.integers(0, 128, (EXAMPLES, 4, 4, 1)) + 30 * labels[:, None, None, None]
    return images.astype(np.uint8), labels


def take(arrays, drawn):
    index = drawn["index"]
    return {"images": arrays[0][index].astype(jnp.float32) / 255, "labels": arrays[1][index]}


def choose(strategy="jit", **changes):
    sizes = {"seeds": 0, "data": 0, "synchronized": False, "num_seeds": 2, "batch_size": 32}
    return make_devices(strategy, **(sizes | {"microbatch_size": 4} | changes))


def after_50_steps(name, sampling, microbatch_size, strategy, shape=(0, 0), dropout=None, **sizes):
    """The states after 50 steps, each step's metrics, and an evaluation, on the host."""
    sizes |= {"seeds": shape[0], "data": shape[1], "microbatch_size": microbatch_size}
    devices = choose(strategy, **sizes)
    ramp = {"r_max": 3.0, "d_max": 5.0, "warmup": 0.1, "r_max_end": 0.3, "d_max_end": 0.2}
    normalizer, synchronized_normalizer = (
        make_normalizer(
            name, steps=50, momentum=0.9, epsilon=0.1, num_groups=1, axis_name=axis, **ramp
        )
        for axis in (None, devices.axis_name if "synchronized" in sizes else None)
    )
    model = partial(
        MLP,
        4,
        nn.tanh,
        kernel_init=nn.initializers.lecun_normal(),
        dropout=dropout,
        hidden=(7,),
    )
    optimizer = make_optimizer("sgd", learning_rate=0.1)
    init = partial(
        initial_states,
        build=lambda numbers: (model(normalizer=normalizer), optimizer),
        example=jnp.zeros((1, 4, 4, 1)),
        ema_decay=0.9,
    )
    states = devices.spread(jax.jit(init, out_shardings=devices.sharding)(SEEDS, {}))
    _, labels = data()
    sampler = (
        epochs(EXAMPLES, BATCH)
        if sampling == "iid"
        else by_label(labels, 2, BATCH // 2, repeat_labels=False)
    )
    train = make_train_steps(
        build=lambda numbers: (model(normalizer=synchronized_normalizer), optimizer),
        draw=lambda key, step: {"index": sampler(key, step)},
        take=take,
        steps_at_once=50,
        microbatch_size=microbatch_size,
        ema_decay=0.9,
        devices=devices,
        accumulation_steps=sizes.get("accumulation_steps", 1),
        measures=("near_linear", "gradient_norms"),
        measure_every=7,
    )
    states, metrics = train(states, devices.replicate(data()), (), 0, 50)
    states, metrics = devices.gather(states), devices.gather(metrics)

    batches = in_batches({"index": np.arange(EXAMPLES)}, spread=devices.mesh.shape[DATA])

    def one_seed(variables, arrays, batches):
        own = model(normalizer=normalizer)
        return evaluate(
            variables, arrays, batches, model=own, take=take, axis_name=devices.axis_name
        )

    tested = devices.evaluate(one_seed)(
        states.evaluated, devices.place(data()), devices.place(batches, spread=True)
    )
    return fetch((states.params, states.batch_stats, states.average, metrics, tested))


# One run alone, for all the ways to spread it. Compiling takes most of the time, so the tests with
# minibatches of few labels have the same dropout, too.
alone = cache(partial(after_50_steps, strategy="single"))
DROPOUT = {"iid": None, "labels": 0.3}


def assert_same(actual, expected):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-4), actual, expected)


SLOW, WHOLE = pytest.mark.slow, {"synchronized": True}


@pytest.mark.parametrize(
    ("name", "sampling", "microbatch_size", "strategy", "shape", "sizes"),
    [
        # Two microbatches a device, and one.
        ("batch_renorm", "labels", 4, "jit", (2, 4), {}),
        ("batch_norm", "iid", 4, "pmap", (0, 8), {}),
        pytest.param("batch_norm", "labels", 4, "jit", (2, 4), {}, marks=SLOW),
        pytest.param("batch_renorm", "iid", 4, "pmap", (0, 8), {}, marks=SLOW),
        # Seeds alone; eight microbatches a device, and two.
        ("batch_renorm", "iid", 32, "jit", (2, 1), {}),
        pytest.param("batch_renorm", "iid", 2, "jit", (1, 2), {}, marks=SLOW),
        pytest.param("batch_renorm", "iid", 4, "pmap", (1, 4), {}, marks=SLOW),
        # Statistics of the whole batch.
        ("batch_renorm", "iid", BATCH, "jit", (2, 4), WHOLE),
        ("batch_renorm", "iid", BATCH, "pmap", (0, 8), WHOLE),
        pytest.param("batch_norm", "iid", BATCH, "jit", (2, 4), WHOLE, marks=SLOW),
        pytest.param("batch_norm", "iid", BATCH, "pmap", (0, 8), WHOLE, marks=SLOW),
        # A gradient that is computed in parts.
        ("batch_renorm", "labels", 4, "jit", (2, 2), {"accumulation_steps": 2}),
    ],
)
def test_a_batch_spread_over_devices_gives_what_one_device_gives(
    name, sampling, microbatch_size, strategy, shape, sizes
):
    dropout = DROPOUT[sampling]
    spread = after_50_steps(name, sampling, microbatch_size, strategy, shape, dropout, **sizes)
    assert_same(spread, alone(name, sampling, microbatch_size, dropout=dropout))


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({}, (2, 4)),  # seeds first, then data
        ({"num_seeds": 8}, (8, 1)),
        ({"num_seeds": 3}, (1, 8)),  # all eight devices rather than three of them
        ({"num_seeds": 3, "microbatch_size": 32}, (3, 1)),
        ({"num_seeds": 1, "microbatch_size": 32, "synchronized": True}, (1, 8)),
        ({"seeds": 1}, (1, 8)),
        ({"data": 2}, (2, 2)),
        ({"num_seeds": 1, "accumulation_steps": 4}, (1, 2)),
        ({"strategy": "pmap"}, (1, 8)),
        ({"strategy": "single"}, (1, 1)),
    ],
)
def test_as_many_devices_as_divide_are_used(changes, shape):
    assert choose(**changes).mesh.devices.shape == shape


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 3}, "seeds must divide the 2 seeds, got 3"),
        ({"data": 3}, r"data must divide the 8 microbatches \(32 / 4\), got 3"),
        ({"data": 8, "synchronized": True}, "divide the 4 examples of a microbatch, got 8"),
        ({"data": 4, "accumulation_steps": 4}, r"2 microbatches at once \(32 / 4 / 4\), got 4"),
        ({"seeds": 2, "data": 8}, "is 2 x 8, but there are only 8 devices"),
        ({"strategy": "single", "data": 2}, "single uses one device, got 0 x 2"),
        ({"strategy": "pmap", "seeds": 2}, "pmap does not spread seeds, got devices.seeds 2"),
    ],
)
def test_sizes_that_do_not_divide_are_refused_with_the_numbers(changes, message):
    with pytest.raises(ValueError, match=message):
        choose(**changes)
