"""Moving Average Batch Normalization, which also averages the statistics of the backward pass."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from bnrepro.layers.functional import moving_average
from bnrepro.models.per_example import affine


class MovingAverageBatchNorm(nn.Module):
    """Moving Average Batch Normalization (Yan et al. 2020, arXiv:2001.06838, section 4).

    `bar(...)` is the simple mean over the last `window` minibatches, `average` an exponential
    moving average, taken before this minibatch. Per feature, over the values of a minibatch::

        chi^2 = bar(mean(x^2)),   z = x / sqrt(chi^2 + epsilon)
        r = clip(sqrt(chi^2 + epsilon) / sqrt(average + epsilon), 1 / r_max, r_max)
        y = scale * r * z + bias,   average <- momentum * average + (1 - momentum) * chi^2

    The backward pass is not the gradient of this. With g = dL/dz = r * scale * dL/dy::

        dL/dx = (g - z * bar(mean(g * z))) / sqrt(chi^2 + epsilon)

    No mean is subtracted: the kernel before the layer should be `centred` instead. Evaluation
    computes `scale * x / sqrt(average + epsilon) + bias`.

    The first `warmup` minibatches, and as many as fill the window, use their own means for both
    bars and r = 1. The authors' code (megvii-model/MABN) differs. MABN.py begins to use its window
    in the same way, but keeps r = 1 for at least 1,000 minibatches. cls/networks/MABN.py, which
    trains their ImageNet models, keeps r = 1 for 99 minibatches. It has no window of minibatches:
    from the second on, each microbatch of 2 takes the mean over the last 16 microbatches, of which
    the earlier ones are from the minibatch before.

    In a dense layer the means are over the minibatch only. It may hold a single example, but until
    the warm-up ends nothing before the layer learns from one.

    Collection `batch_stats` holds `average`, `count` and the last values that each bar averages,
    `squares` and `backward`, shaped (window, features). The *cotangent* of `backward` is not a
    gradient but its new value; `bnrepro.training.train_step` stores it. The loss must be a mean
    over examples. If it is a mean over M microbatches, each normalized separately, pass in
    `backward / M`, and the cotangents add up to the mean of M new values. Values have the unit of
    the gradient of a single example's loss, so they do not depend on M, the batch size or the
    number of devices. Each of M microbatches sees its own value and, for earlier steps, the means
    over all M.

    Attributes:
      use_running_average: normalize with the exponential moving average (evaluation).
      window: minibatches that a bar averages over, at least 1. The paper simulates batches of 32,
        so it uses 16 for minibatches of 2.
      warmup: minibatches before the bars and r are used; the authors' MABN.py uses 100 for the
        bars.
      r_max: r is kept within [1 / r_max, r_max]; the authors' code uses 5.
      momentum: of the exponential moving average, in [0, 1]; the authors' code uses 0.98.
      epsilon: added to mean squares, above 0.
      dtype: of the result (default: that of the input).
      use_scale: multiply by a learned `scale`.
      scale_init: initializer of `scale`.
      axis_name: mapped axis over which statistics are shared, forward and backward.
    """

    use_running_average: bool
    window: int = 16
    warmup: Any = 100
    r_max: Any = 5.0
    momentum: Any = 0.98
    epsilon: Any = 1e-5
    dtype: Any = None
    use_scale: bool = True
    scale_init: Any = nn.initializers.ones
    axis_name: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
        """Normalizes `x`, features last."""
        features, dtype = x.shape[-1:], self.dtype or x.dtype
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        average = self.variable("batch_stats", "average", jnp.ones, features)
        squares, backward = (
            self.variable("batch_stats", name, jnp.zeros, (self.window, *features))
            for name in ("squares", "backward")
        )
        count = self.variable("batch_stats", "count", jnp.zeros, (), jnp.int32)
        moving_chi = jnp.sqrt(average.value + self.epsilon)
        if self.use_running_average:
            y = x / _spread(moving_chi, x)
        else:
            axis_name = None if self.is_initializing() else self.axis_name
            averaged = count.value >= jnp.maximum(self.warmup, self.window)
            square = _mean(jnp.square(lax.stop_gradient(x)), axis_name)
            latest = _pushed(squares.value, square)
            chi_squared = jnp.where(averaged, latest.mean(0), square)
            chi = jnp.sqrt(chi_squared + self.epsilon)
            r = jnp.where(averaged, jnp.clip(chi / moving_chi, 1 / self.r_max, self.r_max), 1)
            y = _divided(x, chi, backward.value, averaged, axis_name) * _spread(r, x)
            if not self.is_initializing():
                average.value = moving_average(average.value, chi_squared, self.momentum)
                squares.value, count.value = latest, count.value + 1
        return affine(self, y).astype(dtype)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _divided(
    x: Float[Array, "*batch features"],
    chi: Float[Array, "features"],
    backward: Float[Array, "window features"],
    averaged: Bool[Array, ""],
    axis_name: Any,
) -> Float[Array, "*batch features"]:
    """`x / chi`, with the backward pass of the paper; the cotangent of `backward` is its new value.

    Here chi includes epsilon.
    """
    return x / _spread(chi, x)


def _forward(x: Array, chi: Array, backward: Array, averaged: Array, axis_name: Any) -> Any:
    z = _divided(x, chi, backward, averaged, axis_name)
    return z, (z, chi, backward, averaged)


def _backward(axis_name: Any, kept: Any, g: Array) -> Any:
    z, chi, backward, averaged = kept
    # The loss is a mean over examples, so an example's own gradient is this many times larger.
    examples = len(z)
    own = _mean(g * z, axis_name)
    latest = _pushed(backward, examples * own)
    psi = jnp.where(averaged, latest.mean(0) / examples, own)
    return (g - z * _spread(psi, z)) / _spread(chi, z), jnp.zeros_like(chi), latest, None


_divided.defvjp(_forward, _backward)


def _mean(x: Array, axis_name: Any) -> Array:
    """The mean of each feature, also over the mapped axis."""
    mean = x.mean(tuple(range(x.ndim - 1)))
    return mean if axis_name is None else lax.pmean(mean, axis_name)


def _spread(value: Array, x: Array) -> Array:
    """One value per feature, shaped to broadcast against `x`."""
    return jnp.expand_dims(value, tuple(range(x.ndim - 1)))


def _pushed(latest: Array, value: Array) -> Array:
    """The latest values with a new one, without the oldest."""
    return jnp.concatenate([latest[1:], value[None]])
