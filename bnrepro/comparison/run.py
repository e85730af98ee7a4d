"""Trains every variant of a config with all its seeds, and keeps the records."""

import dataclasses
import logging
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, UInt8

from bnrepro.comparison.config import ConfigError, variant_configs
from bnrepro.comparison.provenance import begin
from bnrepro.data import Dataset, Sampler, load_dataset, make_sampler
from bnrepro.models import make_network, make_normalizer
from bnrepro.records import (
    TENSORBOARD,
    RecordsError,
    Row,
    Run,
    metric_rows,
    open_workdir,
    write_events,
    write_run,
)
from bnrepro.training import (
    Probe,
    evaluate,
    evaluate_minibatches,
    initial_states,
    make_optimizer,
    make_train_steps,
)
from bnrepro.training.state import NOT_DIVERGED

# What is measured inside a variant's model, given its config.
MakeProbe = Callable[[Mapping[str, Any]], Probe]
# Told of the variant at work and its steps done so far.
Progress = Callable[[str, int], None]


class Samplers(NamedTuple):
    """How minibatches are drawn from either set; from the test set only if they are asked for."""

    train: Sampler
    test: Sampler | None


_log = logging.getLogger(__name__)


def run_comparison(
    config: Mapping[str, Any],
    workdir: Path,
    *,
    make_probe: MakeProbe | None = None,
    progress: Progress = lambda variant, step: None,
    overwrite: bool = False,
) -> Run:
    """Trains what `workdir` does not hold yet of `config`, and returns all of it.

    Whatever ends it, the workdir is left with complete files of what was measured until then; the
    same call goes on with the variants that are not finished.

    Args:
      config: as plain nested dicts; `configs/mnist_sigmoid.py` explains the keys.
      workdir: where the records go.
      make_probe: what to measure inside the models at each evaluation.
      progress: called at each evaluation, from the thread that trains the variant.
      overwrite: replace what the workdir holds.

    Raises:
      ConfigError: a setting that cannot be.
      DatasetError: a data set that cannot be had.
      RecordsError: a workdir that cannot be used.
    """
    variants = variant_configs(config)
    dataset = load_dataset(config["dataset"], config["data_dir"] or None)
    samplers = {name: _samplers(name, variant, dataset) for name, variant in variants.items()}
    run = open_workdir(workdir, config, overwrite=overwrite)
    if run.provenance and run.provenance["dataset"] != dataset.name:
        raise RecordsError(
            f"{workdir} holds results on {run.provenance['dataset']}, and now there is "
            f"{dataset.name}: choose another --workdir, or --overwrite"
        )
    run = dataclasses.replace(run, provenance=begin(run.provenance, dataset))
    rows: dict[str, list[Row]] = {name: [] for name in run.variants if not run.finished(name)}
    if not rows:
        _log.warning("%s is finished: nothing is trained anew", workdir)
    stop = threading.Event()

    def train(name: str) -> float:
        start = perf_counter()
        probe = make_probe(variants[name]) if make_probe else None
        for step, new_rows in train_variant(name, variants[name], dataset, samplers[name], probe):
            rows[name] += new_rows
            progress(name, step)
            if stop.is_set():
                return 0.0
        if step < config["steps"]:  # every seed diverged
            progress(name, config["steps"])
        return perf_counter() - start

    for name in set(run.variants) - set(rows):
        progress(name, config["steps"])
        if not (workdir / TENSORBOARD / name).exists():
            write_events(run, name)
    # XLA keeps but one CPU core busy with networks this small: each core trains its own variant.
    side_by_side = _cores() if jax.default_backend() == "cpu" else 1
    with ThreadPoolExecutor(side_by_side) as pool:
        try:
            futures = {pool.submit(train, name): name for name in rows}
            for future in as_completed(futures):
                name = futures[future]
                run = _with_rows(run, {name: rows[name]}, {name: round(future.result(), 1)})
                write_events(run, name)
                write_run(run)
        except BaseException:
            # Also when interrupted, what was measured is kept, and complete: at once, lest a
            # second Ctrl-C cut the waiting short, and again with the last evaluations.
            stop.set()
            write_run(_with_rows(run, rows, {}))
            pool.shutdown(cancel_futures=True)
            write_run(_with_rows(run, rows, {}))
            raise
    return run


def _cores() -> int:
    """Cores this process may use; before Python 3.13, those of the machine."""
    count = getattr(os, "process_cpu_count", os.cpu_count)()
    return count or 1


def _with_rows(run: Run, rows: Mapping[str, list[Row]], seconds: Mapping[str, float]) -> Run:
    """The run with new rows of some variants, in the order of the variants, and their times."""
    parts = {name: run.metrics[run.metrics["variant"] == name] for name in run.variants}
    parts |= {name: metric_rows(new) for name, new in rows.items()}
    return dataclasses.replace(
        run,
        metrics=pd.concat(parts.values(), ignore_index=True),
        provenance=run.provenance | {"seconds": run.provenance["seconds"] | seconds},
    )


