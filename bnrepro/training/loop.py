"""Many steps of many seeds as one program: `lax.scan` over steps, mapped over seeds."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Num, UInt8

from bnrepro.training.state import TrainState, initial_state
from bnrepro.training.step import split, train_step

# Indices of one step's examples, from a key and the step.
Sampler = Callable[[Array, Array], Array]
# Network input from stored images.
Preprocess = Callable[[Array], Array]
TrainSteps = Callable[[TrainState, Array, Array], tuple[TrainState, dict[str, Array]]]


def initial_states(
    seeds: Int[Array, "seeds"],
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    example: Float[Array, "one ..."],
    ema_decay: float,
) -> TrainState:
    """The states of all seeds, stacked along a first axis."""
    init = partial(
        initial_state, model=model, optimizer=optimizer, example=example, ema_decay=ema_decay
    )
    return jax.jit(jax.vmap(init))(seeds)


def make_train_steps(
    num_steps: int,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    sampler: Sampler,
    preprocess: Preprocess,
    microbatch_size: int,
    ema_decay: float,
) -> TrainSteps:
    """Compiles `num_steps` steps of all seeds into one dispatch.

    Returns:
      A function of the stacked states (whose buffers it takes over), the images
      (examples, height, width, channels) and labels (examples,) on the device, which are indexed
      there. It returns the new states and, per seed, the means of the steps' loss and accuracy.
    """
    step_fn = partial(train_step, model=model, optimizer=optimizer, ema_decay=ema_decay)

    def one_seed(
        state: TrainState, images: UInt8[Array, "n h w c"], labels: Int[Array, "n"]
    ) -> tuple[TrainState, dict[str, Num[Array, ""]]]:
        steps = state.step + jnp.arange(num_steps)
        indices = jax.vmap(partial(sampler, state.sample_key))(steps)

        def body(state: TrainState, index: Int[Array, "batch"]) -> tuple[TrainState, Any]:
            x, y = preprocess(images[index]), labels[index]
            return step_fn(state, split(x, microbatch_size), split(y, microbatch_size))

        state, metrics = jax.lax.scan(body, state, indices)
        return state, jax.tree.map(jnp.mean, metrics)

    return jax.jit(jax.vmap(one_seed, in_axes=(0, None, None)), donate_argnums=0)
