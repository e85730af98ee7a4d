"""BatchRenorm is the paper's, step for step, and so is the ramp of its limits."""

import pickle

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from bnrepro import BatchRenorm, delayed_renorm_schedules, renorm_schedules
from tests.layers import reference
from tests.layers.running import (
    assert_step,
    broadcastable,
    normal,
    some_variables,
    train,
    train_and_differentiate,
)

pytestmark = pytest.mark.numbers


# --- Algorithm 1 ---


def test_one_step_by_hand():
    """Two values, 1 and 5: mu_B = 3, sigma_B = 2; limits that r stays within and d does not."""
    layer = BatchRenorm(r_max=3.0, d_max=0.25, epsilon=0.0, momentum=0.75)
    variables = {
        "params": {"scale": jnp.array([10.0]), "bias": jnp.array([100.0])},
        "batch_stats": {
            "mean": jnp.array([1.0]),
            "std": jnp.array([4.0]),
            "count": jnp.array(7, jnp.int32),
        },
    }
    y, stats = train(layer, variables, np.float32([[1], [5]]))
    # r = 2/4, d = min((3 - 1)/4, 0.25): x_hat = -1 * 0.5 + 0.25 and 1 * 0.5 + 0.25.
    np.testing.assert_allclose(y, [[97.5], [107.5]], rtol=1e-6)
    np.testing.assert_allclose(stats["mean"], [0.75 * 1 + 0.25 * 3])
    # The deviation is averaged: 3.5. By way of the variance it would be sqrt(13) = 3.61.
    np.testing.assert_allclose(stats["std"], [0.75 * 4 + 0.25 * 2])
    assert stats["count"] == 8 and stats["count"].dtype == jnp.int32


@pytest.mark.parametrize(
    ("shape", "axis", "limits"),
    [
        ((6, 3), -1, (3.0, 5.0)),
        ((6, 3), -1, (1.0, 0.0)),
        ((4, 3, 5), 1, (1.1, 0.1)),
        ((2, 3, 4, 1100), 1, (3.0, 5.0)),
        ((3, 3200, 5, 2), (0, -1), (1.1, 0.1)),
    ],
)
def test_a_training_step_is_algorithm_1_with_the_papers_gradients(shape, axis, limits):
    """r and d are of the averages before the update, and constants to the gradient (section 3).

    Scale and shift come after the correction (tensorpack#1065).
    """
    x, dy = normal(*shape, mean=1, std=1.5), normal(*shape, seed=1)
    layer = BatchRenorm(r_max=limits[0], d_max=limits[1], axis=axis, momentum=0.9)
    variables = some_variables(layer, x)
    gamma, beta, mu, sigma = broadcastable(variables, x, axis)
    step = reference.batch_renorm(x, mu, sigma, *limits, gamma, beta, momentum=0.9, axis=axis)
    assert_step(
        train_and_differentiate(layer, variables, x, dy),
        step.y,
        {"mean": step.mu, "std": step.sigma},
        reference.batch_renorm_gradients(x, dy, step.r, step.d, gamma, axis=axis),
    )


# --- limits that change ---


def test_limits_below_1_and_0_count_as_1_and_0():
    """A schedule may begin or end there: what it returns is known to no check."""
    x = normal(6, 3, mean=4, std=5)
    layer = BatchRenorm(r_max=lambda _: 0.25, d_max=lambda _: -2.0)
    variables = some_variables(layer, x)
    gamma, beta, _, _ = broadcastable(variables, x)
    y, _ = train(layer, variables, x)
    np.testing.assert_allclose(y, reference.batch_norm(x, gamma, beta), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("step", "r_max", "d_max"),
    [
        (0, 1, 0),
        (5_000, 1, 0),
        (15_000, 1 + 2 * 10 / 35, 2.5),
        (22_500, 2, 5 * 17.5 / 20),
        (25_000, 1 + 2 * 20 / 35, 5),
        (40_000, 3, 5),
        (200_000, 3, 5),
    ],
)
def test_the_ramp_is_the_papers(step, r_max, d_max):
    """[BRN] section 4: 1 and 0 up to 5,000; r_max = 3 at 40,000; d_max = 5 at 25,000; linear."""
    for function in (lambda schedule: schedule, jax.jit):
        r_schedule, d_schedule = (function(schedule) for schedule in renorm_schedules())
        np.testing.assert_allclose(r_schedule(step), r_max, rtol=1e-6)
        np.testing.assert_allclose(d_schedule(step), d_max, rtol=1e-6, atol=1e-7)


