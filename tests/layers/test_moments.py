"""The moments of a minibatch are those of float64, whatever the data and however it is spread."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from jax.sharding import AxisType, PartitionSpec

from bnrepro import BatchNorm
from bnrepro.layers.functional import batch_moments
from tests.layers import reference
from tests.layers.running import normal, some_variables, train

pytestmark = pytest.mark.numbers

jitted = jax.jit(batch_moments, static_argnums=1, static_argnames="one_pass")


def expected(x, axes, mask=None):
    mean, var, size = reference.minibatch(x, reference.reduced_axes(x, axes), mask)
    return mean.squeeze(axes), var.squeeze(axes), size.squeeze(axes)


@pytest.mark.parametrize("one_pass", [True, False])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [((4096, 4), (0,)), ((10, 40, 40, 4), (0, 1, 2)), ((60, 4, 20, 20), (0, 2, 3)), ((2, 4), (0,))],
)
def test_variance_is_right_to_1e_5_however_large_the_mean(shape, axes, one_pass):
    # No looser at 1e5 and 1e6: x - shift is exact there, so that the mean drops out at once.
    means = np.float32([1e4, -1e5, 1e6, 0])
    x = (normal(*shape) + reference.per_feature(means, np.ones(shape), shape.index(4))).astype(
        np.float32
    )
    right_mean, right_var, _ = expected(x, axes)
    # Compiled as one or operation by operation.
    for moments_of in (batch_moments, jitted) if x.ndim == 2 else (jitted,):
        moments = moments_of(jnp.asarray(x), axes, one_pass=one_pass)
        np.testing.assert_allclose(moments.var, right_var, rtol=1e-5)
        # A mean in float32 cannot be nearer than half the distance between its numbers.
        assert np.all(abs(moments.mean - right_mean) <= 2 * np.spacing(abs(means)) + 1e-6)


@pytest.mark.parametrize("outliers", [slice(0, 1), slice(0, None, 32), slice(31, None, 32)])
def test_no_outlier_spoils_the_variance_wherever_it_stands(outliers):
    """Not as the first value, nor as every one of those that the shift is taken from, or none."""
    x = normal(2**15, 2)
    x[outliers] += 1e6
    _, right, _ = expected(x, (0,))
    np.testing.assert_allclose(jitted(x, (0,)).var, right, rtol=1e-5)


SHAPES = [
    ((7,), (0,)),
    ((64, 3), (0,)),
    ((3, 33), (1,)),
    ((5, 4, 6), (0, 2)),
    ((9, 2, 2, 3), (0, 1, 2)),
]


@st.composite
def batches(draw):
    """Values of any scale and offset, some with an outlier in front, and junk where masked."""
    shape, axes = draw(st.sampled_from(SHAPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.normal(draw(st.sampled_from([0.0, 1.0, -300.0])), 1.0, shape)
    exponent = draw(st.integers(-15, 15))
    if exponent < 12 and draw(st.booleans()):
        x[(0,) * len(shape)] = draw(st.sampled_from([1e4, -1e6]))
    x = (x * 10.0**exponent).astype(np.float32)
    mask = draw(st.sampled_from(["none", "all", "some", "examples"]))
    if mask == "none":
        return x, axes, None
    if mask == "all":
        return x, axes, np.ones(shape, bool)
    example = [size if axis == axes[0] else 1 for axis, size in enumerate(shape)]
    mask = rng.random(shape if mask == "some" else example) < 0.6
    # At least two values of each feature count.
    np.moveaxis(mask, axes[0], 0)[:2] = True
    junk = draw(st.sampled_from([np.nan, np.inf, -1e30]))
    return np.where(mask, x, np.float32(junk)), axes, mask


@given(batches(), st.booleans())
def test_moments_are_those_of_float64(batch, one_pass):
    x, axes, mask = batch
    moments = jitted(x, axes, mask=mask, one_pass=one_pass)
    mean, var, size = expected(np.where(True if mask is None else mask, x, 0), axes, mask)
    deviation = np.sqrt(var)
    assert np.all(abs(moments.mean - mean) <= 1e-6 * (abs(mean) + deviation))
    np.testing.assert_allclose(moments.var, var, rtol=1e-5)
    np.testing.assert_array_equal(np.broadcast_to(moments.size, size.shape), size)


@pytest.mark.parametrize(
    ("dtype", "shape", "axis", "masked"),
    [
        (np.float16, (600, 3), -1, False),
        (jnp.bfloat16, (20, 3, 40), 1, True),
        (np.float32, (12, 4, 25, 2), (1, -1), False),
    ],
)
def test_a_layer_accumulates_in_float32_whatever_its_input(dtype, shape, axis, masked):
    # With momentum 0 the averages are the moments of the minibatch.
    x = normal(*shape, mean=100.0, std=10.0).astype(dtype)
    mask = normal(*shape, seed=1) < 0.5 if masked else None
    layer = BatchNorm(momentum=0.0, axis=axis)
    _, stats = train(layer, some_variables(layer, x), x, mask)
    right = reference.minibatch(x.astype(np.float64), axis, mask)
    np.testing.assert_allclose(stats["mean"], right.mean.squeeze(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(stats["var"], right.var.squeeze(), rtol=1e-5)


@given(
    st.sampled_from(SHAPES),
    st.floats(-(2.0**50), 2.0**50, width=32),
    st.integers(0, 3),
    st.booleans(),
)
def test_variance_is_never_negative_nor_nan(shape_and_axes, constant, ulps, one_pass):
    shape, axes = shape_and_axes
    constant = np.float32(constant)
    noise = np.random.default_rng(0).integers(-ulps, ulps + 1, shape)
    x = (constant + noise * np.spacing(abs(constant))).astype(np.float32)
    var = jitted(x, axes, one_pass=one_pass).var
    assert np.all(var >= 0)
    assert np.all(np.sqrt(var) <= 4 * (ulps + 1) * np.spacing(abs(constant)))


def jitted_vmap(function, axis_name):
    return jax.jit(jax.vmap(function, axis_name=axis_name))


def shard_mapped(function, axis_name):
    """As if by `jax.vmap`: each device has one share, and all have the same result."""
    mesh = jax.make_mesh((8,), (axis_name,), axis_types=(AxisType.Auto,))
    spec = PartitionSpec(axis_name)

    def of_share(*shares):
        return function(*(share[0] for share in shares))

    mapped = jax.jit(jax.shard_map(of_share, mesh=mesh, in_specs=spec, out_specs=PartitionSpec()))
    return lambda *shares: jax.tree.map(lambda value: jnp.stack([value] * 8), mapped(*shares))


UNEQUAL = np.array([5, 1, 2, 0, 5, 3, 1, 4])  # how many of five examples count, on each device


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("transform", [jitted_vmap, jax.pmap, shard_mapped])
def test_across_devices_every_example_weighs_alike(transform, masked):
    """google/flax#2417: with unequal masks, the mean of the devices' means is another number."""
    x = normal(8, 5, 2, mean=1e4) + 3 * np.arange(8, dtype=np.float32)[:, None, None]
    mask = (np.arange(5) < UNEQUAL[:, None])[..., None]
    x = np.where(mask, x, np.float32(np.nan if masked else 1e4))
    mask = mask if masked else np.ones_like(mask)
    moments = transform(
        lambda x, mask: batch_moments(x, (0,), mask=mask if masked else None, axis_name="devices"),
        axis_name="devices",
    )(x, mask)
    right_mean, right_var, size = expected(np.where(mask, x, 0), (0, 1), mask)
    for device in range(8):
        np.testing.assert_allclose(moments.mean[device], right_mean, rtol=2e-7, atol=1e-6)
        np.testing.assert_allclose(moments.var[device], right_var, rtol=1e-5)
    np.testing.assert_array_equal(np.broadcast_to(moments.size[0], size.shape), size)


def test_gradients_across_devices_are_those_of_mean_and_variance():
    """d mean / dx = 1/m and d var / dx = 2 (x - mean) / m, also at a large mean."""
    x = normal(8, 6, 3, mean=1e4)
    mask = normal(8, 6, 1, seed=1) < 0.7
    mean, _, m = reference.minibatch(x, -1, mask)

    @jax.jit
    def total(x):
        moments = jax.vmap(
            lambda x, mask: batch_moments(x, (0,), mask=mask, axis_name="devices"),
            axis_name="devices",
        )(x, mask)
        return jnp.sum(3 * moments.mean[0] + 5 * moments.var[0])

    right = np.where(mask, 3 / m + 5 * 2 * (x - mean) / m, 0)
    # As near as if the mean itself were rounded to float32.
    np.testing.assert_allclose(
        jax.grad(total)(x), right, atol=np.max(10 / m) * np.spacing(1e4, dtype=np.float32) / 2
    )
