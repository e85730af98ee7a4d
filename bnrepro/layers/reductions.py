"""Sums over a minibatch, and the affine map whose gradient takes such sums: what a layer costs.

Both read their input once in each direction, keep only the input for the gradient, and can be
differentiated in forward and in reverse mode, any number of times. docs/performance.md lists what
was tried.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float, Inexact

# XLA for CPU sums large inputs slowly (jaxlib 0.10 to 0.12), and many values one by one, which also
# accumulates their rounding errors (0.10). So up to this many slices are first added elementwise,
# which is as fast as copying, and XLA only sums the result. Smaller inputs are not sliced: XLA
# would compute elementwise operations before the layer again for each slice.
_SLICES = 16
_LARGE_INPUT = 2**19  # values in all
_MANY_VALUES = 2**13  # of each feature


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
      shift: one per feature; a constant to derivatives, with at least 32 bits.
      mask: of the shape of `x`, true where a value counts; None if all do.
      axes: non-negative axes to sum over.
    """

    def sums_of(number: int, x: Array, shift: Array, mask: Array | None) -> tuple[Array, Array]:
        total = jnp.zeros((), shift.dtype)
        square = jnp.zeros((), jnp.finfo(shift.dtype).dtype)
        kept = None if mask is None else _slices(mask, axis, number)
        for i, part in enumerate(_slices(x, axis, number)):
            deviation = part - jnp.expand_dims(shift, axes)
            if kept is not None:
                deviation = jnp.where(kept[i], deviation, 0)
            total, square = total + deviation, square + abs_sq(deviation)
        # Without it, XLA's reductions take the slices as operands, which are first copied.
        if number > 1:
            total, square = lax.optimization_barrier((total, square))
        return jnp.sum(total, axes), jnp.sum(square, axes)

    axis, number = _slicing(x, axes)
    return _on_cpu(number, sums_of, x, shift, mask)


@partial(shifted_sums.defjvp, symbolic_zeros=True)
def _(axes: Sequence[int], primals: Any, tangents: Any) -> Any:
    x, shift, mask = primals
    sums = shifted_sums(x, shift, mask, axes)
    if isinstance(tangents[0], SymbolicZero):
        return sums, jax.tree.map(jnp.zeros_like, sums)

    # Recompute deviations for the gradient, so that they are not kept instead of the input.
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
    """`(x - shift) * multiplier + offset`, with one shift, multiplier and offset per feature.

    Args:
      x: values.
      shift: a constant to derivatives.
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

    axis, number = _slicing(x, axes)

    def sum_of_terms(number: int, x: Array, shift: Array, *factors: Array) -> Array:
        parts = _slices(x, axis, number)
        # Spread over a slice first: its transpose adds the slices, then sums over the result.
        d_multiplier, d_offset = (
            jnp.broadcast_to(jnp.expand_dims(factor, axes), parts[0].shape) for factor in factors
        )
        if number > 1:
            d_multiplier, d_offset = lax.optimization_barrier((d_multiplier, d_offset))
        shift = jnp.expand_dims(shift, axes)
        return _joined([(part - shift) * d_multiplier + d_offset for part in parts], x, axis)

    @partial(jax.checkpoint, prevent_cse=False)
    def tangent_of_factors(*operands: Array) -> Array:
        return _on_cpu(number, sum_of_terms, *operands)

    dy = tangent_of_factors(x, shift, *map(_instantiated, factors))
    if not isinstance(dx, SymbolicZero):
        dy = dy + dx * jnp.expand_dims(multiplier, axes)
    return y, dy.astype(y.dtype)


def longest_axis(x: Array, axes: Sequence[int]) -> int | None:
    """The longest of `axes`, or None. The last axis of `x` is taken only if there is no other.

    An axis that is explicitly split over devices is never taken: it can be neither reshaped nor
    read with a stride. A symbolic length (of `jax.export`) counts as longer than any number.
    """
    spec = jax.typeof(x).sharding.spec
    whole = [axis for axis in axes if spec[axis] is None]

    def rank(axis: int) -> tuple[bool, float]:
        return axis != x.ndim - 1, x.shape[axis] if _is_known(x.shape[axis]) else math.inf

    return max(whole, key=rank, default=None)


def _is_known(*lengths: Any) -> bool:
    return all(isinstance(length, int) for length in lengths)


def _slicing(x: Array, axes: Sequence[int]) -> tuple[int, int]:
    """The axis along which to slice `x` on CPU, and into how many slices; 1 for not at all."""
    axis = longest_axis(x, axes)
    if axis is None or not _is_known(*x.shape):
        return 0, 1
    if x.size < _LARGE_INPUT and math.prod(x.shape[a] for a in axes) <= _MANY_VALUES:
        return axis, 1
    return axis, max(n for n in range(1, _SLICES + 1) if x.shape[axis] % n == 0)


def _on_cpu(number: int, function: Callable[..., Any], *operands: Array | None) -> Any:
    """`function(number, *operands)` on CPU, and `function(1, *operands)` on other platforms."""
    if number == 1:
        return function(1, *operands)
    # By the platform compiled for, which need not be that of this machine.
    return lax.platform_dependent(
        *operands, cpu=partial(function, number), default=partial(function, 1)
    )


def _slices(x: Array, axis: int, number: int) -> list[Array]:
    """`x` in equal parts, along one axis."""
    if number == 1:
        return [x]
    # Neighbours go to different slices, so that each device has its share of each; on the last
    # axis they stay together, as in memory.
    sizes, index = [x.shape[axis] // number, number], axis + 1
    if axis == x.ndim - 1:
        sizes, index = sizes[::-1], axis
    split = x.reshape(*x.shape[:axis], *sizes, *x.shape[axis + 1 :])
    return [lax.index_in_dim(split, i, index, keepdims=False) for i in range(number)]


def _joined(parts: Sequence[Array], x: Array, axis: int) -> Array:
    """The inverse of `_slices(x, axis, len(parts))`."""
    if len(parts) == 1:
        return parts[0]
    return jnp.stack(parts, axis if axis == x.ndim - 1 else axis + 1).reshape(x.shape)


def abs_sq(x: Array) -> Array:
    """|x|^2, real also for complex x."""
    return jnp.real(x) ** 2 + jnp.imag(x) ** 2 if jnp.iscomplexobj(x) else x * x


def _instantiated(tangent: Any) -> Array:
    if isinstance(tangent, SymbolicZero):
        return jnp.zeros(tangent.shape, tangent.dtype)
    return tangent
