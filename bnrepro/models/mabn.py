"""Moving Average Batch Normalization, which averages statistics of the backward pass, too."""

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

    Per feature, over the values of a minibatch; means over the last `window` minibatches carry a
    bar, and `average` is the exponential moving average of chi_bar^2, before this minibatch::

        chi_bar^2 = bar(mean(x^2)) + epsilon,   z = x / chi_bar
        r = clip(chi_bar / sqrt(average + epsilon), 1 / r_max, r_max)
        y = scale * r * z + bias

    The backward pass is not the gradient of this. With g = dL/dz = dL/dy * scale * r ::

        dL/dx = (g - z * bar(mean(g * z))) / chi_bar

    There is no mean to subtract: the kernel before the layer is to be `centred`. Until there have
    been `warmup` minibatches, and more than fill the window, both bars are off and r is 1, as in
    the authors' code (megvii-model/MABN, MABN.py). Evaluation is `scale * x / sqrt(average +
    epsilon) + bias`. A dense layer's means are over the batch alone. They may be of one
    value, through which no gradient passes until the bars are on.

    Collection `batch_stats` holds `average`, the last `squares` and `backward` statistics, (window,
    features) each, and `count`. Whoever takes the gradient with respect to `backward` as well gets
    in its place the new value of `backward`: that is how what the backward pass finds is stored,
    and `bnrepro.training.train_step` does so. What is kept there is in the unit of the gradient of
    a single example's loss, so that it depends on neither batch size nor devices: with a loss that
    is a mean over M minibatches, each normalized by itself, `backward / M` is to be put in, and the
    M cotangents add up to the mean of the new values. Of M minibatches the forward statistics are
    likewise averaged: each sees its own moment and, of earlier steps, the mean over all M.

    Attributes:
      use_running_average: normalize with the exponential moving average (evaluation).
      window: minibatches that the means are over, at least 1. The paper simulates batches of 32:
        with minibatches of 2, 16.
      warmup: minibatches until averaged statistics are used; the paper takes 100.
      r_max: r is kept within [1 / r_max, r_max]; the paper takes 5.
      momentum: of the exponential moving average, in [0, 1]; the paper takes 0.98.
      epsilon: added to mean squares, above 0.
      dtype: of the result (default: that of the input).
      use_scale: multiply by a learned `scale`.
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
    """`x / chi`; backward as the class says, with the new `backward` for a cotangent of the old."""
    return x / _spread(chi, x)


def _forward(x: Array, chi: Array, backward: Array, averaged: Array, axis_name: Any) -> Any:
    z = _divided(x, chi, backward, averaged, axis_name)
    return z, (z, chi, backward, averaged)


def _backward(axis_name: Any, kept: Any, g: Array) -> Any:
    z, chi, backward, averaged = kept
    # The gradient of the mean loss of n examples is 1 / n of that of an example's own.
    examples = len(z)
    own = _mean(g * z, axis_name)
    latest = _pushed(backward, examples * own)
    psi = jnp.where(averaged, latest.mean(0) / examples, own)
    return (g - z * _spread(psi, z)) / _spread(chi, z), jnp.zeros_like(chi), latest, None


_divided.defvjp(_forward, _backward)


def _mean(x: Array, axis_name: Any) -> Array:
    """The mean of each feature, over the mapped axis, too."""
    mean = x.mean(tuple(range(x.ndim - 1)))
    return mean if axis_name is None else lax.pmean(mean, axis_name)


def _spread(value: Array, x: Array) -> Array:
    """One value a feature, shaped to broadcast against `x`."""
    return jnp.expand_dims(value, tuple(range(x.ndim - 1)))


def _pushed(latest: Array, value: Array) -> Array:
    """The latest values with one more, and without the oldest."""
    return jnp.concatenate([latest[1:], value[None]])
