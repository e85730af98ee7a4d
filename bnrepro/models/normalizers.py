"""The normalizers a config can name."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn

from bnrepro.layers import BatchNorm, BatchRenorm, renorm_schedules

# Makes a normalization layer, given `use_running_average` and `name`.
Normalizer = Callable[..., nn.Module]

NORMALIZERS = ("batch_norm", "batch_renorm", "group_norm", "layer_norm", "none")


def make_normalizer(
    name: str,
    *,
    steps: int,
    momentum: Any,
    epsilon: Any,
    r_max: Any,
    d_max: Any,
    warmup: float,
    r_max_end: float,
    d_max_end: float,
    num_groups: int,
    axis_name: str | None = None,
) -> Normalizer | None:
    """The normalizer of that name, called with `use_running_average` and `name`.

    Momentum, epsilon, r_max and d_max may be traced.

    Args:
      name: one of `NORMALIZERS`.
      steps: length of the run, which Batch Renorm's ramp is scaled to.
      momentum: of the moving averages.
      epsilon: added to the variance.
      r_max: see `renorm_schedules`, as for the four that follow.
      d_max: likewise.
      warmup: likewise, a share of the run.
      r_max_end: likewise.
      d_max_end: likewise.
      num_groups: of group_norm; must divide the number of features.
      axis_name: mapped axis over which minibatch statistics are shared.

    Raises:
      ValueError: an unknown name.
    """
    if name == "none":
        return None
    if name == "batch_norm":
        return partial(BatchNorm, momentum=momentum, epsilon=epsilon, axis_name=axis_name)
    if name == "batch_renorm":
        r_schedule, d_schedule = renorm_schedules(
            steps,
            r_max=r_max,
            d_max=d_max,
            warmup=warmup,
            r_max_end=r_max_end,
            d_max_end=d_max_end,
        )
        return partial(
            BatchRenorm,
            momentum=momentum,
            epsilon=epsilon,
            r_max=r_schedule,
            d_max=d_schedule,
            axis_name=axis_name,
        )

    # These take no statistics over the minibatch and are the same in training and evaluation.
    if name == "group_norm":
        return lambda use_running_average, name: nn.GroupNorm(
            num_groups=num_groups, epsilon=epsilon, name=name
        )
    if name == "layer_norm":
        return lambda use_running_average, name: nn.LayerNorm(epsilon=epsilon, name=name)
    raise ValueError(f"unknown normalizer {name!r}; known are {', '.join(NORMALIZERS)}")
