"""Times training of Inception-v3 or ResNet-50 as the experiments do it: `benchmark inception`.

On CPU the images and the width are those of configs/inception.py:narrow and of its preset smoke; on
an accelerator those of its preset tiny. The data set must be there.
"""

import argparse
import resource
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, cast
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from bnrepro.comparison.config import variant_configs, with_settings
from bnrepro.comparison.footprint import allocated
from bnrepro.comparison.program import Program, make_program
from bnrepro.comparison.run import dataset_of, make_job
from bnrepro.comparison.variant import Feed
from bnrepro.models import network
from bnrepro.training.loop import TrainSteps
from configs import inception
from scripts import signed_page
from scripts.benchmark_layers import Call, measure, ratio, repeat
from scripts.benchmark_train import training_call

# Of a dispatch, as in training.
STEPS = 5
PRODUCT, PIPELINE = "matrix product", "reading a stream alone"


ARMS: Mapping[str, Mapping[str, Any]] = {
    "batch_norm": {},
    "batch_renorm": {"normalizer.name": "batch_renorm"},
    "batch_norm, streamed": {"stream": True},
}
# Of the preset smoke, on CPU.
SMOKE: Mapping[str, Mapping[str, Any]] = {
    f"{name}, 16 x 16": {"image_size": 16, "normalizer.name": name}
    for name in ("batch_norm", "batch_renorm")
}
# What the others are compared with.
_FIRST = "batch_norm"
# What bnrepro.models.convolution chooses against on CPU; elsewhere, what the loop over steps costs.
OUTSIDE = "batch_norm, XLA's convolutions, not in a loop"


class Timed(NamedTuple):
    """An arm, ready to be timed."""

    call: Call  # trains a number of dispatches
    reader: Call | None  # of a stream, only reads their minibatches
    compiling: float  # seconds, with tracing
    seconds: float  # from the config to the end of the first step, after reading and compiling
    memory: int  # bytes that its compiled program needs
    flops: float  # of a step


def config_of(name: str, dtype: str) -> dict[str, Any]:
    """The variant with i.i.d. minibatches and Batch Norm of the preset for this machine."""
    preset = "narrow" if jax.default_backend() == "cpu" else "tiny"
    config = inception.get_config(preset).to_dict()
    settings = {"seeds": 1, "measures": (), "evaluation.train_examples": 0}
    settings |= {"model.name": name, "model.dtype": dtype}
    if name == "resnet":
        settings |= {"model.stem_stride": 1, "model.width": 1.0}
    return with_settings(variant_configs(config)["iid batch_norm"], settings)


def page(options: argparse.Namespace) -> str:
    """Times all arms in turn, and returns the table."""
    config, rounds = config_of(options.network, options.dtype), options.rounds
    arms = {**ARMS, **(SMOKE if jax.default_backend() == "cpu" else {})}
    timed = {name: _prepare(with_settings(config, changes)) for name, changes in arms.items()}
    timed[OUTSIDE] = _prepare(config, outside=True)
    length = _length()
    x = jnp.ones((length, length), config["model"]["dtype"])
    calls: list[tuple[str, Call]] = [
        (PRODUCT, partial(repeat, jax.jit(jnp.matmul), (x, x))),
        *((name, arm.call) for name, arm in timed.items()),
    ]
    calls += [(PIPELINE, arm.reader) for arm in timed.values() if arm.reader]
    timings = measure(calls, rounds)
    timings[OUTSIDE] *= STEPS  # a dispatch is a single step

    # In bytes on macOS, in KiB elsewhere.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    device_peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    on_device = "does not say how much" if device_peak is None else f"{device_peak / 1e6:,.0f} MB"
    product = 2 * length**3 / timings[PRODUCT].median()
    rows: dict[str, dict[str, str]] = {}
    for name, (_, _, compiling, seconds, memory, flops) in timed.items():
        milliseconds = timings[name].median() / STEPS
        rows[name] = {
            "images/s": f"{1e3 * config['batch_size'] / milliseconds:,.0f}",
            "of the first's": f"{ratio(timings, _FIRST, name):.3f}",
            "of the matrix product's": f"{flops / milliseconds / product:.2f}",
            "GFLOP a step": f"{flops / 1e9:.1f}",
            "memory, MB": f"{memory / 1e6:,.0f}",
            "compiling, s": f"{compiling:.0f}",
            "to the first step, s": f"{seconds:.0f}",
        }
    if PIPELINE in timings:
        rate = 1e3 * STEPS * config["batch_size"] / timings[PIPELINE].median()
        rows[PIPELINE] = {"images/s": f"{rate:,.0f}"}
    text = f"""\
These are training steps in {config["model"]["dtype"]} as the experiments do them, {STEPS} in a
dispatch, of {config["batch_size"]} images of {config["dataset"]}, {config["image_size"]} x
{config["image_size"]} if they have no other size. Steps that are not in a loop are a dispatch each.
Speeds are medians of {rounds} readings, taken in turn in one process;
ratios are medians of the readings' ratios. The second ratio compares operations per second with a
product of {length:,} x {length:,} matrices of the same type, {product / 1e6:,.0f} GFLOP/s here.
The time to the first step covers reading the data set, drawing the weights, compiling and that
step. The process needed
{peak / 1e6:,.0f} MB at its peak, and the device
{on_device}.
"""
    name = {"inception": "Inception-v3", "resnet": "ResNet-50"}[options.network]
    table = pd.DataFrame.from_dict(rows, orient="index").fillna("")
    return signed_page(f"The speed of {name}", table, text)


def _prepare(config: Mapping[str, Any], *, outside: bool = False) -> Timed:
    begin, steps = perf_counter(), 1 if outside else STEPS
    program = make_program(*make_job("benchmark", dict(config), dataset_of(config)))
    fed, train_steps = Feed(program)([0], 0, steps), cast(Any, program.train_steps)
    states = program.init(np.arange(1), {})
    with _compilers_convolutions() if outside else nullcontext():
        train_steps = _single(train_steps) if outside else train_steps
        start = perf_counter()
        lowered = train_steps.lower(states, program.arrays, fed, 0, steps)
    compiled = lowered.compile()
    compiling = perf_counter() - start
    program = program._replace(train_steps=compiled)
    call = training_call(program, steps)
    training_call(program, 1)(1)
    seconds = perf_counter() - begin
    reader = _reader(program) if config["stream"] else None
    # The body of the loop over steps counts once. A program compiled for a GPU leaves out what it
    # has libraries compute.
    return Timed(
        call, reader, compiling, seconds, allocated(compiled), lowered.cost_analysis()["flops"]
    )


def _compilers_convolutions() -> Any:
    """Networks that are traced within it leave their convolutions to the compiler."""
    return mock.patch.object(network, "convolution", jax.lax.conv_general_dilated)


def _single(train_steps: TrainSteps) -> Any:
    """The same for one step: the compiler removes a loop that it knows to have one iteration."""

    def step(states: Any, arrays: Any, fed: Any, first: Any, steps: Any) -> Any:
        return train_steps(states, arrays, fed, first, 1)

    return jax.jit(step, donate_argnums=0)


def _reader(program: Program) -> Call:
    """Reads the minibatches of a dispatch, and trains on nothing."""
    feed = Feed(program)

    def call(number: int) -> None:
        for i in range(number):
            jax.block_until_ready(feed([0], i * STEPS, STEPS))

    return call


def _length() -> int:
    """The length of the matrices' sides: large enough for full speed."""
    return 2_048 if jax.default_backend() == "cpu" else 8_192
