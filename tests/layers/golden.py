"""Thirty training steps of both papers' algorithms in float64: what implementations must give.

All of it comes from `reference`, which knows nothing of the code. Keys: `DATA/x` (and `mask/mask`),
and for each trajectory over them and each rule `TRAJECTORY/RULE/QUANTITY`, step by step except for
`evaluation`, of the first minibatch at the end. A rule that differs from `batch_norm` in the
averages alone has only the quantities that differ.
"""

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

from tests.layers import reference

STEPS, SHAPE = 30, (2, 2, 3)  # two sequences of length two, three features
MOMENTUM, EPSILON = 0.9, 1e-3
R_MAX, D_MAX = 3.0, 5.0
GAMMA, BETA = np.array([1.5, -0.75, 1.0]), np.array([0.25, 0.5, -1.0])
SETTINGS: dict[str, Any] = {"momentum": MOMENTUM, "epsilon": EPSILON, "gamma": GAMMA, "beta": BETA}
SETTINGS |= {"r_max": R_MAX, "d_max": D_MAX}

_STEPS = np.arange(STEPS)
_CONSTANT = np.full(STEPS, R_MAX), np.full(STEPS, D_MAX)


def _switched(step):
    """Batch Norm before `step`, the full limits from it on."""
    switched = np.arange(STEPS) >= step
    return np.where(switched, R_MAX, 1), np.where(switched, D_MAX, 0)


# The paper's ramp: Batch Norm until step 5, then r_max grows until step 20 and d_max until 15.
_RAMP = np.interp(_STEPS, [5, 20], [1, R_MAX]), np.interp(_STEPS, [5, 15], [0, D_MAX])

# Trajectory: its data and the limits of r and d at each step.
TRAJECTORIES = {
    "inside": ("inside", _CONSTANT),
    "limits": ("limits", _CONSTANT),
    "constant": ("constant", _CONSTANT),
    "tiny": ("tiny", _CONSTANT),
    "offset": ("offset", _CONSTANT),
    "bfloat16": ("bfloat16", _CONSTANT),
    "mask": ("mask", _CONSTANT),
    "ramp": ("inside", _RAMP),
    "switch_5": ("inside", _switched(5)),
    "switch_20": ("inside", _switched(20)),
}


