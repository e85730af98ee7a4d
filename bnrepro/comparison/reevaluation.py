"""Evaluates what was restored, with the normalizers' statistics taken from elsewhere if asked."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, UInt8

from bnrepro.comparison.keys import ConfigError, require
from bnrepro.comparison.restored import Restored, check_model
from bnrepro.comparison.variant import make_evaluate, make_model, preprocessing
from bnrepro.data import Dataset, make_sampler
from bnrepro.layers import population_statistics
from bnrepro.training import fetch, make_devices


def reevaluate(
    restored: Restored, config: Mapping[str, Any], dataset: Dataset, statistics: str
) -> dict[str, Float[np.ndarray, "seeds"]]:
    """Loss and accuracy on the test set of each seed; NaN of one that diverged.

    Args:
      restored: what is evaluated.
      config: of its variant.
      dataset: with its test set and, for "population", its training set.
      statistics: what the normalizers go by: "moving", the stored averages; "minibatch", each
        microbatch's own, in minibatches of test images sampled like those of training, as many as
        the config asks for or else as hold the test set once; "population", those of the whole
        training set ([BN] Algorithm 2).

    Raises:
      CheckpointError: the checkpoint is of other data, or of another model.
      ConfigError: the test set has no such minibatches, or the normalizer no such statistics.
    """
    model = make_model(config, len(dataset.class_names))
    check_model(restored, model, preprocessing(config)(jnp.asarray(dataset.test_images[:1])))
    devices = make_devices(
        "single",
        seeds=0,
        data=0,
        synchronized=False,
        num_seeds=len(restored.seeds),
        batch_size=config["batch_size"],
        microbatch_size=config["microbatch_size"],
    )
    minibatches, sampler, variables = 0, None, restored.variables
    if statistics == "minibatch":
        covering = math.ceil(len(dataset.test_labels) / config["batch_size"])
        minibatches = config["evaluation"]["minibatches"] or covering
        try:
            sampler = make_sampler(
                **config["sampler"], labels=dataset.test_labels, batch_size=config["batch_size"]
            )
        except ValueError as error:
            raise ConfigError(
                f"{restored.path} cannot be evaluated on minibatches: {error}"
            ) from error
    elif statistics == "population":
        variables = with_population_statistics(variables, config, dataset.train_images, model)
    asked = {"train_examples": 0, "minibatches": minibatches, "holdout": 0}
    evaluate = make_evaluate(
        {**config, "evaluation": asked, "measures": ()},
        dataset,
        sampler,
        lambda _: (model, optax.identity()),
        devices,
    )
    values = fetch(evaluate(variables, {}))["test_minibatches" if minibatches else "test"]
    diverged = np.isin(restored.seeds, [*restored.diverged]) | ~np.isfinite(values["loss"])
    return {
        metric: np.where(diverged, np.nan, values[metric].astype(np.float64))
        for metric in ("loss", "accuracy")
    }


def with_population_statistics(
    variables: dict[str, Any],
    config: Mapping[str, Any],
    images: UInt8[np.ndarray, "n h w c"],
    model: nn.Module,
) -> dict[str, Any]:
    """Variables with the moving averages replaced by statistics of the whole training set.

    The set is shuffled, in microbatches of the size trained with, and seen once for Batch Norm; for
    Batch Renorm, once a layer: see `population_statistics`.

    Args:
      variables: of several seeds, stacked along a first axis.
      config: of the variant.
      images: of the training set.
      model: whose variables they are.

    Returns:
      The same, if there are no moving averages.

    Raises:
      ConfigError: moving averages of another normalizer.
    """
    if not variables["batch_stats"]:
        return variables
    require(
        (name := config["normalizer"]["name"]) in ("batch_norm", "batch_renorm"),
        f"population statistics are those of batch_norm or batch_renorm, and {name} has others",
    )
    preprocess = preprocessing(config)

    def apply(variables: Any, microbatches: Array, mutable: list[str]) -> Any:
        def one(microbatch: Array, variables: Any) -> Any:
            x = preprocess(microbatch)
            return model.apply(variables, x, train=True, deterministic=True, mutable=mutable)

        # Statistics have the shape of the variables, so the microbatches come before the seeds.
        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(microbatches, variables)

    batches = _microbatches(images, config["batch_size"], config["microbatch_size"])
    with np.errstate(all="ignore"):  # seeds that diverged
        return {**variables, "batch_stats": population_statistics(apply, variables, batches)}


def _microbatches(
    images: UInt8[np.ndarray, "n h w c"], batch_size: int, microbatch_size: int
) -> Iterator[UInt8[np.ndarray, "microbatches size h w c"]]:
    """All images in a random order, some microbatches at a time; a last one may be smaller."""
    order = np.random.default_rng(0).permutation(len(images))
    for start in range(0, len(order), batch_size):
        batch = images[order[start : start + batch_size]]
        whole = len(batch) // microbatch_size * microbatch_size
        if whole:
            yield batch[:whole].reshape(-1, microbatch_size, *batch.shape[1:])
        # A single image may be a single value a feature, which has no variance.
        if len(batch) - whole > 1:
            yield batch[whole:][None]
