r"""Trains any config: all of its variants, some of them, or the config itself without them.

    python -m experiments.train --config=configs/mnist_sigmoid_rates.py --workdir=runs/rates
    python -m experiments.train --config=configs/small_batch.py --workdir=runs/two \
        --only="batch_norm 4,batch_renorm 4"
    python -m experiments.train --config=configs/small_batch.py --workdir=runs/single \
        --novariants --config.normalizer.name=batch_renorm --config.microbatch_size=4

Writes records, a table and figures to the workdir, and shows the table. The same command resumes
what is not finished.
"""

from collections.abc import Sequence
from typing import Any

from absl import flags

from bnrepro.records import Run
from bnrepro.report import figures
from bnrepro.report.report import Report, list_variants
from bnrepro.report.summary import unit_percentiles
from experiments import cli

_SINGLE = "single"


def alone(config: dict[str, Any]) -> dict[str, Any]:
    """The config with itself as its only variant."""
    return {**config, "variants": {_SINGLE: {}}, "baseline": _SINGLE}


def report(run: Run, steps_to: Sequence[float] = ()) -> Report:
    """Each variant's accuracies, the steps to some of them, and its difference to the baseline."""
    entries, table = list_variants(run, steps_to)
    if len(run.variants) == 1:
        table = table.loc[:, ~table.columns.str.contains(" − |'s best")]
    pictures = []
    # A single evaluation makes no curve.
    evaluated = run.metrics["step"].max()
    if len(run.variants) <= figures.MOST_LINES and evaluated > run.config["eval_every"]:
        pictures.append(figures.accuracy_figure(run))
    if len(unit_percentiles(run)):
        pictures.append(figures.sigmoid_input_figure(run))
    return Report.of(run, entries, table, pictures)


def _chosen(config: dict[str, Any]) -> dict[str, Any]:
    return config if flags.FLAGS.variants and config.get("variants") else alone(config)


if __name__ == "__main__":
    flags.DEFINE_bool(
        "variants", True, "With --novariants, train the config as it is, without its variants."
    )
    cli.launch(report, doc=__doc__, adapt=_chosen)