def data():
    """Inputs by name, [step, ...] in float32; `dy`, the gradients of all outputs; `mask/mask`."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(STEPS, *SHAPE))
    z = _standardized(drawn)
    per_step = (STEPS, 1, 1, SHAPE[-1])
    std, mean = rng.uniform(0.7, 1.6, per_step), rng.uniform(-1.0, 1.5, per_step)
    inside = z * std + mean

    # One minibatch in six is far wider than the others, and means jump from side to side.
    wide = np.where(_STEPS % 6 == 0, 60.0, 1.0).reshape(-1, 1, 1, 1)
    side = np.where(_STEPS % 2 == 0, 150.0, -150.0).reshape(-1, 1, 1, 1)
    constant = inside.copy()
    constant[..., 0] = 0.7
    mask = np.ones((STEPS, *SHAPE[:-1]), bool)
    mask.reshape(STEPS, -1)[_STEPS, rng.integers(0, 4, STEPS)] = False
    x = {
        "inside": inside,
        "limits": z * wide + side,
        "constant": constant,
        "tiny": 1e-3 * inside,
        "offset": z + 1e4,
        "bfloat16": inside.astype(ml_dtypes.bfloat16),
        "mask": np.where(mask[..., None], _standardized(drawn, mask) * std + mean, 100.0),
    }
    dy = rng.normal(size=(STEPS, *SHAPE)).astype(ml_dtypes.bfloat16)
    return {
        **{f"{name}/x": values.astype(np.float32) for name, values in x.items()},
        "dy": dy.astype(np.float32),
        "mask/mask": mask,
    }


def _standardized(values, mask=None):
    """With mean 0 and deviation 1 at each step, over what the mask lets through."""
    options = {"keepdims": True, "where": True if mask is None else mask[..., None]}
    return (values - values.mean((1, 2), **options)) / values.std((1, 2), **options)


@cache
def golden_vectors():
    """All of them: `data`, and each trajectory by each rule."""
    arrays = data()
    for trajectory, (name, limits) in TRAJECTORIES.items():
        x = arrays[f"{name}/x"]
        mask = arrays.get(f"{name}/mask", np.ones(x.shape[:-1], bool))
        rules = {
            "batch_renorm": _batch_renorm(x, arrays["dy"], mask, *limits, "std"),
            # What some implementations average instead, to see whether they differ in more.
            "batch_renorm var": _batch_renorm(x, arrays["dy"], mask, *limits, "var"),
            "batch_renorm unbiased": _batch_renorm(x, arrays["dy"], mask, *limits, "unbiased"),
        }
        if trajectory in ("ramp", "mask"):  # who averages variances has neither
            del rules["batch_renorm var"], rules["batch_renorm unbiased"]
        if limits is _CONSTANT and trajectory != "limits":
            rules |= _batch_norm(x, arrays["dy"], mask)
        for rule, quantities in rules.items():
            for quantity, values in quantities.items():
                arrays[f"{trajectory}/{rule}/{quantity}"] = values
    return arrays


def _batch_norm(x, dy, mask):
    """Batch Norm, and what is different by two other rules for the averages.

    unbiased: of unbiased variances. from zero: of biased ones, both averages started at zero and
    divided by 1 - momentum^steps in evaluation.
    """
    series = _batch_renorm(x, dy, mask, np.ones(STEPS), np.zeros(STEPS), "var")
    mean, var = series["mean"], series.pop("std") ** 2 - EPSILON
    left = MOMENTUM ** (1 + _STEPS[:, None])  # of the first average
    m = mask[0].sum()
    unbiased = left + (var - left) * m / (m - 1)

    def evaluation(mean, var):
        return _evaluation(x[0], mask[0], mean[-1], np.sqrt(var[-1] + EPSILON))

    corrected = mean / (1 - left), (var - left) / (1 - left)
    return {
        "batch_norm": {**series, "var": var},
        "batch_norm unbiased": {"var": unbiased, "evaluation": evaluation(mean, unbiased)},
        "batch_norm from zero": {"evaluation": evaluation(*corrected)},
    }


def _batch_renorm(x, dy, mask, r_max, d_max, average):
    """Batch Renorm with a moving average of the deviation or, by another rule, of a variance."""
    steps = []
    mu, var, sigma = np.zeros(3), np.ones(3), np.ones(3)
    if average != "std":
        sigma = np.sqrt(var + EPSILON)
    for t, (x_t, dy_t, mask_t) in enumerate(zip(x, dy, mask, strict=True)):
        valid = x_t[mask_t].astype(np.float64)
        step = reference.batch_renorm(
            valid, mu, sigma, r_max[t], d_max[t], GAMMA, BETA, epsilon=EPSILON, momentum=MOMENTUM
        )
        dx = reference.batch_renorm_gradients(
            valid, dy_t[mask_t], step.r, step.d, GAMMA, epsilon=EPSILON
        )[0]
        mu, sigma = step.mu[0], step.sigma[0]
        if average != "std":
            _, batch_var, size = (value[0] for value in reference.minibatch(valid))
            bessel = size / (size - 1) if average == "unbiased" else 1
            var = reference.moved(var, batch_var * bessel, MOMENTUM)
            sigma = np.sqrt(var + EPSILON)
        steps.append(
            {"y": _filled(step.y, mask_t), "dx": _filled(dx, mask_t), "mean": mu, "std": sigma}
        )
    series = {name: np.stack([step[name] for step in steps]) for name in steps[0]}
    return {**series, "evaluation": _evaluation(x[0], mask[0], mu, sigma)}


def _evaluation(x, mask, mu, sigma):
    return np.where(mask[..., None], GAMMA * (x.astype(np.float64) - mu) / sigma + BETA, 0)


def _filled(valid, mask):
    """Values where the mask is true, and zero elsewhere."""
    values = np.zeros(SHAPE)
    values[mask] = valid
    return values
