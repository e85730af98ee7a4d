"""What do minibatches of few labels do? Section 4.3 of [BRN], on MNIST.

    python -m experiments.non_iid --config=configs/non_iid.py --workdir=runs/non_iid

Trains Batch Norm and Batch Renorm on minibatches of few labels, and Batch Norm on halves of them
that hold one image of each pair. Shows test accuracy with moving averages and with the minibatches'
own statistics, training accuracy, and the paper's ImageNet figures for comparison.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bnrepro.records import Run
from bnrepro.report.entries import Entry
from bnrepro.report.figures import Picture, accuracy_figure
from bnrepro.report.report import Report, list_variants
from experiments import cli

# Top-1 accuracy, %, of Inception-v3 on ImageNet ([BRN] 4.3; 4.1 for i.i.d.; 4.2 for microbatches
# of 4).
PAPER = {
    "iid batch_norm": "78.3",
    "iid batch_renorm": "78.5",
    "16x2 batch_norm": "67.0 (training 72.8, own statistics 76.5)",
    "16x2 batch_norm halves": "77.4",
    "16x2 batch_renorm": "78.5 (78.6 in the figure)",
    "4 batch_norm": "74.2",
    "4 batch_renorm": "76.5",
}

# As in figure 3 of [BRN].
SPLITS = {
    "test": "test set, moving averages",
    "train_set": "training set, moving averages",
    "test_minibatches": "test minibatches, own statistics",
}


def report(run: Run) -> Report:
    """Accuracies beside the paper's, and curves as in figure 3 of [BRN]."""
    entries, table = list_by_minibatches(run)
    table = table.loc[sorted(table.index, key=lambda name: _place(run.settings(name), name))]
    table["ImageNet, [BRN]"] = table.index.map(PAPER)
    shown, remarks = list(table.index), []
    if any(name.startswith("2x32") for name in shown):  # the ones that show the effect on MNIST
        shown = [name for name in shown if name.startswith(("iid", "2x32"))]
        remarks.append("The figure has the curves of i.i.d. minibatches and of 2x32 alone")
    return Report.of(
        run,
        entries,
        table,
        [curves(run, shown)],
        *remarks,
        "A name gives the number of labels x images of each; differences are to Batch Norm on the "
        "same minibatches",
        "The last column is another data set and network: Inception-v3. A review of these results "
        "(N. Kumaran and A. Vaidya, Batch Normalization and Its Optimization Techniques) differs "
        "from the paper: it speaks of 18 labels in 36 images (the paper: 16 in 32), credits 77.4 "
        "to Batch Renorm (the paper: Batch Norm on half-minibatches) and 78 to a larger batch (the "
        "paper: Batch Renorm on the whole minibatch of 32)",
    )


def list_by_minibatches(run: Run) -> tuple[list[Entry], pd.DataFrame]:
    """As `list_variants`, with differences to Batch Norm on the same minibatches, in whole."""
    minibatches = {name: name.removesuffix(" halves").rpartition(" ")[0] for name in run.variants}
    baselines = {name: f"{kind} batch_norm" for name, kind in minibatches.items()}
    entries, table = list_variants(run, baseline="batch_norm", baselines=baselines)
    return entries, table.drop(columns="steps to batch_norm's best")


def curves(run: Run, variants: Sequence[str]) -> Picture:
    """Accuracy over training of these variants, on all of `SPLITS` that were measured."""
    measured = set(run.metrics["split"])
    splits = {split: title for split, title in SPLITS.items() if split in measured}
    return accuracy_figure(run, variants, splits=splits)


def _place(settings: Mapping[str, Any], name: str) -> tuple[float, int, str]:
    """Sort key: i.i.d. first, then by decreasing number of labels."""
    by_label = settings["sampler.name"] == "labels"
    labels = settings["sampler.labels_per_batch"] if by_label else math.inf
    return -labels, settings["batch_size"], name


if __name__ == "__main__":
    cli.launch(report, doc=__doc__)
