r"""Measures how fast things are on this machine.

    python -m scripts.benchmark layers --output=results/benchmarks/layers.md
    python -m scripts.benchmark formulations --output=results/benchmarks/formulations.md
    python -m scripts.benchmark train --output=results/benchmarks/train.md
    python -m scripts.benchmark depth --output=results/benchmarks/depth.md
    python -m scripts.benchmark inception --output=results/benchmarks/inception.md
    python -m scripts.benchmark sweep --output=results/benchmarks/sweep.md

layers: forward and backward through the layers, against Flax's and, if installed, PyTorch's.
formulations: other ways of computing them that were tried.
train: steps of the experiments' training, against only their matrix products, Flax and PyTorch.
depth: steps and compiling of networks of 3 to 24 hidden layers; writes a figure beside the table.
inception: steps of Inception-v3 or ResNet-50 with both layers, against a matrix product, and
reading a stream.
sweep: trials per minute of one worker that trains them in groups, as sweeps do, against one by one,
and against launching each separately.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import cli
from scripts import make_parser, signed_page

if TYPE_CHECKING:
    from bnrepro.sweep.plan import Plan

_WITH_TORCH = ("jax", "jaxlib", "flax", "torch")
# Trials differ in the learning rate, within a range at which all networks train.
_RATES = "log(0.01,0.3)"
_CHANGES = {"seeds": 1, "normalizer.name": "batch_norm"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark that the command line names, and writes its table."""
    parser = make_parser("benchmark", __doc__)
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    output: Any = {"type": Path, "required": True, "metavar": "FILE", "help": "a Markdown file"}
    for name, run, what in (
        ("layers", _layers, "milliseconds of a layer, compared with others'"),
        ("formulations", _formulations, "milliseconds of other ways of computing a layer"),
        ("train", _train, "steps per second, compared with others'"),
        ("depth", _depth, "milliseconds of a step against the number of hidden layers"),
        ("inception", _inception, "images per second of a large network"),
    ):
        layers = benchmarks.add_parser(name, help=what)
        layers.set_defaults(run=run)
        add = layers.add_argument
        add("--output", **output)
        add("--rounds", type=_positive, default=31, help="readings (default: %(default)s)")
        if name == "inception":
            add("--network", choices=("inception", "resnet"), default="inception")
            add("--dtype", choices=("float32", "bfloat16"), default="float32")
    sweep = benchmarks.add_parser("sweep", help="trials per minute, grouped and one by one")
    sweep.set_defaults(run=_sweep)
    add = sweep.add_argument
    add("--output", **output)
    add(
        "--trials",
        type=_positive,
        default=32,
        help="number of grouped trials (default: %(default)s)",
    )
    add("--alone", type=_several, default=8, help="number one by one (default: %(default)s)")
    add("--launched", type=_positive, default=4, help="number launched (default: %(default)s)")
    add("--repeats", type=_positive, default=3, help="of each, in turn (default: %(default)s)")
    add("--steps", type=_positive, default=2_000, help="of a trial (default: %(default)s)")
    options = parser.parse_args(arguments)
    # Imported only now, so that --help need not wait for JAX.
    from bnrepro.records import check_output, complete_file

    with cli.exit_codes():
        check_output(options.output)
        text = options.run(options)
        print(text)
        with complete_file(options.output) as path:
            path.write_text(text, encoding="utf-8")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def _several(text: str) -> int:
    number = _positive(text)
    if number < 2:
        raise argparse.ArgumentTypeError("must be at least 2: the first is not counted")
    return number


def _layers(options: argparse.Namespace) -> str:
    from scripts import benchmark_layers as layers

    measure, rounds = layers.measure, options.rounds
    reports = (
        layers.report(
            [measure(layers.joined(s), layers.layer_calls(s), rounds) for s in layers.SHAPES]
        ),
        layers.network_report(
            [measure(str(net), layers.network_calls(net), rounds) for net in layers.NETWORKS]
        ),
    )
    parts = [part for report in reports for part in report]
    return signed_page("The layers' speed", *parts, packages=_WITH_TORCH)


def _formulations(options: argparse.Namespace) -> str:
    import pandas as pd

    from scripts.benchmark_formulations import layer_calls, sum_calls
    from scripts.benchmark_layers import SHAPES, joined, measure

    def table(make: Any) -> pd.DataFrame:
        timings = [measure(joined(shape), make(shape), options.rounds) for shape in SHAPES]
        columns = {
            timing.title: {name: f"{timing.median(name):.3g}" for name in timing.readings}
            for timing in timings
        }
        return pd.DataFrame(columns)

    return signed_page(
        "Ways to compute a layer that were tried",
        f"Milliseconds, float32, features last: medians of {options.rounds} readings, in turn in "
        "one process.",
        "Both sums over all but the features, of x - shift and of its square:",
        table(sum_calls),
        "Batch Norm, forward and backward, its output kept:",
        table(layer_calls),
    )


