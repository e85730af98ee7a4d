"""Normalizers of single examples, against their papers' formulas in float64 NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from bnrepro.models.per_example import EvoNormS0, FilterResponseNorm, ThresholdedLinearUnit
from tests.layers import running
from tests.layers.running import some_variables

EPSILON = 0.1
normal = partial(running.normal, dtype=np.float64)
SHAPES = pytest.mark.parametrize("shape", [(5, 4), (2, 3, 2, 4)], ids=["dense", "convolution"])


def assert_output_and_gradients(layer, formula, x, names):
    """Those of `formula(x, *parameters of these names)`; the layer has no other parameters."""
    with jax.enable_x64(True):
        params = some_variables(layer, jnp.asarray(x), ())["params"]
        assert set(params) == set(names)

        @jax.jit
        def output(x, params):
            return layer.apply({"params": params}, x)

        right = formula(x, *(np.asarray(params[name]) for name in names))
        np.testing.assert_allclose(output(x, params), right, rtol=1e-12)
        check_grads(output, (x, params), order=1)


def test_filter_response_norm_of_a_channel_is_over_its_places():
    def formula(x, scale, bias):
        nu_squared = np.mean(x**2, (1, 2), keepdims=True)
        return x / np.sqrt(nu_squared + EPSILON) * scale + bias

    layer, x = FilterResponseNorm(EPSILON), normal(2, 3, 2, 4, mean=1)
    assert_output_and_gradients(layer, formula, x, ["scale", "bias"])


@pytest.mark.parametrize("shape", [(5, 4), (5, 1, 1, 4)], ids=["dense", "one place"])
def test_filter_response_norm_of_a_single_place_learns_epsilon(shape):
    def formula(x, scale, bias, learned):
        return x / np.sqrt(x**2 + EPSILON + np.abs(learned)) * scale + bias

    layer, x = FilterResponseNorm(EPSILON), normal(*shape)
    assert_output_and_gradients(layer, formula, x, ["scale", "bias", "learned_epsilon"])
    learned = layer.init(jax.random.key(0), jnp.asarray(x))["params"]["learned_epsilon"]
    np.testing.assert_allclose(learned, 1e-4)


@SHAPES
def test_a_thresholded_linear_unit_learns_its_threshold_from_a_relu_on(shape):
    layer, x = ThresholdedLinearUnit(), normal(*shape)
    assert_output_and_gradients(layer, np.maximum, x, ["threshold"])
    begun = layer.init_with_output(jax.random.key(0), jnp.asarray(x))[0]
    np.testing.assert_array_equal(begun, np.maximum(np.float32(x), 0))


@SHAPES
def test_evonorm_s0_divides_by_the_deviation_of_each_group_of_channels(shape):
    def formula(x, v, scale, bias):
        halves = [x[..., :2], x[..., 2:]]
        variances = [
            np.stack([np.full(half[i].shape, half[i].var()) for i in range(len(x))])
            for half in halves
        ]
        std = np.sqrt(np.concatenate(variances, -1) + EPSILON)
        return x / (1 + np.exp(-v * x)) / std * scale + bias

    layer, x = EvoNormS0(num_groups=2, epsilon=EPSILON), normal(*shape, mean=1)
    assert_output_and_gradients(layer, formula, x, ["v", "scale", "bias"])


@pytest.mark.parametrize(
    "layer", [FilterResponseNorm(use_scale=False), EvoNormS0(2, use_scale=False)]
)
def test_gamma_may_be_left_out(layer):
    assert "scale" not in layer.init(jax.random.key(0), jnp.ones((5, 4)))["params"]
