"""Trains and evaluates all seeds of variants, as one program, from where checkpoints left them."""

import math
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, UInt8

from bnrepro.comparison.config import with_settings
from bnrepro.data import Dataset, Sampler
from bnrepro.models import DTYPES, make_network, make_normalizer
from bnrepro.records import Row, choosing_split
from bnrepro.training import (
    MAX_STEPS,
    Checkpoints,
    Devices,
    Numbers,
    Task,
    TrainSteps,
    evaluate,
    evaluate_minibatches,
    fetch,
    initial_states,
    make_measure,
    make_optimizer,
    make_train_steps,
)
from bnrepro.training.state import NOT_DIVERGED, TrainState

# What each step gives; measures are of some.
_EVERY_STEP = ("loss", "accuracy")


class Samplers(NamedTuple):
    """How minibatches are drawn from either set; from the test set only if they are asked for."""

    train: Sampler
    test: Sampler | None


class Program(NamedTuple):
    """What is compiled once for all runs of a config, whatever their seeds and numbers.

    Attributes:
      config: that they share.
      devices: where they run.
      init: the states of all runs before the first step, from their seeds and numbers.
      train_steps: see `make_train_steps`.
      evaluate: see `make_evaluate`.
      data: images and labels of the training set, as `train_steps` takes them.
    """

    config: Mapping[str, Any]
    devices: Devices
    init: Callable[[Any, Any], TrainState]
    train_steps: TrainSteps
    evaluate: Callable[[Any, Numbers], dict[str, dict[str, Array]]]
    data: tuple[Array, Array]


def make_program(
    config: Mapping[str, Any],
    dataset: Dataset,
    *,
    samplers: Samplers,
    devices: Devices,
) -> Program:
    """What trains and evaluates runs of `config`.

    Args:
      config: of a variant.
      dataset: what is trained on, but for the holdout that the config asks for.
      samplers: of its minibatches.
      devices: where it is trained.
    """
    classes = len(dataset.class_names)
    dataset = dataset.hold_out(config["evaluation"]["holdout"])
    axis_name = devices.axis_name if devices.synchronized else None

    def build(
        numbers: Numbers, axis_name: str | None = None
    ) -> tuple[nn.Module, optax.GradientTransformation]:
        own = with_settings(config, numbers)
        optimizer = make_optimizer(**own["optimizer"], steps=own["steps"])
        return make_model(own, classes, axis_name), optimizer

    init = partial(
        initial_states,
        build=build,
        example=preprocessing(config)(jnp.asarray(dataset.train_images[:1])),
        ema_decay=config["ema_decay"],
    )
    return Program(
        config=config,
        devices=devices,
        init=jax.jit(init, out_shardings=devices.sharding),
        train_steps=make_train_steps(
            build=partial(build, axis_name=axis_name),
            sampler=samplers.train,
            preprocess=preprocessing(config),
            microbatch_size=config["microbatch_size"],
            ema_decay=config["ema_decay"],
            devices=devices,
            measures=config["measures"],
            measure_every=config["measure_every"],
        ),
        evaluate=make_evaluate(config, dataset, samplers.test, build, devices),
        data=devices.replicate((dataset.train_images, dataset.train_labels)),
    )


def compiled_once(program: Program) -> Program:
    """The same for several threads: one compiles a function while the others wait for it."""

    def once(function: Callable[..., Any]) -> Callable[..., Any]:
        lock, compiled = threading.Lock(), threading.Event()

        def call(*arguments: Any) -> Any:
            if compiled.is_set():
                return function(*arguments)
            with lock:
                result = function(*arguments)
                compiled.set()
                return result

        return call

    return program._replace(train_steps=once(program.train_steps), evaluate=once(program.evaluate))


