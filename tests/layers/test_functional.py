"""What the layers owe to their arithmetic: digits, and a step without a copy of its input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnrepro import BatchNorm
from bnrepro.layers.functional import normalize, renorm_correction
from tests.layers import reference
from tests.layers.running import both_layers, normal, some_variables, train

pytestmark = pytest.mark.numbers


@both_layers
def test_normalizing_has_digits_that_a_rounded_mean_would_lose(layer_type):
    x = normal(333, 4, mean=1e4, std=0.01)
    limits = {} if layer_type is BatchNorm else {"r_max": 1.0, "d_max": 0.0}
    layer = layer_type(epsilon=0.0, use_scale=False, use_bias=False, **limits)
    y, _ = train(layer, some_variables(layer, x), x)
    right = reference.batch_norm(x, epsilon=0.0)
    np.testing.assert_allclose(y, right, rtol=1e-5, atol=1e-5)
    rounded = (x - np.float32(x.mean(0, np.float64))) / x.std(0, np.float64)
    assert np.max(abs(rounded - right)) > 1e-3  # so the example is one


# --- cost ---


def training_output(layer_type, shape, dtype):
    """A function of params and x that trains, and arguments for it."""
    layer = layer_type(use_running_average=False)
    x = normal(*shape).astype(dtype)
    variables = some_variables(layer, x, ())

    def output(params, x):
        return layer.apply({**variables, "params": params}, x, mutable=["batch_stats"])[0]

    return output, variables["params"], x


@both_layers
def test_a_compiled_step_holds_no_copy_of_the_input(layer_type):
    """Forward and backward: a quarter of its size at most, for what is added up in slices."""
    output, params, x = training_output(layer_type, (4096, 256), np.float32)
    step = jax.jit(jax.grad(lambda params, x, dy: jnp.sum(dy * output(params, x)), argnums=(0, 1)))
    memory = step.lower(params, x, x).compile().memory_analysis()
    assert memory.temp_size_in_bytes < x.nbytes / 4


@both_layers
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_compiled_for_accelerators_everything_may_be_fused(layer_type, platform):
    """What keeps XLA for CPU from copying slices would keep others from fusing whole arrays."""
    output, params, x = training_output(layer_type, (2**14, 4), np.float32)
    step = jax.jit(jax.grad(lambda params, x: jnp.sum(output(params, x) ** 2), argnums=(0, 1)))
    traced = step.trace(params, x)  # on a machine that need not have one
    assert "optimization_barrier" in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "optimization_barrier" not in traced.lower(lowering_platforms=(platform,)).as_text()


@both_layers
def test_the_gradient_keeps_the_input_once_in_its_own_type(layer_type):
    """Also where no compiler sees both passes: outside jit, and in a scan over layers."""
    output, params, x = training_output(layer_type, (512, 64), jnp.bfloat16)
    for function in (output, jax.jit(output)):
        _, vjp = jax.vjp(function, params, jnp.asarray(x))
        kept = jax.tree.leaves(vjp)
        assert [(v.shape, v.dtype) for v in kept if v.size > 64] == [(x.shape, x.dtype)]


def test_statistics_of_a_weak_type_are_not_rounded_to_that_of_the_input():
    x = jnp.full((1, 1), 302, jnp.bfloat16)
    mean, std = jnp.full(1, 300.7), jnp.full(1, 1.0)  # jnp.full gives a weak type
    y = normalize(x, mean, std, axes=(0,))
    np.testing.assert_allclose(y, [[302 - 300.7]], rtol=1e-4)


def test_a_complex_d_is_shortened_and_keeps_its_direction():
    _, d = renorm_correction(jnp.array([7 + 8j]), jnp.ones(1), jnp.ones(1), jnp.ones(1), 3.0, 5.0)
    np.testing.assert_allclose(d, [3 + 4j], rtol=1e-6)
