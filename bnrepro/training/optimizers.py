"""The optimizers a config can name."""

from typing import Any

import optax

OPTIMIZERS = ("adam", "rmsprop", "sgd")


def make_optimizer(
    name: str, *, learning_rate: Any, momentum: float = 0.0
) -> optax.GradientTransformation:
    """The optax optimizer of that name.

    Args:
      name: one of `OPTIMIZERS`.
      learning_rate: above 0.
      momentum: of sgd and rmsprop, in [0, 1); adam takes none.

    Raises:
      ValueError: an unknown name, or a momentum for adam.
    """
    if name == "sgd":
        return optax.sgd(learning_rate, momentum or None)
    if name == "rmsprop":
        return optax.rmsprop(learning_rate, momentum=momentum or None)
    if name == "adam":
        if momentum:
            raise ValueError(f"adam takes no momentum, got {momentum}; set it to 0")
        return optax.adam(learning_rate)
    raise ValueError(f"unknown optimizer {name!r}; known are {', '.join(OPTIMIZERS)}")
