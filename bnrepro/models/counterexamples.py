"""Normalizers that do what the papers warn against, to measure the effect."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from bnrepro.layers.functional import batch_moments, moving_average, normalize


class StopGradientBatchNorm(nn.Module):
    """Batch Norm whose gradient treats the minibatch's statistics as constants ([BN] 2).

    The forward pass, the moving averages and evaluation are the same as in Batch Norm. [BN]
    section 2 shows for the mean that such updates may grow without any effect on the loss.

    Attributes:
      use_running_average: normalize with the moving averages (evaluation).
      momentum: of the moving averages, in [0, 1].
      epsilon: added to the variance.
      dtype: of the result (default: that of the input).
      use_scale: multiply by a learned `scale`.
      scale_init: initializer of `scale`.
      axis_name: mapped axis over which statistics are shared.
    """

    use_running_average: bool
    momentum: Any = 0.99
    epsilon: Any = 1e-5
    dtype: Any = None
    use_scale: bool = True
    scale_init: Any = nn.initializers.ones
    axis_name: Any = None

    @nn.compact
    def __call__(self, x: Inexact[Array, "*batch features"]) -> Inexact[Array, "*batch features"]:
        """Normalizes `x`, features last."""
        axes, features = tuple(range(x.ndim - 1)), x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        var = self.variable("batch_stats", "var", jnp.ones, features)
        given, shift = (mean.value, var.value), None
        if not self.use_running_average:
            initializing = self.is_initializing()
            axis_name = None if initializing else self.axis_name
            moments = batch_moments(jax.lax.stop_gradient(x), axes, axis_name=axis_name)
            given, shift = self._training_statistics(given, moments)
            if not initializing:
                mean.value = moving_average(mean.value, moments.mean, self.momentum)
                var.value = moving_average(var.value, moments.var, self.momentum)
        y = normalize(
            x,
            given[0],
            jnp.sqrt(given[1] + self.epsilon),
            self.param("scale", self.scale_init, features) if self.use_scale else None,
            self.param("bias", nn.initializers.zeros, features),
            axes=axes,
            shift=shift,
        )
        return y.astype(self.dtype or x.dtype)

    def _training_statistics(self, averages: Any, moments: Any) -> tuple[Any, Any]:
        """The mean (less the shift) and variance to normalize with, and the shift."""
        return (moments.offset, moments.var), moments.shift


class MovingAverageNorm(StopGradientBatchNorm):
    """Normalizes with the moving averages in training, too ([BN] 2, [BRN] 3).

    They are the averages before the minibatch, and constants to the gradient, which therefore
    ignores that they will follow. Attributes: as `StopGradientBatchNorm`.
    """

    def _training_statistics(self, averages: Any, moments: Any) -> tuple[Any, Any]:
        return averages, None
