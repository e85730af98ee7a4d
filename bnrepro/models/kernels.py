"""Transformations of the kernel of a linear layer, before it is applied to the input."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

# Keeps the deviation of a kernel above zero if all its weights are equal.
_EPSILON = 1e-5


def centred(kernel: Float[Array, "*inputs features"]) -> Float[Array, "*inputs features"]:
    """Each feature's weights minus their mean (Yan et al. 2020, arXiv:2001.06838, section 4)."""
    return kernel - _mean(kernel)


def standardized(kernel: Float[Array, "*inputs features"]) -> Float[Array, "*inputs features"]:
    """Weight standardization (Qiao et al. 2019, arXiv:1903.10520, equation 10).

    `(w - mean(w)) / sqrt(var(w) + 1e-5)`, with the mean and variance of each feature's weights over
    the inputs of a dense layer, or over the channels and positions of a convolution's window. The
    paper's first version (section 3, equation 4) adds epsilon to the deviation instead; inside the
    root, it also keeps the gradient finite if all weights are equal.
    """
    kernel = centred(kernel)
    return kernel / jnp.sqrt(_mean(jnp.square(kernel)) + _EPSILON)


def _mean(kernel: Array) -> Array:
    return kernel.mean(tuple(range(kernel.ndim - 1)), keepdims=True)


Treatment = Callable[[Array], Array]
KERNELS: dict[str, Treatment] = {
    "centred": centred,
    "plain": lambda kernel: kernel,
    "standardized": standardized,
}


def promoted(treatment: Treatment) -> Callable[..., Any]:
    """The `promote_dtype` of a flax layer that applies one of `KERNELS` to its kernel.

    Flax calls it with the stored kernel, which is therefore transformed in full precision.
    Gradients pass through the transformation, as both papers require.
    """

    def promote(x: Array, kernel: Array, bias: Array | None, **settings: Any) -> Any:
        return promote_dtype(x, treatment(kernel), bias, **settings)

    return promote