def train_variants(
    program: Program,
    variants: Mapping[str, Mapping[str, float]],
    *,
    checkpoints: Checkpoints | None = None,
    should_stop: Callable[[int], bool] = lambda step: False,
    dropped: Collection[str] = (),
) -> Iterator[tuple[int, list[Row]]]:
    """Goes on from the last checkpoint; yields (step, all rows so far) after each evaluation.

    Args:
      program: made for their config.
      variants: their names, each with the numbers in which it differs from that config, by flat
        key; the keys are the same for all.
      checkpoints: where it goes on from, and what it leaves, if anything.
      should_stop: asked after some steps, with their number; the state is saved then.
      dropped: variants to train no further; looked at after each evaluation.
    """
    config, devices = program.config, program.devices
    all_seeds = (config["first_seed"] + np.arange(config["seeds"])).tolist()
    runs = [(name, seed) for name in variants for seed in all_seeds]
    keys = next(iter(variants.values()))
    numbers = {key: np.array([variants[name][key] for name, _ in runs], np.float32) for key in keys}
    arguments = np.array([seed for _, seed in runs]), numbers

    step, score, split = 0, -1.0, choosing_split(config)
    rows: list[Row] = []
    # Loss and accuracy of the steps since the last evaluation, (runs, steps) each, in pieces: to
    # join them each time would take the square of their number.
    history: list[dict[str, np.ndarray]] = []
    restored = checkpoints and checkpoints.restore(_abstract_fields(program, *arguments))
    if restored:
        step, fields, notes = restored
        states = TrainState(**fields)
        rows, score = [tuple(row) for row in notes["rows"]], notes["score"]
        if notes["history"]:
            history = [{metric: np.array(kept) for metric, kept in notes["history"].items()}]
        yield step, rows
    else:
        states = program.init(*arguments)
    states = devices.spread(states)

    def save() -> None:
        if checkpoints is not None:
            kept = {metric: values.tolist() for metric, values in _joined(history).items()}
            # A copy: they are written in the background, while more rows come.
            notes = {"rows": list(rows), "history": kept, "score": score}
            checkpoints.save(step, vars(devices.gather(states)), notes, score)

    steps, every = config["steps"], config["checkpoint"]["every"]
    while True:
        if step % config["eval_every"] == 0 and (history or not rows):
            states_here = devices.gather(states)
            splits = fetch(program.evaluate(states_here.evaluated, states_here.numbers))
            splits["train"] = {
                # Whatever the type, so that a resumed run has the same mean.
                metric: values.mean(1, dtype=np.float64)
                for metric, values in _joined(history).items()
                if values.shape[1]  # steps without a measure between two evaluations
            }
            rows += _rows(runs, step, splits, fetch(states_here.diverged_at), rows)
            history = []
            yield step, rows
            finals = [row[5] for row in rows if row[2:5] == (step, split, "accuracy")]
            if not finals:  # all diverged
                return
            score = sum(finals) / len(finals)
            evaluations = step // config["eval_every"]
            if step == steps or (every and step and evaluations % every == 0):
                save()
            kept = [i for i, (name, _) in enumerate(runs) if name not in dropped]
            if not kept:
                return
            # Fewer runs are another program to compile: not for a few.
            if 2 * len(kept) <= len(runs):
                runs = [runs[i] for i in kept]
                states = devices.spread(devices.select(devices.gather(states), kept))
        if step == steps:
            return
        if should_stop(step):
            save()
            return
        count = min(MAX_STEPS, config["eval_every"] - step % config["eval_every"])
        states, metrics = program.train_steps(states, *program.data, step, count)
        new = fetch(devices.gather(metrics))
        measured = (step + np.arange(count)) % config["measure_every"] == 0
        history.append(
            {
                metric: values[:, :count][:, slice(None) if metric in _EVERY_STEP else measured]
                for metric, values in new.items()
            }
        )
        step += count


def _joined(history: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    # Other measures may have been asked for before a resumption.
    metrics = [metric for metric in history[0] if metric in history[-1]] if history else []
    return {metric: np.concatenate([new[metric] for new in history], axis=1) for metric in metrics}


def _rows(
    runs: Sequence[tuple[str, int]],
    step: int,
    splits: Mapping[str, Mapping[str, np.ndarray]],
    diverged_at: np.ndarray,
    before: list[Row],
) -> list[Row]:
    """What is recorded of one evaluation; of a run that diverged, that it did, once."""
    out = {row[:2] for row in before if row[4] == "diverged"}
    rows: list[Row] = []
    for i, (name, seed) in enumerate(runs):
        if (name, seed) in out:
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
            **config["normalizer"],
            steps=config["steps"],
            axis_name=axis_name,
            dtype=DTYPES[config["model"]["dtype"]],
        ),
    )


def _abstract_fields(program: Program, seeds: Any, numbers: Any) -> Any:
    """Shapes, types and shardings of the fields of all runs' states, as checkpoints have them."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=program.devices.sharding),
        jax.eval_shape(lambda *arguments: vars(program.init(*arguments)), seeds, numbers),
    )


def make_evaluate(
    config: Mapping[str, Any],
    dataset: Dataset,
    test_sampler: Sampler | None,
    build: Callable[[Numbers], tuple[nn.Module, optax.GradientTransformation]],
    devices: Devices,
) -> Callable[[Any, Numbers], dict[str, dict[str, Array]]]:
    """Evaluates the variables of all runs in one compiled call: {split: {metric: (runs,)}}.

    The call takes the runs' numbers, too, of which `build` makes the model.

    Splits: `test`, the whole test set with the stored averages, and what is measured on it; where
    the config asks for them, `holdout` and `train_set`, the images kept from training and the first
    training images, likewise without measures, and `test_minibatches`, minibatches of test
    images with their own statistics, the same ones each time.
    """
    evaluation, preprocess = config["evaluation"], preprocessing(config)
    # Arguments of the compiled function, not constants in it.
    arrays = {"test": (preprocess(jnp.asarray(dataset.test_images)), dataset.test_labels)}
    if dataset.holdout_images is not None and dataset.holdout_labels is not None:
        held = preprocess(jnp.asarray(dataset.holdout_images))
        arrays["holdout"] = (held, dataset.holdout_labels)
    if count := evaluation["train_examples"]:
        first = preprocess(jnp.asarray(dataset.train_images[:count]))
        arrays["train_set"] = (first, dataset.train_labels[:count])
    stored = jnp.asarray(dataset.test_images), jnp.asarray(dataset.test_labels)
    indices = None
    if test_sampler is not None:
        draw = partial(test_sampler, jax.random.key(config["first_seed"]))
        indices = jax.vmap(draw)(jnp.arange(evaluation["minibatches"]))

    def one_run(run: tuple[Any, Numbers], data: Any) -> Any:
        variables, numbers = run
        model, optimizer = build(numbers)
        measure = make_measure(config["measures"], Task(model, optimizer))
        arrays, stored, indices = data
        splits = {
            split: evaluate(
                variables, *data, model=model, measure=measure if split == "test" else None
            )
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

    all_runs = devices.evaluate(one_run)
    data = devices.place((arrays, stored, indices))
    return lambda variables, numbers: all_runs((variables, numbers), data)


def preprocessing(config: Mapping[str, Any]) -> Callable[[Array], Array]:
    """What makes the network's input of stored images."""
    return _binary if config["binary_input"] else _unit_range


def _binary(images: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    return (images > 127).astype(jnp.float32)


def _unit_range(images: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    return images.astype(jnp.float32) / 255
