"""The formulas of both papers in float64 NumPy, written from the papers and not from the code.

Statistics keep the reduced axes at size 1, so that they broadcast against `x`.
"""

from typing import NamedTuple

import numpy as np


class Statistics(NamedTuple):
    mean: np.ndarray
    var: np.ndarray  # biased
    size: np.ndarray  # how many values


def reduced_axes(x, axis=-1):
    """All axes but the feature axes."""
    features = {a % np.ndim(x) for a in np.atleast_1d(axis)}
    return tuple(a for a in range(np.ndim(x)) if a not in features)


def per_feature(values, x, axis=-1):
    """A vector of one value a feature, shaped to broadcast against `x`."""
    return np.expand_dims(np.asarray(values), reduced_axes(x, axis))


def minibatch(x, axis=-1, mask=None):
    """[BN] Algorithm 1, lines 1 and 2: over the values that count, one by one alike."""
    x = np.asarray(x)
    x = x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)
    where = np.broadcast_to(True if mask is None else np.asarray(mask, bool), x.shape)
    axes = reduced_axes(x, axis)
    size = where.sum(axes, keepdims=True)
    mean = np.where(where, x, 0).sum(axes, keepdims=True) / size
    square = np.abs(np.where(where, x - mean, 0)) ** 2
    return Statistics(mean, square.sum(axes, keepdims=True) / size, size)


def moved(average, value, momentum):
    """A moving average after one more value; alpha = 1 - momentum."""
    average = np.asarray(average, np.float64)
    return average + (1 - momentum) * (value - average)


def batch_norm(x, gamma=1.0, beta=0.0, *, epsilon=1e-5, axis=-1):
    """[BN] Algorithm 1."""
    mean, var, _ = minibatch(x, axis)
    return gamma * (np.asarray(x) - mean) / np.sqrt(var + epsilon) + beta


class Renormalized(NamedTuple):
    y: np.ndarray
    mu: np.ndarray  # moving mean after this step
    sigma: np.ndarray  # moving deviation after this step
    r: np.ndarray
    d: np.ndarray


def batch_renorm(
    x, mu, sigma, r_max, d_max, gamma=1.0, beta=0.0, *, epsilon=1e-5, momentum, axis=-1
):
    """[BRN] Algorithm 1."""
    mu_b, var_b, _ = minibatch(x, axis)
    sigma_b = np.sqrt(epsilon + var_b)
    r = np.clip(sigma_b / sigma, 1 / r_max, r_max)
    d = np.clip((mu_b - mu) / sigma, -d_max, d_max)
    x_hat = (np.asarray(x, np.float64) - mu_b) / sigma_b * r + d
    return Renormalized(
        gamma * x_hat + beta, moved(mu, mu_b, momentum), moved(sigma, sigma_b, momentum), r, d
    )


def batch_renorm_gradients(x, dy, r, d, gamma=1.0, *, epsilon=1e-5, axis=-1):
    """[BRN] section 3: r and d are constants (1 and 0 in [BN] section 3); of x, gamma and beta."""
    mu_b, var_b, m = minibatch(x, axis)
    axes = reduced_axes(x, axis)
    sigma_b = np.sqrt(epsilon + var_b)
    centred = np.asarray(x, np.float64) - mu_b
    dx_hat = np.asarray(dy, np.float64) * gamma
    dsigma_b = (dx_hat * centred * -r / sigma_b**2).sum(axes, keepdims=True)
    dmu_b = (dx_hat * -r / sigma_b).sum(axes, keepdims=True)
    dx = dx_hat * r / sigma_b + dsigma_b * centred / (m * sigma_b) + dmu_b / m
    return dx, (dy * (centred / sigma_b * r + d)).sum(axes), np.asarray(dy, np.float64).sum(axes)
