"""One gradient step: a pure function of the state and a batch of microbatches."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from bnrepro.training.state import NOT_DIVERGED, TrainState

# Distinct from the step numbers, from which the sampler's keys are made.
_DROPOUT = 2**32 - 1
# Weight of the loss of an auxiliary head, as in Inception-v3's published code, and its name among
# the captured outputs.
_AUXILIARY = 0.4, "auxiliary_logits"
# The name in batch_stats of statistics of the backward pass. Their cotangent is not a gradient but
# their new value (see `MovingAverageBatchNorm`).
_BACKWARD = "backward"


# Images (microbatches, size, ...) and labels (microbatches, size).
Batch = Mapping[str, Array]
# Named numbers from the state, the gradients, captured outputs and the batch.
TakeMeasure = Callable[[Any, Any, Any, Any], dict[str, Float[Array, ""]]]


class Task(NamedTuple):
    """What is trained, and how.

    Attributes:
      model: called with a minibatch and `train`.
      optimizer: of its parameters.
      ema_decay: decay of the averages of all parameters; 0 for none.
      axis_name: mapped axis over which each batch is spread, if any.
      accumulation_steps: parts of as many microbatches each, which are computed one after the
        other, so that only one's activations are in memory.
      padding: microbatches at the end of the mapped axis that count for nothing.
      captures: modules whose outputs measures need (flax's `capture_intermediates`).
    """

    model: nn.Module
    optimizer: optax.GradientTransformation
    ema_decay: float = 0.0
    axis_name: str | None = None
    accumulation_steps: int = 1
    padding: int = 0
    captures: Any = False


def loss_and_gradients(
    params: Any, state: TrainState, batch: Batch, task: Task
) -> tuple[dict[str, Float[Array, ""]], Any, Any, Any]:
    """Loss and accuracy in training mode, gradients, new batch_stats, and captured outputs.

    All but the last are averages over all examples, also over the mapped axis.
    """
    of_part = partial(_of_part, params=params, batch_stats=state.batch_stats, task=task)
    microbatches = len(batch["images"])
    keys = _dropout_keys(state, microbatches, task.axis_name)
    whole = dict(batch), keys, _weights(microbatches, task)
    if task.accumulation_steps == 1:
        (metrics, grads, batch_stats), captured = of_part(whole)
    else:
        (metrics, grads, batch_stats), captured = _in_turn(of_part, whole, task.accumulation_steps)
    if task.axis_name is not None:
        grads, metrics, batch_stats = _map_but_counters(
            partial(lax.pmean, axis_name=task.axis_name), (grads, metrics, batch_stats)
        )
    return metrics, grads, batch_stats, captured


def train_step(
    state: TrainState, batch: Batch, task: Task, measure: TakeMeasure = lambda *_: {}
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One update from the gradient over all microbatches, each normalized separately.

    Loss and gradients are averaged over all examples. New batch_stats are averaged over the
    microbatches, which for a linear moving average is an update with their mean moments. If the
    batch is spread over a mapped axis, both are also averaged over it.

    Args:
      state: before the step.
      batch: of microbatches.
      task: see `Task`.
      measure: what else to measure.

    Returns:
      The new state; loss and accuracy of the batch in training mode, before the update, and what
      was measured.
    """
    metrics, grads, batch_stats, captured = loss_and_gradients(state.params, state, batch, task)
    measured = measure(state, grads, captured, batch)
    updates, opt_state = task.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)

    average = state.average
    if task.ema_decay:
        # A short memory at first, so that the initial weights soon leave the average.
        decay = jnp.minimum(task.ema_decay, (1 + state.step) / (10 + state.step))
        average = _map_but_counters(
            lambda new, old: decay * old + (1 - decay) * new,
            {"params": params, "batch_stats": batch_stats},
            average,
        )
    step = state.step + 1
    first = (state.diverged_at == NOT_DIVERGED) & ~jnp.isfinite(metrics["loss"])
    new_state = dataclasses.replace(
        state,
        step=step,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        average=average,
        diverged_at=jnp.where(first, step, state.diverged_at),
    )
    return new_state, metrics | measured


def forward(
    variables: Any,
    images: Float[Array, "microbatches size ..."],
    dropout_keys: Key[Array, "microbatches"] | None = None,
    weights: Float[Array, "microbatches"] | None = None,
    *,
    model: nn.Module,
    captures: Any = False,
) -> tuple[Float[Array, "microbatches size classes"], Any, Any]:
    """Logits in training mode, new batch_stats, and captured outputs.

    Each microbatch is normalized separately. Without keys nothing is dropped out. With weights, the
    new batch_stats are averaged by them. Captured are the outputs of the modules that `captures`
    selects, by name.
    """

    def one(images: Array, key: Any, weight: Any) -> tuple[Array, Any, Any]:
        dropout: Any = {"deterministic": True} if key is None else {"rngs": {"dropout": key}}
        logits, updates = model.apply(
            variables if weight is None else _with_weighted_backward(variables, weight),
            images,
            train=True,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=captures,
            **dropout,
        )
        batch_stats = updates.get("batch_stats", {})
        if weight is not None:
            batch_stats = _map_but_counters(lambda x: weight.astype(x.dtype) * x, batch_stats)
        return logits, batch_stats, outputs(updates)

    if len(images) == 1:
        # A mapped axis of length one would still make each product a batched one.
        key, weight = jax.tree.map(lambda x: x[0], (dropout_keys, weights))
        logits, batch_stats, captured = one(images[0], key, weight)
        return logits[None], batch_stats, jax.tree.map(lambda x: x[None], captured)
    logits, mapped, captured = jax.vmap(one)(images, dropout_keys, weights)
    return logits, jax.tree.map(_average, mapped), captured


