"""Loss and accuracy over a whole data set, with the averages that inference uses."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from bnrepro.training.measures import Measure
from bnrepro.training.step import forward, loss_and_accuracy, outputs, split


class Evaluated(NamedTuple):
    """The variables that a measure at an evaluation has for a state."""

    params: Any
    batch_stats: Any


def evaluate(
    variables: Any,
    images: Float[Array, "examples ..."],
    labels: Int[Array, "examples"],
    *,
    model: nn.Module,
    measure: Measure | None = None,
) -> dict[str, Float[Array, ""]]:
    """Mean loss and accuracy with the stored averages, and what is measured at evaluations."""
    take = measure.at_evaluation if measure else None
    logits, collections = model.apply(
        variables,
        images,
        train=False,
        capture_intermediates=measure.captures if measure and take else False,
        mutable=["intermediates"],
    )
    measured = {}
    if take:
        captured = jax.tree.map(lambda x: x[None], outputs(collections))
        batch = {"images": images[None], "labels": labels[None]}
        state = Evaluated(variables["params"], variables.get("batch_stats", {}))
        measured = take(state, None, captured, batch)
    return loss_and_accuracy(logits, labels) | measured


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
        logits, _, _ = forward(
            variables, split(preprocess(images[index]), microbatch_size), model=model
        )
        return loss_and_accuracy(logits, split(labels[index], microbatch_size))

    return jax.tree.map(jnp.mean, jax.lax.map(one, indices))
