"""Restores the variants of a run from their checkpoints, for use after training."""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, Int

from bnrepro.comparison.config import variant_configs
from bnrepro.comparison.keys import ConfigError
from bnrepro.errors import nearest
from bnrepro.records import CHECKPOINTS, CONFIG, RecordsError, Run
from bnrepro.training.checkpoints import CheckpointError, find_damage, restore, saved_steps
from bnrepro.training.state import NOT_DIVERGED, TrainState


class Restored(NamedTuple):
    """A variant, as restored from a checkpoint.

    Attributes:
      path: of the checkpoint.
      step: updates done.
      seeds: the seeds trained.
      diverged: the seeds that had diverged by then.
      variables: what the model is evaluated with, with seeds stacked along the first axis.
      score: mean accuracy on held-out images if there are any, else on the test set, with 0 for a
        seed that diverged; -1 between two evaluations.
    """

    path: Path
    step: int
    seeds: Int[np.ndarray, "seeds"]
    diverged: frozenset[int]
    variables: dict[str, Any]
    score: float


def checked_configs(run: Run) -> dict[str, dict[str, Any]]:
    """The full config of each variant of a run.

    Raises:
      ConfigError: the run is a sweep, or was written by another version or another program.
    """
    if "sweep" in run.config:
        raise ConfigError(
            f"{run.workdir} is a sweep, which keeps no checkpoints: train its best trial by itself"
        )
    try:
        return variant_configs(run.config)
    except ConfigError as error:
        raise ConfigError(f"cannot use {run.workdir / CONFIG}: {error}") from error


def check_variant(run: Run, name: str) -> None:
    """Makes sure that there is such a variant.

    Raises:
      RecordsError: there is none; the message names the nearest, or all.
    """
    if name not in run.variants:
        hint = nearest(name, run.variants) or f"; it has {', '.join(run.variants)}"
        raise RecordsError(f"{run.workdir} has no variant {name!r}{hint}")


def restore_variant(run: Run, variant: str, which: str) -> Restored | None:
    """Reads one checkpoint, or returns None if none is intact; needs no data set.

    Says on stderr which ones are damaged.

    Args:
      run: the run that wrote it.
      variant: its name.
      which: "last", "best" (the highest score among those kept), or a step.

    Raises:
      CheckpointError: there is none at that step, or it cannot be read.
    """
    folder, steps = run.workdir / CHECKPOINTS / variant, []
    for step in sorted(saved_steps(folder)):
        if wrong := find_damage(folder, step):
            print(f"{folder / str(step)} is damaged and is not used: {wrong}.", file=sys.stderr)
        else:
            steps.append(step)
    if not steps:
        return None
    if which == "best":
        return max((_restore(run, variant, step) for step in steps), key=lambda one: one.score)
    if which == "last":
        return _restore(run, variant, steps[-1])
    if not which.isdecimal():
        raise CheckpointError(f"a checkpoint must be last, best or a step, got {which!r}")
    if int(which) not in steps:
        raise CheckpointError(
            f"{run.workdir} has no intact checkpoint of {variant} at step {int(which):,}: it has "
            f"{', '.join(f'{step:,}' for step in steps)}"
        )
    return _restore(run, variant, int(which))


def why_none(run: Run, variant: str) -> str:
    """Why `restore_variant` returns None."""
    diverged = len(_divergences(run, variant)) == run.config["seeds"]
    return "all seeds diverged before a checkpoint" if diverged else "no intact checkpoint"


def network_ends(
    run: Run, config: Mapping[str, Any]
) -> tuple[Float[Array, "one height width channels"], int]:
    """An input of a variant's network, of which only the shape matters, and its number of classes.

    Raises:
      CheckpointError: the run is older than the record of these.
    """
    if "image_shape" not in run.provenance:
        raise CheckpointError(f"{run.workdir} was written before the shape of images was recorded")
    height, width, channels = run.provenance["image_shape"]
    if size := config["image_size"]:
        height = width = size
    digits = config["digits"]
    example = jnp.zeros((1, height, digits * width, channels))
    return example, run.provenance["classes"] ** digits


def check_model(restored: Restored, model: nn.Module, example: Float[Array, "one h w c"]) -> None:
    """Makes sure that a checkpoint holds the variables of a model for such an input.

    Raises:
      CheckpointError: it holds others; the message names one.
    """

    def init(seed: Any) -> Any:
        return model.init(jax.random.key(seed), example, train=True)

    wanted = _shapes(jax.eval_shape(jax.vmap(init), restored.seeds))
    found = _shapes(restored.variables)
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise CheckpointError(
                f"{restored.path} has another network, data set or number of seeds: {name} is "
                f"{found.get(name, 'missing')} there and {wanted.get(name, 'missing')} here"
            )


def _restore(run: Run, variant: str, step: int) -> Restored:
    folder = run.workdir / CHECKPOINTS / variant
    path = folder / str(step)
    states, notes = restore(folder, step, _saved_shapes(path))
    known = {field.name for field in dataclasses.fields(TrainState)}
    if set(states) != known or "score" not in notes:
        raise CheckpointError(
            f"{path} was written by another version: it holds {', '.join(states)}"
        )
    state = TrainState(**states)
    seeds = run.config["first_seed"] + np.arange(run.config["seeds"])
    # Those that diverged after the last evaluation are not in the records yet.
    at = dict(zip(seeds.tolist(), np.asarray(state.diverged_at).tolist(), strict=False))
    unrecorded = {seed for seed, diverged_at in at.items() if diverged_at != NOT_DIVERGED}
    rows = _divergences(run, variant)
    recorded = rows.loc[rows["step"] <= step, "seed"]
    return Restored(
        path, step, seeds, frozenset({*recorded, *unrecorded}), state.evaluated, notes["score"]
    )


def _divergences(run: Run, variant: str) -> pd.DataFrame:
    rows = run.metrics
    return rows[(rows["variant"] == variant) & (rows["metric"] == "diverged")]


def _saved_shapes(path: Path) -> Any:
    """Shapes and types of the saved states, placed on the first device.

    Raises:
      CheckpointError: it holds no states.
    """
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    try:
        # As saved, they would need the devices that they were trained on.
        saved = ocp.StandardCheckpointHandler().metadata(path.absolute() / "states")
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), saved.tree
        )
    except Exception as error:  # Orbax and TensorStore raise any kind
        raise CheckpointError(f"cannot read {path}: it holds no states") from error


def _shapes(variables: Any) -> dict[str, str]:
    """Names like params/logits/bias -> float32(2, 10)."""
    flat = flatten_dict(variables, sep="/")
    return {name: f"{value.dtype}{value.shape}" for name, value in flat.items()}
