"""The arithmetic of both papers as pure functions, for a layer in any framework.

A layer computes the moments of its minibatch, normalizes with them, and updates its averages; Batch
Renorm corrects towards these averages in between. docs/layers.md builds one in thirty lines.
[BN] is Ioffe & Szegedy 2015 (arXiv:1502.03167), [BRN] is Ioffe 2017 (arXiv:1702.03275).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Inexact, Num

from bnrepro.layers.reductions import abs_sq, affine, longest_axis, shifted_sums

# One value in this many is read to place the shift; see `batch_moments`.
_SHIFT_STRIDE = 32


class Moments(NamedTuple):
    """Moments of a minibatch, one of each per feature (the shape of the axes not reduced).

    The mean has two parts, because their sum loses digits where the mean is large.

    Attributes:
      shift: a constant near the mean.
      offset: the mean of x - shift.
      var: the biased variance, never negative.
      size: how many values they were taken over; an int if the shapes determine it (symbolic
        under `jax.export` for any batch size).
    """

    shift: Inexact[Array, "..."]
    offset: Inexact[Array, "..."]
    var: Float[Array, "..."]
    size: Any

    @property
    def mean(self) -> Inexact[Array, "..."]:
        """The mean, rounded to the precision of the parts."""
        return self.shift + self.offset


def batch_moments(
    x: Num[Array, "..."],
    axes: Sequence[int],
    *,
    mask: ArrayLike | None = None,
    dtype: Any = None,
    one_pass: bool = True,
    axis_name: Any = None,
    axis_index_groups: Any = None,
) -> Moments:
    """Mean and biased variance of a minibatch ([BN] and [BRN] Algorithm 1, their first two lines).

    E[x^2] - E[x]^2 loses all digits once the mean is large compared with the deviation. Both sums
    are therefore taken of x - shift, where the shift is the mean of every 32nd value: then
    (mean - shift)^2 <= 32 var for any data, and the difference loses at most five bits
    (Chan, Golub & LeVeque, Algorithms for computing the sample variance, 1983, section 3).

    Args:
      x: values.
      axes: non-negative axes to reduce; may be empty where `axis_name` is given.
      mask: broadcastable to `x`; true (or 1) where a value counts. This is known only when the
        program runs, and a subsample may hold none of them, so a mask costs more passes.
      dtype: least precision of the sums (default: that of `x`); they are never below float32.
      one_pass: if False, shift by the mean itself, at the cost of more passes.
      axis_name: mapped axis (of vmap, pmap or shard_map) whose values count alike.
      axis_index_groups: groups of indices of that axis, each reduced by itself.

    Returns:
      The moments. Without any values they are zero, as is `size`.
    """
    axes = tuple(axes)
    precision = jnp.promote_types(jnp.result_type(x, dtype or x.dtype), jnp.float32)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        x = x.astype(precision)
    if mask is not None:
        counted: Array = jnp.broadcast_to(jnp.asarray(mask, bool), x.shape)
        # On an explicit mesh, both are cut into the same slices.
        if (spread := jax.typeof(x).sharding) != jax.typeof(counted).sharding:
            counted = jax.sharding.reshard(counted, spread)
        mask = counted
    size = math.prod(x.shape[a] for a in axes) if mask is None else _number(mask, axes, precision)
    sample, longest = x, longest_axis(x, axes)
    if one_pass and mask is None and longest is not None:
        sample = lax.slice_in_dim(x, 0, None, _SHIFT_STRIDE, longest)
    # The shift cancels in the result, so no gradient needs to flow through it.
    shift = _centre(lax.stop_gradient(sample).astype(precision), axes, mask)
    total, square = shifted_sums(x, shift, mask, axes)
    offset = total / jnp.maximum(size, 1)
    var = _variance(square / jnp.maximum(size, 1), offset)
    if axis_name is None:
        return Moments(shift, offset, var, size)

    # All moments of all devices in one exchange, as sums would be too, but for any mean.
    sizes: list[Any] = [] if mask is None else [size]
    own = jnp.stack([value.astype(precision) for value in (shift, offset, var, *sizes)])
    shifts, offsets, variances, *sizes = jnp.moveaxis(
        _all_gather(own, axis_name, axis_index_groups), 1, 0
    )
    total_size: Any = size * len(shifts)
    weights: Any = 1 / len(shifts)
    if mask is not None:  # over the number of all values, not a mean of means
        number = jnp.real(sizes[0])
        total_size = jnp.sum(number, 0)
        weights = number / jnp.maximum(jnp.sum(number, 0, keepdims=True), 1)
    # Each device's part is centred on the common mean, which is exact where all values are equal.
    first = shifts[:1]
    centre = first + jnp.sum(weights * (shifts - first), 0, keepdims=True)
    deviations = (shifts - centre) + offsets  # not of the means, which are rounded
    offset = jnp.sum(weights * deviations, 0)
    mean_square = jnp.sum(weights * (jnp.real(variances) + abs_sq(deviations)), 0)
    var = _variance(mean_square, offset)
    # All devices normalize around one number, the mean.
    constant = lax.stop_gradient(offset)
    return Moments(centre[0] + constant, offset - constant, var, total_size)


def renorm_correction(
    mean: Inexact[Array, "..."],
    std: Float[Array, "..."],
    moving_mean: Inexact[Array, "..."],
    moving_std: Float[Array, "..."],
    r_max: Any,
    d_max: Any,
) -> tuple[Float[Array, "..."], Inexact[Array, "..."]]:
    """The r and d of [BRN] Algorithm 1, constants to the gradient.

    Args:
      mean: of the minibatch, one per feature.
      std: sqrt(var + epsilon) of the minibatch; positive.
      moving_mean: moving average of `mean`, before this minibatch.
      moving_std: moving average of `std`, likewise; positive.
      r_max: r is kept within [1 / r_max, r_max]; a limit below 1 counts as 1.
      d_max: |d| is kept within d_max; a limit below 0 counts as 0.
    """
    r_max, d_max = jnp.maximum(r_max, 1), jnp.maximum(d_max, 0)
    r = jnp.clip(std / moving_std, 1 / r_max, r_max)
    d = (mean - moving_mean) / moving_std
    if jnp.iscomplexobj(d):  # shortened, with the same direction
        d = d * jnp.minimum(1, d_max / jnp.maximum(jnp.abs(d), jnp.finfo(d.dtype).tiny))
    else:
        d = jnp.clip(d, -d_max, d_max)
    return lax.stop_gradient(r), lax.stop_gradient(d)


def normalize(
    x: Num[Array, "..."],
    mean: Inexact[Array, "..."],
    std: Float[Array, "..."],
    scale: Array | None = None,
    bias: Array | None = None,
    *,
    axes: Sequence[int],
    shift: Inexact[Array, "..."] | None = None,
    r: Array | None = None,
    d: Array | None = None,
) -> Inexact[Array, "..."]:
    """`scale * ((x - mean) / std * r + d) + bias` ([BRN] Algorithm 1; without r and d, [BN]'s).

    All factors and all offsets are combined per feature before they meet `x`.

    Args:
      x: values.
      mean: one per feature, as all that follow. In training: `Moments.offset`, with its `shift`.
      std: sqrt(var + epsilon); positive.
      scale: the papers' gamma.
      bias: the papers' beta.
      axes: non-negative axes of `x` that are not feature axes.
      shift: a constant to add to `mean`, if any.
      r: of `renorm_correction`; None for 1.
      d: likewise; None for 0.
    """
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        x = x.astype(jnp.result_type(x, mean))
    mean, std = mean.astype(mean.dtype), std.astype(std.dtype)  # not of a weak type
    if shift is None:
        shift = lax.stop_gradient(mean)
        mean = mean - shift  # zero, but the gradient with respect to the mean passes through it
    multiplier = 1 / std if r is None else r / std
    if scale is not None:
        multiplier = multiplier * scale
        d = None if d is None else d * scale
    offset = -mean * multiplier
    offset = offset if d is None else offset + d
    offset = offset if bias is None else offset + bias
    return affine(x, shift, multiplier, offset, tuple(axes))


def moving_average(
    average: Inexact[Array, "..."],
    value: Inexact[Array, "..."],
    momentum: Any,
    size: Any = 1,
) -> Inexact[Array, "..."]:
    """The average after one more minibatch: [BRN] Algorithm 1's last lines, alpha = 1 - momentum.

    Args:
      average: so far, one per feature.
      value: of the minibatch.
      momentum: decay, in [0, 1].
      size: of the minibatch; an empty one leaves the average unchanged.

    Returns:
      The new average in the type of the old one, unless only the value is complex.
    """
    if not isinstance(size, int) or size == 0:
        # A choice between averages would need them to be spread over devices in the same way.
        present = jnp.asarray(size) > 0
        momentum, value = jnp.where(present, momentum, 1.0), jnp.where(present, value, 0)
    moved = momentum * average + (1 - momentum) * value
    # A stored average keeps its precision, as the carry of a scan must.
    return moved if jnp.iscomplexobj(moved) else moved.astype(average.dtype)


def _all_gather(x: Array, axis_name: Any, axis_index_groups: Any) -> Array:
    """The values of all devices of a group, stacked."""
    gathered = x
    # One by one: JAX gathers along several names at once only if none is `vmap`'s.
    for name in axis_name if isinstance(axis_name, tuple | list) else (axis_name,):
        # They are the same on all devices, as `shard_map` has to be told where it checks that.
        checks = jax.typeof(lax.axis_index(name)).manual_axis_type.varying
        to = "invarying" if checks else "varying"
        gathered = lax.all_gather(gathered, name, axis_index_groups=axis_index_groups, to=to)
    return lax.collapse(gathered, 0, gathered.ndim - x.ndim)


def _number(mask: Array, axes: Sequence[int], dtype: Any) -> Array:
    """How many are true, counted as integers: beyond 2^24, adding 1 does not change a float32."""
    return jnp.sum(mask, axes).astype(jnp.finfo(dtype).dtype)


def _centre(x: Array, axes: tuple[int, ...], mask: Array | None) -> Array:
    """The mean of `x`; if all values are equal, exactly that value."""

    def mean(x: Array) -> Array:
        if mask is None:
            return jnp.sum(x, axes) / max(math.prod(x.shape[a] for a in axes), 1)
        return jnp.sum(jnp.where(mask, x, 0), axes) / jnp.maximum(_number(mask, axes, x.dtype), 1)

    # The mean of equal values is rounded; the mean of their differences from one of them is not.
    if (
        mask is None
        and 0 not in x.shape
        and all(jax.typeof(x).sharding.spec[a] is None for a in axes)
    ):
        one = lax.slice(x, [0] * x.ndim, [1 if a in axes else n for a, n in enumerate(x.shape)])
    else:
        one = jnp.expand_dims(mean(x), axes)
    return jnp.squeeze(one, axes) + mean(x - one)


def _variance(mean_square: Array, offset: Array) -> Array:
    """E[|x - shift|^2] - |E[x - shift]|^2, kept from going below zero by rounding."""
    var = mean_square - abs_sq(offset)
    # Rounding is not differentiated.
    return var - lax.stop_gradient(jnp.minimum(var, 0))