def _train(options: argparse.Namespace) -> str:
    from scripts import benchmark_train
    from scripts.benchmark_layers import measure

    timings = [
        measure(str(seeds), benchmark_train.calls(seeds), options.rounds)
        for seeds in benchmark_train.SEEDS
    ]
    report = benchmark_train.report(timings)
    return signed_page("The speed of training", *report, packages=_WITH_TORCH)


def _depth(options: argparse.Namespace) -> str:
    from bnrepro.report.figures import save
    from scripts import benchmark_depth

    timings, compiling = benchmark_depth.measured(options.rounds)
    tables, text, picture = benchmark_depth.report(timings, compiling, options.output.stem)
    save(picture, options.output.parent)
    shown = f"![{picture.alt}]({picture.name}.png)"
    return signed_page("Training against depth", *tables, text, shown)


def _inception(options: argparse.Namespace) -> str:
    from scripts import benchmark_inception

    config = benchmark_inception.config_of(options.network, options.dtype)
    name = {"inception": "Inception-v3", "resnet": "ResNet-50"}[options.network]
    return signed_page(f"The speed of {name}", *benchmark_inception.report(config, options.rounds))


def _sweep(options: argparse.Namespace) -> str:
    import pandas as pd

    trials = {
        "each launched by itself": options.launched,
        "one by one": options.alone,
        "grouped": options.trials,
    }
    rates: dict[str, list[float]] = {name: [] for name in trials}
    launched, alone, grouped = rates.values()
    for _ in range(options.repeats):
        launched.append(_launches_a_minute(options.launched, options.steps))
        rate, dataset = _trials_a_minute(options.alone, 1, options.steps)
        alone.append(rate)
        rate, dataset = _trials_a_minute(options.trials, None, options.steps)
        grouped.append(rate)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    rows = {
        name: {
            "trials": number,
            "trials a minute": f"{medians[name]:.1f}",
            "of each repeat": ", ".join(f"{rate:.1f}" for rate in rates[name]),
        }
        for name, number in trials.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index")
    to_launched, to_one, _ = (medians["grouped"] / median for median in medians.values())
    text = f"""\
Grouped is {to_one:.1f} times as fast as one by one, and {to_launched:.1f} times as fast as
launching each by itself with experiments.train (ratios of the medians). A trial is one seed of the
3 x 100 network of configs/small_batch.py with Batch Norm, {options.steps:,} steps of 64 images of
{dataset}, two evaluations; trials differ in their learning rate. One worker, which uses one
compiled program for all of its trials. The time to load data and to compile counts for the grouped
ones and for those launched; those one by one are counted from the end of the first."""
    title = "Sweeps: grouped against one by one"
    return signed_page(title, table, text, packages=("jax", "optuna"))


def _launches_a_minute(trials: int, steps: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "experiments.train", "--novariants"]
        command += ["--config=configs/small_batch.py"]
        settings = {**_CHANGES, "steps": steps, "eval_every": steps}
        command += [f"--config.{key}={value}" for key, value in settings.items()]
        begin = time.time()
        for i in range(trials):
            subprocess.run(
                [
                    *command,
                    f"--workdir={folder}/{i}",
                    f"--config.optimizer.learning_rate=0.{i + 1}",
                ],
                check=True,
                capture_output=True,
            )
        return 60 * trials / (time.time() - begin)


def _trials_a_minute(trials: int, at_once: int | None, steps: int) -> tuple[float, str]:
    """The rate, and the name of the data set."""
    from bnrepro.sweep.study import SharedStudy, finished
    from bnrepro.sweep.worker import work

    with tempfile.TemporaryDirectory() as folder:
        plan = _plan(trials, at_once, steps, folder)
        with SharedStudy(plan) as study:
            study.refill()
            begin = time.time()
            work(plan)
            dataset = study.provenance()["dataset"]
            ended: Any = finished(study.trials()).values()
            ends = sorted(trial.datetime_complete.timestamp() for trial in ended)
    if at_once == 1:
        return 60 * (len(ends) - 1) / (ends[-1] - ends[0]), dataset
    return 60 * len(ends) / (ends[-1] - begin), dataset


def _plan(trials: int, at_once: int | None, steps: int, folder: str) -> "Plan":
    from bnrepro.comparison.config import common_config, with_settings
    from bnrepro.sweep.plan import Plan
    from bnrepro.sweep.space import make_space
    from configs import small_batch

    config: Any = common_config(small_batch.get_config().to_dict())
    config = with_settings(config, {**_CHANGES, "steps": steps, "eval_every": steps})
    return Plan(
        config=config,
        space=make_space(config, {"optimizer.learning_rate": _RATES}),
        sampler="random",
        trials=trials,
        prune=False,
        at_once=at_once,
        storage=f"sqlite:///{folder}/sweep.db",
        name="benchmark",
        launched_by="",
        command="",
    )


if __name__ == "__main__":
    main()
