"""Many steps of many runs as one program: a loop over steps, mapped over runs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Num, UInt8

from bnrepro.training.devices import Devices
from bnrepro.training.state import Build, Numbers, TrainState, initial_state
from bnrepro.training.step import train_step

# Indices of one step's examples, from a key and the step.
Sampler = Callable[[Array, Array], Array]
# Network input from stored images.
Preprocess = Callable[[Array], Array]
TrainSteps = Callable[[Any, Any, Any, int], tuple[Any, dict[str, Array]]]

# Steps of one dispatch: so many that its overhead is nothing, so few that a signal is soon heard.
MAX_STEPS = 50


def initial_states(
    seeds: Int[Array, "runs"],
    numbers: Numbers,
    *,
    build: Build,
    example: Float[Array, "one ..."],
    ema_decay: float,
) -> TrainState:
    """The states of all runs, stacked along a first axis."""
    init = partial(initial_state, build=build, example=example, ema_decay=ema_decay)
    return jax.vmap(init)(seeds, numbers)


def make_train_steps(
    *,
    build: Build,
    sampler: Sampler,
    preprocess: Preprocess,
    microbatch_size: int,
    ema_decay: float,
    devices: Devices,
) -> TrainSteps:
    """Compiles up to `MAX_STEPS` steps of all runs into one dispatch.

    Returns:
      A function of the states (whose buffers it takes over), the images (examples, height, width,
      channels) and labels (examples,), all placed by `devices`, and the number of steps. It returns
      the new states and each step's loss and accuracy, (runs, `MAX_STEPS`), of which those beyond
      the number of steps mean nothing. How many steps a call takes changes no number.
    """

    def one_run(
        state: TrainState,
        images: UInt8[Array, "n h w c"],
        labels: Int[Array, "n"],
        num_steps: Int[Array, ""],
    ) -> tuple[TrainState, dict[str, Num[Array, "steps"]]]:
        model, optimizer = build(state.numbers)
        step_fn = partial(
            train_step,
            model=model,
            optimizer=optimizer,
            ema_decay=ema_decay,
            axis_name=devices.axis_name,
        )
        steps = state.step + jnp.arange(MAX_STEPS)
        indices = jax.vmap(partial(sampler, state.sample_key))(steps)
        indices = devices.share(indices.reshape(MAX_STEPS, -1, microbatch_size))

        def body(i: Int[Array, ""], carry: Any) -> Any:
            state, history = carry
            index = indices[i]
            state, metrics = step_fn(state, preprocess(images[index]), labels[index])
            return state, jax.tree.map(lambda all, one: all.at[i].set(one), history, metrics)

        history = {"loss": jnp.zeros(MAX_STEPS), "accuracy": jnp.zeros(MAX_STEPS)}
        return lax.fori_loop(0, num_steps, body, (state, history))

    return devices.train(one_run)
