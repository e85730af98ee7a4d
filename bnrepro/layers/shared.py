"""What the Linen and NNX shells share: checks that name the field and the value, and the moments.

A `layer` comes from either framework; both have the fields of flax's BatchNorm by the same names.
"""

import math
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from bnrepro.layers.functional import Moments, batch_moments, renorm_correction

# Whether `population_statistics` is collecting the moments of minibatches. Which collections are
# mutable does not tell: with mutable=True, a lifted layer sees only those that its map names.
collecting = ContextVar("collecting", default=False)


def check_fields(layer: Any) -> None:
    """Raises if momentum, epsilon or a limit of Batch Renorm is out of its range."""
    check_range(_name(layer), "momentum", layer.momentum, 0, 1)
    check_range(_name(layer), "epsilon", layer.epsilon, 0)
    for field, low in (("r_max", 1), ("d_max", 0)):
        # Batch Norm has no limits, and schedules are evaluated later.
        if not callable(value := getattr(layer, field, low)):
            check_range(_name(layer), field, value, low)


def check_range(owner: str, field: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raises unless a number, or each of an array, is finite and in [low, high]; tracers pass.

    Args:
      owner: what has the field; begins the message.
      field: its name.
      value: its value.
      low: least one allowed.
      high: greatest one allowed.
    """
    if isinstance(value, jax.core.Tracer):
        return
    try:
        if isinstance(value, str):  # float would take it, the layer cannot
            raise TypeError
        is_array = isinstance(value, np.ndarray | jax.Array)
        numbers = np.atleast_1d(np.asarray(value if is_array else float(value), np.float64))
    except (TypeError, ValueError):
        raise TypeError(f"{owner}: {field} must be a number, got {value!r}.") from None
    wrong = numbers[~((low <= numbers) & (numbers <= high) & np.isfinite(numbers))]
    if wrong.size:
        bounds = f"in [{low:g}, {high:g}]"
        if math.isinf(high):
            bounds = f"at least {low:g}{' and finite' if np.isinf(wrong[0]) else ''}"
        raise ValueError(f"{owner}: {field} must be {bounds}, got {wrong[0]:g}.")


def split_axes(layer: Any, x: Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The feature axes of `x` and its other axes, non-negative and in order."""
    axes = tuple(layer.axis) if isinstance(layer.axis, Iterable) else (layer.axis,)
    if any(not -x.ndim <= axis < x.ndim for axis in axes):
        raise ValueError(
            f"{_name(layer)}: axis={layer.axis} is out of range for an input of shape "
            f"{x.shape}; it must lie in [{-x.ndim}, {x.ndim - 1}]."
        )
    features = tuple(sorted({axis % x.ndim for axis in axes}))
    return features, tuple(axis for axis in range(x.ndim) if axis not in features)


def feature_shape(layer: Any, x: Array) -> tuple[int, ...]:
    """Sizes of the feature axes: the shape of statistics and parameters."""
    features, _ = split_axes(layer, x)
    return tuple(x.shape[axis] for axis in features)


def check_statistics(layer: Any, x: Array, **statistics: Array) -> None:
    """Raises if stored statistics do not have one value for each feature of `x`."""
    expected = feature_shape(layer, x)
    for name, value in statistics.items():
        if value.shape != expected:
            raise ValueError(
                f"{_name(layer)}: the stored {name} has shape {value.shape}, but an input of shape "
                f"{x.shape} with axis={layer.axis} needs {expected}."
            )


def minibatch_moments(layer: Any, x: Array, mask: ArrayLike | None, *, axis_name: Any) -> Moments:
    """Moments of `x` over all but the feature axes and over `axis_name`, as the fields say.

    Raises:
      ValueError: a mask that does not fit `x`.
    """
    _, axes = split_axes(layer, x)
    if mask is not None:
        _check_mask(layer, x, mask)
    return batch_moments(
        x,
        axes,
        mask=mask,
        dtype=layer.dtype,
        one_pass=layer.use_fast_variance,
        axis_name=axis_name,
        axis_index_groups=layer.axis_index_groups,
    )


def renormalization(
    layer: Any, moments: Moments, mean: Array, std: Array, count: Array
) -> tuple[Array, Array, Array]:
    """The minibatch's deviation, and r and d, from the averages after `count` updates."""
    std_b = jnp.sqrt(moments.var + layer.epsilon)
    limits = (limit(count) if callable(limit) else limit for limit in (layer.r_max, layer.d_max))
    r, d = renorm_correction(moments.mean, std_b, mean, std, *limits)
    return std_b, r, d


def nothing_to_learn_from(layer: Any, x: Array, moments: Moments) -> str | None:
    """The message for a minibatch with a single value per feature; None for any other."""
    if not isinstance(moments.size, int) or moments.size != 1:
        return None
    return (
        f"{_name(layer)}: an input of shape {x.shape} with axis={layer.axis} has "
        "a single value per feature: its deviation from its own mean is zero and "
        "nothing can be learned from it. Use a (micro)batch of at least 2, share "
        "statistics over axis_name, or use GroupNorm or LayerNorm; to evaluate, set "
        "use_running_average=True."
    )


def _check_mask(layer: Any, x: Array, mask: ArrayLike) -> None:
    shape = np.shape(mask)
    try:
        fits = jnp.broadcast_shapes(shape, x.shape) == x.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{_name(layer)}: a mask of shape {shape} cannot be broadcast to an input of shape "
            f"{x.shape}."
        )


def _name(layer: Any) -> str:
    return type(layer).__name__
