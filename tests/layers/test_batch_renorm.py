"""BatchRenorm is the paper's, step for step, and so is the ramp of its limits."""

import pickle

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given

from bnrepro import BatchRenorm, delayed_renorm_schedules, renorm_schedules
from tests.layers import reference
from tests.layers.running import (
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


@given(
    st.sampled_from([((6, 3), -1, False), ((4, 3, 5), 1, True), ((4, 3, 2, 5), (1, -1), False)]),
    st.sampled_from([(1.0, 0.0), (1.2, 0.3), (3.0, 5.0)]),
    st.floats(-3, 3, width=32),
    st.sampled_from([0.1, 1.0, 10.0]),
)
def test_training_steps_are_algorithm_1(batch, limits, mean, std):
    """r and d from the averages before the update; whatever is clipped, on whichever side.

    Scale and shift come after the correction (tensorpack#1065).
    """
    shape, axis, masked = batch
    layer = BatchRenorm(r_max=limits[0], d_max=limits[1], axis=axis, momentum=0.9)
    variables = some_variables(layer, np.zeros(shape, np.float32))
    gamma, beta, mu, sigma = broadcastable(variables, np.zeros(shape), axis)
    for step in range(3):
        x = normal(*shape, mean=mean, std=std, seed=step)
        mask = normal(*shape, seed=10 + step) < 1.0 if masked else None
        y, stats = train(layer, variables, x, mask)
        variables = {**variables, "batch_stats": stats}
        right = reference.batch_renorm(
            x, mu, sigma, *limits, gamma, beta, momentum=0.9, axis=axis, mask=mask
        )
        mu, sigma = right.mu, right.sigma
        np.testing.assert_allclose(y, right.y, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(stats["mean"], mu.squeeze(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(stats["std"], sigma.squeeze(), rtol=1e-5)
        assert stats["count"] == step + 1


@pytest.mark.parametrize("limits", [(3.0, 5.0), (1.1, 0.1), (1.0, 0.0)])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((6, 3), -1), ((4, 3, 5), 1), ((2, 3, 4, 1100), 1), ((3, 3200, 5, 2), (0, -1))],
)
def test_gradients_are_the_papers_closed_form(shape, axis, limits):
    """[BRN] section 3: through mu_B and sigma_B, none through r and d, clipped or not."""
    x, dy = normal(*shape, mean=1, std=1.5), normal(*shape, seed=1)
    layer = BatchRenorm(r_max=limits[0], d_max=limits[1], axis=axis)
    variables = some_variables(layer, x)
    gamma, beta, mu, sigma = broadcastable(variables, x, axis)
    step = reference.batch_renorm(x, mu, sigma, *limits, gamma, beta, momentum=0.99, axis=axis)
    right = reference.batch_renorm_gradients(x, dy, step.r, step.d, gamma, axis=axis)
    y, _, params, dx = train_and_differentiate(layer, variables, x, dy)
    np.testing.assert_allclose(y, step.y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dx, right[0], rtol=1e-4, atol=1e-5)
    of_sums = 1e-5 if x.size < 1000 else 1e-3
    np.testing.assert_allclose(params["scale"], right[1], rtol=1e-4, atol=of_sums)
    np.testing.assert_allclose(params["bias"], right[2], rtol=1e-4, atol=of_sums)


def test_complex_numbers_are_corrected_towards_the_moving_mean():
    x = (normal(50, 2, mean=3) + 1j * normal(50, 2, mean=-4, seed=1)).astype(np.complex64)
    layer = BatchRenorm(r_max=1.5, d_max=0.5, use_scale=False, use_bias=False)
    variables = some_variables(layer, x)
    y, stats = train(layer, variables, x)
    mu_b, var_b, _ = reference.minibatch(x)
    _, _, mu, sigma = broadcastable({**variables, "params": {"scale": [1, 1], "bias": [0, 0]}}, x)
    sigma_b = np.sqrt(var_b + 1e-5)
    d = (mu_b - mu) / sigma
    assert np.all(abs(d) > 0.5)
    right = (x - mu_b) / sigma_b * np.clip(sigma_b / sigma, 1 / 1.5, 1.5) + d / abs(d) * 0.5
    np.testing.assert_allclose(y, right, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats["mean"], (mu + 0.01 * (mu_b - mu))[0], rtol=1e-5)


# --- limits that change ---


def test_the_limits_follow_their_schedule_in_a_step_compiled_once():
    """keras-contrib#127: a limit read while tracing stays what it was at the first step."""
    r_max, d_max = optax.linear_schedule(1.0, 4.0, 10), lambda count: count / 10
    layer = BatchRenorm(r_max=r_max, d_max=d_max, momentum=1.0)  # the averages stay
    x = normal(30, 2, mean=9, std=9)  # beyond any limit
    variables = some_variables(layer, x)
    gamma, beta, mu, sigma = broadcastable(variables, x)
    traces = []

    @jax.jit
    def step(stats):
        traces.append(1)
        return train.__wrapped__(layer, {**variables, "batch_stats": stats}, x)

    def scanned(stats, _):
        y, stats = train.__wrapped__(layer, {**variables, "batch_stats": stats}, x)
        return stats, y

    _, scanned_ys = jax.jit(lambda stats: jax.lax.scan(scanned, stats, length=10))(
        variables["batch_stats"]
    )
    stats = variables["batch_stats"]
    for k in range(10):
        y, stats = step(stats)
        right = reference.batch_renorm(x, mu, sigma, 1 + 0.3 * k, k / 10, gamma, beta, momentum=1.0)
        np.testing.assert_allclose(y, right.y, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(scanned_ys[k], right.y, rtol=1e-4, atol=1e-5)
    assert len(traces) == 1


def test_limits_momentum_and_epsilon_may_be_traced_and_mapped_over():
    x = normal(6, 3, mean=4, std=5)
    variables = some_variables(BatchRenorm(), x)
    gamma, beta, mu, sigma = broadcastable(variables, x)
    numbers = np.float32([[1, 0, 0, 1e-5], [1.5, 0.5, 0.5, 1e-2], [3, 5, 0.99, 1]])

    @jax.vmap
    def mapped(numbers):
        r_max, d_max, momentum, epsilon = numbers
        layer = BatchRenorm(r_max=r_max, d_max=d_max, momentum=momentum, epsilon=epsilon)
        y, stats = train.__wrapped__(layer, variables, x)
        return y, stats["mean"]

    for y, mean, (*limits, momentum, epsilon) in zip(
        *jax.jit(mapped)(numbers), numbers, strict=True
    ):
        right = reference.batch_renorm(
            x, mu, sigma, *limits, gamma, beta, epsilon=epsilon, momentum=momentum
        )
        np.testing.assert_allclose(y, right.y, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(mean, right.mu[0], rtol=1e-5)


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
    tenth, _ = renorm_schedules(13_000)
    np.testing.assert_allclose([tenth(k) for k in (500, 2_250, 4_000)], [1, 2, 3], rtol=1e-6)


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
        (
            renorm_schedules,
            {"total_steps": float("inf")},
            "total_steps must be at least 1 and finite, got inf",
        ),
        (renorm_schedules, {"total_steps": "9"}, "total_steps must be a number, got '9'"),
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
