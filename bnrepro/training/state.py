"""The state of a run: everything needed to continue it."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

NOT_DIVERGED = -1
# Settings in which runs of one program differ, by name; traced, so that each run sees its own.
Numbers = Mapping[str, Float[Array, "*runs"]]
# Makes model and optimizer of a run, given its numbers.
Build = Callable[[Numbers], tuple[nn.Module, optax.GradientTransformation]]


@flax.struct.dataclass
class TrainState:
    """State of one run or, stacked along a first axis, of several.

    Attributes:
      step: updates done.
      numbers: what the run's model and optimizer are built with, besides what all runs share.
      sample_key: key of the sampler.
      params: of the model.
      batch_stats: moving averages of its normalizers.
      opt_state: of the optimizer.
      average: exponentially decayed averages of `params` and `batch_stats`, to evaluate with;
        empty if none are kept.
      diverged_at: the first step whose loss was not finite, or `NOT_DIVERGED`.
    """

    step: Int[Array, "*runs"]
    numbers: Numbers
    sample_key: Key[Array, "*runs"]
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Any
    diverged_at: Int[Array, "*runs"]

    @property
    def evaluated(self) -> dict[str, Any]:
        """The variables that the model is evaluated with."""
        return self.average or {"params": self.params, "batch_stats": self.batch_stats}


def run_keys(seed: Int[Array, ""]) -> Key[Array, "2"]:
    """The keys that a run's initial weights and its minibatches are drawn with."""
    return jax.random.split(jax.random.key(seed))


def initial_states(
    seeds: Int[Array, "runs"],
    numbers: Numbers,
    *,
    build: Build,
    example: Float[Array, "one ..."],
    ema_decay: float,
) -> TrainState:
    """The states of all runs before the first step, stacked along a first axis.

    Initial weights and sampling have their own keys, the same for every variant: runs with one
    seed differ only in what their configs say.
    """

    def one(seed: Int[Array, ""], numbers: Numbers) -> TrainState:
        model, optimizer = build(numbers)
        init_key, sample_key = run_keys(seed)
        variables = model.init(init_key, example, train=True)
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        return TrainState(
            step=jnp.int32(0),
            numbers=numbers,
            sample_key=sample_key,
            params=params,
            batch_stats=batch_stats,
            opt_state=optimizer.init(params),
            average={"params": params, "batch_stats": batch_stats} if ema_decay else {},
            diverged_at=jnp.int32(NOT_DIVERGED),
        )

    return jax.vmap(one)(seeds, numbers)
