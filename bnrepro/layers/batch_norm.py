"""Batch Normalization (Ioffe & Szegedy 2015, arXiv:1502.03167)."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Inexact, Num

from bnrepro.layers.normalization import BatchNormalization


class BatchNorm(BatchNormalization):
    """Batch Normalization, a drop-in for `flax.linen.BatchNorm`.

    Training ([BN] Algorithm 1), per feature over the values of a minibatch::

        x_hat = (x - mu_B) / sqrt(var_B + epsilon),   y = scale * x_hat + bias

    with the biased variance, and gradients through mu_B and var_B. Evaluation uses the moving
    averages `mean` and `var` of collection `batch_stats` instead; for the population statistics
    of [BN] Algorithm 2 see `population_statistics`. Fields and errors: `BatchNormalization`.
    """

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
        dtype = self.statistics_dtype(x)
        average_mean = self.average("mean", jnp.zeros, x, dtype)
        average_var = self.average("var", jnp.ones, x, jnp.finfo(dtype).dtype)
        if use_running_average:
            mean, var = average_mean.value, average_var.value
        else:
            moments = self.minibatch_moments(x, mask)
            mean, var = moments.mean, moments.var
            if not self.is_initializing():
                average_mean.value = self.updated(average_mean.value, mean, moments)
                average_var.value = self.updated(average_var.value, var, moments)

        return self.affine(x, mean, lax.rsqrt(var + self.epsilon))
