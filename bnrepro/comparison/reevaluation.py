"""Evaluates restored checkpoints, optionally with other statistics for the normalizers."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from bnrepro.comparison.config import ON_ONE_DEVICE, of_test_minibatches, with_settings
from bnrepro.comparison.keys import ConfigError, require
from bnrepro.comparison.program import Data, example_input, make_data, make_evaluate, make_model
from bnrepro.comparison.restored import Restored, check_model
from bnrepro.data.datasets import Dataset
from bnrepro.data.sources import fixed_examples
from bnrepro.layers import population_statistics
from bnrepro.training.devices import fetch, make_devices


def reevaluate(
    restored: Restored, config: Mapping[str, Any], dataset: Dataset, statistics: str
) -> dict[str, Float[np.ndarray, "seeds"]]:
    """Loss and accuracy of each seed on the test set; NaN for a seed that diverged.

    Args:
      restored: what is evaluated.
      config: its variant's config.
      dataset: with its test set and, for "population", its training set.
      statistics: what the normalizers use: "moving", the stored averages; "minibatch", each
        microbatch's own, in minibatches of test images sampled as in training's evaluations, as
        many as the config asks for or else as many as cover the test set once; "population",
        statistics of the whole training set ([BN] Algorithm 2), without images held out.

    Raises:
      CheckpointError: the checkpoint belongs to other data or another model.
      ConfigError: the test set has no such minibatches, or the normalizer no such statistics.
    """
    covering = math.ceil(len(dataset.test_labels) / of_test_minibatches(config)["batch_size"])
    minibatches = (config["evaluation"]["minibatches"] or covering) * (statistics == "minibatch")
    asked = {"evaluation.train_examples": 0, "evaluation.minibatches": minibatches, "measures": ()}
    config = with_settings(config, asked | ON_ONE_DEVICE)
    try:
        data = make_data(config, dataset)._replace(others={})
    except ValueError as error:
        raise ConfigError(
            f"{restored.path} cannot be evaluated on {dataset.name}: {error}"
        ) from error
    model = make_model(config, data.num_classes)
    check_model(restored, model, example_input(data))
    devices = make_devices(config)
    variables = restored.variables
    if statistics == "population":
        variables = with_population_statistics(variables, config, data, model)
    evaluate = make_evaluate(config, data, lambda _: (model, optax.identity()), devices)
    values = fetch(evaluate(variables, {}))["test_minibatches" if minibatches else "test"]
    diverged = np.isin(restored.seeds, [*restored.diverged]) | ~np.isfinite(values["loss"])
    return {
        metric: np.where(diverged, np.nan, values[metric].astype(np.float64))
        for metric in ("loss", "accuracy")
    }


def with_population_statistics(
    variables: dict[str, Any], config: Mapping[str, Any], data: Data, model: nn.Module
) -> dict[str, Any]:
    """Variables with the moving averages replaced by statistics of the whole training set.

    The set is shuffled into microbatches of the size used in training. Batch Norm sees it once,
    Batch Renorm once per layer: see `population_statistics`. With several images per picture, as
    many pictures are drawn as the set has images.

    Args:
      variables: of several seeds, stacked along a first axis.
      config: the variant's config.
      data: with the training set.
      model: the model with these variables.

    Returns:
      The same variables if there are no moving averages.

    Raises:
      ConfigError: the moving averages belong to another normalizer.
    """
    if not variables["batch_stats"]:
        return variables
    require(
        (name := config["normalizer"]["name"]) in ("batch_norm", "batch_renorm"),
        f"population statistics exist for batch_norm and batch_renorm, not for {name}",
    )
    images, labels = data.train
    examples = fixed_examples(images, labels, len(labels), config["digits"])

    def apply(variables: Any, microbatches: Array, mutable: list[str]) -> Any:
        def one(microbatch: Array, variables: Any) -> Any:
            return model.apply(
                variables, microbatch, train=True, deterministic=True, mutable=mutable
            )

        # Statistics have the shape of the variables, so the microbatches come before the seeds.
        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(microbatches, variables)

    read, sizes = data.source.read, (config["batch_size"], config["microbatch_size"])
    arrays = jax.device_put(examples.arrays) if read is None else ()

    class Batches:
        """Made anew in each pass: all images of a stream may not fit in memory."""

        def __iter__(self) -> Iterator[Float[Array, "microbatches size h w c"]]:
            for index in _microbatches(len(labels), *sizes):
                drawn = jax.tree.map(lambda x, index=index: x[index], examples.drawn)
                if read is not None:
                    drawn = jax.device_put(read(examples.arrays, drawn, np.ones(index.shape, bool)))
                yield data.source.take(arrays, drawn)["images"]

    with np.errstate(all="ignore"):  # seeds that diverged
        return {**variables, "batch_stats": population_statistics(apply, variables, Batches())}


def _microbatches(
    count: int, batch_size: int, microbatch_size: int
) -> Iterator[Int[np.ndarray, "microbatches size"]]:
    """All examples in random order, some microbatches at a time; the last one may be smaller."""
    order = np.random.default_rng(0).permutation(count)
    for start in range(0, count, batch_size):
        batch = order[start : start + batch_size]
        whole = len(batch) // microbatch_size * microbatch_size
        if whole:
            yield batch[:whole].reshape(-1, microbatch_size)
        # A single image may be a single value per feature, which has no variance.
        if len(batch) - whole > 1:
            yield batch[whole:][None]
