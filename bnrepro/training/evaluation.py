"""Loss and accuracy over a whole data set, with the averages that inference uses."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from bnrepro.training.step import forward, loss_and_accuracy, split


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
    return {**loss_and_accuracy(logits, labels), **measured}


def evaluate_minibatches(
    variables: Any,
    indices: Int[Array, "minibatches batch"],
    images: UInt8[Array, "examples ..."],
    labels: Int[Array, "examples"],
    *,
    model: nn.Module,
    preprocess: Callable[[Array], Array],
    microbatch_size: int,
) -> dict[str, Float[Array, ""]]:
    """Mean loss and accuracy with the statistics of the minibatches themselves ([BRN] 4.3).

    The model runs as in training, on microbatches of the size given; what is stored stays as it is.
    """

    def one(index: Int[Array, "batch"]) -> dict[str, Float[Array, ""]]:
        logits, _ = forward(
            variables, split(preprocess(images[index]), microbatch_size), model=model
        )
        return loss_and_accuracy(logits, split(labels[index], microbatch_size))

    return jax.tree.map(jnp.mean, jax.lax.map(one, indices))
