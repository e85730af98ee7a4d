"""Mean and biased variance of a minibatch, in one pass and without cancellation."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Inexact

# One value in this many is read to place the shift; see `batch_moments`.
_SHIFT_STRIDE = 32


class Moments(NamedTuple):
    """Moments of a minibatch, one of each a feature (the shape of the axes not reduced)."""

    mean: Inexact[Array, "..."]
    var: Float[Array, "..."]  # biased: divided by count, never negative
    size: int | Array  # values they were taken over: an int where the shapes alone tell it


def batch_moments(
    x: Inexact[Array, "..."],
    axes: Sequence[int],
    *,
    mask: ArrayLike | None = None,
    one_pass: bool = True,
    axis_name: Any = None,
    axis_index_groups: Any = None,
) -> Moments:
    """Mean and biased variance of `x` over `axes`, and over a mapped axis if one is named.

    E[x^2] - E[x]^2 loses all digits once the mean is large against the deviation. Both sums are
    therefore taken of x - shift, with the shift a mean over every 32nd value: then
    (mean - shift)^2 <= 32 var whatever the data, and the difference loses at most five bits
    (Chan, Golub & LeVeque, Algorithms for computing the sample variance, 1983, section 3).

    Args:
      x: values, in the precision that the sums shall have.
      axes: non-negative axes to reduce; may be empty where `axis_name` is given.
      mask: broadcastable to `x`; true (or 1) where a value counts. Which ones do is known only
        when the program runs, and no subsample is sure to hold one: a mask costs a second pass.
      one_pass: if False, shift by the mean itself, at the price of a second pass.
      axis_name: mapped axis (of vmap, pmap or shard_map) whose values count alike.
      axis_index_groups: groups of indices of that axis, each reduced by itself.

    Returns:
      The moments. Over no value at all they are finite and mean nothing; `size` is then 0.
    """
    axes = tuple(axes)
    if mask is not None:
        mask = jnp.broadcast_to(jnp.asarray(mask, bool), x.shape)

    # The shift cancels out of the result, so no gradient need flow through it.
    sample = x
    # An axis that is explicitly split over devices cannot be read with a stride.
    sharding = jax.typeof(x).sharding.spec
    whole = [axis for axis in axes if sharding[axis] is None]
    if one_pass and mask is None and whole:
        longest = max(whole, key=lambda axis: x.shape[axis])
        sample = lax.slice_in_dim(x, 0, None, _SHIFT_STRIDE, longest)
    shift = lax.stop_gradient(_mean(sample, axes, mask))

    deviation = x - jnp.expand_dims(shift, axes)
    offset = _mean(deviation, axes, mask)
    var = _variance(_mean(_abs_sq(deviation), axes, mask), offset)
    count = _count(x, axes, mask)
    if axis_name is None:
        return Moments(shift + offset, var, count)

    # Global sums over global counts, not a mean of means, each share centred on the common mean.
    def psum(value: Any) -> Any:
        return lax.psum(value, axis_name, axis_index_groups=axis_index_groups)

    total = psum(count)
    weight = count / jnp.maximum(total, 1)
    centre = lax.stop_gradient(psum(weight * shift))
    deviation = (shift - centre) + offset  # not of the mean, which is rounded
    offset = psum(weight * deviation)
    square = psum(weight * (var + _abs_sq(deviation)))
    return Moments(centre + offset, _variance(square, offset), total)


def _count(x: Array, axes: tuple[int, ...], mask: Array | None) -> int | Array:
    if mask is None:
        return math.prod(x.shape[axis] for axis in axes)
    return jnp.sum(mask, axes)


def _mean(x: Array, axes: tuple[int, ...], mask: Array | None) -> Array:
    """Mean over the values that count; zero where none does."""
    if mask is None:
        return jnp.mean(x, axes)
    return jnp.sum(jnp.where(mask, x, 0), axes) / jnp.maximum(jnp.sum(mask, axes), 1)


def _abs_sq(x: Array) -> Array:
    """|x|^2, real also for complex x."""
    return jnp.real(x) ** 2 + jnp.imag(x) ** 2 if jnp.iscomplexobj(x) else x * x


def _variance(mean_square: Array, offset: Array) -> Array:
    """E[|x - shift|^2] - |E[x - shift]|^2, kept from going below zero by rounding."""
    return jnp.maximum(mean_square - _abs_sq(offset), 0)
