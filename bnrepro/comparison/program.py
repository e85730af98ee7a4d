"""The program compiled once for all runs of a config: its data, model, training and evaluation."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from bnrepro.comparison.config import of_test_minibatches, with_settings
from bnrepro.comparison.keys import STEMS
from bnrepro.data.datasets import Dataset
from bnrepro.data.samplers import Sampler, make_sampler
from bnrepro.data.shards import Shards
from bnrepro.data.sources import Examples, Source, fixed_examples, make_draw, take_images
from bnrepro.data.streams import stream
from bnrepro.models import make_network, make_normalizer
from bnrepro.models.networks import DTYPES
from bnrepro.training.devices import DATA, Devices, all_or_none
from bnrepro.training.evaluation import Batches, Totals, evaluate, in_batches, measure_once
from bnrepro.training.loop import TrainSteps, make_train_steps
from bnrepro.training.measures import make_measure
from bnrepro.training.optimizers import make_optimizer
from bnrepro.training.state import Build, Numbers, TrainState, initial_states, run_keys
from bnrepro.training.step import Task

# At most this many test images are used for measures at evaluations; so many by a large network or
# of a stream.
_MEASURED, _FEW_MEASURED = 10_000, 1_000
# Steps per dispatch of a network whose step takes a while, so that it reacts to a signal.
_STEPS_AT_ONCE = dict.fromkeys(STEMS, 5)


class Data(NamedTuple):
    """The data that a variant is trained and evaluated on.

    Attributes:
      source: of its minibatches.
      train: images and labels of the training set.
      test: the test set.
      others: further sets to evaluate on: `holdout`, the images held out of training, and
        `train_set`, training images.
      test_sampler: draws minibatches of test images, for `test_minibatches`; or None.
      num_classes: number of labels.
    """

    source: Source
    train: tuple[Any, np.ndarray]
    test: Examples
    others: Mapping[str, Examples]
    test_sampler: Sampler | None
    num_classes: int


def make_data(config: Mapping[str, Any], dataset: Dataset) -> Data:
    """The data that a variant with this config is trained and evaluated on.

    Raises:
      ValueError: the data set cannot supply such images or minibatches, or its images are too small
        for the network or leave Batch Norm single values.
    """
    evaluation, digits, augment = config["evaluation"], config["digits"], config["augment"]
    holdout, examples = evaluation["holdout"], evaluation["train_examples"]
    size = len(dataset.train_labels)
    if holdout >= size:
        raise ValueError(
            f"evaluation.holdout must leave some of the {size:,} training images, got {holdout:,}"
        )
    dataset, size = dataset.hold_out(holdout), size - holdout
    if examples > size and digits == 1 and not dataset.stand_in:
        raise ValueError(
            f"evaluation.train_examples must be at most {size:,}, the size of the training set, "
            f"got {examples:,}"
        )
    classes, preprocess = len(dataset.class_names), preprocessing(config)
    num_classes = classes**digits
    streamed = isinstance(dataset.train_images, Shards)
    if augment == "inception" and not (streamed and dataset.train_images.shape[2] == 3):
        raise ValueError(
            "augment inception takes colour images from a stream, which "
            f"{dataset.name} does not have"
        )

    def sampler(labels: np.ndarray, config: Mapping[str, Any] = config) -> Sampler:
        return make_sampler(
            **config["sampler"], labels=labels, batch_size=config["batch_size"], digits=digits
        )

    def take(arrays: Any, drawn: Any) -> dict[str, Array]:
        batch = take_images(arrays, drawn, classes=classes, digits=digits)
        return {**batch, "images": preprocess(batch["images"])}

    def all_of(images: Any, labels: np.ndarray) -> Examples:
        # With several images per picture, there is at least one picture of each label.
        count = len(labels) if digits == 1 else max(len(labels), num_classes)
        return fixed_examples(images, labels, count, digits)

    train = dataset.train_images, dataset.train_labels
    others = {}
    if dataset.holdout_images is not None and dataset.holdout_labels is not None:
        others["holdout"] = all_of(dataset.holdout_images, dataset.holdout_labels)
    if examples:
        others["train_set"] = fixed_examples(*train, examples, digits)
    draw = make_draw(
        sampler(dataset.train_labels), flip=config["random_flip"], crop=augment == "crop"
    )
    if streamed:
        source = stream(
            *train,
            draw,
            take,
            run_key=lambda seed: run_keys(seed)[1],
            runs=config["seeds"],
            image_size=config["image_size"],
            distorted=augment == "inception",
            workers=config["data_workers"],
        )
    else:
        source = Source(train, draw, take)
    test_sampler = None
    if evaluation["minibatches"]:
        test_sampler = sampler(dataset.test_labels, of_test_minibatches(config))
    most = _STEPS_AT_ONCE.get(config["model"]["name"], source.steps_at_once)
    data = Data(
        source=source._replace(steps_at_once=min(most, source.steps_at_once)),
        train=train,
        test=all_of(dataset.test_images, dataset.test_labels),
        others=others,
        test_sampler=test_sampler,
        num_classes=num_classes,
    )
    _check_images(config, data)
    return data


def _check_images(config: Mapping[str, Any], data: Data) -> None:
    """Makes sure that images are large enough, and for Batch Norm minibatches.

    Raises:
      ValueError: they are not.
    """
    image, network = example_input(data), config["model"]
    stems, (_, height, width, _) = STEMS.get(network["name"], {}), image.shape
    smallest = stems.get(network["stem_stride"] or next(iter(stems), 0), 0)
    if min(height, width) < smallest:
        raise ValueError(
            f"{network['name']} with this model.stem_stride takes images of at least {smallest} x "
            f"{smallest}, got {height} x {width}: use larger images, or a smaller stride if there "
            "is one"
        )
    tested = of_test_minibatches(config) if config["evaluation"]["minibatches"] else config
    name, sizes = config["normalizer"]["name"], {c["microbatch_size"] for c in (config, tested)}
    if not name.startswith("batch_") or 1 not in sizes:
        return
    # Traced with Batch Norm's own layer: not all of these normalizers refuse a single value.
    model = make_model(with_settings(config, {"normalizer.name": "batch_norm"}), data.num_classes)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image)
    train = partial(model.apply, train=True, deterministic=True, mutable=["batch_stats"])
    try:
        jax.eval_shape(train, variables, image)
    except ValueError:
        raise ValueError(
            f"{name} cannot normalize a microbatch of one image of {height} x {width} pixels, in "
            "training or (evaluation.labels_per_batch) of test images: a layer leaves a single "
            "value per unit or channel, which has no deviation from its own mean to learn from; "
            "use 2 images or more, or group_norm, layer_norm or none"
        ) from None


class Program(NamedTuple):
    """What is compiled once for all runs of a config, for any seeds and numbers.

    Attributes:
      config: what the runs share.
      devices: where they run.
      init: makes the states of all runs before the first step from their seeds and numbers.
      source: of minibatches.
      arrays: the source's, as `train_steps` takes them.
      train_steps: see `make_train_steps`.
      evaluate: see `make_evaluate`.
    """

    config: Mapping[str, Any]
    devices: Devices
    init: Callable[[Any, Any], TrainState]
    source: Source
    arrays: Any
    train_steps: TrainSteps
    evaluate: Callable[[Any, Numbers], dict[str, dict[str, Array]]]


def make_program(config: Mapping[str, Any], data: Data, devices: Devices) -> Program:
    """Makes the program that trains and evaluates runs of `config`.

    Args:
      config: a variant's config.
      data: what it is trained and evaluated on.
      devices: where it is trained.
    """
    build, init, train_steps = make_training(config, data, devices)
    return Program(
        config=config,
        devices=devices,
        init=init,
        source=data.source,
        arrays=devices.place(data.source.arrays),
        train_steps=train_steps,
        evaluate=make_evaluate(config, data, build, devices),
    )


def make_training(
    config: Mapping[str, Any], data: Data, devices: Devices
) -> tuple[Build, Callable[[Any, Any], TrainState], TrainSteps]:
    """What makes model and optimizer of a run, and `init` and `train_steps` of `Program`.

    Moves nothing to the devices.
    """
    source = data.source
    axis_name = devices.axis_name if devices.synchronized else None

    def build(
        numbers: Numbers, axis_name: str | None = None
    ) -> tuple[nn.Module, optax.GradientTransformation]:
        own = with_settings(config, numbers)
        optimizer = make_optimizer(**own["optimizer"], steps=own["steps"])
        return make_model(own, data.num_classes, axis_name), optimizer

    init = partial(
        initial_states,
        build=build,
        example=example_input(data),
        ema_decay=config["ema_decay"],
    )
    # It runs once, and unoptimized it compiles in a third of the time.
    quickly_compiled = jax.jit(
        init,
        out_shardings=devices.sharding,
        compiler_options={"xla_backend_optimization_level": 0},
    )
    train_steps = make_train_steps(
        config,
        build=partial(build, axis_name=axis_name),
        draw=source.draw,
        take=source.take,
        steps_at_once=source.steps_at_once,
        devices=devices,
    )
    return build, quickly_compiled, train_steps


def example_input(data: Data) -> Float[Array, "one height width channels"]:
    """An input of the network; only its shape matters."""
    first, arrays = jax.tree.map(lambda x: x[:1], data.test.drawn), data.test.arrays
    if data.source.read is not None:
        first, arrays = data.source.read(arrays, first, np.ones(1, bool)), ()
    images = jax.eval_shape(data.source.take, arrays, first)["images"]
    return jnp.zeros(images.shape, images.dtype)


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


def make_evaluate(
    config: Mapping[str, Any],
    data: Data,
    build: Callable[[Numbers], tuple[nn.Module, optax.GradientTransformation]],
    devices: Devices,
) -> Callable[[Any, Numbers], dict[str, dict[str, Array]]]:
    """Evaluates the variables of all runs in one compiled call: {split: {metric: (runs,)}}.

    The call also takes the runs' numbers, from which `build` makes the model. A stream takes a
    compiled call for each batch (of each device), and reads the next one meanwhile.

    Splits: `test`, with the measures taken at evaluations, on at most the first 10,000 test images
    (1,000 of a stream, or by Inception and ResNet); the other sets of `data`; and
    `test_minibatches`, minibatches of test images with their own statistics, the same ones at each
    evaluation.
    """
    take, read = data.source.take, data.source.read
    spread = devices.mesh.shape[DATA]
    sets = {"test": data.test, **data.others}
    # Arguments of the compiled function, not constants in it.
    arrays = {split: () if read else devices.place(each.arrays) for split, each in sets.items()}
    # Batches of a stream, or for Inception and ResNet, are no larger than those of training.
    large = read is not None or config["model"]["name"] in STEMS
    parts = config["accumulation_steps"] if large else 1
    size = max(1, config["batch_size"] // (parts * spread)) if large else None
    batches = {
        split: in_batches(examples.drawn, size=size, spread=spread)
        for split, examples in sets.items()
    }
    sizes = dict.fromkeys(sets)
    if data.test_sampler is not None:
        sets["test_minibatches"], arrays["test_minibatches"] = data.test, arrays["test"]
        draw = partial(data.test_sampler, jax.random.key(config["first_seed"]))
        index = jax.vmap(draw)(jnp.arange(config["evaluation"]["minibatches"]))
        drawn, own = {"index": index.reshape(-1, *index.shape[2:])}, of_test_minibatches(config)
        batches["test_minibatches"] = in_batches(
            drawn, size=own["batch_size"] // parts, spread=spread
        )
        sizes["test_minibatches"] = own["microbatch_size"]

    most = _FEW_MEASURED if large else _MEASURED
    first = jax.tree.map(lambda x: x[:most], data.test.drawn)
    if read is None:
        spread_batches = devices.place(batches, spread=True)
    elif config["measures"]:
        with all_or_none():
            first = read(data.test.arrays, first, np.ones(len(first["index"]), bool))
    first = devices.place(first) if config["measures"] else None

    def one_run(run: tuple[Any, Numbers], data: Any, batches: Any) -> Any:
        variables, numbers = run
        model, optimizer = build(numbers)
        arrays, first = data
        totals = {
            split: evaluate(
                variables,
                arrays[split],
                batches[split],
                model=model,
                take=take,
                microbatch_size=sizes[split],
                axis_name=devices.axis_name,
            )
            for split in batches
        }
        if first is None:
            return totals, {}
        measure = make_measure(config["measures"], Task(model, optimizer))
        batch = take(arrays["test"], first)
        return totals, measure_once(variables, batch, model=model, measure=measure)

    all_runs = devices.evaluate(one_run)

    def read_and_sum(run: Any) -> Any:
        assert read is not None
        totals: dict[str, Totals] = {}
        measured: dict[str, Array] = {}
        for split, (drawn, present) in batches.items():
            for start in range(0, len(present), spread):
                part = slice(start, start + spread)
                here = devices.placed_here(*present[part].shape)
                indices = jax.tree.map(lambda x, i=part: x[i], drawn)
                with all_or_none():
                    some = read(sets[split].arrays, indices, here)
                # The devices evaluated the batches before meanwhile; they keep only one.
                jax.block_until_ready(totals)
                batch = devices.place(Batches(some, present[part]), spread=True)
                measuring = first if (split, start) == ("test", 0) else None
                new, measures = all_runs(run, (arrays, measuring), {split: batch})
                before = totals.get(split)
                totals[split] = jax.tree.map(jnp.add, before, new[split]) if before else new[split]
                measured |= measures
        return totals, measured

    def evaluate_all(variables: Any, numbers: Numbers) -> dict[str, dict[str, Array]]:
        run = variables, numbers
        if read is None:
            totals, measured = all_runs(run, (arrays, first), spread_batches)
        else:
            totals, measured = read_and_sum(run)
        splits = {split: sums.means() for split, sums in totals.items()}
        splits["test"] |= measured
        return splits

    return evaluate_all


def preprocessing(config: Mapping[str, Any]) -> Callable[[Array], Array]:
    """The function that turns stored images into the network's input."""
    if config["binary_input"]:
        return lambda images: (images > 127).astype(jnp.float32)
    return lambda images: images.astype(jnp.float32) / 255
