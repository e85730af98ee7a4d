r"""Plans a training on TPUs that are not there: memory, work, communication and hours per chip.

    python -m scripts.plan --config=configs/labels_and_depth.py --topology=v5e:2x2 \
        --topology=v5e:4x4 --output=results/scale/labels_and_depth.csv

Compiles one step of the variant, as the experiments run it, for each slice. The machine needs no
TPU, only its compiler (pip install ".[tpu]"); MNIST and ImageNet need not be there either. If
a step does not fit a chip, settings that make it smaller are named and planned with. Without
--topology, a step is timed on the devices of this machine. With --vary, as in scripts.sweep, each
combination of the values is planned, and the table has a row for each:

    --vary "devices.strategy=jit,pmap" --vary "model.dtype=float32,bfloat16"
"""

import importlib.util
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
from absl import flags
from ml_collections import config_flags

from bnrepro.comparison.config import check_config, variant_configs, with_settings
from bnrepro.comparison.keys import STEMS, check_setting
from bnrepro.errors import UserError, exit_codes
from bnrepro.records import check_output, complete_file
from bnrepro.report import commands
from bnrepro.report.tables import print_table
from experiments import cli

if TYPE_CHECKING:
    import jax

    from bnrepro.comparison.run import Job
    from bnrepro.data.datasets import Dataset


class Chip(NamedTuple):
    """What a chip can do at best, as cloud.google.com/tpu/docs publishes it."""

    memory: float  # in bytes
    flops: float  # bfloat16, per second; products of float32 matrices are computed in it by default
    bandwidth: float  # of the memory, in bytes per second
    interconnect: float  # bytes per second to others: half of the published sum of both directions
    largest: tuple[int, ...]  # slice: chips along each side, in ascending order


CHIPS = {
    "v5e": Chip(16 * 2**30, 197e12, 819e9, 200e9, (16, 16)),
    "v5p": Chip(95 * 2**30, 459e12, 2_765e9, 600e9, (16, 16, 24)),
    "v6e": Chip(32 * 2**30, 918e12, 1_600e9, 400e9, (16, 16)),
}
LOCAL = "this machine"


@exit_codes()
def main() -> None:
    """Plans what the command line describes.

    Exit codes: 0 done; 2 a usage error, reported in one sentence on stderr.
    """
    flags.DEFINE_multi_string(
        "topology", [], "A slice, such as v5e:4x4 or v5p:2x2x1; once for each."
    )
    flags.DEFINE_string("variant", None, "A variant of the config; by default, its baseline.")
    flags.DEFINE_multi_string("vary", [], "KEY=A,B,..: plan with each; once for each key.")
    flags.DEFINE_string("output", None, "A CSV file for the numbers.")
    config = cli.parse_config(__doc__ or "")
    topologies = list(dict.fromkeys(flags.FLAGS.topology))
    variant = flags.FLAGS.variant or config.get("baseline", "")
    flag = flags.FLAGS["config"]
    overrides = config_flags.get_override_values(flag)
    for topology in topologies:
        _check(topology)
    variants = config.get("variants", {})
    if variant not in variants:
        known = ", ".join(map(str, variants)) or "none"
        raise UserError(f"--variant is unknown: {variant!r}; the config has {known}")
    chosen = {**config, "variants": {variant: variants[variant]}, "baseline": variant}

    # Imported only now, so that --help and a mistyped flag need not wait for JAX.
    from bnrepro.data.descriptions import describe_dataset

    cli.quiet_logging()
    settings = variant_configs(chosen)[variant]
    cli.check_overrides(chosen, overrides)
    points = _points(settings, flags.FLAGS.vary, overrides)
    output = Path(flags.FLAGS.output) if flags.FLAGS.output is not None else None
    if output:
        check_output(output)

    @cache
    def described(name: str, folder: str, size: int, stream: bool) -> "Dataset":
        return describe_dataset(name, folder or None, image_size=size, stream=stream)

    configs = [with_settings(settings, point) for point in points]
    keys = ("dataset", "data_dir", "image_size", "stream")
    datasets = [described(*(config[key] for key in keys)) for config in configs]
    rows = [
        {
            "config": config_flags.get_config_filename(flag),
            "overrides": " ".join(commands.config_flags({**overrides, **point})),
            "variant": variant,
        }
        | plan(config, dataset, variant, topology)
        for (point, config, dataset), topology in product(
            zip(points, configs, datasets, strict=True), topologies or [LOCAL]
        )
    ]
    records = pd.DataFrame(rows)
    if output:
        with complete_file(output) as path:
            records.to_csv(path, index=False)
    print_table(*report(records))


