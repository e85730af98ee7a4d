"""Thirty training steps of both papers' algorithms in float64: what implementations must give.

All of it comes from `reference`, which knows nothing of the code.
"""

import ml_dtypes
import numpy as np

from tests.layers import reference

STEPS, SHAPE = 30, (2, 2, 3)  # two sequences of length two, three features
MOMENTUM, EPSILON = 0.9, 1e-3
R_MAX, D_MAX = 3.0, 5.0
GAMMA, BETA = np.array([1.5, -0.75, 1.0]), np.array([0.25, 0.5, -1.0])

_STEPS = np.arange(STEPS)
# The paper's ramp: Batch Norm until step 5, then r_max grows until step 20 and d_max until 15.
RAMP = np.interp(_STEPS, [5, 20], [1, R_MAX]), np.interp(_STEPS, [5, 15], [0, D_MAX])


def switched(step):
    """r_max and d_max of each step: Batch Norm before `step`, the full limits from it on."""
    full = step <= _STEPS
    return np.where(full, R_MAX, 1), np.where(full, D_MAX, 0)


def inputs():
    """By name: inputs and their masks, [step, ...]; and the gradients of all outputs."""
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
    whole = np.ones((STEPS, *SHAPE[:-1]), bool)
    mask = whole.copy()
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
    masked = {
        name: (values.astype(np.float32), mask if name == "mask" else whole)
        for name, values in x.items()
    }
    return masked, dy.astype(np.float32)


def _standardized(values, mask=None):
    """With mean 0 and deviation 1 at each step, over what the mask lets through."""
    options = {"keepdims": True, "where": True if mask is None else mask[..., None]}
    return (values - values.mean((1, 2), **options)) / values.std((1, 2), **options)


INPUTS, DY = inputs()


def expected(rule, data, limits):
    """What a rule gives: quantities [step, ...]; `evaluation` of the first minibatch at the end.

    Args:
      rule: batch_norm or batch_renorm, perhaps with what some implementations average instead, to
        see whether they differ in more. var: the variance, unbiased: unbiased variances, from zero:
        biased ones, both averages started at zero and divided by 1 - momentum^steps in evaluation.
      data: a key of `INPUTS`.
      limits: r_max and d_max of each step.
    """
    normalizer, _, average = rule.partition(" ")
    x, mask = INPUTS[data]
    steps, mu, var = [], np.zeros(3), np.ones(3)
    of_deviation = normalizer == "batch_renorm" and not average
    sigma = np.ones(3) if of_deviation else np.sqrt(var + EPSILON)
    for x_t, dy_t, mask_t, r_max, d_max in zip(x, DY, mask, *limits, strict=True):
        valid = x_t[mask_t].astype(np.float64)
        mean, batch_var, size = (value[0] for value in reference.minibatch(valid))
        if normalizer == "batch_renorm":
            step = reference.batch_renorm(
                valid, mu, sigma, r_max, d_max, GAMMA, BETA, epsilon=EPSILON, momentum=MOMENTUM
            )
            y, r, d = step.y, step.r, step.d
        else:
            y, r, d = reference.batch_norm(valid, GAMMA, BETA, epsilon=EPSILON), 1, 0
        gradients = reference.batch_renorm_gradients(
            valid, dy_t[mask_t], r, d, GAMMA, epsilon=EPSILON
        )
        bessel = size / (size - 1) if average == "unbiased" else 1
        mu = reference.moved(mu, mean, MOMENTUM)
        var = reference.moved(var, batch_var * bessel, MOMENTUM)
        sigma = step.sigma[0] if of_deviation else np.sqrt(var + EPSILON)
        quantities = {"y": _filled(y, mask_t), "dx": _filled(gradients[0], mask_t)}
        steps.append(quantities | {"mean": mu, "var": var, "std": sigma})
    if average == "from zero":
        rest = MOMENTUM**STEPS  # of the 1 that the variance started from
        mu, sigma = mu / (1 - rest), np.sqrt((var - rest) / (1 - rest) + EPSILON)
    evaluation = GAMMA * (x[0].astype(np.float64) - mu) / sigma + BETA
    series = {name: np.stack([step[name] for step in steps]) for name in steps[0]}
    return {**series, "evaluation": np.where(mask[0][..., None], evaluation, 0)}


def _filled(valid, mask):
    """Values where the mask is true, and zero elsewhere."""
    values = np.zeros(SHAPE)
    values[mask] = valid
    return values
