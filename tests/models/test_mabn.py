"""Moving Average Batch Normalization, against the paper's formulas in float64 NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnrepro.models.mabn import MovingAverageBatchNorm
from tests.layers.running import normal, some_variables

WINDOW, R_MAX, MOMENTUM, EPSILON = 3, 1.1, 0.75, 1e-2
SETTINGS = {
    "window": WINDOW,
    "warmup": 4,
    "r_max": R_MAX,
    "momentum": MOMENTUM,
    "epsilon": EPSILON,
}


class Paper:
    """Section 4 of the paper, with the clipping and the warm-up of its code; features last."""

    def __init__(self, average, warmup):
        self.warmup, self.average = warmup, np.asarray(average, np.float64)
        self.squares, self.psis = [], []

    def step(self, x, dy, scale, bias):
        """The output, and the gradients that the paper gives for x, scale and bias."""
        x, dy, scale, bias = (np.asarray(value, np.float64) for value in (x, dy, scale, bias))
        axes = tuple(range(x.ndim - 1))
        on = len(self.squares) >= max(self.warmup, WINDOW)

        self.squares.append((x**2).mean(axes))
        chi_squared = np.mean(self.squares[-WINDOW:] if on else self.squares[-1:], 0)
        chi, moving = np.sqrt(chi_squared + EPSILON), np.sqrt(self.average + EPSILON)
        r = np.clip(chi / moving, 1 / R_MAX, R_MAX) if on else 1
        z = x / chi

        g = dy * scale * r
        self.psis.append((g * z).mean(axes))
        psi = np.mean(self.psis[-WINDOW:] if on else self.psis[-1:], 0)
        self.average = MOMENTUM * self.average + (1 - MOMENTUM) * chi_squared
        dx = (g - z * psi) / chi
        return scale * r * z + bias, dx, (dy * r * z).sum(axes), dy.sum(axes)


@partial(jax.jit, static_argnums=0)
def layer_step(layer, params, stats, x, dy):
    """The output, the gradients of x, scale and bias, and all new statistics."""

    def total(x, params, backward):
        variables = {"params": params, "batch_stats": stats | {"backward": backward}}
        y, updates = layer.apply(variables, x, mutable=["batch_stats"])
        return jnp.sum(dy * y), (y, updates["batch_stats"])

    gradient = jax.grad(total, argnums=(0, 1, 2), has_aux=True)
    (dx, dparams, backward), (y, stats) = gradient(x, params, stats["backward"])
    return y, dx, dparams["scale"], dparams["bias"], stats | {"backward": backward}


@pytest.mark.parametrize(
    ("shape", "warmup"),
    [((6, 2), 4), ((1, 2), 4), ((3, 2, 2, 2), 4), ((6, 2), 1)],
    ids=["dense", "one example", "images", "until the window is full"],
)
def test_forward_and_backward_are_the_papers_before_and_after_the_window_is_used(shape, warmup):
    settings = SETTINGS | {"warmup": warmup}
    layer = MovingAverageBatchNorm(use_running_average=False, **settings)
    params = some_variables(layer, jnp.zeros(shape), ())["params"]
    stats = layer.init(jax.random.key(0), jnp.zeros(shape))["batch_stats"]
    paper = Paper(stats["average"], warmup)
    for step in range(9):
        x, dy = (
            normal(*shape, mean=0.5, std=1 + step % 2, seed=step),
            normal(*shape, seed=50 + step),
        )
        *found, stats = layer_step(layer, params, stats, jnp.asarray(x), dy)
        expected = paper.step(x, dy, params["scale"], params["bias"])
        for value, right in zip(found, expected, strict=True):
            np.testing.assert_allclose(value, right, rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(stats["average"], paper.average, rtol=1e-5)
    assert int(stats["count"]) == 9
    np.testing.assert_allclose(stats["squares"], paper.squares[-WINDOW:], rtol=1e-5)

    evaluated = MovingAverageBatchNorm(use_running_average=True, **settings).apply(
        {"params": params, "batch_stats": stats}, jnp.asarray(x)
    )
    scale, bias = np.asarray(params["scale"]), np.asarray(params["bias"])
    expected = scale * x / np.sqrt(paper.average + EPSILON) + bias
    np.testing.assert_allclose(evaluated, expected, rtol=1e-5)