def _check(topology: str) -> None:
    chip, _, size = topology.partition(":")
    if chip not in CHIPS:
        known = ", ".join(CHIPS)
        raise UserError(f"--topology is CHIP:SIZE with one of {known}, got {topology!r}")
    # Of other dimensions, the compiler would plan for a slice that does not exist; of a longer
    # side, it aborts.
    sides, largest = size.split("x"), CHIPS[chip].largest
    if (
        len(sides) != len(largest)
        or not all(map(str.isdecimal, sides))
        or any(side > most for side, most in zip(sorted(map(int, sides)), largest, strict=True))
    ):
        raise UserError(
            f"--topology of {chip} is a slice such as {chip}:{'x'.join('4' * len(largest))}, of at "
            f"most {'x'.join(map(str, largest))} chips, got {topology!r}"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UserError('--topology needs the compiler for TPUs: pip install ".[tpu]"')


def _points(
    config: dict[str, Any], varied: Sequence[str], overrides: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """All combinations of the values that --vary gives, in which the last key varies fastest."""
    from bnrepro.sweep.space import Range, grid, parse_values, values_by_key

    space = {}
    for key, given in values_by_key(varied).items():
        if key in overrides:
            raise UserError(f"--vary and --config both give {key}: choose one of the two")
        space[key] = values = parse_values(key, given)
        if isinstance(values, Range):
            raise UserError(f"--vary takes the values of {key} one by one, got {given}")
        for value in values:
            check_setting(key, value)
    points = grid(space, None)
    for point in points:
        check_config(with_settings(config, point))
    return points


def plan(
    config: dict[str, Any], dataset: "Dataset", name: str, topology: str
) -> dict[str, str | float | None]:
    """What a step of a variant takes on each chip of a slice, or of this machine; by column.

    Args:
      config: the variant's.
      dataset: what it is trained on; only its sizes matter.
      name: the variant's.
      topology: a slice, or `LOCAL`.

    Raises:
      UserError: there is no such slice; a setting does not fit the data set or the devices; the
        step does not fit a chip, however it is made smaller.
    """
    import jax

    from bnrepro.comparison import footprint
    from bnrepro.comparison.run import make_job

    chip = CHIPS.get(topology.partition(":")[0])
    devices = _described(topology) if chip else jax.devices()
    changes: dict[str, Any] = {}
    if chip and dataset.train_images.nbytes > chip.memory and not config["stream"]:
        changes["stream"] = True  # the compiler would take minutes to refuse
    while True:
        settings = with_settings(config, changes)
        if settings["augment"] == "inception":  # on the host, which no plan is about
            settings["augment"] = "none"
        job = make_job(name, settings, dataset, devices)
        used = job.devices.mesh.size
        if chip and used not in (1, len(devices)):
            raise UserError(
                f"variant {name} can be spread over {used} of the {len(devices)} chips of "
                f"{topology}, but a slice is used as a whole: change seeds, batch_size, "
                "microbatch_size or devices, or choose another slice"
            )
        try:
            step = footprint.compile_step(job)
            break
        except footprint.DoesNotFitError as error:
            smaller = _smaller(job)
            if not smaller:
                even = f" even with {' '.join(commands.config_flags(changes))}" if changes else ""
                raise UserError(f"{name} does not fit {topology}{even}: {error}") from None
            changes |= smaller
    taken = footprint.footprint(step)
    row = {
        "topology": topology,
        "chips": len(devices),
        "changes": " ".join(commands.config_flags(changes)),
        "runs": settings["seeds"],
        "batch_size": settings["batch_size"],
        "steps": settings["steps"],
        **taken._asdict(),
        "collectives": ", ".join(
            f"{each.number} {kind} ({each.bytes / 1e6:,.3g} MB)"
            for kind, each in taken.collectives.items()
        ),
    }
    if chip is None:
        return row | {"jax": jax.__version__, "seconds": footprint.measured_seconds(step)}
    roofline = max(taken.flops / chip.flops, taken.bytes_moved / chip.bandwidth)
    # In an all-reduce, each chip gets parts to add up and then the sums of the other parts.
    moved = sum(
        (2 if kind == "all-reduce" else 1) * each.bytes for kind, each in taken.collectives.items()
    )
    communication = moved / chip.interconnect
    return row | {
        "roofline_seconds": roofline,
        "communication_seconds": communication,
        "seconds": (taken.compiler_seconds or roofline) + communication,
        "jax": jax.__version__,
        "libtpu": version("libtpu"),
    }


def _described(topology: str) -> "Sequence[jax.Device]":
    # Otherwise the compiler looks for the TPU of this machine and complains that there is none.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # Its lock keeps processes from sharing a TPU; several may compile for one that is not there.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    import jax
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"--topology {topology} cannot be described: {error}") from None


def _smaller(job: "Job") -> dict[str, Any] | None:
    """The next setting with which a step takes less memory and still uses all chips.

    Those that change results least come first.
    """
    from bnrepro.training.devices import DATA, SEEDS

    config, mesh = job.config, job.devices.mesh.shape
    model = config["model"]
    if config["seeds"] > mesh[SEEDS]:
        return {"seeds": mesh[SEEDS]}
    if model["name"] in STEMS and not model["remat"]:
        return {"model.remat": True}
    spread = 1 if config["devices"]["synchronized"] else mesh[DATA]
    before = config["accumulation_steps"]
    microbatches = config["batch_size"] // config["microbatch_size"]
    # Parts of a batch without padding need none, either. Those of one with padding might otherwise
    # be spread over fewer chips.
    multiple, fixed = (1, {"devices.data": spread}) if job.devices.padding else (spread, {})

    def at_once(parts: int) -> int:
        return math.ceil(microbatches / (parts * spread))

    for parts in range(before + 1, microbatches + 1):
        if microbatches % (parts * multiple) == 0 and at_once(parts) < at_once(before):
            return {"accumulation_steps": parts, **fixed}
    if model["dtype"] == "float32":
        return {"model.dtype": "bfloat16"}
    return None


def report(records: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The table for a reader, a column for each topology, and its caption.

    Of one setting it shows all numbers. Several have a row each, named by the keys in which they
    differ, with the time of a step and the memory.

    Args:
      records: the rows of `plan`, also as read from a file.
    """
    # A file has nothing where a text is empty.
    texts = {"overrides": "", "changes": "", "collectives": ""}
    records = records.astype(dict.fromkeys(texts, object)).fillna(texts)
    rows: list[Any] = records.to_dict("records")
    first = rows[0]
    local = first["topology"] == LOCAL
    points = {row["overrides"]: shlex.split(row["overrides"]) for row in rows}
    common = [
        flag for flag in points[first["overrides"]] if all(flag in each for each in points.values())
    ]
    runs = {row["runs"] for row in rows}
    several = (
        "" if runs == {1} else "all runs of " if len(runs) > 1 else f"all {runs.pop()} runs of "
    )
    command = " ".join([first["config"], *map(shlex.quote, common)])
    caption = f"A step of {several}{first['variant']}, {command}: "
    if len(points) == 1:
        table = pd.DataFrame({row["topology"]: _column(row) for row in rows}).fillna("")
        caption += "what each chip holds, computes and exchanges."
    else:
        varied = [
            dict(
                flag.removeprefix("--config.").split("=", 1) for flag in each if flag not in common
            )
            for each in points.values()
        ]
        cells: dict[str, list[str]] = {}
        for row in rows:
            cells.setdefault(row["topology"], []).append(_cell(row))
        table = pd.DataFrame(cells, pd.MultiIndex.from_frame(pd.DataFrame(varied)))
        times = "measured" if local else "by the roofline + of communication"
        caption += f"µs {times}; MB of memory on a chip."
    if local:
        return table, f"{caption} Median of single steps, each a dispatch of its own."
    caption += (
        " Nothing was run, and times leave out all overheads. The roofline takes the chip's "
        "published peaks for operations and memory; communication, for its links."
    )
    if len(points) == 1:
        caption += (
            " Hours add communication to the compiler's estimate or, where the compiler does not "
            "know an operation's time, to the roofline."
        )
    return table, f"{caption} JAX {first['jax']}, libtpu {first['libtpu']}."


def _column(row: Mapping[str, Any]) -> dict[str, str]:
    """All numbers of a plan."""
    used = row["seeds"] * row["data"]
    cells = {
        "chips used": f"{used} of {row['chips']}",
        "runs, batch spread over": f"{row['seeds']} x {row['data']}",
    }
    if row["changes"]:
        cells["does not fit without"] = row["changes"]
    for key in ("parameters", "arguments", "outputs", "temporaries", "memory", "bytes_moved"):
        cells[f"{key.replace('_', ' ')}, MB"] = f"{row[key] / 1e6:,.1f}"
    cells |= {
        "GFLOP": f"{row['flops'] / 1e9:,.3g}",
        "collectives": row["collectives"] or "none",
    }
    if row["topology"] == LOCAL:
        cells["measured, µs"] = _micro(row["seconds"])
    else:
        cells |= {
            "compiler's estimate, µs": _micro(row["compiler_seconds"]),
            "roofline, µs": _micro(row["roofline_seconds"]),
            "communication, µs": _micro(row["communication_seconds"]),
        }
    return cells | {
        f"hours to {row['steps']:,} steps": f"{row['seconds'] * row['steps'] / 3600:,.3g}",
        "images/s per chip": f"{row['runs'] * row['batch_size'] / row['seconds'] / used:,.0f}",
    }


def _cell(row: Mapping[str, Any]) -> str:
    """The time of a step, and the memory."""
    # Not the compiler's estimate, which it does not give for all of them.
    keys = (
        ["seconds"] if row["topology"] == LOCAL else ["roofline_seconds", "communication_seconds"]
    )
    cell = f"{' + '.join(_micro(row[key]) for key in keys)}; {row['memory'] / 1e6:,.1f}"
    return f"{cell} ({row['changes']})" if row["changes"] else cell


def _micro(seconds: float | None) -> str:
    return "unknown" if pd.isna(seconds) else f"{1e6 * seconds:,.1f}"


if __name__ == "__main__":
    main()
