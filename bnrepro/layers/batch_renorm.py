"""Batch Renormalization (Ioffe 2017, arXiv:1702.03275)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Inexact, Num

from bnrepro.layers.normalization import BatchNormalization, check_range

Schedule = Callable[[Any], Any]

# The run length at which the paper reports Batch Renorm ([BRN] 4.1, 4.2), in which its ramp stands.
_PAPER_STEPS = 130_000


class BatchRenorm(BatchNormalization):
    """Batch Renormalization, with the fields of `flax.linen.BatchNorm` and two more.

    Training ([BRN] Algorithm 1), per feature, with moving mean mu and moving *deviation* sigma::

        sigma_B = sqrt(var_B + epsilon)
        r = stop_gradient(clip(sigma_B / sigma, 1 / r_max, r_max))
        d = stop_gradient(clip((mu_B - mu) / sigma, -d_max, d_max))
        x_hat = (x - mu_B) / sigma_B * r + d,   y = scale * x_hat + bias

    mu and sigma move towards mu_B and sigma_B after r and d were taken. They start at 0 and 1 and
    are not bias-corrected: let the limits grow from 1 and 0, as `renorm_schedules` does.
    Evaluation: y = scale * (x - mu) / sigma + bias. Collection `batch_stats` holds `mean`, `std`
    and `count`, the number of updates so far. Further fields and errors: `BatchNormalization`.

    Attributes:
      r_max: limit of r, at least 1; a number or a function of `count` (an optax schedule), which
        is evaluated inside the compiled step. With r_max = 1 and d_max = 0 this is Batch Norm.
      d_max: limit of |d|, at least 0; likewise.
    """

    r_max: Any = 3.0
    d_max: Any = 5.0

    def __post_init__(self) -> None:
        if not callable(self.r_max):
            check_range(self, "r_max", 1.0, float("inf"))
        if not callable(self.d_max):
            check_range(self, "d_max", 0.0, float("inf"))
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Num[ArrayLike, "..."],
        use_running_average: bool | None = None,
        *,
        mask: ArrayLike | None = None,
    ) -> Inexact[Array, "..."]:
        """Normalizes `x`; arguments and result as in `BatchNorm`."""
        use_running_average = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        x = jnp.asarray(x)
        dtype = self.statistics_dtype(x)
        average_mean = self.average("mean", jnp.zeros, x, dtype)
        average_std = self.average("std", jnp.ones, x, jnp.finfo(dtype).dtype)
        count = self.variable("batch_stats", "count", jnp.zeros, (), jnp.int32)
        mu, sigma = average_mean.value, average_std.value
        if use_running_average:
            return self.affine(x, mu, 1 / sigma)

        moments = self.minibatch_moments(x, mask)
        mu_b, sigma_b = moments.mean, jnp.sqrt(moments.var + self.epsilon)
        r_max = self.r_max(count.value) if callable(self.r_max) else self.r_max
        d_max = self.d_max(count.value) if callable(self.d_max) else self.d_max
        r = lax.stop_gradient(jnp.clip(sigma_b / sigma, 1 / r_max, r_max))
        d = lax.stop_gradient(_clip_magnitude((mu_b - mu) / sigma, d_max))
        if not self.is_initializing():
            average_mean.value = self.updated(mu, mu_b, moments)
            average_std.value = self.updated(sigma, sigma_b, moments)
            count.value = count.value + 1

        return self.affine(x, mu_b, r / sigma_b, d)


def _clip_magnitude(d: Array, d_max: Any) -> Array:
    """`d` with |d| <= d_max: on real values the paper's clip, on complex ones a shorter arrow."""
    if jnp.iscomplexobj(d):
        return d * jnp.minimum(1, d_max / jnp.maximum(jnp.abs(d), jnp.finfo(d.dtype).tiny))
    return jnp.clip(d, -d_max, d_max)


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
    """
    if not total_steps >= 1:
        raise ValueError(f"renorm_schedules: total_steps must be at least 1, got {total_steps}.")
    if not isinstance(r_max, jax.core.Tracer) and not 1 <= r_max < float("inf"):
        raise ValueError(f"renorm_schedules: r_max must be at least 1, got {r_max}.")
    if not isinstance(d_max, jax.core.Tracer) and not 0 <= d_max < float("inf"):
        raise ValueError(f"renorm_schedules: d_max must be at least 0, got {d_max}.")
    if not 0 <= warmup <= 1:
        raise ValueError(f"renorm_schedules: warmup must be in [0, 1], got {warmup}.")
    for name, end in (("r_max_end", r_max_end), ("d_max_end", d_max_end)):
        if not warmup <= end <= 1:
            raise ValueError(f"renorm_schedules: {name} must be in [{warmup:g}, 1], got {end}.")

    def ramp(start: float, end: Any, end_share: float) -> Schedule:
        begin = round(warmup * total_steps)
        # At least one step, or the ramp would never leave its start.
        return optax.linear_schedule(
            start, end, max(round(end_share * total_steps) - begin, 1), begin
        )

    return ramp(1.0, r_max, r_max_end), ramp(0.0, d_max, d_max_end)
