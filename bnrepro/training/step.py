"""One gradient step: a pure function of the state and a batch of microbatches."""

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, Key, Shaped

from bnrepro.training.state import NOT_DIVERGED, TrainState

# Apart from the steps, which the sampler's keys are made of.
_DROPOUT = 2**32 - 1


def train_step(
    state: TrainState,
    images: Float[Array, "microbatches size ..."],
    labels: Int[Array, "microbatches size"],
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One update from the gradient over all microbatches, each normalized by itself.

    Loss and gradients are averaged over all examples. New batch_stats are averaged over the
    microbatches, which for a linear moving average is an update with their mean moments. Both also
    over the mapped axis `axis_name`, if the batch is spread over one.

    Returns:
      The new state; loss and accuracy of the batch in training mode, before the update.
    """
    dropout_keys = _dropout_keys(state, len(images), axis_name)

    def loss_fn(params: Any) -> tuple[Array, tuple[dict[str, Array], Any]]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, batch_stats = forward(variables, images, dropout_keys, model=model)
        metrics = loss_and_accuracy(logits, labels)
        return metrics["loss"], (metrics, batch_stats)

    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    (_, (metrics, batch_stats)), grads = gradient(state.params)
    if axis_name is not None:
        grads, metrics, batch_stats = jax.tree.map(
            partial(_average_over, axis_name), (grads, metrics, batch_stats)
        )
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
    return new_state, metrics


def forward(
    variables: Any,
    images: Float[Array, "microbatches size ..."],
    dropout_keys: Key[Array, "microbatches"] | None = None,
    *,
    model: nn.Module,
) -> tuple[Float[Array, "microbatches size classes"], Any]:
    """Logits in training mode, each microbatch normalized by itself, and the new batch_stats.

    Nothing is dropped out without keys.
    """

    def one(images: Array, dropout_key: Any) -> tuple[Array, Any]:
        logits, updates = model.apply(
            variables,
            images,
            train=True,
            mutable=["batch_stats"],
            **(
                {"deterministic": True}
                if dropout_key is None
                else {"rngs": {"dropout": dropout_key}}
            ),
        )
        return logits, updates.get("batch_stats", {})

    if len(images) == 1:
        # A mapped axis of length one would still turn each product into a batched one.
        logits, batch_stats = one(images[0], None if dropout_keys is None else dropout_keys[0])
        return logits[None], batch_stats
    logits, mapped = jax.vmap(one)(images, dropout_keys)
    return logits, jax.tree.map(_average, mapped)


def _dropout_keys(
    state: TrainState, microbatches: int, axis_name: str | None
) -> Key[Array, "microbatches"]:
    """A key for each microbatch of this step, the same on however many devices they are."""
    first = 0 if axis_name is None else lax.axis_index(axis_name) * microbatches
    key = jax.random.fold_in(jax.random.fold_in(state.sample_key, _DROPOUT), state.step)
    return jax.vmap(partial(jax.random.fold_in, key))(first + jnp.arange(microbatches))


def loss_and_accuracy(
    logits: Float[Array, "*batch classes"], labels: Int[Array, "*batch"]
) -> dict[str, Float[Array, ""]]:
    """Mean cross-entropy, in nats, and share of examples whose largest logit is the label's."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return {"loss": losses.mean(), "accuracy": jnp.mean(jnp.argmax(logits, -1) == labels)}


def split(batch: Shaped[Array, "batch ..."], microbatch_size: int) -> Shaped[Array, "m size ..."]:
    """A batch as microbatches: (microbatches, microbatch size, ...)."""
    return batch.reshape(-1, microbatch_size, *batch.shape[1:])


def _average(mapped: Array) -> Array:
    """Mean over microbatches; counters are the same in all."""
    return mapped[0] if jnp.issubdtype(mapped.dtype, jnp.integer) else mapped.mean(0)


def _average_over(axis_name: str, value: Array) -> Array:
    """Mean over a mapped axis; counters are the same along it."""
    return value if jnp.issubdtype(value.dtype, jnp.integer) else lax.pmean(value, axis_name)


def _blend(old: Array, new: Array, decay: Array) -> Array:
    if jnp.issubdtype(new.dtype, jnp.integer):
        return new
    return decay * old + (1 - decay) * new
