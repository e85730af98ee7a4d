"""A sweep as it is written down: what all its workers, on however many machines, agree on."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from bnrepro.comparison.config import TRACED
from bnrepro.sweep.space import (
    Space,
    grid,
    quasi_random,
    space_from_json,
    space_to_json,
    varies,
)

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

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two sweeps different ones."""
        return identity(self.config, space_to_json(self.space), self.sampler, self.count)

    @cached_property
    def points(self) -> list[dict[str, Any]] | None:
        """The settings of each trial, where they are known beforehand.

        Of a grid, those are next to each other that make one program.
        """
        if self.sampler == "qmc":
            return quasi_random(self.space, self.trials)
        if self.sampler != "grid":
            return None
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

    def to_json(self) -> str:
        """The plan as a worker on another machine takes it."""
        return json.dumps(asdict(self) | {"space": space_to_json(self.space)})

    @staticmethod
    def from_json(text: str) -> "Plan":
        """The reverse of `to_json`."""
        content = json.loads(text)
        return Plan(**content | {"space": space_from_json(content["space"])})


def identity(config: dict[str, Any], vary: Any, sampler: Any, trials: Any) -> dict[str, Any]:
    """What makes two sweeps different ones."""
    # The points of a grid depend on how many there may be; else more trials go on with it.
    size = {"trials": trials} if sampler == "grid" else {}
    return config | {"vary": vary, "search": sampler} | size
