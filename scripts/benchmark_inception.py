"""Times training of Inception-v3 as the experiments do it: `benchmark inception`.

On CPU the network and images are those of configs/inception.py:narrow; on an accelerator those of
its preset tiny, with ResNet-50 and bfloat16 beside. The data set must be there.
"""

import json
import resource
from collections.abc import Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from bnrepro.comparison.config import variant_configs, with_settings
from bnrepro.comparison.footprint import allocated
from bnrepro.comparison.program import Program, make_program
from bnrepro.comparison.run import make_job
from bnrepro.comparison.variant import Feed
from bnrepro.data import load_dataset
from configs import inception
from scripts.benchmark_layers import Call, measure, repeat
from scripts.benchmark_train import training_call

# Of a dispatch, as in training.
STEPS = 5
PRODUCT, PIPELINE = "matrix product", "reading a stream alone"
_LENGTH = 2_048  # of the sides of the matrices


class Arm(NamedTuple):
    """What is timed.

    Attributes:
      name: of the row.
      changes: of the config's settings, by flat key.
      reference: the row that its speed is compared with.
    """

    name: str
    changes: Mapping[str, Any]
    reference: str


class Timed(NamedTuple):
    """An arm, ready to be timed.

    Attributes:
      arm: what it is.
      call: trains a number of dispatches.
      reader: of a stream, only reads their minibatches.
      seconds: from the config to the end of the first: reading, compiling and its steps.
      memory: bytes that its compiled program needs.
      flops: of a step.
    """

    arm: Arm
    call: Call
    reader: Call | None
    seconds: float
    memory: int
    flops: float


def default_config() -> dict[str, Any]:
    """The variant with i.i.d. minibatches and Batch Norm of the preset for this machine."""
    preset = "narrow" if jax.default_backend() == "cpu" else "tiny"
    config = json.loads(json.dumps(inception.get_config(preset).to_dict()))
    settings = {"seeds": 1, "measures": (), "evaluation.train_examples": 0}
    return with_settings(variant_configs(config)["iid batch_norm"], settings)


def default_arms() -> list[Arm]:
    """Both layers, and a stream; on an accelerator of each network and type."""
    renorm, stream = {"normalizer.name": "batch_renorm"}, {"stream": True}
    if jax.default_backend() == "cpu":
        return [
            Arm("batch_norm", {}, "batch_norm"),
            Arm("batch_renorm", renorm, "batch_norm"),
            Arm("batch_norm, streamed", stream, "batch_norm"),
        ]
    arms = []
    for network in ("inception", "resnet"):
        for dtype in ("float32", "bfloat16"):
            first = f"{network} {dtype} batch_norm"
            own: dict[str, Any] = {"model.dtype": dtype}
            if network == "resnet":
                own |= {"model.name": "resnet", "model.stem_stride": 1}
            arms += [
                Arm(first, own, first),
                Arm(first.replace("norm", "renorm"), own | renorm, first),
                Arm(f"{first}, streamed", own | stream, first),
            ]
    return arms


def report(config: Mapping[str, Any], arms: Sequence[Arm], rounds: int) -> tuple[Any, str]:
    """Times all arms in turn, and returns the table and its caption."""
    timed = [_prepare(config, arm) for arm in arms]
    calls = [(PRODUCT, _product()), *((each.arm.name, each.call) for each in timed)]
    calls += [(PIPELINE, each.reader) for each in timed if each.reader][:1]
    timings = measure(lambda _: calls, 1, rounds)

    product = 2 * _LENGTH**3 / timings.median(PRODUCT)
    rows: dict[str, dict[str, str]] = {}
    for arm, _, _, seconds, memory, flops in timed:
        milliseconds = timings.median(arm.name) / STEPS
        rows[arm.name] = {
            "images/s": f"{1e3 * config['batch_size'] / milliseconds:,.0f}",
            "of the first's": f"{timings.ratio(arm.reference, arm.name):.3f}",
            "of the matrix product's": f"{flops / milliseconds / product:.2f}",
            "GFLOP a step": f"{flops / 1e9:.1f}",
            "memory, MB": f"{memory / 1e6:,.0f}",
            "to the first dispatch, s": f"{seconds:.0f}",
        }
    if PIPELINE in timings.readings:
        rate = 1e3 * STEPS * config["batch_size"] / timings.median(PIPELINE)
        rows[PIPELINE] = {"images/s": f"{rate:,.0f}"}
    text = f"""\
These are training steps as the experiments do them, {STEPS} in a dispatch, of
{config["batch_size"]} images of {config["dataset"]}, {config["image_size"]} x
{config["image_size"]}. Speeds are medians of {rounds} readings, taken in turn in one process;
ratios are medians of the readings' ratios. The first ratio is to the row of the same network and
type with Batch Norm and images on the device. The second compares operations per second with a
product of {_LENGTH:,} x {_LENGTH:,} float32 matrices, {product / 1e6:,.0f} GFLOP/s here.
The time to the first dispatch covers reading the data set, compiling, and {STEPS} steps. The
process needed
{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:,.0f} MB at its peak, and the device
{_device_peak()}.
"""
    return pd.DataFrame.from_dict(rows, orient="index").fillna(""), text


def _prepare(config: Mapping[str, Any], arm: Arm) -> Timed:
    begin = perf_counter()
    own = with_settings(config, arm.changes)
    dataset = load_dataset(
        own["dataset"],
        own["data_dir"] or None,
        image_size=own["image_size"],
        stream=own["stream"],
    )
    program = make_program(*make_job(arm.name, own, dataset))
    fed, train_steps = Feed(program)([0], 0, STEPS), cast(Any, program.train_steps)
    states = program.init(np.arange(1), {})
    compiled = train_steps.lower(states, program.arrays, fed, 0, STEPS).compile()
    call = training_call(program._replace(train_steps=compiled), STEPS)
    call(1)
    seconds = perf_counter() - begin
    reader = _reader(program) if own["stream"] else None
    # The body of the loop over steps counts once.
    return Timed(arm, call, reader, seconds, allocated(compiled), compiled.cost_analysis()["flops"])


def _reader(program: Program) -> Call:
    """Reads the minibatches of a dispatch, and trains on nothing."""
    feed = Feed(program)

    def call(number: int) -> None:
        for i in range(number):
            jax.block_until_ready(feed([0], i * STEPS, STEPS))

    return call


def _product() -> Call:
    x = jnp.ones((_LENGTH, _LENGTH), jnp.float32)
    return partial(repeat, jax.jit(jnp.matmul), (x, x))


def _device_peak() -> str:
    statistics = jax.devices()[0].memory_stats() or {}
    peak = statistics.get("peak_bytes_in_use")
    return "does not say how much" if peak is None else f"{peak / 1e6:,.0f} MB"