def outputs(collections: Mapping[str, Any]) -> dict[str, Array]:
    """Captured outputs by the names of their modules, such as norm_1 or conv2_1/norm_1.

    What a network has sown is there by its own name.
    """
    captured = flatten_dict(collections.get("intermediates", {}))
    return {
        "/".join(name for name in path if name != "__call__"): values[0]
        for path, values in captured.items()
    }


def _of_part(part: tuple[Batch, Any, Any], *, params: Any, batch_stats: Any, task: Task) -> Any:
    """Means over a part of the microbatches: ((metrics, grads, batch_stats), captured outputs)."""
    batch, dropout_keys, weights = part
    images, labels = batch["images"], batch["labels"]
    stats = flatten_dict(batch_stats)
    # The loss is a mean over microbatches, whose cotangents are added up.
    backward = {path: x / len(images) for path, x in stats.items() if path[-1] == _BACKWARD}

    def loss_fn(params: Any, backward: Any) -> tuple[Array, Any]:
        variables = {"params": params, "batch_stats": unflatten_dict(stats | backward)}
        logits, batch_stats, captured = forward(
            variables, images, dropout_keys, weights, model=task.model, captures=task.captures
        )
        metrics = loss_and_accuracy(logits, labels, weights)
        loss, (weight, name) = metrics["loss"], _AUXILIARY
        if name in captured:
            loss += weight * loss_and_accuracy(captured[name], labels, weights)["loss"]
        return loss, (metrics, batch_stats, captured)

    gradient = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
    (_, (metrics, new_stats, captured)), (grads, backward) = gradient(params, backward)
    new_stats = unflatten_dict(flatten_dict(new_stats) | backward)
    return (metrics, grads, new_stats), captured


def _in_turn(function: Callable[[Any], tuple[Any, Any]], whole: Any, parts: int) -> tuple[Any, Any]:
    """Means of a function's first results over equal parts, and its second results joined."""
    split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), whole)
    shapes, _ = jax.eval_shape(function, jax.tree.map(lambda x: x[0], split))
    zeros = jax.tree.map(jnp.zeros_like, shapes)

    def add(totals: Any, part: Any) -> tuple[Any, Any]:
        means, others = function(part)
        return jax.tree.map(jnp.add, totals, means), others

    totals, others = lax.scan(add, zeros, split)
    means = jax.tree.map(
        # Counters are equal in all parts.
        lambda x: x // parts if jnp.issubdtype(x.dtype, jnp.integer) else x / parts,
        totals,
    )
    return means, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), others)


def _dropout_keys(
    state: TrainState, microbatches: int, axis_name: str | None
) -> Key[Array, "microbatches"]:
    """A key for each microbatch of this step, the same for any number of devices."""
    first = 0 if axis_name is None else lax.axis_index(axis_name) * microbatches
    key = jax.random.fold_in(jax.random.fold_in(state.sample_key, _DROPOUT), state.step)
    return jax.vmap(partial(jax.random.fold_in, key))(first + jnp.arange(microbatches))


def _weights(microbatches: int, task: Task) -> Float[Array, "microbatches"] | None:
    """0 for padding and equal for the others, with a mean of 1 over all devices.

    None if there is no padding, so that nothing is computed with weights of 1.
    """
    if not task.padding:
        return None
    padded = lax.axis_size(task.axis_name) * microbatches
    number = padded - task.padding
    place = lax.axis_index(task.axis_name) * microbatches + jnp.arange(microbatches)
    return jnp.where(place < number, padded / number, 0)


def _with_weighted_backward(variables: Any, weight: Array) -> Any:
    """Variables for a microbatch with a weighted loss.

    The cotangents of the statistics of the backward pass are new values, which have that weight
    already: another multiplication would square it.
    """
    weighted = {
        path: x + lax.stop_gradient((weight - 1) * x) if path[-1] == _BACKWARD else x
        for path, x in flatten_dict(variables).items()
    }
    return unflatten_dict(weighted)


def loss_and_accuracy(
    logits: Float[Array, "*batch classes"],
    labels: Int[Array, "*batch"],
    weights: Float[Array, "microbatches"] | None = None,
) -> dict[str, Float[Array, ""]]:
    """Mean cross-entropy, in nats, and the share of examples whose label has the largest logit.

    Examples have the weight of their microbatch, if there are weights, whose mean is 1.
    """
    losses, hits = losses_and_hits(logits, labels)
    if weights is not None:
        losses, hits = losses * weights[:, None], hits * weights[:, None]
    return {"loss": losses.mean(), "accuracy": jnp.mean(hits)}


def losses_and_hits(
    logits: Float[Array, "*batch classes"], labels: Int[Array, "*batch"]
) -> tuple[Float[Array, "*batch"], Bool[Array, "*batch"]]:
    """Cross-entropy of each example, in nats, and whether the label's logit is the largest."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses, jnp.argmax(logits, -1) == labels


def split(batch: Shaped[Array, "batch ..."], microbatch_size: int) -> Shaped[Array, "m size ..."]:
    """A batch as microbatches: (microbatches, microbatch size, ...)."""
    return batch.reshape(-1, microbatch_size, *batch.shape[1:])


def _average(mapped: Array) -> Array:
    """Mean over microbatches; counters are equal in all."""
    return mapped[0] if jnp.issubdtype(mapped.dtype, jnp.integer) else mapped.mean(0)


def _map_but_counters(function: Callable[..., Array], *trees: Any) -> Any:
    """Maps arrays; the counters in the first tree, which are equal everywhere, stay as they are."""
    return jax.tree.map(
        lambda x, *others: x if jnp.issubdtype(x.dtype, jnp.integer) else function(x, *others),
        *trees,
    )
