"""Batch Normalization and Batch Renormalization for Flax Linen: thin shells over `functional`."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import canonicalize_dtype
from jax.typing import ArrayLike
from jaxtyping import Array, Inexact, Num

from bnrepro.layers import functional
from bnrepro.layers.functional import Moments
from bnrepro.layers.shared import (
    check_fields,
    check_statistics,
    collecting,
    feature_shape,
    minibatch_moments,
    nothing_to_learn_from,
    renormalization,
    split_axes,
)


class BatchNorm(nn.Module):
    """Batch Normalization, a drop-in for `flax.linen.BatchNorm`.

    Training ([BN] Algorithm 1), per feature over the values of a minibatch::

        x_hat = (x - mu_B) / sqrt(var_B + epsilon),   y = scale * x_hat + bias

    with the biased variance, and gradients through mu_B and var_B. Evaluation uses the moving
    averages `mean` and `var` of collection `batch_stats` instead; for the population statistics
    of [BN] Algorithm 2 see `population_statistics`.

    Every field has the name and meaning that it has in `flax.linen.BatchNorm`.

    Attributes:
      use_running_average: normalize with the stored averages (evaluation) instead of the
        minibatch's own statistics (training). Give it here or in the call, not in both.
      axis: feature axis or axes; statistics are taken over all others.
      momentum: decay of the moving averages, in [0, 1], or one per feature. The papers' alpha is
        1 - momentum.
      epsilon: added to the variance, at least 0, or one per feature.
      dtype: of the result (default: promoted from input and parameters).
      param_dtype: of `scale` and `bias`.
      use_bias: add a learned `bias` (the papers' beta).
      use_scale: multiply by a learned `scale` (the papers' gamma).
      bias_init: initializer of `bias`.
      scale_init: initializer of `scale`.
      axis_name: mapped axis (vmap, pmap, shard_map) over which statistics are shared.
      axis_index_groups: groups of indices of that axis that share among themselves only.
      use_fast_variance: compute moments in one pass over the input (see
        `functional.batch_moments`; unlike flax.linen's, it loses no accuracy), else in several.
      force_float32_reductions: keep the averages in float32 where input or parameters have less;
        sums are always taken in at least float32.

    Raises:
      ValueError: a field out of its range; an axis, a mask or stored statistics that do not fit
        the input; a single value per feature in training; `use_running_average` given neither
        here nor in the call, or in both.
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
        check_fields(self)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Num[ArrayLike, "..."],
        use_running_average: bool | None = None,
        *,
        mask: ArrayLike | None = None,
    ) -> Inexact[Array, "..."]:
        """Normalizes `x`.

        Args:
          x: values of any shape with the feature axes of `axis`.
          use_running_average: as the field of that name.
          mask: broadcastable to `x`; true where a value counts towards the statistics.

        Returns:
          Normalized values, of the shape of `x`.
        """
        use_running_average = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        x = jnp.asarray(x)
        mean, var = _average(self, "mean", x), _average(self, "var", x)
        if use_running_average:
            std = jnp.sqrt(var.value + self.epsilon)
            return _normalized(self, x, mean=mean.value, std=std)
        moments = _moments(self, x, mask)
        std = jnp.sqrt(moments.var + self.epsilon)
        if not self.is_initializing():
            _move(self, moments, (mean, moments.mean), (var, moments.var))
        return _normalized(self, x, mean=moments.offset, std=std, shift=moments.shift)


class BatchRenorm(BatchNorm):
    """Batch Renormalization, with the fields of `flax.linen.BatchNorm` and two more.

    Training ([BRN] Algorithm 1), per feature, with moving mean mu and moving *deviation* sigma::

        sigma_B = sqrt(var_B + epsilon)
        r = stop_gradient(clip(sigma_B / sigma, 1 / r_max, r_max))
        d = stop_gradient(clip((mu_B - mu) / sigma, -d_max, d_max))
        x_hat = (x - mu_B) / sigma_B * r + d,   y = scale * x_hat + bias

    mu and sigma move towards mu_B and sigma_B after r and d are computed. They start at 0 and 1 and
    are not bias-corrected: let the limits grow from 1 and 0, as `renorm_schedules` does.
    Evaluation: y = scale * (x - mu) / sigma + bias. Collection `batch_stats` holds `mean`, `std`
    and `count`, the number of updates so far. Further fields and errors: `BatchNorm`.

    Attributes:
      r_max: limit of r, at least 1; a number or a function of `count` (an optax schedule), which
        is evaluated inside the compiled step; a value below 1 counts as 1. With r_max = 1 and
        d_max = 0 this is Batch Norm.
      d_max: limit of |d|, at least 0; likewise.
    """

    r_max: Any = 3.0
    d_max: Any = 5.0

    @nn.compact
    def __call__(
        self,
        x: Num[ArrayLike, "..."],
        use_running_average: bool | None = None,
        *,
        mask: ArrayLike | None = None,
    ) -> Inexact[Array, "..."]:
        """Normalizes `x`; arguments and result as in `BatchNorm`."""
        use_running_average = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        x = jnp.asarray(x)
        mean, std = _average(self, "mean", x), _average(self, "std", x)
        count = self.variable("batch_stats", "count", jnp.zeros, (), jnp.int32)
        if use_running_average:
            return _normalized(self, x, mean=mean.value, std=std.value)
        moments = _moments(self, x, mask)
        if _collects_moments(self):  # those of the network that evaluates
            return _normalized(self, x, mean=mean.value, std=std.value)
        std_b, r, d = renormalization(self, moments, mean.value, std.value, count.value)
        if not self.is_initializing():
            _move(self, moments, (mean, moments.mean), (std, std_b))
            count.value = count.value + 1
        return _normalized(self, x, mean=moments.offset, std=std_b, shift=moments.shift, r=r, d=d)


# Functions, not methods: Flax wraps each method of a module, and can capture their results as
# intermediates.


def _average(layer: BatchNorm, name: str, x: Array) -> nn.Variable:
    """The stored average of that name, one value per feature: `mean` starts at 0, others at 1."""
    shape = feature_shape(layer, x)
    dtype = jnp.result_type(x, float) if layer.dtype is None else layer.dtype
    least = jnp.float32 if layer.force_float32_reductions else layer.param_dtype
    dtype = jnp.promote_types(dtype, least)
    if name == "mean":
        average = layer.variable("batch_stats", name, jnp.zeros, shape, dtype)
    else:
        average = layer.variable("batch_stats", name, jnp.ones, shape, jnp.finfo(dtype).dtype)
    check_statistics(layer, x, **{name: average.value})
    return average


def _moments(layer: BatchNorm, x: Array, mask: ArrayLike | None) -> Moments:
    """Moments of the minibatch, passed to `population_statistics` if it asks for them."""
    # Models are initialized with a batch of one, outside the map that will bind the axis.
    initializing = layer.is_initializing()
    moments = minibatch_moments(layer, x, mask, axis_name=None if initializing else layer.axis_name)
    if not initializing and (message := nothing_to_learn_from(layer, x, moments)):
        raise ValueError(message)
    if _collects_moments(layer):
        # All have one shape, so that a lifted layer (nn.vmap, nn.scan) stacks them alike.
        size, epsilon = (
            jnp.broadcast_to(value, moments.var.shape) for value in (moments.size, layer.epsilon)
        )
        layer.sow("batch_moments", "moments", (moments.mean, moments.var, size, epsilon))
    return moments


def _collects_moments(layer: BatchNorm) -> bool:
    """Whether `population_statistics` asks for the moments, and a lifted layer passes them on."""
    return (
        collecting.get()
        and not layer.is_initializing()
        and layer.is_mutable_collection("batch_moments")
    )


def _move(layer: BatchNorm, moments: Moments, *averages: tuple[nn.Variable, Array]) -> None:
    for average, value in averages:
        average.value = functional.moving_average(
            average.value, value, layer.momentum, moments.size
        )


def _normalized(layer: BatchNorm, x: Array, **statistics: Array) -> Inexact[Array, "..."]:
    """`functional.normalize` with the layer's parameters, in the dtype of flax.linen's layer."""
    _, axes = split_axes(layer, x)
    shape = feature_shape(layer, x)
    scale = bias = None
    if layer.use_scale:
        scale = layer.param("scale", layer.scale_init, shape, layer.param_dtype)
    if layer.use_bias:
        bias = layer.param("bias", layer.bias_init, shape, layer.param_dtype)
    # Statistics over several feature axes are one array; `axes` are the axes it lacks.
    y = functional.normalize(x, scale=scale, bias=bias, axes=axes, **statistics)
    return y.astype(canonicalize_dtype(x, scale, bias, dtype=layer.dtype))
