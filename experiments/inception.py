"""Inception-v3 with Batch Norm and Batch Renorm: the experiments of [BRN], section 4.

    python -m experiments.inception --config=configs/inception.py:narrow \
        --workdir=runs/inception_narrow

Trains both on i.i.d. minibatches of 32, on microbatches of 4 and on minibatches of few labels.
Shows test accuracy with moving averages and with the minibatches' own statistics, training
accuracy, and the paper's ImageNet figures for comparison.
"""

from bnrepro.records import Run
from bnrepro.report.report import Report
from experiments import cli
from experiments.non_iid import PAPER, curves, list_by_minibatches


def report(run: Run) -> Report:
    """Accuracies beside the paper's, and curves."""
    entries, table = list_by_minibatches(run)
    table["ImageNet, [BRN]"] = table.index.map(PAPER)
    return Report.of(
        run,
        entries,
        table,
        [curves(run, run.variants)],
        "A name gives labels x images of each minibatch, or the size of microbatches, and the "
        "normalizer; differences are to Batch Norm on the same minibatches",
        "The last column is Inception-v3 on ImageNet, as published",
    )


if __name__ == "__main__":
    cli.launch(report, doc=__doc__)
