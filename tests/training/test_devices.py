"""The same step, however it is spread over eight devices."""

from dataclasses import dataclass
from functools import cache, partial

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from bnrepro.comparison.config import common_config
from bnrepro.comparison.program import make_program
from bnrepro.comparison.run import make_job
from bnrepro.training.devices import fetch, make_devices
from tests.small_dataset import small_config, small_dataset

BATCH = 32
SETTINGS = {
    "steps": 50, "batch_size": BATCH, "binary_input": False, "ema_decay": 0.9,
    "measures": ("near_linear", "gradient_norms"), "measure_every": 7,
    "model.hidden": (7,), "model.activation": "tanh", "model.init": "lecun_normal",
    "normalizer.momentum": 0.9, "normalizer.epsilon": 0.1, "normalizer.warmup": 0.1,
    "normalizer.r_max_end": 0.3, "normalizer.d_max_end": 0.2, "optimizer.learning_rate": 0.1,
    "sampler.examples_per_label": BATCH // 2,
}  # fmt: skip


def choose(changes):
    return make_devices(small_config(**{"batch_size": 32, "microbatch_size": 4} | changes))


def after_50_steps(name, sampler, microbatch_size, strategy, shape=(0, 0), dropout=0.0, **sizes):
    """The states after 50 steps, each step's metrics, and an evaluation, on the host."""
    settings = {"normalizer.name": name, "sampler.name": sampler, "model.dropout": dropout}
    settings |= {"microbatch_size": microbatch_size, "devices.strategy": strategy}
    settings |= {"devices.seeds": shape[0], "devices.data": shape[1]} | sizes
    config = common_config(small_config(**SETTINGS | settings))
    program = make_program(*make_job("a variant", config, small_dataset()))
    states = program.init(np.array([5, 9]), {})
    states, metrics = program.train_steps(states, program.arrays, (), 0, 50)
    tested = program.evaluate(states.evaluated, {})
    return fetch((states.params, states.batch_stats, states.average, metrics, tested))


# One run alone, for all the ways to spread it. Compiling takes most of the time, so the tests with
# minibatches of few labels have the same dropout, too.
alone = cache(partial(after_50_steps, strategy="single"))
DROPOUT = {"epochs": 0.0, "labels": 0.3}


def assert_same(actual, expected):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-4), actual, expected)


SLOW, WHOLE = pytest.mark.slow, {"devices.synchronized": True}


@pytest.mark.parametrize(
    ("name", "sampler", "microbatch_size", "strategy", "shape", "sizes"),
    [
        # Two microbatches a device, and one.
        ("batch_renorm", "labels", 4, "jit", (2, 4), {}),
        ("batch_norm", "epochs", 4, "pmap", (0, 8), {}),
        pytest.param("batch_norm", "labels", 4, "jit", (2, 4), {}, marks=SLOW),
        pytest.param("batch_renorm", "epochs", 4, "pmap", (0, 8), {}, marks=SLOW),
        # Seeds alone; eight microbatches a device, and two.
        ("batch_renorm", "epochs", 32, "jit", (2, 1), {}),
        pytest.param("batch_renorm", "epochs", 2, "jit", (1, 2), {}, marks=SLOW),
        pytest.param("batch_renorm", "epochs", 4, "pmap", (1, 4), {}, marks=SLOW),
        # Statistics of the whole batch.
        ("batch_renorm", "epochs", BATCH, "jit", (2, 4), WHOLE),
        ("batch_renorm", "epochs", BATCH, "pmap", (0, 8), WHOLE),
        # One that also shares statistics of the backward pass.
        ("moving_average_batch_norm", "epochs", BATCH, "jit", (2, 4), WHOLE),
        pytest.param("batch_norm", "epochs", BATCH, "jit", (2, 4), WHOLE, marks=SLOW),
        pytest.param("batch_norm", "epochs", BATCH, "pmap", (0, 8), WHOLE, marks=SLOW),
        # A gradient that is computed in parts.
        ("batch_renorm", "labels", 4, "jit", (2, 2), {"accumulation_steps": 2}),
    ],
)
def test_a_batch_spread_over_devices_gives_what_one_device_gives(
    name, sampler, microbatch_size, strategy, shape, sizes
):
    dropout = DROPOUT[sampler]
    spread = after_50_steps(name, sampler, microbatch_size, strategy, shape, dropout, **sizes)
    assert_same(spread, alone(name, sampler, microbatch_size, dropout=dropout))


