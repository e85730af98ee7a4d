"""Many steps of many runs as one program: a loop over steps, mapped over runs."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, Num

from bnrepro.training.devices import Devices
from bnrepro.training.measures import make_measure
from bnrepro.training.state import Build, TrainState
from bnrepro.training.step import Batch, Task, split, train_step

# Draws what a step's minibatch consists of from a key and the step; arrays with the batch first.
Draw = Callable[[Array, Array], Any]
# Makes the minibatch that was drawn from arrays on the devices, or fed.
Take = Callable[[Any, Any], Batch]
TrainSteps = Callable[[Any, Any, Any, int, int], tuple[Any, dict[str, Array]]]


def make_train_steps(
    config: Mapping[str, Any],
    *,
    build: Build,
    draw: Draw | None,
    take: Take,
    steps_at_once: int,
    devices: Devices,
) -> TrainSteps:
    """Compiles up to `steps_at_once` steps of all runs into one dispatch.

    Args:
      config: of the runs. Each device computes the gradient of its part of a batch in as many parts
        as the config asks for.
      build: makes model and optimizer of a run.
      draw: draws what the minibatches consist of; None if they are fed.
      take: makes a minibatch from it.
      steps_at_once: the most steps of a dispatch.
      devices: where it runs.

    Returns:
      A function of the states (which it donates), the arrays that batches are taken from, fed
      batches (`Devices.feed`; nothing without a stream), the steps done before and the number of
      steps. It returns the new states and the metrics of each step, (runs, `steps_at_once`): loss,
      accuracy and, in steps that `measure_every` divides, the measures. Entries beyond the number
      of steps are meaningless. Results do not depend on how many steps a call takes.
    """

    def microbatches(x: Array) -> Array:
        return jax.vmap(partial(split, microbatch_size=config["microbatch_size"]))(x)

    def drawn_of_run(draw: Draw, state: TrainState) -> Any:
        """What the minibatches of the coming steps consist of, (steps, microbatches, size, ...)."""
        steps = state.step + jnp.arange(steps_at_once)
        batches = jax.vmap(partial(draw, state.sample_key))(steps)
        return devices.share(jax.tree.map(microbatches, batches))

    def step_of_run(
        arrays: Any, first: Int[Array, ""], i: Int[Array, ""], state: TrainState, drawn: Any
    ) -> Any:
        model, optimizer = build(state.numbers)
        parts = config["accumulation_steps"]
        axis_name, padding = devices.axis_name, devices.padding
        task = Task(model, optimizer, config["ema_decay"], axis_name, parts, padding)
        batch = take(arrays, jax.tree.map(lambda x: x[i], drawn))
        measure = make_measure(config["measures"], task)
        if (in_training := measure.in_training) is None:
            return train_step(state, batch, task)

        def measured(state: Any, grads: Any, captured: Any, batch: Any) -> Any:
            return in_training(state, grads, devices.whole(captured), batch)

        def measured_if_due(*arguments: Any) -> Any:
            none = jax.tree.map(jnp.zeros_like, jax.eval_shape(measured, *arguments))
            due = (first + i) % config["measure_every"] == 0
            return lax.cond(due, measured, lambda *_: none, *arguments)

        return train_step(state, batch, task._replace(captures=measure.captures), measured_if_due)

    def all_runs(
        states: TrainState,
        arrays: Any,
        fed: Any,
        first: Int[Array, ""],
        num_steps: Int[Array, ""],
    ) -> tuple[TrainState, dict[str, Num[Array, "runs steps"]]]:
        drawn = fed if draw is None else jax.vmap(partial(drawn_of_run, draw))(states)

        # `jit` keeps what it has traced: the shapes of the metrics are those of the loop's step, as
        # long as both number it by a Python int or the index of a loop, which have the same type.
        @partial(jax.jit, inline=True)
        def step(states: TrainState, i: Int[Array, ""]) -> Any:
            return jax.vmap(partial(step_of_run, arrays, first, i))(states, drawn)

        def body(i: Int[Array, ""], carry: Any) -> Any:
            states, history = carry
            states, metrics = step(states, i)
            return states, jax.tree.map(lambda all, one: all.at[:, i].set(one), history, metrics)

        metrics = jax.eval_shape(lambda states: step(states, 0)[1], states)
        history = jax.tree.map(lambda x: jnp.zeros((len(x), steps_at_once), x.dtype), metrics)
        return lax.fori_loop(0, num_steps, body, (states, history))

    return devices.train(all_runs)
