"""Many steps of many runs as one program: a loop over steps, mapped over runs."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Num, UInt8

from bnrepro.training.devices import Devices
from bnrepro.training.measures import make_measure
from bnrepro.training.state import Build, Numbers, TrainState, initial_state
from bnrepro.training.step import Task, train_step

# Indices of one step's examples, from a key and the step.
Sampler = Callable[[Array, Array], Array]
# Network input from stored images.
Preprocess = Callable[[Array], Array]
TrainSteps = Callable[[Any, Any, Any, int, int], tuple[Any, dict[str, Array]]]

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
    measures: Sequence[str] = (),
    measure_every: int = 1,
) -> TrainSteps:
    """Compiles up to `MAX_STEPS` steps of all runs into one dispatch.

    Returns:
      A function of the states (whose buffers it takes over), the images (examples, height, width,
      channels) and labels (examples,), all placed by `devices`, the steps done before and the
      number of steps. It returns the new states and what each step gave, (runs, `MAX_STEPS`): loss,
      accuracy and, in steps that `measure_every` divides, what is measured. What there is beyond
      the number of steps means nothing. How many steps a call takes changes no number.
    """

    def one_run(
        state: TrainState,
        images: UInt8[Array, "n h w c"],
        labels: Int[Array, "n"],
        first: Int[Array, ""],
        num_steps: Int[Array, ""],
    ) -> tuple[TrainState, dict[str, Num[Array, "steps"]]]:
        model, optimizer = build(state.numbers)
        task = Task(model, optimizer, ema_decay, devices.axis_name)
        measure = make_measure(measures, task)
        in_training = measure.in_training if measure else None
        if measure and in_training:
            task = task._replace(captures=measure.captures)
        steps = state.step + jnp.arange(MAX_STEPS)
        indices = jax.vmap(partial(sampler, state.sample_key))(steps)
        indices = devices.share(indices.reshape(MAX_STEPS, -1, microbatch_size))

        def step(state: TrainState, i: Int[Array, ""]) -> Any:
            batch = {"images": preprocess(images[indices[i]]), "labels": labels[indices[i]]}
            if in_training is None:
                return train_step(state, batch, task)

            def take(state: Any, grads: Any, captured: Any, batch: Any) -> Any:
                return in_training(state, grads, devices.whole(captured), batch)

            def take_if_due(*arguments: Any) -> Any:
                none = jax.tree.map(
                    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(take, *arguments)
                )
                due = (first + i) % measure_every == 0
                return lax.cond(due, take, lambda *_: none, *arguments)

            return train_step(state, batch, task, take_if_due)

        def body(i: Int[Array, ""], carry: Any) -> Any:
            state, history = carry
            state, metrics = step(state, i)
            return state, jax.tree.map(lambda all, one: all.at[i].set(one), history, metrics)

        metrics = jax.eval_shape(lambda state: step(state, jnp.int32(0))[1], state)
        history = jax.tree.map(lambda x: jnp.zeros(MAX_STEPS, x.dtype), metrics)
        return lax.fori_loop(0, num_steps, body, (state, history))

    return devices.train(one_run)
