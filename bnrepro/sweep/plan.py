"""The plan of a sweep, shared by all of its workers on any number of machines."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy

from bnrepro.comparison.config import ON_ONE_DEVICE, common_config, with_settings
from bnrepro.comparison.keys import TRACED
from bnrepro.comparison.plan import Group, group_variants
from bnrepro.records import CHECKPOINTS, DATABASE
from bnrepro.report.commands import command_line
from bnrepro.sweep.space import (
    Range,
    Space,
    SweepError,
    check_trials,
    drawn,
    grid,
    make_space,
    values_by_key,
)

# Trials to check of a sampler that proposes them only when they are to be trained: the first, drawn
# at random, and a power of two, after which a Sobol sequence is spread evenly.
_EXAMPLES = 1 + 256


@dataclass(frozen=True)
class Plan:
    """What a sweep trains, and where it keeps its state.

    Attributes:
      config: what all trials have in common, without variants.
      space: the keys that vary, and their values.
      sampler: grid, random, tpe or qmc.
      trials: how many; for a grid with ranges, an upper bound.
      storage: URL of the study's storage.
      name: of the study in that storage.
      checkpoints: their folder, which may differ between machines.
      command: the command that trains a single run of the config.
      prune: stop trials that are below the median of the others at an evaluation.
      at_once: how many trials to train together; None for as many as suit the device.
      workers: how many each command has.
      commands: how many of them share the trials.
    """

    config: dict[str, Any]
    space: Space
    sampler: str
    trials: int
    storage: str
    name: str
    checkpoints: Path
    command: str = ""
    prune: bool = False
    at_once: int | None = None
    workers: int = 1
    commands: int = 1

    @property
    def described(self) -> dict[str, Any]:
        """The sweep as described in its records."""
        return {
            "vary": {
                key: values._asdict() if isinstance(values, Range) else values
                for key, values in self.space.items()
            },
            "sampler": self.sampler,
            "trials": self.count,
            "command": self.command,
        }

    @cached_property
    def points(self) -> list[dict[str, Any]] | None:
        """The settings of each trial; None for TPE, which learns from earlier trials.

        In a grid, trials that share a program are next to each other.
        """
        if self.sampler == "tpe":
            return None
        if self.sampler != "grid":
            return drawn(self.space, self.sampler, self.trials)
        keys = sorted(self.space, key=lambda key: key in self.traced)
        return grid({key: self.space[key] for key in keys}, self.trials)

    @property
    def to_check(self) -> list[dict[str, Any]]:
        """The settings of trials to check before any is trained: if they are known, of all."""
        return self.points or drawn(self.space, "qmc", _EXAMPLES)

    @property
    def count(self) -> int:
        """How many trials there are."""
        return len(self.points or ()) if self.sampler == "grid" else self.trials

    @cached_property
    def traced(self) -> tuple[str, ...]:
        """The keys in which trials of one program may differ."""
        # A Range also has a length above one.
        return tuple(key for key in self.space if key in TRACED and len(self.space[key]) > 1)

    def groups(self, settings: Mapping[str, Mapping[str, Any]]) -> list[Group]:
        """Groups trials by the program that trains them, on one device.

        Args:
          settings: of the trials, by their names.
        """
        configs = {
            k: with_settings(self.config, {**own, **ON_ONE_DEVICE}) for k, own in settings.items()
        }
        return group_variants(configs, self.traced)


def identity(config: Mapping[str, Any], described: Mapping[str, Any]) -> dict[str, Any]:
    """What distinguishes sweeps, given a config and the sweep as described in records."""
    vary, sampler, trials = (described.get(key) for key in ("vary", "sampler", "trials"))
    # The points of a grid depend on their number; any other sweep can be extended.
    size = {"trials": trials} if sampler == "grid" else {}
    return {**config, "vary": vary, "search": sampler, **size}


def make_plan(
    config: dict[str, Any],
    varied: Mapping[str, Any],
    values: Mapping[str, Any],
    workdir: Path,
    file: str,
    overrides: Mapping[str, Any],
) -> Plan:
    """The sweep that a command line describes.

    Args:
      config: with or without variants.
      varied: values by key, from the config file.
      values: of the flags, which can vary further keys.
      workdir: of the sweep.
      file: the config file, with its argument.
      overrides: the command line's changes to the config, by flat key.

    Raises:
      SweepError: a flag or a varied key is invalid, or an override is of a varied key.
      ConfigError: the config is invalid, by itself or with the varied values.
    """
    if values["seeds"] is not None:
        config, overrides = ({**old, "seeds": values["seeds"]} for old in (config, overrides))
    # As in JSON, from which others read it.
    common = json.loads(json.dumps(common_config(config)))
    space = make_space({**varied, **values_by_key(values["vary"])})
    trials = values["trials"]
    if both := [key for key in overrides if key in space]:
        raise SweepError(
            f"--config.{both[0]} would change nothing: the sweep varies it; leave it out, or give "
            f"the values to try with --vary={both[0]}=A,B"
        )
    if values["sampler"] == "grid":
        points = len(grid(space, trials))
        trials = trials or points
    elif trials is None:
        raise SweepError(f"give the number of --trials for sampler {values['sampler']}")
    storage, name = values["storage"], workdir.absolute().name
    # Without a common storage, each task of an array has a sweep of its own.
    tasks = os.environ.get("SLURM_ARRAY_TASK_COUNT", "") if storage else ""
    if storage is None:
        # Here, the study has a fixed name, since a workdir may be renamed.
        url = sqlalchemy.URL.create("sqlite", database=str(workdir.absolute() / DATABASE))
        storage, name = url.render_as_string(), "sweep"
    try:
        sqlalchemy.make_url(storage)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        # Not the text itself, which may have a password.
        raise SweepError(
            "--storage must be the URL of a database, as in postgresql://USER@HOST/DATABASE or "
            "sqlite:///FILE"
        ) from None
    plan = Plan(
        config=common,
        space=space,
        sampler=values["sampler"],
        trials=trials,
        storage=storage,
        name=name,
        command=command_line("python -m experiments.train --novariants", file, overrides),
        prune=values["prune"],
        at_once=None if values["at-once"] == "auto" else int(values["at-once"]),
        checkpoints=workdir.absolute() / CHECKPOINTS,
        commands=max(1, int(tasks)) if tasks.isdecimal() else 1,
    )
    check_trials(common, plan.to_check)
    return plan
