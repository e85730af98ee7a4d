"""Loss and accuracy over a whole data set, with the averages that inference uses."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


class Probe(NamedTuple):
    """Something to measure inside a model, from outside of it.

    Attributes:
      captures: tells of a module whether its output is wanted (flax's `capture_intermediates`).
      measure: named numbers from the captured outputs, a tree of `{module: {"__call__": (y,)}}`.
    """

    captures: Callable[[nn.Module, str], bool]
    measure: Callable[[Any], dict[str, Float[Array, ""]]]


def evaluate(
    variables: Any,
    images: Float[Array, "examples ..."],
    labels: Int[Array, "examples"],
    *,
    model: nn.Module,
    probe: Probe | None = None,
) -> dict[str, Float[Array, ""]]:
    """Mean loss and accuracy with the stored averages, and what the probe measures."""
    logits, captured = model.apply(
        variables,
        images,
        train=False,
        capture_intermediates=probe.captures if probe else False,
        mutable=["intermediates"],
    )
    measured = probe.measure(captured["intermediates"]) if probe else {}
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    accuracy = jnp.mean(jnp.argmax(logits, -1) == labels)
    return {"loss": losses.mean(), "accuracy": accuracy, **measured}
