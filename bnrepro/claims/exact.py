"""What the definitions are checked by: the layers against float64, with nothing trained.

Each function computes one number from the data set, or without it, and gives it as an `Estimate`
without sampling error. Expected values are NumPy's, in float64.
"""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bnrepro.data.datasets import Dataset
from bnrepro.layers import BatchNorm, BatchRenorm, population_statistics
from bnrepro.layers.functional import batch_moments, normalize, renorm_correction
from bnrepro.report.statistics import Estimate, estimate

_EPSILON = 1e-5
_DRAWS = 20
# The review's example (document D2, section III).
_TOY = (2, 4, 3, 5, 10, 12, 6, 7, 8, 6, 9, 10)
_TOY_PAIRS, _TOY_SIXES, _TOY_MEAN = (3, 4, 11, 6.5, 7, 9.5), (6, 7.67), 6.83
_BATCH_SIZES = (8, 16, 32, 64, 128, 256, 512)
# Limits that clip nothing.
_NO_LIMIT = 1e6


def normalization_error(dataset: Dataset) -> Estimate:
    """Largest error of Batch Norm's training output, in units of gamma, over random minibatches."""
    errors = []
    for rng, x in _random_batches():
        scale, bias = rng.uniform(0.5, 2, 16), rng.normal(0, 1, 16)
        y, _ = _train(BatchNorm(epsilon=_EPSILON), x, scale, bias)
        x_hat = (x - x.mean(0, dtype=float)) / np.sqrt(x.var(0, dtype=float) + _EPSILON)
        errors.append(abs((y - (scale * x_hat + bias)) / scale).max())
    return _exact(errors)


