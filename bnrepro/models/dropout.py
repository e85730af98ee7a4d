"""Dropout whose rate may be traced, unlike flax.linen's."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Dropout(nn.Module):
    """Sets values to zero at random and scales up the others, so that the mean is unchanged.

    Attributes:
      rate: share of values to drop, in [0, 1).
    """

    rate: Any

    @nn.compact
    def __call__(self, x: Float[Array, "..."], deterministic: bool) -> Float[Array, "..."]:
        """The values with some dropped; all of them if `deterministic`, or at a rate of 0.

        Raises:
          flax.errors.InvalidRngError: no stream `dropout` of random numbers to drop with.
        """
        if deterministic or (not isinstance(self.rate, jax.core.Tracer) and self.rate == 0):
            return x
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, x.shape)
        return jnp.where(kept, x / (1 - self.rate), 0)
