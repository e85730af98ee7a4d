r"""Measures how fast things are on this machine.

    python -m scripts.benchmark layers --output=results/benchmarks/layers.md
    python -m scripts.benchmark train --output=results/benchmarks/train.md
    python -m scripts.benchmark depth --output=results/benchmarks/depth.md
    python -m scripts.benchmark inception --output=results/benchmarks/inception.md
    python -m scripts.benchmark sweep --output=results/benchmarks/sweep.md

layers: forward and backward through the layers, against Flax's and, if installed, PyTorch's.
train: steps of the experiments' training, against only their matrix products, Flax and PyTorch.
depth: steps and compiling of networks of 3 to 24 hidden layers; writes a figure beside the table.
inception: steps of Inception-v3 or ResNet-50 with both layers, against a matrix product, and
reading a stream.
sweep: trials per minute of one worker that trains them in groups, as sweeps do, against one by one,
and against launching each separately.
"""

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

from scripts import make_parser, publish


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark that the command line names, and writes its table."""
    parser = make_parser("benchmark", __doc__)
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    for name in ("layers", "train", "depth", "inception", "sweep"):
        add = benchmarks.add_parser(name).add_argument
        add("--output", type=Path, required=True, metavar="FILE", help="a Markdown file")
        if name == "sweep":
            text = "number of grouped trials (default: %(default)s)"
            add("--trials", type=_positive, default=32, help=text)
        else:
            add("--rounds", type=_positive, default=31, help="readings (default: %(default)s)")
        if name == "inception":
            add("--network", choices=("inception", "resnet"), default="inception")
            add("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args(arguments)

    # Imported only then, so that --help need not wait for JAX.
    module = f"scripts.benchmark_{options.benchmark}"
    publish(options.output, lambda: importlib.import_module(module).page(options))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number of at least 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    main()