def population_error(dataset: Dataset) -> Estimate:
    """Largest relative error of mean and variance, over the whole training set.

    The layer normalizes a random linear map of the training images, in minibatches of 60. Errors of
    the mean are relative to the deviation.
    """
    x = _activations(dataset.train_images, seed=0)
    batches = x[: len(x) // 60 * 60].reshape(-1, 60, x.shape[1])
    layer = BatchNorm(use_running_average=False)
    variables = layer.init(jax.random.key(0), batches[0])
    found: Any = population_statistics(layer.apply, variables, iter(batches))
    mean = batches.mean(1, dtype=float).mean(0)
    var = 60 / 59 * batches.var(1, dtype=float).mean(0)
    return _exact([abs(found["mean"] - mean) / np.sqrt(var), abs(found["var"] / var - 1)])


def inference_error(dataset: Dataset) -> Estimate:
    """Largest error of Batch Norm's output with given statistics, over random minibatches."""
    errors = []
    layer = BatchNorm(use_running_average=True, epsilon=_EPSILON)
    for rng, x in _random_batches():
        mean, var = x.mean(0, dtype=float), x.var(0, ddof=1, dtype=float)
        scale, bias = rng.uniform(0.5, 2, 16), rng.normal(0, 1, 16)
        variables = {
            "params": _float32(scale=scale, bias=bias),
            "batch_stats": _float32(mean=mean, var=var),
        }
        y = np.asarray(layer.apply(variables, x), float)
        errors.append(abs((y - bias) / scale - (x - mean) / np.sqrt(var + _EPSILON)).max())
    return _exact(errors)


def identity_error(dataset: Dataset) -> Estimate:
    """Largest deviation of output from input with gamma = sigma and beta = mu, in deviations."""
    errors = []
    for _, x in _random_batches():
        sigma = np.sqrt(x.var(0, dtype=float) + _EPSILON)
        y, _ = _train(BatchNorm(epsilon=_EPSILON), x, sigma, x.mean(0, dtype=float))
        errors.append((abs(y - x) / sigma).max())
    return _exact(errors)


def channel_statistics(dataset: Dataset) -> Estimate:
    """How many means and variances Batch Norm takes of 10 x 200 x 200 x 64 values.

    NaN if these are not equal.
    """
    stats = _convolution_statistics()[1]
    sizes = {stats["mean"].size, stats["var"].size}
    return _exact(sizes if len(sizes) == 1 else [np.nan])


def channel_error(dataset: Dataset) -> Estimate:
    """Their largest error against those of each channel's 400,000 values, in deviations."""
    x, stats = _convolution_statistics()
    errors = []
    for channel in range(x.shape[-1]):
        values = x[..., channel].ravel().astype(float)
        std = values.std()
        errors.append(abs(stats["mean"][channel] - values.mean()) / std)
        errors.append(abs(stats["var"][channel] / std**2 - 1))
    return _exact(errors)


def correction_error(dataset: Dataset) -> Estimate:
    """Largest difference of both sides of Batch Renorm's identity, over random minibatches."""
    errors = []
    for rng, x in _random_batches():
        mu, sigma = rng.normal(0, 2, 16), rng.uniform(0.5, 3, 16)
        moments = batch_moments(jnp.asarray(x), (0,))
        std = jnp.sqrt(moments.var + _EPSILON)
        r, d = renorm_correction(
            moments.mean, std, jnp.float32(mu), jnp.float32(sigma), _NO_LIMIT, _NO_LIMIT
        )
        y = normalize(jnp.asarray(x), moments.offset, std, axes=(0,), shift=moments.shift, r=r, d=d)
        errors.append(abs(np.asarray(y, float) - (x - mu) / sigma).max())
    return _exact(errors)


def renorm_without_limits_error(dataset: Dataset) -> Estimate:
    """Largest difference of outputs and gradients, Batch Renorm with r = 1, d = 0 to Batch Norm."""
    errors = []
    for rng, x in _random_batches():
        dy = rng.normal(size=x.shape).astype(np.float32)
        params = _float32(scale=rng.uniform(0.5, 2, 16), bias=rng.normal(0, 1, 16))

        def outputs(layer: Any, x: Any = x, dy: Any = dy, params: Any = params) -> Any:
            stats = layer.init(jax.random.key(0), x)["batch_stats"]

            def apply(params: Any, x: Any) -> Any:
                variables = {"params": params, "batch_stats": stats}
                return layer.apply(variables, x, mutable=["batch_stats"])[0]

            y, pull_back = jax.vjp(apply, params, x)
            return jax.tree.leaves((y, pull_back(dy)))

        ours = outputs(BatchRenorm(use_running_average=False, r_max=1.0, d_max=0.0))
        theirs = outputs(BatchNorm(use_running_average=False))
        errors += [abs(a - b).max() for a, b in zip(ours, theirs, strict=True)]
    return _exact(errors)


def toy_error(dataset: Dataset) -> Estimate:
    """Largest difference of the example's means to those named, which have two decimals."""
    toy = np.array(_TOY, float)
    means = (toy.reshape(-1, 2).mean(1), toy.reshape(-1, 6).mean(1), toy.mean())
    named = (_TOY_PAIRS, _TOY_SIXES, _TOY_MEAN)
    return _exact([abs(a - np.array(b)).max() for a, b in zip(means, named, strict=True)])


def toy_advantage(dataset: Dataset) -> Estimate:
    """Mean distance to the mean of all, of the means of pairs less that of the means of sixes."""
    toy = np.array(_TOY, float)
    pairs, sixes = (abs(toy.reshape(-1, m).mean(1) - toy.mean()).mean() for m in (2, 6))
    return _exact([pairs - sixes])


def spread_exponent(dataset: Dataset, statistic: str) -> Estimate:
    """The power of the minibatch size that the spread of a statistic over minibatches goes with.

    Ten random layers, each with 20,480 training images in an order of its own: the slope of the
    logarithm of the deviation of `mean` or `std` over minibatches, averaged over 100 units, against
    the logarithm of their size.
    """
    slopes = []
    for seed in range(10):
        x = _activations(dataset.train_images[:20_480], seed)
        x = x[np.random.default_rng(seed).permutation(len(x))]
        spreads = []
        for size in _BATCH_SIZES:
            batches = x[: len(x) // size * size].reshape(-1, size, x.shape[1])
            values = getattr(batches, statistic)(axis=1)
            spreads.append(np.log(values.std(0)).mean())
        slopes.append(np.polyfit(np.log(_BATCH_SIZES), spreads, 1)[0])
    return estimate(slopes)


def training_inference_gap(dataset: Dataset, name: str) -> Estimate:
    """Largest difference of a layer's training output to inference on the same minibatch of four.

    The layer has seen 1,000 minibatches of MNIST; inference takes the averages that it had before
    this one. Batch Renorm clips nothing.
    """
    limits: Any = {"r_max": _NO_LIMIT, "d_max": _NO_LIMIT} if name == "batch_renorm" else {}
    layer = (BatchRenorm if limits else BatchNorm)(epsilon=_EPSILON, **limits)
    x = _activations(dataset.train_images[:4_100], seed=0)
    batches = jnp.asarray(x[: len(x) // 4 * 4].reshape(-1, 4, x.shape[1]))
    variables = layer.init(jax.random.key(0), batches[0], use_running_average=False)
    train = jax.jit(partial(layer.apply, use_running_average=False, mutable=["batch_stats"]))
    for batch in batches[:1_000]:
        variables = {**variables, **train(variables, batch)[1]}
    gaps = []
    for batch in batches[1_000:]:
        gaps.append(abs(train(variables, batch)[0] - layer.apply(variables, batch, True)).max())
    return _exact(gaps)


def single_value_gradient(dataset: Dataset) -> Estimate:
    """Largest gradient that passes through the normalization of a minibatch of one."""

    def output(x: Any) -> Any:
        moments = batch_moments(x, (0,))
        std = jnp.sqrt(moments.var + _EPSILON)
        return normalize(x, moments.offset, std, axes=(0,), shift=moments.shift)

    x = _activations(dataset.train_images[:_DRAWS], seed=0)
    gradients = [jax.vjp(output, row)[1](jnp.ones_like(row))[0] for row in x[:, None]]
    return _exact([abs(gradient).max() for gradient in gradients])


def _exact(values: Any) -> Estimate:
    """The largest of some numbers, which no further draw would estimate better."""
    largest = float(np.max([np.max(value) for value in values]))  # NaN if one is
    return Estimate(largest, largest, largest, n=len(values), standard_error=0, df=len(values))


def _random_batches() -> Any:
    """Minibatches of 32 x 16 float32, of various means and deviations; each with its generator."""
    for seed in range(_DRAWS):
        rng = np.random.default_rng(seed)
        x = rng.normal(rng.uniform(-3, 3, 16), rng.uniform(0.5, 5, 16), (32, 16))
        yield rng, x.astype(np.float32)


def _activations(images: np.ndarray, seed: int) -> np.ndarray:
    """A random linear map of images to 100 units, as before the first nonlinearity of an MLP."""
    x = images.reshape(len(images), -1).astype(np.float32) / 255
    weights = np.random.default_rng(seed).normal(0, x.shape[1] ** -0.5, (x.shape[1], 100))
    return x @ weights.astype(np.float32)


def _train(layer: Any, x: np.ndarray, scale: Any, bias: Any) -> tuple[np.ndarray, Any]:
    """A layer's training output in float64, and its new statistics."""
    stats = layer.init(jax.random.key(0), x, use_running_average=False)["batch_stats"]
    variables = {"params": _float32(scale=scale, bias=bias), "batch_stats": stats}
    y, updates = layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
    return np.asarray(y, float), updates["batch_stats"]


@cache
def _convolution_statistics() -> tuple[np.ndarray, Any]:
    """The values of the document's example, and the statistics that Batch Norm takes of them."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10, 200, 200, 64), np.float32)
    x = x * rng.uniform(0.5, 3, 64).astype(np.float32) + rng.normal(0, 2, 64).astype(np.float32)
    # With momentum 0 the averages are the minibatch's own.
    return x, _train(BatchNorm(momentum=0.0), x, np.ones(64), np.zeros(64))[1]


def _float32(**arrays: Any) -> dict[str, Any]:
    return {name: jnp.float32(array) for name, array in arrays.items()}
