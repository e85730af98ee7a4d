r"""Trains one config as it is, without its variants; for the best of a sweep, or a first try.

    python -m experiments.single --config=configs/small_batch.py --workdir=runs/single \
        --config.normalizer.name=batch_renorm --config.microbatch_size=4

Writes records, a table and a figure to the workdir, and shows the table. The same command again
goes on with what is not finished.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import cli

if TYPE_CHECKING:
    from bnrepro.records import Run
    from bnrepro.trackers import Tracker

_NAME = "single"


def alone(config: dict[str, Any]) -> dict[str, Any]:
    """The config with itself as its only variant."""
    return {**config, "variants": {_NAME: {}}, "baseline": _NAME}


def main(
    config: dict[str, Any], workdir: Path, overwrite: bool, trackers: "Sequence[Tracker]"
) -> None:
    """Trains the config and reports it."""
    cli.run(config, workdir, overwrite, trackers, report=report)


def report(run: "Run") -> None:
    """Writes and shows table and figure."""
    from bnrepro.report import figures, summary, tables

    numbers = summary.summarize(run, ())
    summary.write_summary(run, numbers)
    table = tables.comparison_table(run, numbers)[["final, %", "best, %", "seeds"]]
    cli.show(run, table, tables.caption(run, table), figures.accuracy_figure(run))


if __name__ == "__main__":
    cli.launch(main, doc=__doc__, adapt=alone)
