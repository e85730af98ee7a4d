"""Times ways of computing a layer that were tried: `benchmark formulations`.

The last of the sums and of the layers is what `bnrepro.layers.reductions` does.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pandas as pd
from jax import lax

from bnrepro import BatchNorm
from bnrepro.layers.reductions import shifted_sums
from scripts import signed_page
from scripts.benchmark_layers import (
    SHAPES,
    Call,
    joined,
    layer_operands,
    measure,
    repeat,
    training_step,
)

Sums = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def _reductions(x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    deviation = x - shift
    return deviation.sum(0), (deviation**2).sum(0)


def _product_with_ones(x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    deviation, ones = x - shift, jnp.ones(len(x))
    return ones @ deviation, ones @ deviation**2


def _one_reduction(x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    deviation, zero = x - shift, jnp.float32(0)
    return lax.reduce(
        (deviation, deviation**2),
        (zero, zero),
        lambda one, other: (one[0] + other[0], one[1] + other[1]),
        (0,),
    )


def _loop(x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    slices = x.reshape(-1, 64, x.shape[1])

    def add(i: Any, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        deviation = slices[i] - shift
        return sums[0] + deviation, sums[1] + deviation**2

    zeros = jnp.zeros(slices.shape[1:])
    total, square = lax.fori_loop(0, len(slices), add, (zeros, zeros))
    return total.sum(0), square.sum(0)


def _slices(x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    total = square = jnp.float32(0)
    for i in range(16):
        deviation = x[i::16] - shift
        total, square = total + deviation, square + deviation**2
    return total.sum(0), square.sum(0)


SUMS: dict[str, Sums] = {
    "two reductions": _reductions,
    "products with ones": _product_with_ones,
    "one reduction of pairs": _one_reduction,
    "a loop over slices": _loop,
    "16 slices added": _slices,
    "16 slices added, kept apart": lambda x, shift: shifted_sums(x, shift[0], None, (0,)),
}


class Combined(nn.Module):
    """Batch Norm as (x - shift) * factor + offset, differentiated by JAX as is.

    Attributes:
      shift: a constant near the mean, from x and the moving mean.
    """

    shift: Callable[[jax.Array, jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes x, features last."""
        features, axes = x.shape[-1:], range(x.ndim - 1)
        average_mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        average_var = self.variable("batch_stats", "var", jnp.ones, features)
        scale = self.param("scale", nn.initializers.ones, features)
        bias = self.param("bias", nn.initializers.zeros, features)
        shift = lax.stop_gradient(self.shift(x, average_mean.value))
        deviation = x - jnp.expand_dims(shift, axes)
        mean = deviation.mean(axes)
        var = jnp.maximum((deviation**2).mean(axes) - mean**2, 0)
        if not self.is_initializing():
            average_mean.value = 0.99 * average_mean.value + 0.01 * (shift + mean)
            average_var.value = 0.99 * average_var.value + 0.01 * var
        factor = scale * lax.rsqrt(var + 1e-5)
        return deviation * jnp.expand_dims(factor, axes) + jnp.expand_dims(
            bias - mean * factor, axes
        )


LAYERS: dict[str, nn.Module] = {
    "flax.linen": nn.BatchNorm(use_running_average=False),
    "factors combined, first row as shift": Combined(lambda x, average: x[(0,) * (x.ndim - 1)]),
    "factors combined, moving mean as shift": Combined(lambda x, average: average),
    "factors combined, mean of every 32nd as shift": Combined(
        lambda x, average: x[::32].mean(range(x.ndim - 1))
    ),
    "bnrepro": BatchNorm(use_running_average=False),
}


def sum_calls(shape: tuple[int, ...]) -> list[tuple[str, Call]]:
    """By name: calls that take both sums over all but the last axis."""
    x = jnp.asarray(layer_operands(shape)[0]).reshape(-1, shape[-1])
    steps: dict[str, Callable[..., Any]] = {**SUMS, "copy": lambda x, shift: x + 1}
    return [(name, partial(repeat, jax.jit(step), (x, x[:1]))) for name, step in steps.items()]


def layer_calls(shape: tuple[int, ...]) -> list[tuple[str, Call]]:
    """By name: calls that go forward and backward through a layer, with y as an output."""
    x, scale, bias, dy = (jnp.asarray(operand) for operand in layer_operands(shape))
    calls: list[tuple[str, Call]] = []
    for name, layer in LAYERS.items():
        stats = layer.init(jax.random.key(0), x)["batch_stats"]
        operands = ({"scale": scale, "bias": bias}, stats, x, dy)
        step = jax.jit(partial(training_step, layer, True))
        calls.append((name, partial(repeat, step, operands)))
    return calls


def page(options: argparse.Namespace) -> str:
    """Both tables."""

    def table(make: Callable[[tuple[int, ...]], list[tuple[str, Call]]]) -> pd.DataFrame:
        return pd.DataFrame(
            {joined(shape): measure(make(shape), options.rounds).medians() for shape in SHAPES}
        )

    return signed_page(
        "Ways to compute a layer that were tried",
        f"Milliseconds, float32, features last: medians of {options.rounds} readings, in turn in "
        "one process.",
        "Both sums over all but the features, of x - shift and of its square:",
        table(sum_calls),
        "Batch Norm, forward and backward, its output kept:",
        table(layer_calls),
    )
