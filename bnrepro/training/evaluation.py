"""Loss and accuracy over a set of examples, one batch after another to limit memory."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from bnrepro.training.measures import Measure
from bnrepro.training.step import Batch, forward, losses_and_hits, outputs, split

# Examples that go through the network together.
_BATCH = 1_000


class Batches(NamedTuple):
    """Some examples in batches of one size.

    Attributes:
      drawn: which examples they are, arrays (batches, size, ...).
      present: (batches, size); 0 for padding in the last batches.
    """

    drawn: Any
    present: Float[Array, "batches size"]


def in_batches(drawn: Any, *, size: int | None = None, spread: int = 1) -> Batches:
    """Splits examples into batches, the same number on each device.

    Args:
      drawn: arrays (examples, ...).
      size: of a batch (default: at most 1,000, with little padding).
      spread: number of devices.
    """
    count = len(jax.tree.leaves(drawn)[0])
    batches = spread * math.ceil(count / (spread * (size or _BATCH)))
    size = size or math.ceil(count / batches)
    place = np.arange(batches * size).reshape(batches, size)
    here = np.where(place < count, place, 0)
    present: Any = (place < count).astype(np.float32)
    return Batches(jax.tree.map(lambda x: np.asarray(x)[here], drawn), present)


class Totals(NamedTuple):
    """Sums over examples, and how many there are; those of several parts can be added."""

    loss: Float[Array, "*runs"]
    hits: Float[Array, "*runs"]
    number: Float[Array, "*runs"]

    def means(self) -> dict[str, Float[Array, "*runs"]]:
        """Mean loss, in nats, and accuracy, in [0, 1]."""
        return {"loss": self.loss / self.number, "accuracy": self.hits / self.number}


def evaluate(
    variables: Any,
    arrays: Any,
    batches: Batches,
    *,
    model: nn.Module,
    take: Callable[[Any, Any], Batch],
    microbatch_size: int | None = None,
    axis_name: str | None = None,
) -> Totals:
    """Loss and correct predictions, summed over examples.

    Args:
      variables: of the model.
      arrays: the arrays that examples are taken from.
      batches: the examples; each device has its share.
      model: called with images and `train`.
      take: makes a batch of what was drawn.
      microbatch_size: normalize microbatches of this size by their own statistics, as in training
        ([BRN] 4.3); by default, by the stored averages. Stored averages do not change.
      axis_name: mapped axis over which the batches are spread.
    """

    def sums(batch: Batches) -> Totals:
        examples = take(arrays, batch.drawn)
        images, labels, present = examples["images"], examples["labels"], batch.present
        if microbatch_size is None:
            logits: Any = model.apply(variables, images, train=False)
        else:
            logits, _, _ = forward(variables, split(images, microbatch_size), model=model)
            labels, present = split(labels, microbatch_size), split(present, microbatch_size)
        losses, hits = losses_and_hits(logits, labels)
        return Totals(jnp.sum(losses * present), jnp.sum(hits * present), present.sum())

    totals = jax.tree.map(jnp.sum, lax.map(sums, batches))
    return totals if axis_name is None else lax.psum(totals, axis_name)


def measure_once(
    variables: Any, batch: Batch, *, model: nn.Module, measure: Measure
) -> dict[str, Float[Array, ""]]:
    """The measures for evaluations, on one batch with the stored averages."""
    if measure.at_evaluation is None:
        return {}
    _, collections = model.apply(
        variables,
        batch["images"],
        train=False,
        capture_intermediates=measure.captures,
        mutable=["intermediates"],
    )
    captured, batch = jax.tree.map(lambda x: x[None], (outputs(collections), batch))
    state = SimpleNamespace(**variables)
    return measure.at_evaluation(state, None, captured, batch)
