"""The normalizers a config can name."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn

from bnrepro.layers import BatchNorm, BatchRenorm, renorm_schedules
from bnrepro.models.counterexamples import MovingAverageNorm, StopGradientBatchNorm
from bnrepro.models.mabn import MovingAverageBatchNorm
from bnrepro.models.per_example import EvoNormS0, FilterResponseNorm

# Makes a normalization layer, given `use_running_average`, `name` and perhaps `scale_init`.
Normalizer = Callable[..., nn.Module]


def make_normalizer(
    name: str,
    *,
    steps: int,
    momentum: Any,
    epsilon: Any,
    num_groups: int,
    window: int = 16,
    use_scale: bool = True,
    axis_name: str | None = None,
    dtype: Any = None,
    **limits: Any,
) -> Normalizer | None:
    """The normalizer of that name, called with `use_running_average`, `name`, `scale_init`.

    Momentum, epsilon, r_max and d_max may be traced.

    Args:
      name: one of `NORMALIZERS` of `comparison.keys`.
      steps: length of the run, which Batch Renorm's ramp and the warm-up are scaled to.
      momentum: of the moving averages.
      epsilon: added to the variance.
      num_groups: of group_norm and evonorm_s0; must divide the number of features.
      window: of moving_average_batch_norm, see there.
      use_scale: learn gamma.
      axis_name: mapped axis over which minibatch statistics are shared.
      dtype: of the result (default: promoted from input and parameters).
      **limits: all that `renorm_schedules` takes: r_max, d_max, warmup, r_max_end and d_max_end.
        `MovingAverageBatchNorm` has the first and the third.
    """
    if name == "none":
        return None
    common = {"epsilon": epsilon, "use_scale": use_scale, "dtype": dtype}
    averaging = {**common, "momentum": momentum, "axis_name": axis_name}
    if name == "batch_norm":
        return partial(BatchNorm, **averaging)
    if name == "batch_norm_stop_gradient":
        return partial(StopGradientBatchNorm, **averaging)
    if name == "moving_average_norm":
        return partial(MovingAverageNorm, **averaging)
    if name == "moving_average_batch_norm":
        return partial(
            MovingAverageBatchNorm,
            window=window,
            warmup=limits["warmup"] * steps,
            r_max=limits["r_max"],
            **averaging,
        )
    if name == "batch_renorm":
        r_max, d_max = renorm_schedules(steps, **limits)
        return partial(BatchRenorm, r_max=r_max, d_max=d_max, **averaging)

    # These take no statistics over the minibatch and are the same in training and evaluation. The
    # fast variance of Flax, E[x^2] - E[x]^2, is wrong where the mean is far above the deviation.
    layers: dict[str, Callable[..., nn.Module]] = {
        "evonorm_s0": partial(EvoNormS0, num_groups),
        "filter_response_norm": FilterResponseNorm,
        "group_norm": partial(nn.GroupNorm, num_groups, use_fast_variance=False),
        # Over the features of each position: in convolutions, the paper's is over all positions.
        "layer_norm": partial(nn.LayerNorm, use_fast_variance=False),
    }
    layer = layers[name]
    return lambda use_running_average, **given: layer(**given, **common)
