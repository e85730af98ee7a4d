"""What BatchNorm and BatchRenorm share: their fields, the minibatch's moments, the affine map."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import DenyList
from flax.linen.dtypes import canonicalize_dtype
from jax.typing import ArrayLike
from jaxtyping import Array, Inexact

from bnrepro.layers.moments import Moments, batch_moments


class BatchNormalization(nn.Module):
    """Fields and steps common to the two layers; use `BatchNorm` or `BatchRenorm`.

    Every field is that of `flax.linen.BatchNorm` and means the same.

    Attributes:
      use_running_average: normalize with the stored averages (evaluation) instead of the
        minibatch's own statistics (training). Given here or in the call, not in both.
      axis: feature axis or axes; statistics are taken over all others.
      momentum: decay of the moving averages, in [0, 1]. The papers' alpha is 1 - momentum.
      epsilon: added to the variance, at least 0.
      dtype: of the result (default: promoted from input and parameters).
      param_dtype: of `scale` and `bias`.
      use_bias: add a learned `bias` (the papers' beta).
      use_scale: multiply by a learned `scale` (the papers' gamma).
      bias_init: initializer of `bias`.
      scale_init: initializer of `scale`.
      axis_name: mapped axis (vmap, pmap, shard_map) over which statistics are shared.
      axis_index_groups: groups of indices of that axis that share among themselves only.
      use_fast_variance: moments in one pass over the input (see `layers.moments`; unlike
        flax.linen's, it loses no accuracy), otherwise in two.
      force_float32_reductions: accumulate float16 and bfloat16 inputs in float32.

    Raises:
      ValueError: a field out of its range, in training a single value per feature.
      TypeError: a field that is not a number.
    """

    use_running_average: bool | None = None
    axis: int | Sequence[int] = -1
    momentum: Any = 0.99
    epsilon: Any = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Any = nn.initializers.zeros
    scale_init: Any = nn.initializers.ones
    axis_name: Any = None
    axis_index_groups: Any = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    def __post_init__(self) -> None:
        check_range(self, "momentum", 0.0, 1.0)
        check_range(self, "epsilon", 0.0, math.inf)
        super().__post_init__()

    def statistics_dtype(self, x: Array) -> Any:
        """The precision of sums and averages: at least float32, unless the user forbids."""
        dtype = jnp.result_type(x, float) if self.dtype is None else self.dtype
        return jnp.promote_types(dtype, jnp.float32) if self.force_float32_reductions else dtype

    def average(self, name: str, initializer: Any, x: Array, dtype: Any) -> nn.Variable:
        """The stored moving average of that name, one value a feature."""
        dtype = jnp.promote_types(
            dtype, jnp.float32 if self.force_float32_reductions else self.param_dtype
        )
        return self.variable("batch_stats", name, initializer, self.feature_shape(x), dtype)

    def feature_axes(self, x: Array) -> tuple[int, ...]:
        """The feature axes of `x`, non-negative and in order."""
        axes = tuple(self.axis) if isinstance(self.axis, Iterable) else (self.axis,)
        if any(not -x.ndim <= axis < x.ndim for axis in axes):
            raise ValueError(
                f"{type(self).__name__}: axis={self.axis} is out of range for an input of shape "
                f"{x.shape}; it must lie in [{-x.ndim}, {x.ndim - 1}]."
            )
        return tuple(sorted({axis % x.ndim for axis in axes}))

    def feature_shape(self, x: Array) -> tuple[int, ...]:
        """Sizes of the feature axes."""
        return tuple(x.shape[axis] for axis in self.feature_axes(x))

    def broadcastable(self, value: Array, x: Array) -> Array:
        """`value`, one a feature, shaped to broadcast against `x`."""
        features = self.feature_axes(x)
        return value.reshape([size if axis in features else 1 for axis, size in enumerate(x.shape)])

    def minibatch_moments(self, x: Array, mask: ArrayLike | None) -> Moments:
        """Moments of `x` over all but the feature axes, and over `axis_name`."""
        features = self.feature_axes(x)
        moments = batch_moments(
            x.astype(self.statistics_dtype(x)),
            [axis for axis in range(x.ndim) if axis not in features],
            mask=mask,
            one_pass=self.use_fast_variance,
            # A model is initialized outside the map that will bind the axis.
            axis_name=None if self.is_initializing() else self.axis_name,
            axis_index_groups=self.axis_index_groups,
        )
        # Initializing with a batch of one is usual, and nothing is learned there.
        if not self.is_initializing():
            if isinstance(moments.size, int) and moments.size == 1:
                raise ValueError(
                    f"{type(self).__name__}: an input of shape {x.shape} with axis={self.axis} has "
                    "a single value per feature: its deviation from its own mean is zero and "
                    "nothing can be learned from it. Use a (micro)batch of at least 2, share "
                    "statistics over axis_name, or use GroupNorm or LayerNorm; to evaluate, set "
                    "use_running_average=True."
                )
            self.keep(moments)
        return moments

    def keep(self, moments: Moments) -> None:
        """Hands the moments to `population_statistics`, which asks for this collection by name."""
        # Not with mutable=True: that has to give back what it does with flax.linen's layer.
        if self.scope is None or isinstance(self.scope.mutable, bool | DenyList):
            return
        # All of one shape, so that a lifted layer (nn.vmap, nn.scan) stacks them alike.
        size, epsilon = (
            jnp.broadcast_to(value, moments.var.shape) for value in (moments.size, self.epsilon)
        )
        self.sow("batch_moments", "moments", (moments.mean, moments.var, size, epsilon))

    def updated(self, average: Array, value: Array, moments: Moments) -> Array:
        """The moving average after one more minibatch; unmoved by one without a valid value."""
        moved = self.momentum * average + (1 - self.momentum) * value
        if not isinstance(moments.size, int):
            moved = jnp.where(moments.size > 0, moved, average)
        # A stored average keeps its precision, as the carry of a scan must.
        return moved if jnp.iscomplexobj(moved) else moved.astype(average.dtype)

    def affine(
        self, x: Array, mean: Array, multiplier: Array, offset: Array | None = None
    ) -> Inexact[Array, "..."]:
        """`scale * ((x - mean) * multiplier + offset) + bias`, in the dtype of flax.linen's layer.

        Factors and offsets, one a feature, are combined before they meet `x`.
        """
        shape = self.feature_shape(x)
        operands = [x]
        if self.use_scale:
            scale = self.param("scale", self.scale_init, shape, self.param_dtype)
            operands.append(scale)
            multiplier = multiplier * scale
            offset = None if offset is None else offset * scale
        if self.use_bias:
            bias = self.param("bias", self.bias_init, shape, self.param_dtype)
            operands.append(bias)
            offset = bias if offset is None else offset + bias
        # The difference comes first: at the mean it is exactly zero, whatever its factor.
        y = (x - self.broadcastable(mean, x)) * self.broadcastable(multiplier, x)
        if offset is not None:
            y = y + self.broadcastable(offset, x)
        return y.astype(canonicalize_dtype(*operands, dtype=self.dtype))


def check_range(module: nn.Module, field: str, low: float, high: float) -> None:
    """Raises if a field is a known number outside [low, high]; traced values pass."""
    value = getattr(module, field)
    if isinstance(value, jax.core.Tracer):
        return
    try:
        if isinstance(value, str):  # float would take it, the layer cannot
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"{type(module).__name__}: {field} must be a number, got {value!r}."
        ) from None
    if not low <= number <= high or math.isinf(number):
        bounds = f"at least {low:g}" if math.isinf(high) else f"in [{low:g}, {high:g}]"
        raise ValueError(f"{type(module).__name__}: {field} must be {bounds}, got {number:g}.")
