"""How Batch Renorm's limits grow during training: as in its paper, or as in CrossQ."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp

from bnrepro.layers.shared import check_range

Schedule = Callable[[Any], Any]

# The length of the paper's Batch Renorm runs ([BRN] 4.1, 4.2), for which its ramp is given.
_PAPER_STEPS = 130_000


def renorm_schedules(
    total_steps: int = _PAPER_STEPS,
    *,
    r_max: Any = 3.0,
    d_max: Any = 5.0,
    warmup: float = 5_000 / _PAPER_STEPS,
    r_max_end: float = 40_000 / _PAPER_STEPS,
    d_max_end: float = 25_000 / _PAPER_STEPS,
) -> tuple[Schedule, Schedule]:
    """The paper's ramp of the clipping limits ([BRN] 4), rescaled to a run of any length.

    r_max = 1 and d_max = 0 while warming up, then both grow linearly to their final values. By
    default the breakpoints are the paper's: 5,000, 40,000 and 25,000 steps of 130,000.

    Args:
      total_steps: length of the run, in updates of the layer; at least 1.
      r_max: final limit of r, at least 1; a traced one is not checked.
      d_max: final limit of |d|, at least 0; likewise.
      warmup: share of the run that is plain Batch Norm, in [0, 1].
      r_max_end: share of the run after which r_max is reached, in [warmup, 1].
      d_max_end: share of the run after which d_max is reached, in [warmup, 1].

    Returns:
      Schedules for the fields `r_max` and `d_max` of `BatchRenorm`.

    Raises:
      ValueError: an argument out of its range.
      TypeError: an argument that is not a number.
    """
    check = partial(check_range, "renorm_schedules")
    check("total_steps", total_steps, 1)
    check("r_max", r_max, 1)
    check("d_max", d_max, 0)
    check("warmup", warmup, 0, 1)
    check("r_max_end", r_max_end, warmup, 1)
    check("d_max_end", d_max_end, warmup, 1)

    def ramp(start: float, end: Any, end_share: float) -> Schedule:
        begin = round(warmup * total_steps)
        # At least one step, or the ramp would never leave its start.
        return _Ramp(start, end, begin, max(round(end_share * total_steps) - begin, 1))

    return ramp(1.0, r_max, r_max_end), ramp(0.0, d_max, d_max_end)


def delayed_renorm_schedules(
    warmup_steps: int = 100_000, *, r_max: Any = 3.0, d_max: Any = 5.0
) -> tuple[Schedule, Schedule]:
    """Plain Batch Norm for some updates, then the full limits at once, as CrossQ trains.

    The default is CrossQ's 100,000 updates (Bhatt et al. 2024, arXiv:1902.05605, their code).

    Args:
      warmup_steps: updates with r_max = 1 and d_max = 0; at least 0.
      r_max: limit of r from then on, at least 1; a traced one is not checked.
      d_max: limit of |d| from then on, at least 0; likewise.

    Returns:
      Schedules for the fields `r_max` and `d_max` of `BatchRenorm`.

    Raises:
      ValueError: an argument out of its range.
      TypeError: a limit that is not a number.
    """
    if not warmup_steps >= 0:  # inf, for never, is fine
        raise ValueError(
            f"delayed_renorm_schedules: warmup_steps must be at least 0, got {warmup_steps}."
        )
    check_range("delayed_renorm_schedules", "r_max", r_max, 1)
    check_range("delayed_renorm_schedules", "d_max", d_max, 0)
    return _Step(1.0, r_max, warmup_steps), _Step(0.0, d_max, warmup_steps)


# Classes, so that models with equal schedules are equal and can be pickled.


@dataclasses.dataclass(frozen=True)
class _Ramp:
    """Linear from `start` to `end` within `length` updates after the first `begin`."""

    start: float
    end: Any
    begin: int
    length: int

    def __call__(self, count: Any) -> Any:
        import optax  # takes as long to import as all of the layers together

        return optax.linear_schedule(self.start, self.end, self.length, self.begin)(count)


@dataclasses.dataclass(frozen=True)
class _Step:
    """`before` for that many updates, then `after`."""

    before: float
    after: Any
    updates: int

    def __call__(self, count: Any) -> Any:
        return jnp.where(count < self.updates, self.before, self.after)