def test_the_ramp_stretches_to_a_run_of_any_length():
    r_max, d_max = renorm_schedules(
        1000, r_max=2.0, d_max=1.0, warmup=0.1, r_max_end=0.5, d_max_end=0.3
    )
    np.testing.assert_allclose([r_max(k) for k in (100, 300, 500)], [1, 1.5, 2], rtol=1e-6)
    np.testing.assert_allclose([d_max(k) for k in (100, 200, 300)], [0, 0.5, 1], rtol=1e-6)


@given(st.integers(1, 50), st.floats(0, 1), st.floats(0, 1))
def test_any_ramp_begins_at_batch_norm_and_never_falls(total_steps, first, second):
    warmup, end = sorted((first, second))
    for schedule in renorm_schedules(total_steps, warmup=warmup, r_max_end=end, d_max_end=end):
        values = [float(schedule(k)) for k in range(total_steps + 2)]
        assert values[0] in (0.0, 1.0)
        assert np.all(np.diff(values) >= 0)
        assert values[-1] in (3.0, 5.0)


def test_crossq_has_the_full_limits_at_once_after_100_000_updates():
    """Bhatt et al. 2024: the code's default; other numbers may be chosen."""
    default, chosen = delayed_renorm_schedules(), delayed_renorm_schedules(3, r_max=2, d_max=0.5)
    for schedules, updates, after in ((default, 100_000, (3, 5)), (chosen, 3, (2, 0.5))):
        for function in (lambda schedule: schedule, jax.jit):
            r_max, d_max = (function(schedule) for schedule in schedules)
            for step in (0, updates - 1, updates, 10**9):
                right = (1, 0) if step < updates else after
                assert (r_max(jnp.int32(step)), d_max(jnp.int32(step))) == right


@pytest.mark.parametrize("make", [renorm_schedules, delayed_renorm_schedules])
def test_equal_schedules_are_equal_also_after_a_trip_through_a_file(make):
    """So that equal models share a compiled program."""
    for one, other in zip(make(100), make(100), strict=True):
        read = pickle.loads(pickle.dumps(one))
        assert one == other == read and hash(one) == hash(read)
        assert read(50) == one(50)
    assert make(100) != make(200)


# --- mistakes ---


@pytest.mark.parametrize(
    ("function", "arguments", "shown"),
    [
        (renorm_schedules, {"r_max": 0.5}, "r_max must be at least 1, got 0.5"),
        (renorm_schedules, {"total_steps": 0}, "total_steps must be at least 1, got 0"),
        (renorm_schedules, {"warmup": float("nan")}, "warmup must be in [0, 1], got nan"),
        (
            renorm_schedules,
            {"warmup": 0.25, "r_max_end": 0.2},
            "r_max_end must be in [0.25, 1], got 0.2",
        ),
        (
            renorm_schedules,
            {"warmup": 0.1, "d_max_end": 1.5},
            "d_max_end must be in [0.1, 1], got 1.5",
        ),
        (delayed_renorm_schedules, {"d_max": -1}, "d_max must be at least 0, got -1"),
        (
            delayed_renorm_schedules,
            {"warmup_steps": -1},
            "warmup_steps must be at least 0, got -1",
        ),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_a_schedule_out_of_its_range_is_named_with_its_value(function, arguments, shown):
    with pytest.raises((ValueError, TypeError)) as error:
        function(**arguments)
    assert str(error.value) == f"{function.__name__}: {shown}."
