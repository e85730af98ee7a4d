"""What one training step takes on each device, from the program compiled for it.

Nothing is placed on the devices, so they may only be described (`jax.experimental.topologies`), and
so may the data set (`describe_dataset`).
"""

import dataclasses
import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, NamedTuple

import jax
import numpy as np

from bnrepro.comparison.config import with_settings
from bnrepro.comparison.program import Data, example_input, make_training, preprocessing
from bnrepro.comparison.run import Job
from bnrepro.data.sources import Examples, Source
from bnrepro.errors import first_line
from bnrepro.training.devices import SEEDS
from bnrepro.training.state import TrainState

_KINDS = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
# An instruction of HLO text: `%name = type kind(operands)`. Of one split into start and done only
# the latter, since the type of a start may hold the operands, too.
_COLLECTIVE = re.compile(rf"^\s*(?:ROOT )?\S+ = (.*?) ({_KINDS})(?:-done)?\(", re.MULTILINE)
# A computation of HLO text, by its name; and, of a line of one, the computations it runs, and how
# often if it is a loop whose length is known.
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) [^\n]*\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_CALLED = re.compile(r"(?:body|calls|to_apply|_computations?)=\{?((?:%?[\w.-]+(?:, )?)+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r"(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
# Dispatches of one step that are timed.
_TIMED = 5


class DoesNotFitError(Exception):
    """A program needs more memory than a device has; the message is the compiler's."""


class Collective(NamedTuple):
    """Collective operations of one kind.

    Attributes:
      number: of operations in a step.
      bytes: that a device gets from them, without padding.
    """

    number: int
    bytes: int


class Footprint(NamedTuple):
    """What one step of all runs takes on each device.

    Attributes:
      seeds: devices along which the runs are spread.
      data: devices along which each batch is spread.
      parameters: bytes of the parameters of the runs on the device, without padding.
      arguments: bytes of the states, and of the data set or the minibatch that is fed.
      outputs: bytes of the new states, which take the place of the old, and of the metrics.
      temporaries: bytes of everything in between.
      memory: bytes to be allocated in all, with the program's own.
      flops: floating-point operations.
      bytes_moved: between memory and processor, as the compiler counts them.
      compiler_seconds: the compiler's estimate of the time without communication; None if it does
        not know the time of some operation.
      collectives: by kind, such as "all-reduce".
    """

    seeds: int
    data: int
    parameters: int
    arguments: int
    outputs: int
    temporaries: int
    memory: int
    flops: float
    bytes_moved: float
    compiler_seconds: float | None
    collectives: Mapping[str, Collective]


class Step(NamedTuple):
    """A step of all runs, compiled.

    Attributes:
      job: what it was made from.
      init: see `Program`.
      fed: a black minibatch for each run (runs, 1, microbatches, size, ...) if the data set is
        streamed; otherwise nothing.
      compiled: called like `train_steps`.
      counted: the same for one of the parts that the gradient is computed in, and fed. Of a loop
        over parts, a compiler counts one, and of images taken from the devices, all as moved.
    """

    job: Job
    init: Callable[[Any, Any], TrainState]
    fed: Any
    compiled: jax.stages.Compiled
    counted: jax.stages.Compiled


def compile_step(job: Job) -> Step:
    """Compiles what trains, for one step in a dispatch.

    A compiler counts the body of a loop once, but would count the drawing of the minibatches of all
    the steps that a dispatch may take.

    Raises:
      DoesNotFitError: it needs more memory than a device has.
    """
    config = job.config
    data = job.data._replace(source=job.data.source._replace(steps_at_once=1))
    parts = config["accumulation_steps"]
    sizes = {"batch_size": config["batch_size"] // parts, "accumulation_steps": 1}
    part = with_settings(config, sizes)
    devices = dataclasses.replace(job.devices, padding=job.devices.padding // parts)
    streamed, fed = _streamed(part, data)
    init, counted = _compile(Job(part, streamed, devices), fed)
    if config["stream"] and parts == 1:
        return Step(job._replace(data=streamed), init, fed, counted, counted)
    data, fed = _streamed(config, data) if config["stream"] else (data, ())
    init, compiled = _compile(job._replace(data=data), fed)
    return Step(job._replace(data=data), init, fed, compiled, counted)


def _compile(job: Job, fed: Any) -> tuple[Any, jax.stages.Compiled]:
    config, data, devices = job
    made: tuple[Any, Any, Any] = make_training(config, data, devices)
    _, init, train_steps = made
    states = jax.eval_shape(init, np.arange(config["seeds"]), {})
    arguments = devices.abstract(states, data.source.arrays, fed)
    try:
        return init, train_steps.lower(*arguments, 0, 1).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFitError(first_line(error)) from error


def _streamed(config: Mapping[str, Any], data: Data) -> tuple[Data, Any]:
    """The data as if its images were fed, and a black minibatch for each run."""
    preprocess, shape = preprocessing(config), example_input(data).shape[1:]

    def take(arrays: Any, drawn: Any) -> Any:
        return {**drawn, "images": preprocess(drawn["images"])}

    def black(*batch: int) -> dict[str, np.ndarray]:
        images = np.broadcast_to(np.uint8(0), (*batch, *shape))
        return {"images": images, "labels": np.zeros(batch, np.int32)}

    size = config["microbatch_size"]
    fed = black(config["seeds"], 1, config["batch_size"] // size, size)
    source = Source((), None, take, steps_at_once=1)
    return data._replace(source=source, test=Examples((), black(1))), fed


def footprint(step: Step) -> Footprint:
    """What the compiler says about a step."""
    config, _, devices = step.job
    mesh = devices.mesh.shape
    states = jax.eval_shape(step.init, np.arange(config["seeds"]), {})
    parameters = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(states.params))
    memory: Any = step.compiled.memory_analysis()
    cost: Any = step.counted.cost_analysis()
    parts = config["accumulation_steps"]
    # An operation whose time is unknown counts -1 s.
    seconds = cost.get("optimal_seconds", -1.0)
    return Footprint(
        seeds=mesh[SEEDS],
        data=devices.mesh.size // mesh[SEEDS],
        parameters=parameters // mesh[SEEDS],
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        memory=allocated(step.compiled),
        flops=parts * cost["flops"],
        bytes_moved=parts * cost["bytes accessed"],
        compiler_seconds=parts * seconds if seconds > 0 else None,
        collectives=collectives(step.compiled.as_text() or ""),
    )


def allocated(compiled: jax.stages.Compiled) -> int:
    """Bytes to be allocated on a device for a compiled program, with its own."""
    memory: Any = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return int(held + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes)


def collectives(hlo: str) -> dict[str, Collective]:
    """The collective operations in the text of a compiled HLO module, by kind.

    Each counts as often as its loop runs it; once if that is not known beforehand.
    """
    number: Counter[str] = Counter()
    size: Counter[str] = Counter()
    found = _COMPUTATION.findall(hlo)
    texts = {name: text for _, name, text in found}

    def count(text: str, times: int) -> None:
        for type_, kind in _COLLECTIVE.findall(text):
            number[kind] += times
            for _, bits, shape in _ARRAY.findall(type_):
                values = math.prod(int(length) for length in shape.split(",") if length)
                size[kind] += times * values * int(bits or 8) // 8
        for line in text.splitlines():
            trips = _TRIPS.search(line)
            for names in _CALLED.findall(line):
                for name in names.replace("%", "").split(", "):
                    count(texts.get(name, ""), times * (int(trips[1]) if trips else 1))

    count("".join(text for entry, _, text in found if entry), 1)
    return {kind: Collective(number[kind], size[kind]) for kind in sorted(number)}


def measured_seconds(step: Step) -> float:
    """The median time of a dispatch of one step on devices that are there, on black images."""
    config, data, devices = step.job
    seeds = config["first_seed"] + np.arange(config["seeds"])
    states = step.init(seeds, {})
    arrays, fed = devices.place(data.source.arrays), devices.feed(step.fed) if step.fed else ()
    times = []
    for number in range(_TIMED + 1):
        start = perf_counter()
        states, metrics = step.compiled(states, arrays, fed, number, 1)
        jax.block_until_ready((states, metrics))
        times.append(perf_counter() - start)
    return statistics.median(times[1:])  # the first warms up
