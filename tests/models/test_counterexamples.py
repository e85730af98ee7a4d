"""Normalizers that do what the papers warn of: what they take for constants, and what they keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnrepro import BatchNorm
from bnrepro.models.counterexamples import MovingAverageNorm, StopGradientBatchNorm
from tests.layers import reference
from tests.layers.running import normal, some_variables

X, DY = normal(6, 3, mean=2, std=3), normal(6, 3, seed=1)


def trained(layer_type, x, **settings):
    """Output and new averages in training, the gradient of sum(dy * y) by x, and the variables."""
    layer, x = layer_type(use_running_average=False, momentum=0.75, **settings), jnp.asarray(x)
    variables = some_variables(layer, x, ())

    def total(x):
        y, updates = layer.apply(variables, x, mutable=["batch_stats"])
        return jnp.sum(DY.reshape(x.shape) * y), (y, updates["batch_stats"])

    dx, (y, stats) = jax.jit(jax.grad(total, has_aux=True))(x)
    return y, stats, dx, variables


@pytest.mark.parametrize("layer_type", [StopGradientBatchNorm, MovingAverageNorm])
def test_averages_and_evaluation_are_those_of_batch_norm(layer_type):
    _, stats, _, variables = trained(layer_type, X)
    _, right, _, _ = trained(BatchNorm, X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), stats, right)
    y = layer_type(use_running_average=True).apply(variables, jnp.asarray(X))
    right = BatchNorm(use_running_average=True).apply(variables, jnp.asarray(X))
    np.testing.assert_allclose(y, right, rtol=1e-5, atol=1e-6)


def test_batch_norm_with_a_stopped_gradient_has_its_output_and_another_gradient():
    y, _, dx, variables = trained(StopGradientBatchNorm, X)
    gamma, beta = (np.asarray(variables["params"][k], np.float64) for k in ("scale", "bias"))
    np.testing.assert_allclose(y, reference.batch_norm(X, gamma, beta), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dx, DY * gamma / np.sqrt(X.var(0) + 1e-5), rtol=1e-4)


def test_moving_averages_normalize_as_constants_from_before_the_minibatch():
    y, _, dx, variables = trained(MovingAverageNorm, X)
    params, stats = variables["params"], variables["batch_stats"]
    factor = np.asarray(params["scale"], np.float64) / np.sqrt(np.asarray(stats["var"]) + 1e-5)
    right = (X - np.asarray(stats["mean"])) * factor + np.asarray(params["bias"])
    np.testing.assert_allclose(y, right, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dx, DY * factor, rtol=1e-4)


def test_statistics_are_of_each_channel_and_gamma_may_be_left_out():
    images = X.reshape(3, 2, 1, 3)
    y, stats, _, variables = trained(StopGradientBatchNorm, images, use_scale=False)
    assert set(variables["params"]) == {"bias"} and stats["mean"].shape == (3,)
    flat, *_ = trained(StopGradientBatchNorm, X, use_scale=False)
    np.testing.assert_allclose(y.reshape(6, 3), flat, rtol=1e-5)