def train_variant(
    name: str,
    config: Mapping[str, Any],
    dataset: Dataset,
    samplers: Samplers,
    probe: Probe | None,
) -> Iterator[tuple[int, list[Row]]]:
    """Trains all seeds of one variant; yields (step, rows for the records) at each evaluation."""
    model = make_network(
        **config["model"],
        num_classes=len(dataset.class_names),
        normalizer=make_normalizer(**config["normalizer"], steps=config["steps"]),
    )
    optimizer = make_optimizer(**config["optimizer"])
    preprocess = _binary if config["binary_input"] else _unit_range
    images, labels = jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels)
    seeds = config["first_seed"] + np.arange(config["seeds"])

    evaluate_all = _make_evaluate(config, dataset, samplers.test, model, preprocess, probe)
    train_steps = make_train_steps(
        config["eval_every"],
        model=model,
        optimizer=optimizer,
        sampler=samplers.train,
        preprocess=preprocess,
        microbatch_size=config["microbatch_size"],
        ema_decay=config["ema_decay"],
    )
    states = initial_states(
        jnp.asarray(seeds),
        model=model,
        optimizer=optimizer,
        example=preprocess(images[:1]),
        ema_decay=config["ema_decay"],
    )

    diverged: set[int] = set()
    train_metrics: dict[str, Array] = {}
    for step in range(0, config["steps"] + 1, config["eval_every"]):
        if step > 0:
            states, train_metrics = train_steps(states, images, labels)
        splits = jax.device_get({"train": train_metrics, **evaluate_all(states.evaluated)})
        diverged_at = np.asarray(states.diverged_at)

        rows = []
        for i, seed in enumerate(seeds.tolist()):
            if i in diverged:
                continue
            if diverged_at[i] != NOT_DIVERGED or not math.isfinite(splits["test"]["loss"][i]):
                diverged.add(i)
                at = step if diverged_at[i] == NOT_DIVERGED else int(diverged_at[i])
                rows.append((name, seed, at, "train", "diverged", 1.0))
                continue
            rows += [
                (name, seed, step, split, metric, float(values[i]))
                for split, metrics in splits.items()
                for metric, values in metrics.items()
            ]
        yield step, rows
        if len(diverged) == len(seeds):
            return


def _make_evaluate(
    config: Mapping[str, Any],
    dataset: Dataset,
    test_sampler: Sampler | None,
    model: nn.Module,
    preprocess: Callable[[Array], Array],
    probe: Probe | None,
) -> Callable[[Any], dict[str, dict[str, Array]]]:
    """Evaluates the variables of all seeds in one compiled call: {split: {metric: (seeds,)}}.

    Splits: `test`, the whole test set with the stored averages; where the config asks for them,
    `train_set`, the first training images likewise, and `test_minibatches`, minibatches of test
    images with their own statistics, the same ones each time.
    """
    evaluation = config["evaluation"]
    # Arguments of the compiled function, not constants in it.
    arrays = {"test": (preprocess(jnp.asarray(dataset.test_images)), dataset.test_labels)}
    if count := evaluation["train_examples"]:
        first = preprocess(jnp.asarray(dataset.train_images[:count]))
        arrays["train_set"] = (first, dataset.train_labels[:count])
    stored = jnp.asarray(dataset.test_images), jnp.asarray(dataset.test_labels)
    indices = None
    if test_sampler is not None:
        draw = partial(test_sampler, jax.random.key(config["first_seed"]))
        indices = jax.vmap(draw)(jnp.arange(evaluation["minibatches"]))

    def one_seed(variables: Any, arrays: Any, stored: Any, indices: Any) -> Any:
        splits = {
            split: evaluate(variables, *data, model=model, probe=probe if split == "test" else None)
            for split, data in arrays.items()
        }
        if indices is not None:
            splits["test_minibatches"] = evaluate_minibatches(
                variables,
                indices,
                *stored,
                model=model,
                preprocess=preprocess,
                microbatch_size=config["microbatch_size"],
            )
        return splits

    @jax.jit
    def all_seeds(variables: Any, *data: Any) -> Any:
        # One after the other: what a convolution makes of a whole set takes much memory.
        return jax.lax.map(lambda variables: one_seed(variables, *data), variables)

    return lambda variables: all_seeds(variables, arrays, stored, indices)


def _samplers(name: str, config: Mapping[str, Any], dataset: Dataset) -> Samplers:
    examples, count = config["evaluation"]["train_examples"], len(dataset.train_labels)
    if examples > count:
        raise ConfigError(
            f"variant {name}: evaluation.train_examples must be at most {count:,}, the size of the "
            f"training set, got {examples:,}"
        )
    make = partial(make_sampler, **config["sampler"], batch_size=config["batch_size"])
    try:
        return Samplers(
            train=make(labels=dataset.train_labels),
            test=make(labels=dataset.test_labels) if config["evaluation"]["minibatches"] else None,
        )
    except ValueError as error:
        raise ConfigError(f"variant {name}: {error}") from None


def _binary(images: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    return (images > 127).astype(jnp.float32)


def _unit_range(images: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    return images.astype(jnp.float32) / 255
