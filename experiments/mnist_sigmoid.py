r"""Does Batch Normalization train faster and end higher? The MNIST experiment of [BN] 4.1.

    python -m experiments.mnist_sigmoid --config=configs/mnist_sigmoid.py \
        --workdir=runs/mnist_sigmoid [--config.steps=5000] [--config.seeds=3]

Trains the sigmoid network without normalization, with Batch Norm and with Batch Renorm. Writes
the records, a table and figures (a) to (c) to the workdir, and shows the table. The same command
resumes what is not finished.
"""

from bnrepro.records import Run
from bnrepro.report.report import Report
from experiments import cli, train


def report(run: Run) -> Report:
    """Accuracies, steps to 95% and 97%, and figures (a) and, if they were measured, (b, c)."""
    return train.report(run, steps_to=(0.95, 0.97))


if __name__ == "__main__":
    cli.launch(report, doc=__doc__)
