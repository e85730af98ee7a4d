"""The convolution of the networks: the one place that chooses how it is computed."""

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def convolution(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kernel_height kernel_width channels features"],
    strides: Sequence[int],
    padding: Any,
    **settings: Any,
) -> Float[Array, "batch rows columns features"]:
    """As `lax.conv_general_dilated`, for flax's `nn.Conv(conv_general_dilated=convolution)`.

    On CPU it is a matrix product with the patches that the kernel sees: inside a loop body, such
    as a scan over training steps, XLA's own convolution is about 30 times slower there (jax#12868),
    and mapped over seeds 6 times. `python -m scripts.benchmark inception` compares it with XLA's
    own in a step outside a loop. The product can only be differentiated in reverse mode, and takes
    no negative padding, dilation or groups.
    """
    dilations = *settings.get("lhs_dilation", ()), *settings.get("rhs_dilation", ())
    assert set(dilations) <= {1} and settings.get("feature_group_count", 1) == 1, settings
    pads = padding
    if isinstance(padding, str):
        pads = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)

    def as_product(x: Array, kernel: Array) -> Array:
        return _as_product(jnp.pad(x, ((0, 0), *pads, (0, 0))), kernel, tuple(strides))

    xla = partial(lax.conv_general_dilated, window_strides=strides, padding=padding, **settings)
    # By the platform compiled for, which need not be that of this machine.
    return lax.platform_dependent(x, kernel, cpu=as_product, default=xla)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _as_product(x: Array, kernel: Array, strides: tuple[int, int]) -> Array:
    """The convolution of `x`, without padding."""
    return _patches(x, kernel.shape, strides) @ kernel.reshape(-1, kernel.shape[-1])


def _forward(x: Array, kernel: Array, strides: tuple[int, int]) -> Any:
    return _as_product(x, kernel, strides), (x, kernel)


def _backward(strides: tuple[int, int], saved: tuple[Array, Array], dy: Array) -> Any:
    x, kernel = saved
    patches, gradient_of_x = jax.vjp(lambda x: _patches(x, kernel.shape, strides), x)
    (dx,) = gradient_of_x(dy @ kernel.reshape(-1, kernel.shape[-1]).T)
    # Each input's gradient is a sum over the patches with it, which XLA would compute anew for all
    # that reads it, but computes once if a gather does.
    dx = dx[:, jnp.arange(dx.shape[1])]
    return dx, jnp.einsum("...p,...f->pf", patches, dy).reshape(kernel.shape)


_as_product.defvjp(_forward, _backward)


def _patches(x: Array, kernel: Sequence[int], strides: Sequence[int]) -> Array:
    """The part of `x` that a kernel of that shape sees at each position, as one vector."""
    height, width, *_ = kernel
    # The last start of a patch, plus one.
    stops = x.shape[1] - height + 1, x.shape[2] - width + 1
    parts = [
        x[:, row : row + stops[0] : strides[0], column : column + stops[1] : strides[1]]
        for row, column in product(range(height), range(width))
    ]
    return jnp.concatenate(parts, axis=-1)
