"""Trains and evaluates all seeds of one variant, from where its checkpoints left it."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from bnrepro.data import Dataset, Sampler
from bnrepro.models import make_network, make_normalizer
from bnrepro.records import Row
from bnrepro.training import (
    MAX_STEPS,
    Checkpoints,
    Devices,
    Probe,
    evaluate,
    evaluate_minibatches,
    fetch,
    initial_states,
    make_optimizer,
    make_train_steps,
)
from bnrepro.training.state import NOT_DIVERGED, TrainState


class Samplers(NamedTuple):
    """How minibatches are drawn from either set; from the test set only if they are asked for."""

    train: Sampler
    test: Sampler | None


def train_variant(
    name: str,
    config: Mapping[str, Any],
    dataset: Dataset,
    *,
    samplers: Samplers,
    devices: Devices,
    checkpoints: Checkpoints,
    should_stop: Callable[[int], bool],
    probe: Probe | None,
) -> Iterator[tuple[int, list[Row]]]:
    """Goes on from the last checkpoint; yields (step, all rows so far) after each evaluation.

    Args:
      name: of the variant.
      config: of the variant.
      dataset: what is trained on.
      samplers: of its minibatches.
      devices: where it is trained.
      checkpoints: where it goes on from, and what it leaves.
      should_stop: asked after some steps, with their number; the state is saved then.
      probe: what to measure at evaluations.
    """
    axis_name = devices.axis_name if devices.synchronized else None
    model, synchronized_model = (
        make_model(config, len(dataset.class_names), axis) for axis in (None, axis_name)
    )
    optimizer = make_optimizer(**config["optimizer"])
    seeds = config["first_seed"] + np.arange(config["seeds"])
    init = partial(
        initial_states,
        model=model,
        optimizer=optimizer,
        example=preprocessing(config)(jnp.asarray(dataset.train_images[:1])),
        ema_decay=config["ema_decay"],
    )
    evaluate_all = make_evaluate(config, dataset, samplers.test, model, devices, probe)
    train_steps = make_train_steps(
        model=synchronized_model,
        optimizer=optimizer,
        sampler=samplers.train,
        preprocess=preprocessing(config),
        microbatch_size=config["microbatch_size"],
        ema_decay=config["ema_decay"],
        devices=devices,
    )
    images, labels = devices.replicate((dataset.train_images, dataset.train_labels))

    step, score = 0, -1.0
    rows: list[Row] = []
    # Loss and accuracy of the steps since the last evaluation, (seeds, steps) each.
    history: dict[str, np.ndarray] = {}
    restored = checkpoints.restore(abstract_fields(init, seeds, devices))
    if restored:
        step, fields, notes = restored
        states = TrainState(**fields)
        rows, score = [tuple(row) for row in notes["rows"]], notes["score"]
        history = {metric: np.array(values) for metric, values in notes["history"].items()}
        yield step, rows
    else:
        states = jax.jit(init, out_shardings=devices.sharding)(seeds)
    states = devices.spread(states)

    def save() -> None:
        kept = {metric: values.tolist() for metric, values in history.items()}
        notes = {"rows": rows, "history": kept, "score": score}
        checkpoints.save(step, vars(devices.gather(states)), notes, score)

    steps, every = config["steps"], config["checkpoint"]["every"]
    while True:
        if step % config["eval_every"] == 0 and (history or not rows):
            states_here = devices.gather(states)
            splits = fetch(evaluate_all(states_here.evaluated))
            splits["train"] = {
                # Whatever the type, so that a resumed run has the same mean.
                metric: values.mean(1, dtype=np.float64)
                for metric, values in history.items()
            }
            rows += _rows(name, step, seeds, splits, fetch(states_here.diverged_at), rows)
            history = {}
            yield step, rows
            finals = [row[5] for row in rows if row[2:5] == (step, "test", "accuracy")]
            if not finals:  # every seed diverged
                return
            score = sum(finals) / len(finals)
            evaluations = step // config["eval_every"]
            if step == steps or (every and step and evaluations % every == 0):
                save()
        if step == steps:
            return
        if should_stop(step):
            save()
            return
        count = min(MAX_STEPS, config["eval_every"] - step % config["eval_every"])
        states, metrics = train_steps(states, images, labels, count)
        history = {
            metric: np.concatenate([history.get(metric, new[:, :0]), new[:, :count]], axis=1)
            for metric, new in fetch(devices.gather(metrics)).items()
        }
        step += count


def _rows(
    name: str,
    step: int,
    seeds: np.ndarray,
    splits: Mapping[str, Mapping[str, np.ndarray]],
    diverged_at: np.ndarray,
    before: list[Row],
) -> list[Row]:
    """What is recorded of one evaluation; of a seed that diverged, that it did, once."""
    out = {row[1] for row in before if row[4] == "diverged"}
    rows: list[Row] = []
    for i, seed in enumerate(seeds.tolist()):
        if seed in out:
            continue
        if diverged_at[i] != NOT_DIVERGED or not math.isfinite(splits["test"]["loss"][i]):
            at = step if diverged_at[i] == NOT_DIVERGED else int(diverged_at[i])
            rows.append((name, seed, at, "train", "diverged", 1.0))
            continue
        rows += [
            (name, seed, step, split, metric, float(values[i]))
            for split, metrics in splits.items()
            for metric, values in metrics.items()
        ]
    return rows


def make_model(
    config: Mapping[str, Any], num_classes: int, axis_name: str | None = None
) -> nn.Module:
    """A variant's model, with minibatch statistics shared over a mapped axis if one is named."""
    return make_network(
        **config["model"],
        num_classes=num_classes,
        normalizer=make_normalizer(
            **config["normalizer"], steps=config["steps"], axis_name=axis_name
        ),
    )


def abstract_fields(init: Callable[[Any], TrainState], seeds: np.ndarray, devices: Devices) -> Any:
    """Shapes, types and shardings of the fields of all seeds' states, as checkpoints have them."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=devices.sharding),
        jax.eval_shape(lambda seeds: vars(init(seeds)), seeds),
    )


def make_evaluate(
    config: Mapping[str, Any],
    dataset: Dataset,
    test_sampler: Sampler | None,
    model: nn.Module,
    devices: Devices,
    probe: Probe | None,
) -> Callable[[Any], dict[str, dict[str, Array]]]:
    """Evaluates the variables of all seeds in one compiled call: {split: {metric: (seeds,)}}.

    Splits: `test`, the whole test set with the stored averages; where the config asks for them,
    `train_set`, the first training images likewise, and `test_minibatches`, minibatches of test
    images with their own statistics, the same ones each time.
    """
    evaluation, preprocess = config["evaluation"], preprocessing(config)
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

    def one_seed(variables: Any, data: Any) -> Any:
        arrays, stored, indices = data
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

    all_seeds = devices.evaluate(one_seed)
    data = devices.place((arrays, stored, indices))
    return lambda variables: all_seeds(variables, data)


def preprocessing(config: Mapping[str, Any]) -> Callable[[Array], Array]:
    """What makes the network's input of stored images."""
    return _binary if config["binary_input"] else _unit_range


def _binary(images: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    return (images > 127).astype(jnp.float32)


def _unit_range(images: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    return images.astype(jnp.float32) / 255
