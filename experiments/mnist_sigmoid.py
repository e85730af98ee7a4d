r"""Does Batch Normalization train faster and end higher? The MNIST experiment of [BN] 4.1.

    python -m experiments.mnist_sigmoid --config=configs/mnist_sigmoid.py \
        --workdir=runs/mnist_sigmoid [--config.steps=5000] [--config.seeds=3]

Trains the sigmoid network without normalization, with Batch Norm and with Batch Renorm. Writes
the records, a table and figures (a) to (c) to the workdir, and shows the table. The same command
again goes on with what is not finished.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import cli

if TYPE_CHECKING:
    from bnrepro.records import Run
    from bnrepro.trackers import Tracker
    from bnrepro.training import Probe

# Accuracies that the table tells the steps to.
ACCURACIES = (0.95, 0.97)


def main(
    config: dict[str, Any], workdir: Path, overwrite: bool, trackers: "Sequence[Tracker]"
) -> None:
    """Runs the comparison and reports it."""
    cli.run(config, workdir, overwrite, trackers, report=report, make_probe=sigmoid_input)


def report(run: "Run") -> None:
    """Writes and shows table and figures."""
    from bnrepro.report import figures, summary, tables

    numbers = summary.summarize(run, ACCURACIES)
    table = tables.comparison_table(run, numbers)
    summary.write_summary(run, numbers)
    paths = figures.accuracy_figure(run) + figures.sigmoid_input_figure(run)
    cli.show(run, table, tables.caption(run, table), paths)


def sigmoid_input(config: Mapping[str, Any]) -> "Probe":
    """Percentiles 15, 50, 85 over the test set of the input to the last layer's first sigmoid.

    That input is what the last normalizer puts out or, without one, the last linear layer; of a
    convolution, it is the first channel at all places.
    """
    import jax.numpy as jnp

    from bnrepro.training import Probe

    model = config["model"]
    linear, sizes = ("conv", "channels") if model["name"] == "cnn" else ("dense", "hidden")
    kind = linear if config["normalizer"]["name"] == "none" else "norm"
    name = f"{kind}_{len(model[sizes]) - 1}"

    def measure(captured: Any) -> dict[str, Any]:
        unit = captured[name]["__call__"][0][..., 0]
        return {f"sigmoid_input/p{p}": jnp.percentile(unit, p) for p in (15, 50, 85)}

    return Probe(captures=lambda module, method: module.name == name, measure=measure)


if __name__ == "__main__":
    cli.launch(main, doc=__doc__)
