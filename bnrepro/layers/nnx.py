"""Batch Normalization and Batch Renormalization for Flax NNX: thin shells over `functional`."""

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from jax import lax
from jax.nn import initializers
from jax.typing import ArrayLike
from jaxtyping import Array, Inexact, Num

from bnrepro.layers import functional
from bnrepro.layers.shared import (
    check_fields,
    check_statistics,
    minibatch_moments,
    nothing_to_learn_from,
    renormalization,
    split_axes,
)

_logger = logging.getLogger(__name__)


class BatchNorm(nnx.Module):
    """Batch Normalization, a drop-in for `flax.nnx.BatchNorm`; formulas as `bnrepro.BatchNorm`.

    Of inputs of at most 32 bits, it gives the same numbers as the Linen layer, to the last bit.
    Unlike flax's, it computes and keeps the statistics in float32 for any `dtype`, also in
    evaluation; those of complex inputs become complex.

    Args:
      num_features: size of the feature axis.
      use_running_average: normalize with the stored averages (evaluation) instead of the
        minibatch's own statistics (training). `train()`, `eval()`, `set_attributes` and `nnx.view`
        change it; the call's argument overrides it.
      dtype: of the result (default: promoted from input, statistics and parameters).
      axis, momentum, epsilon, param_dtype, use_bias, use_scale, bias_init, scale_init, axis_name,
        axis_index_groups, use_fast_variance: as the fields of `bnrepro.BatchNorm`; `axis`
        is a single one.
      promote_dtype: as flax's: called with (x, mean, var, scale, bias) and `dtype`, it returns the
        five in the types to compute in. The statistics keep their type all the same, and flax's
        default is not called: only the result needs casting.
      rngs: random numbers for the initializers, stream `params`.
      bias_metadata: of the variable `bias`.
      scale_metadata: of the variable `scale`.

    Raises:
      ValueError: an argument out of its range; an axis, a mask or a number of features that does
        not fit the input; a call that nothing tells whether to use the stored averages. Training
        on a single value per feature is logged as a warning.
      TypeError: an argument that is not a number.
    """

    def __init__(
        self,
        num_features: int,
        *,
        use_running_average: bool | None = False,
        axis: int = -1,
        momentum: Any = 0.99,
        epsilon: Any = 1e-5,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        use_bias: bool = True,
        use_scale: bool = True,
        bias_init: Any = initializers.zeros,
        scale_init: Any = initializers.ones,
        axis_name: Any = None,
        axis_index_groups: Any = None,
        use_fast_variance: bool = True,
        promote_dtype: Any = dtypes.promote_dtype,
        rngs: nnx.Rngs,
        bias_metadata: Mapping[str, Any] = MappingProxyType({}),
        scale_metadata: Mapping[str, Any] = MappingProxyType({}),
    ):
        self.num_features = num_features
        self.use_running_average = use_running_average
        self.axis = axis
        self.momentum = momentum
        self.epsilon = epsilon
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.use_bias = use_bias
        self.use_scale = use_scale
        self.axis_name = axis_name
        self.axis_index_groups = axis_index_groups
        self.use_fast_variance = use_fast_variance
        self.promote_dtype = promote_dtype
        check_fields(self)

        shape = (num_features,)
        self._add_statistics(shape)
        # scale before bias, as flax draws them
        self.scale = self.bias = nnx.data(None)
        if use_scale:
            value = scale_init(rngs.params(), shape, param_dtype)
            self.scale = nnx.Param(value, **scale_metadata)
        if use_bias:
            self.bias = nnx.Param(bias_init(rngs.params(), shape, param_dtype), **bias_metadata)

    def _add_statistics(self, shape: tuple[int, ...]) -> None:
        self.mean = nnx.BatchStat(jnp.zeros(shape, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(shape, jnp.float32))

    def __call__(
        self,
        x: Num[ArrayLike, "..."],
        use_running_average: bool | None = None,
        *,
        mask: ArrayLike | None = None,
    ) -> Inexact[Array, "..."]:
        """Normalizes `x`.

        Args:
          x: values of any shape with `num_features` along `axis`.
          use_running_average: as in the constructor, which it overrides.
          mask: broadcastable to `x`; true where a value counts towards the statistics.

        Returns:
          Normalized values, of the shape of `x`.
        """
        x = jnp.asarray(x)
        check_statistics(self, x, mean=self.mean[...], var=self.var[...])
        if _evaluates(self, use_running_average):
            std = jnp.sqrt(self.var[...] + self.epsilon)
            return _normalized(self, x, mean=self.mean[...], std=std)
        moments = _moments(self, x, mask)
        std = jnp.sqrt(moments.var + self.epsilon)
        _move(self.mean, moments.mean, self.momentum, moments.size)
        _move(self.var, moments.var, self.momentum, moments.size)
        return _normalized(self, x, mean=moments.offset, std=std, shift=moments.shift)

    def set_view(self, use_running_average: bool | None = None) -> None:
        """What `nnx.view` may set.

        Args:
          use_running_average: as in the constructor; None leaves it unchanged.
        """
        if use_running_average is not None:
            self.use_running_average = use_running_average


class BatchRenorm(BatchNorm):
    """Batch Renormalization; formulas as `bnrepro.BatchRenorm`, arguments as `BatchNorm` here.

    Its statistics are `mean`, `std` and `count`, the number of updates so far.

    Args:
      num_features: as `BatchNorm`.
      r_max: limit of r, at least 1; a number or a function of `count` (an optax schedule), which
        is evaluated inside the compiled step; a value below 1 counts as 1.
      d_max: limit of |d|, at least 0; likewise.
      rngs: as `BatchNorm`.
      **arguments: as `BatchNorm`.
    """

    def __init__(
        self,
        num_features: int,
        *,
        r_max: Any = 3.0,
        d_max: Any = 5.0,
        rngs: nnx.Rngs,
        **arguments: Any,
    ):
        self.r_max = r_max
        self.d_max = d_max
        super().__init__(num_features, rngs=rngs, **arguments)

    def _add_statistics(self, shape: tuple[int, ...]) -> None:
        self.mean = nnx.BatchStat(jnp.zeros(shape, jnp.float32))
        self.std = nnx.BatchStat(jnp.ones(shape, jnp.float32))
        self.count = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def __call__(
        self,
        x: Num[ArrayLike, "..."],
        use_running_average: bool | None = None,
        *,
        mask: ArrayLike | None = None,
    ) -> Inexact[Array, "..."]:
        """Normalizes `x`; arguments and result as in `BatchNorm`."""
        x = jnp.asarray(x)
        check_statistics(self, x, mean=self.mean[...], std=self.std[...])
        if _evaluates(self, use_running_average):
            return _normalized(self, x, mean=self.mean[...], std=self.std[...])
        moments = _moments(self, x, mask)
        count = self.count[...]
        std, r, d = renormalization(self, moments, self.mean[...], self.std[...], count)
        _move(self.mean, moments.mean, self.momentum, moments.size)
        _move(self.std, std, self.momentum, moments.size)
        self.count[...] = count + 1
        return _normalized(self, x, mean=moments.offset, std=std, shift=moments.shift, r=r, d=d)


def _evaluates(layer: BatchNorm, argument: bool | None) -> bool:
    """Whether the stored averages are used: the call's argument overrides the layer's."""
    for value in (argument, layer.use_running_average):
        if value is not None:
            return value
    raise ValueError(
        f"{type(layer).__name__}: use_running_average is given neither in the constructor nor in "
        "the call, nor set by train(), eval() or nnx.view: say whether to use the stored averages."
    )


def _moments(layer: BatchNorm, x: Array, mask: ArrayLike | None) -> functional.Moments:
    moments = minibatch_moments(layer, x, mask, axis_name=layer.axis_name)
    # Not an error, as in Linen: models are tried out on one example, for instance by nnx.tabulate,
    # and nothing distinguishes that from training.
    if message := nothing_to_learn_from(layer, x, moments):
        _logger.warning(message)
    return moments


def _move(average: nnx.Variable[Array], value: Array, momentum: Any, size: Any) -> None:
    # The update is not differentiated, and a reference cannot hold a value that is.
    value = lax.stop_gradient(value)
    moved = functional.moving_average(average[...], value, momentum, size)
    if jnp.iscomplexobj(moved):  # the average starts as a real number
        average.set_value(moved)
    else:
        average[...] = moved


def _normalized(
    layer: BatchNorm, x: Array, mean: Array, std: Array, **statistics: Array
) -> Inexact[Array, "..."]:
    """`functional.normalize` with the layer's parameters, in the dtype of flax.nnx's layer."""
    scale = None if layer.scale is None else layer.scale[...]
    bias = None if layer.bias is None else layer.bias[...]
    if layer.promote_dtype is not dtypes.promote_dtype:
        given = (x, mean, std, scale, bias)
        x, _, _, scale, bias = layer.promote_dtype(given, dtype=layer.dtype)
    _, axes = split_axes(layer, x)
    y = functional.normalize(x, mean, std, scale, bias, axes=axes, **statistics)
    return y.astype(dtypes.canonicalize_dtype(x, mean, std, scale, bias, dtype=layer.dtype))
