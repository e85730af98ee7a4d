"""A sweep as all its workers, on however many machines, know it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bnrepro.comparison.config import TRACED
from bnrepro.sweep.space import Space, grid, quasi_random, random_points, space_to_json, varies

SAMPLERS = ("grid", "random", "tpe", "qmc")


@dataclass(frozen=True)
class Plan:
    """What is to be trained, and where its state is kept.

    Attributes:
      config: of all trials, without variants.
      space: what they vary.
      sampler: one of `SAMPLERS`.
      trials: how many; of a grid with ranges, at most so many.
      prune: end trials that are below the median of the others at an evaluation.
      at_once: trials of one program, or None for as many as the device is good for.
      storage: URL of the study's storage.
      name: of the study in it.
      launched_by: the command of the sweep.
      command: that trains a single run of the config.
      checkpoints: their folder, which may be another one on each machine; None to keep none.
      workers: that share the trials.
    """

    config: dict[str, Any]
    space: Space
    sampler: str
    trials: int
    prune: bool
    at_once: int | None
    storage: str
    name: str
    launched_by: str
    command: str
    checkpoints: Path | None = None
    workers: int = 1

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two sweeps different ones."""
        return identity(self.config, space_to_json(self.space), self.sampler, self.count)

    @cached_property
    def points(self) -> list[dict[str, Any]] | None:
        """The settings of each trial; None of TPE, which learns from the trials before.

        Of a grid, those are next to each other that make one program.
        """
        if self.sampler == "tpe":
            return None
        if self.sampler != "grid":
            draw = quasi_random if self.sampler == "qmc" else random_points
            return draw(self.space, self.trials)
        keys = sorted(self.space, key=lambda key: key in self.traced)
        return grid({key: self.space[key] for key in keys}, self.trials)

    @property
    def count(self) -> int:
        """How many trials there are."""
        return len(self.points or ()) if self.sampler == "grid" else self.trials

    @cached_property
    def traced(self) -> tuple[str, ...]:
        """Keys that trials of one program may differ in."""
        return tuple(key for key, values in self.space.items() if key in TRACED and varies(values))

    def static(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Of a trial's settings, those that all trials of one program share."""
        return {key: value for key, value in settings.items() if key not in self.traced}


def identity(config: dict[str, Any], vary: Any, sampler: Any, trials: Any) -> dict[str, Any]:
    """What makes two sweeps different ones."""
    # The points of a grid depend on how many there may be; else more trials go on with it.
    size = {"trials": trials} if sampler == "grid" else {}
    return config | {"vary": vary, "search": sampler} | size
