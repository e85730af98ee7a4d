"""Training, evaluation, gradients, compiled once for each layer and shape; equality of results."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bnrepro import BatchNorm, BatchRenorm
from tests.layers import reference

both_layers = pytest.mark.parametrize("layer_type", [BatchNorm, BatchRenorm])
ROUNDING = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}  # one or two, relative


@functools.partial(jax.jit, static_argnums=0)
def train(layer, variables, x, mask=None):
    """The output in training mode, and the new `batch_stats`."""
    y, updates = layer.apply(
        variables, x, use_running_average=False, mask=mask, mutable=["batch_stats"]
    )
    return y, updates["batch_stats"]


@functools.partial(jax.jit, static_argnums=0)
def evaluate(layer, variables, x):
    return layer.apply(variables, x, use_running_average=True)


@functools.partial(jax.jit, static_argnums=0)
def train_and_differentiate(layer, variables, x, dy, mask=None):
    """As `train`, and the gradients of sum(dy * y) of `params` and of x."""

    def loss(params, x):
        y, stats = train(layer, {**variables, "params": params}, x, mask)
        return jnp.sum(jnp.real(dy * y)), (y, stats)

    gradients, outputs = jax.grad(loss, argnums=(0, 1), has_aux=True)(
        variables.get("params", {}), x
    )
    return *outputs, *gradients


@functools.partial(jax.jit, static_argnums=0)
def seen(layer, variables, x, dy):
    """All that a user sees of a layer: evaluation, and a training step with its gradients."""
    evaluated = evaluate(layer, variables, x)
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return evaluated, train_and_differentiate(layer, variables, x, dy)
    return evaluated, train(layer, variables, x)


def some_variables(layer, x, further_arguments=(True,)):
    """Variables for inputs like x, with nothing at 0 or 1 that a mistake could hide behind."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), x, *further_arguments))

    def value(path, like):
        if like.dtype == jnp.int32:
            return jnp.zeros(like.shape, like.dtype)
        numbers = rng.uniform(0.5, 2.0, like.shape)
        if path[-1].key in ("bias", "mean"):
            numbers = numbers * rng.choice([-1, 1], like.shape)
        return jnp.asarray(numbers, like.dtype)

    return jax.tree_util.tree_map_with_path(value, shapes)


def broadcastable(variables, x, axis=-1):
    """gamma, beta, mu, and the variance or deviation, in float64, to broadcast against x."""
    params, stats = variables["params"], variables["batch_stats"]
    of_scale = stats["var" if "var" in stats else "std"]
    return [
        reference.per_feature(np.asarray(value) * np.float64(1), x, axis)
        for value in (params["scale"], params["bias"], stats["mean"], of_scale)
    ]


def assert_same(found, right, tolerance, scaled=False):
    """The same tree, with the same types, and values within a tolerance.

    Which is of each array's largest number, or of 1, if `scaled`; and may be given for each type.
    """
    assert jax.tree.structure(found) == jax.tree.structure(right)
    for value, expected in zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True):
        assert value.dtype == expected.dtype
        own = tolerance[value.dtype.name] if isinstance(tolerance, dict) else tolerance
        wide = np.complex128 if jnp.iscomplexobj(value) else np.float64
        value, expected = (np.asarray(each).astype(wide) for each in (value, expected))
        scale = max(1, np.max(abs(expected))) if scaled else 1
        np.testing.assert_allclose(value, expected, rtol=own, atol=own * scale)


def assert_step(found, y, averages, gradients):
    """What `train_and_differentiate` gives is y, new averages, and gradients of x, scale and bias.

    Averages may have the shape that broadcasts against x.
    """
    found_y, stats, params, dx = found
    np.testing.assert_allclose(found_y, y, rtol=1e-4, atol=1e-5)
    for name, value in averages.items():
        np.testing.assert_allclose(stats[name], value.squeeze(), rtol=1e-5, atol=1e-6)
    right_dx, *sums = gradients
    np.testing.assert_allclose(dx, right_dx, rtol=1e-4, atol=1e-5)
    of_sums = 1e-5 if dx.size < 1000 else 1e-3
    for name, value in zip(("scale", "bias"), sums, strict=True):
        np.testing.assert_allclose(params[name], value, rtol=1e-4, atol=of_sums)


def assert_output_and_gradients(function, formula, *arguments):
    """In float64, y and the gradients of sum(dy * y) are those of `formula(dy, *arguments)`.

    The formula does not sum a gradient over the axes that its argument is broadcast along.
    """
    with jax.enable_x64(True):
        y, vjp = jax.vjp(jax.jit(function), *arguments)
        dy = normal(*y.shape, seed=1, dtype=np.float64)
        found = y, *vjp(dy)
    pairs = zip(formula(dy, *arguments), found, strict=True)
    right = tuple(value.reshape(-1, *like.shape).sum(0) for value, like in pairs)
    assert_same(found, right, 1e-12)


def statistics_of(model):
    """The moving averages of an NNX module."""
    return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


def normal(*shape, mean=0.0, std=1.0, seed=0, dtype=np.float32):
    """Normally distributed numbers, the same at every call."""
    return np.random.default_rng(seed).normal(mean, std, shape).astype(dtype)
