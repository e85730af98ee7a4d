"""Normalizers that see one example at a time, and the nonlinearities that belong to them."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


class FilterResponseNorm(nn.Module):
    """Filter response normalization (Singh & Krishnan 2020, arXiv:1911.09737, section 3).

    Each channel of each example is normalized separately, over its positions::

        nu^2 = mean(x^2),   y = scale * x / sqrt(nu^2 + epsilon) + bias

    A feature of a dense layer has a single position, so nu^2 = x^2, and x / sqrt(x^2 + epsilon) is
    a smooth sign of x. With a single position epsilon is therefore learned, as in the paper: it
    becomes `epsilon + |learned_epsilon|`, where the latter is one number per layer and starts at
    1e-4.

    Attributes:
      epsilon: added to the mean square, above 0; the paper uses 1e-6.
      use_scale: multiply by a learned `scale`, one per channel.
      scale_init: initializer of `scale`.
      dtype: of the result (default: that of the input).
    """

    epsilon: Any = 1e-6
    use_scale: bool = True
    scale_init: Any = nn.initializers.ones
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "batch *places c"]) -> Float[Array, "batch *places c"]:
        """Normalizes `x`, channels last."""
        dtype = self.dtype or x.dtype
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        places, epsilon = tuple(range(1, x.ndim - 1)), self.epsilon
        if math.prod(x.shape[1:-1]) == 1:
            learned = self.param("learned_epsilon", nn.initializers.constant(1e-4), ())
            epsilon = epsilon + jnp.abs(learned)
        y = x / jnp.sqrt(jnp.square(x).mean(places, keepdims=True) + epsilon)
        return affine(self, y).astype(dtype)


class ThresholdedLinearUnit(nn.Module):
    """`max(x, threshold)`, the nonlinearity of filter response normalization (its section 3).

    The threshold is learned, one per channel, and starts at 0, where the unit is a ReLU.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        """Applies the unit, channels last."""
        threshold = per_channel(self, "threshold", nn.initializers.zeros, x)
        return jnp.maximum(x, threshold.astype(x.dtype))


class EvoNormS0(nn.Module):
    """EvoNorm-S0, normalizer and nonlinearity in one (Liu et al. 2020, arXiv:2004.02967, figure 1).

    The variance is taken over an example's group of channels at all positions; in a dense layer,
    over the features of the group::

        y = scale * x * sigmoid(v * x) / sqrt(var(x) + epsilon) + bias

    Attributes:
      num_groups: must divide the number of channels.
      epsilon: added to the biased variance, above 0.
      use_scale: multiply by a learned `scale`, one per channel, as are `bias` and `v`.
      scale_init: initializer of `scale`.
      dtype: of the result (default: that of the input).
    """

    num_groups: int = 32
    epsilon: Any = 1e-5
    use_scale: bool = True
    scale_init: Any = nn.initializers.ones
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "batch *places c"]) -> Float[Array, "batch *places c"]:
        """Normalizes and transforms `x`, channels last."""
        dtype = self.dtype or x.dtype
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        v = per_channel(self, "v", nn.initializers.ones, x)
        groups = (x * nn.sigmoid(v * x)).reshape(*x.shape[:-1], self.num_groups, -1)
        axes = (*range(1, x.ndim - 1), x.ndim)
        var = x.reshape(groups.shape).var(axes, keepdims=True)
        y = (groups / jnp.sqrt(var + self.epsilon)).reshape(x.shape)
        return affine(self, y).astype(dtype)


def per_channel(layer: nn.Module, name: str, init: Any, x: Array) -> Array:
    """A parameter of a layer, one per channel, shaped to broadcast against `x`."""
    return jnp.expand_dims(layer.param(name, init, x.shape[-1:]), tuple(range(x.ndim - 1)))


def affine(layer: Any, y: Array) -> Array:
    """`scale * y + bias` with parameters of the layer, without scale if it does not `use_scale`."""
    if layer.use_scale:
        y = y * per_channel(layer, "scale", layer.scale_init, y)
    return y + per_channel(layer, "bias", nn.initializers.zeros, y)
