"""One gradient step: a pure function of the state and a batch of microbatches."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from bnrepro.training.state import NOT_DIVERGED, TrainState


def train_step(
    state: TrainState,
    images: Float[Array, "microbatches size ..."],
    labels: Int[Array, "microbatches size"],
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One update from the gradient over all microbatches, each normalized by itself.

    Loss and gradients are averaged over all examples. New batch_stats are averaged over the
    microbatches, which for a linear moving average is an update with their mean moments.

    Returns:
      The new state; loss and accuracy of the batch in training mode, before the update.
    """
    dropout_key = jax.random.fold_in(state.dropout_key, state.step)

    def forward(params: Any, key: Array, images: Array) -> tuple[Array, Any]:
        logits, updates = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        return logits, updates.get("batch_stats", {})

    def loss_fn(params: Any) -> tuple[Array, tuple[Array, Any]]:
        if len(images) == 1:
            # A mapped axis of length one would still turn each product into a batched one.
            logits, batch_stats = forward(params, dropout_key, images[0])
            logits = logits[None]
        else:
            keys = jax.random.split(dropout_key, len(images))
            logits, mapped = jax.vmap(forward, in_axes=(None, 0, 0))(params, keys, images)
            batch_stats = jax.tree.map(_average, mapped)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), (logits, batch_stats)

    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (logits, batch_stats)), grads = gradient(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)

    average = state.average
    if ema_decay:
        # A short memory at first, or the initial weights would stay in the average for long.
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        average = jax.tree.map(
            lambda old, new: _blend(old, new, decay),
            average,
            {"params": params, "batch_stats": batch_stats},
        )
    step = state.step + 1
    first = (state.diverged_at == NOT_DIVERGED) & ~jnp.isfinite(loss)
    new_state = dataclasses.replace(
        state,
        step=step,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        average=average,
        diverged_at=jnp.where(first, step, state.diverged_at),
    )
    accuracy = jnp.mean(jnp.argmax(logits, -1) == labels)
    return new_state, {"loss": loss, "accuracy": accuracy}


def _average(mapped: Array) -> Array:
    """Mean over microbatches; counters are the same in all."""
    return mapped[0] if jnp.issubdtype(mapped.dtype, jnp.integer) else mapped.mean(0)


def _blend(old: Array, new: Array, decay: Array) -> Array:
    if jnp.issubdtype(new.dtype, jnp.integer):
        return new
    return decay * old + (1 - decay) * new
