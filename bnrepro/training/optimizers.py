"""The optimizers a config can name."""

from typing import Any

import jax
import optax

OPTIMIZERS = ("adam", "rmsprop", "sgd")


def make_optimizer(
    name: str, *, learning_rate: Any, momentum: Any = 0.0, weight_decay: Any = 0.0
) -> optax.GradientTransformation:
    """The optax optimizer of that name. Numbers may be traced; a known zero costs nothing.

    Args:
      name: one of `OPTIMIZERS`.
      learning_rate: above 0.
      momentum: of sgd and rmsprop, in [0, 1); adam takes none.
      weight_decay: of the penalty weight_decay / 2 * |w|^2 on all kernels, at least 0; its gradient
        is added to that of the loss.

    Raises:
      ValueError: an unknown name, or a momentum for adam.
    """
    if name == "sgd":
        optimizer = optax.sgd(learning_rate, None if _is_zero(momentum) else momentum)
    elif name == "rmsprop":
        optimizer = optax.rmsprop(learning_rate, momentum=None if _is_zero(momentum) else momentum)
    elif name == "adam":
        if not _is_zero(momentum):
            raise ValueError(f"adam takes no momentum, got {momentum}; set it to 0")
        optimizer = optax.adam(learning_rate)
    else:
        raise ValueError(f"unknown optimizer {name!r}; known are {', '.join(OPTIMIZERS)}")
    if _is_zero(weight_decay):
        return optimizer
    return optax.chain(optax.add_decayed_weights(weight_decay, _kernels), optimizer)


def _is_zero(number: Any) -> bool:
    return not isinstance(number, jax.Array) and number == 0


def _kernels(params: Any) -> Any:
    """Which parameters are kernels, as opposed to biases and normalizers' scales."""
    return jax.tree.map(lambda x: x.ndim > 1, params)
