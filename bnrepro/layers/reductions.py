"""Sums over a minibatch, and the affine map whose gradient takes such sums: what a layer costs.

Both read their input once in each direction, keep nothing but the input for the gradient, and may
be differentiated in forward and in reverse mode, any number of times. docs/performance.md tells
what was tried.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float, Inexact

# XLA for CPU adds rows up slowly (jaxlib 0.10 to 0.12). So at most this many slices are added up
# elementwise first, which is as fast as copying, and leaves it the sum over the result.
_SLICES = 16
# The barrier that keeps the slices' sum apart from the sum over the result is dropped before jaxlib
# 0.10.1 puts loops together; only a sum over more values than this stays apart there by itself.
_FUSED_WITH_SLICES = 32 if jax.__version_info__ < (0, 11) else 0


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def shifted_sums(
    x: Inexact[Array, "..."],
    shift: Inexact[Array, "..."],
    mask: Bool[Array, "..."] | None,
    axes: Sequence[int],
) -> tuple[Inexact[Array, "..."], Float[Array, "..."]]:
    """Sums of `x - shift` and of `|x - shift|^2` over `axes`, in the precision of `shift`.

    Args:
      x: values.
      shift: one a feature; taken as a constant by derivatives, and of at least 32 bits.
      mask: of the shape of `x`, true where a value counts; None if all do.
      axes: non-negative axes to sum over.
    """
    total, square = jnp.zeros((), shift.dtype), jnp.zeros((), jnp.finfo(shift.dtype).dtype)
    kept = None if mask is None else _slices(mask, axes)
    parts = _slices(x, axes)
    for i, part in enumerate(parts):
        deviation = part - jnp.expand_dims(shift, axes)
        if kept is not None:
            deviation = jnp.where(kept[i], deviation, 0)
        total, square = total + deviation, square + abs_sq(deviation)
    # Otherwise XLA's library of reductions takes the slices as operands, and has them copied first.
    if len(parts) > 1:
        total, square = lax.optimization_barrier((total, square))
    return jnp.sum(total, axes), jnp.sum(square, axes)


@partial(shifted_sums.defjvp, symbolic_zeros=True)
def _(axes: Sequence[int], primals: Any, tangents: Any) -> Any:
    x, shift, mask = primals
    sums = shifted_sums(x, shift, mask, axes)
    if isinstance(tangents[0], SymbolicZero):
        return sums, jax.tree.map(jnp.zeros_like, sums)

    # Deviations are recomputed for the gradient, or they would be kept instead of the input.
    @partial(jax.checkpoint, prevent_cse=False)
    def tangents_of(x: Array, shift: Array, mask: Array | None, dx: Array) -> Any:
        dx = dx.astype(jnp.result_type(x, shift))
        deviation = x - jnp.expand_dims(shift, axes)
        if mask is not None:
            dx, deviation = jnp.where(mask, dx, 0), jnp.where(mask, deviation, 0)
        return jnp.sum(dx, axes), jnp.sum(2 * jnp.real(jnp.conj(deviation) * dx), axes)

    return sums, tangents_of(x, shift, mask, tangents[0])


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def affine(
    x: Inexact[Array, "..."],
    shift: Inexact[Array, "..."],
    multiplier: Inexact[Array, "..."],
    offset: Inexact[Array, "..."],
    axes: Sequence[int],
) -> Inexact[Array, "..."]:
    """`(x - shift) * multiplier + offset`, the latter three one a feature.

    Args:
      x: values.
      shift: taken as a constant by derivatives.
      multiplier: of the difference.
      offset: added last.
      axes: non-negative axes of `x` that are not feature axes.
    """
    shift, multiplier, offset = (jnp.expand_dims(v, axes) for v in (shift, multiplier, offset))
    return (x - shift) * multiplier + offset


@partial(affine.defjvp, symbolic_zeros=True)
def _(axes: Sequence[int], primals: Any, tangents: Any) -> Any:
    x, shift, multiplier, _ = primals
    dx, _, *factors = tangents
    y = affine(*primals, axes)

    @partial(jax.checkpoint, prevent_cse=False)
    def tangent_of_factors(x: Array, shift: Array, *factors: Array) -> Array:
        parts = _slices(x, axes)
        # Spread over a slice first: transposed, this adds the slices up, then sums over the result.
        d_multiplier, d_offset = (
            jnp.broadcast_to(jnp.expand_dims(factor, axes), parts[0].shape) for factor in factors
        )
        if len(parts) > 1:
            d_multiplier, d_offset = lax.optimization_barrier((d_multiplier, d_offset))
        shift = jnp.expand_dims(shift, axes)
        return _joined([(part - shift) * d_multiplier + d_offset for part in parts], x, axes)

    dy = tangent_of_factors(x, shift, *map(_instantiated, factors))
    if not isinstance(dx, SymbolicZero):
        dy = dy + dx * jnp.expand_dims(multiplier, axes)
    return y, dy.astype(y.dtype)


def _split_axis(x: Array, axes: Sequence[int]) -> int | None:
    """The axis to slice: the longest of `axes`, the last axis of `x` only if there is no other."""
    if jax.default_backend() != "cpu":
        return None
    # An axis that is explicitly split over devices cannot be reshaped.
    spec = jax.typeof(x).sharding.spec
    whole = [axis for axis in axes if spec[axis] is None]
    return max(whole, key=lambda axis: (axis != x.ndim - 1, x.shape[axis]), default=None)


def _slices(x: Array, axes: Sequence[int]) -> list[Array]:
    """`x` in at most `_SLICES` equal parts of its shape but for the length of one axis."""
    axis = _split_axis(x, axes)
    if axis is None:
        return [x]
    length, values = x.shape[axis], math.prod(x.shape[axis] for axis in axes)
    numbers = [n for n in range(2, _SLICES + 1) if length % n == 0]
    number = max((n for n in numbers if values // n > _FUSED_WITH_SLICES), default=1)
    # Neighbours go to different slices, so that each device has its share of each; but on the last
    # axis they stay together, as they lie in memory.
    sizes, index = [length // number, number], axis + 1
    if axis == x.ndim - 1:
        sizes, index = sizes[::-1], axis
    split = x.reshape(*x.shape[:axis], *sizes, *x.shape[axis + 1 :])
    return [lax.index_in_dim(split, i, index, keepdims=False) for i in range(number)]


def _joined(parts: Sequence[Array], x: Array, axes: Sequence[int]) -> Array:
    """The inverse of `_slices(x, axes)`."""
    axis = _split_axis(x, axes)
    if axis is None:
        return parts[0]
    return jnp.stack(parts, axis if axis == x.ndim - 1 else axis + 1).reshape(x.shape)


def abs_sq(x: Array) -> Array:
    """|x|^2, real also for complex x."""
    return jnp.real(x) ** 2 + jnp.imag(x) ** 2 if jnp.iscomplexobj(x) else x * x


def _instantiated(tangent: Any) -> Array:
    if isinstance(tangent, SymbolicZero):
        return jnp.zeros(tangent.shape, tangent.dtype)
    return tangent