@pytest.mark.parametrize(
    ("name", "microbatches", "strategy", "shape", "sizes"),
    [
        # At least one of its own for some devices.
        ("batch_renorm", 3, "jit", (2, 4), {}),
        # At least one for all, with statistics of the backward pass.
        ("moving_average_batch_norm", 5, "pmap", (1, 4), {}),
        pytest.param("moving_average_batch_norm", 5, "jit", (2, 4), {}, marks=SLOW),
        pytest.param("batch_norm", 3, "pmap", (1, 8), {}, marks=SLOW),
        pytest.param("batch_renorm", 5, "jit", (1, 8), {}, marks=SLOW),
        # In parts of three.
        ("batch_renorm", 6, "jit", (2, 4), {"accumulation_steps": 2}),
    ],
)
def test_microbatches_that_do_not_divide_give_what_one_device_gives(
    name, microbatches, strategy, shape, sizes
):
    batch = {"batch_size": 4 * microbatches, "sampler.examples_per_label": 2 * microbatches}
    spread = after_50_steps(name, "labels", 4, strategy, shape, 0.3, **batch, **sizes)
    assert_same(spread, alone(name, "labels", 4, dropout=0.3, **batch))


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({}, (2, 4)),  # seeds first, then data
        ({"seeds": 8}, (8, 1)),
        ({"seeds": 3}, (1, 8)),  # all eight devices rather than three of them
        ({"seeds": 3, "microbatch_size": 32}, (3, 1)),
        ({"seeds": 1, "microbatch_size": 32, "devices.synchronized": True}, (1, 8)),
        ({"devices.seeds": 1}, (1, 8)),
        ({"devices.data": 2}, (2, 2)),
        ({"seeds": 1, "accumulation_steps": 4}, (1, 2)),
        ({"devices.strategy": "pmap"}, (1, 8)),
        ({"devices.strategy": "single"}, (1, 1)),
        # 7 microbatches on each device, or 25 at once rather than 5 on each of 5.
        ({"seeds": 1, "batch_size": 200}, (1, 8)),
        ({"seeds": 1, "batch_size": 200, "accumulation_steps": 2}, (1, 8)),
        ({"seeds": 1, "batch_size": 40}, (1, 5)),  # 2 on each, as with 8
        ({"seeds": 1, "devices.data": 3}, (1, 3)),
    ],
)
def test_devices_are_chosen_so_that_each_has_the_least_to_compute(changes, shape):
    assert choose(changes).mesh.devices.shape == shape


@dataclass(frozen=True)
class Chip:
    id: int
    process_index: int


def test_all_devices_of_several_processes_are_used(untyped):
    """As the 16 chips of a v5e:4x4, for 50 microbatches and for 10, which fewer compute as fast."""
    chips = [Chip(i, i // 4) for i in range(16)]
    for microbatches, padding in ((50, 14), (10, 6)):
        config = small_config(seeds=1, batch_size=4 * microbatches, microbatch_size=4)
        devices = make_devices(config, chips)
        assert (devices.mesh.devices.shape, devices.padding) == ((1, 16), padding)
    whole = small_config(seeds=1, microbatch_size=12, **{"devices.synchronized": True})
    with pytest.raises(ValueError, match=r"12 examples .* over 1 x 12 of the 16 devices"):
        make_devices(whole, chips)


def test_a_process_reads_what_its_devices_repeat(monkeypatch):
    """Of 3 microbatches on 4 devices, the last of which has the first again."""
    chosen = choose({"seeds": 1, "batch_size": 12, "devices.data": 4})
    last = {jax.devices()[3]: (slice(None), slice(None), slice(3, 4))}
    monkeypatch.setattr(NamedSharding, "addressable_devices_indices_map", lambda *_: last)
    assert chosen.fed_here(1, 3, 4).tolist() == [[[True] * 4, [False] * 4, [False] * 4]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices.seeds": 3}, "seeds must divide the 2 seeds, got 3"),
        ({"devices.data": 8, "devices.synchronized": True}, "4 examples of a microbatch, got 8"),
        ({"devices.seeds": 2, "devices.data": 8}, "is 2 x 8, but there are only 8 devices"),
        ({"devices.strategy": "single", "devices.data": 2}, "single uses one device, got 0 x 2"),
        ({"devices.strategy": "pmap", "devices.seeds": 2}, "pmap does not spread seeds, got .* 2"),
    ],
)
def test_sizes_that_do_not_divide_are_refused_with_the_numbers(changes, message):
    with pytest.raises(ValueError, match=message):
        choose(changes)
