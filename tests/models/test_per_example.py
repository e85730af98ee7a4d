"""Normalizers of single examples, against formulas and derivatives in float64 NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnrepro.models import make_normalizer
from bnrepro.models.per_example import EvoNormS0, FilterResponseNorm, ThresholdedLinearUnit
from tests.layers import running
from tests.layers.running import some_variables

EPSILON = 0.1
normal = partial(running.normal, dtype=np.float64)
SHAPES = pytest.mark.parametrize("shape", [(5, 4), (2, 3, 2, 4)], ids=["dense", "convolution"])


def assert_layer_is(layer, formula, x, names):
    """By `formula(dy, x, *parameters of these names)`; the layer has no other parameters."""
    params = some_variables(layer, jnp.asarray(x), ())["params"]
    assert set(params) == set(names)

    def output(x, *values):
        return layer.apply({"params": dict(zip(names, values, strict=True))}, x)

    values = (np.asarray(params[name], np.float64) for name in names)
    running.assert_output_and_gradients(output, formula, x, *values)


def group_mean(x):
    """Over each example's first two channels, and over its last two, at all positions."""
    halves = x.reshape(len(x), -1, 2, 2)
    return np.broadcast_to(halves.mean((1, 3), keepdims=True), halves.shape).reshape(x.shape)


@SHAPES
def test_group_norm_standardizes_each_group_of_channels(shape):
    def group_norm(dy, x, scale, bias):
        """Wu & He 2018, arXiv:1803.08494, section 3."""
        centred, g = x - group_mean(x), dy * scale
        std = np.sqrt(group_mean(centred**2) + EPSILON)
        z = centred / std
        dx = (g - group_mean(g) - z * group_mean(g * z)) / std
        return z * scale + bias, dx, dy * z, dy

    settings = {"steps": 1, "momentum": 0.9, "epsilon": EPSILON, "num_groups": 2}
    layer = make_normalizer("group_norm", **settings)(use_running_average=False)
    x = normal(*shape, mean=1)
    assert_layer_is(layer, group_norm, x, ["scale", "bias"])


def test_filter_response_norm_of_a_channel_is_over_its_places():
    def filter_response_norm(dy, x, scale, bias):
        """Singh & Krishnan 2020, section 3."""
        root = np.sqrt(np.mean(x**2, (1, 2), keepdims=True) + EPSILON)
        z, g = x / root, dy * scale
        dx = (g - z * np.mean(g * z, (1, 2), keepdims=True)) / root
        return z * scale + bias, dx, dy * z, dy

    layer, x = FilterResponseNorm(EPSILON), normal(2, 3, 2, 4, mean=1)
    assert_layer_is(layer, filter_response_norm, x, ["scale", "bias"])


@pytest.mark.parametrize("shape", [(5, 4), (5, 1, 1, 4)], ids=["dense", "one place"])
def test_filter_response_norm_of_a_single_place_learns_epsilon(shape):
    def filter_response_norm(dy, x, scale, bias, learned):
        """Singh & Krishnan 2020, section 3; the derivative is for learned > 0."""
        epsilon, g = EPSILON + np.abs(learned), dy * scale
        root = np.sqrt(x**2 + epsilon)
        z, dx = x / root, g * epsilon / root**3
        return z * scale + bias, dx, dy * z, dy, -g * x / (2 * root**3)

    layer, x = FilterResponseNorm(EPSILON), normal(*shape)
    names = ["scale", "bias", "learned_epsilon"]
    assert_layer_is(layer, filter_response_norm, x, names)
    learned = layer.init(jax.random.key(0), jnp.asarray(x))["params"]["learned_epsilon"]
    np.testing.assert_allclose(learned, 1e-4)


@SHAPES
def test_a_thresholded_linear_unit_learns_its_threshold_from_a_relu_on(shape):
    def thresholded_linear_unit(dy, x, threshold):
        """Singh & Krishnan 2020, section 3."""
        return np.maximum(x, threshold), dy * (x > threshold), dy * (x < threshold)

    layer, x = ThresholdedLinearUnit(), normal(*shape)
    assert_layer_is(layer, thresholded_linear_unit, x, ["threshold"])
    begun = layer.init_with_output(jax.random.key(0), jnp.asarray(x))[0]
    np.testing.assert_array_equal(begun, np.maximum(np.float32(x), 0))


@SHAPES
def test_evonorm_s0_divides_by_the_deviation_of_each_group_of_channels(shape):
    def evonorm_s0(dy, x, v, scale, bias):
        """Liu et al. 2020, figure 1."""
        centred, g = x - group_mean(x), dy * scale
        std = np.sqrt(group_mean(centred**2) + EPSILON)
        sigmoid = 1 / (1 + np.exp(-v * x))
        z, slope = x * sigmoid / std, sigmoid * (1 - sigmoid)
        dx = (g * (sigmoid + v * x * slope) - centred / std * group_mean(g * z)) / std
        return z * scale + bias, dx, g * x**2 * slope / std, dy * z, dy

    layer, x = EvoNormS0(num_groups=2, epsilon=EPSILON), normal(*shape, mean=1)
    assert_layer_is(layer, evonorm_s0, x, ["v", "scale", "bias"])


@pytest.mark.parametrize(
    "layer", [FilterResponseNorm(use_scale=False), EvoNormS0(2, use_scale=False)]
)
def test_gamma_may_be_left_out(layer):
    assert "scale" not in layer.init(jax.random.key(0), jnp.ones((5, 4)))["params"]
