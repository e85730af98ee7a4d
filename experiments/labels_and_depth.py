"""Do minibatches of few labels break deep networks? Section 4.3 of [BRN], with 1,000 labels.

    python -m experiments.labels_and_depth --config=configs/labels_and_depth.py \
        --workdir=runs/labels_and_depth

Trains Batch Norm and Batch Renorm on i.i.d. minibatches and on the paper's 16 labels x 2 images, in
networks of growing depth. Shows test accuracy against depth, the curves of the deepest network in
the form of the paper's figure 3, and the paper's ImageNet figures beside.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import cli
from experiments.non_iid import PAPER, SPLITS

if TYPE_CHECKING:
    from bnrepro.records import Run
    from bnrepro.trackers import Tracker


def main(
    config: dict[str, Any], workdir: Path, overwrite: bool, trackers: "Sequence[Tracker]"
) -> None:
    """Runs the comparison and reports it."""
    cli.run(config, workdir, overwrite, trackers, report=report)


def report(run: "Run") -> None:
    """Writes and shows table and figures."""
    from bnrepro.report import figures, summary, tables

    depths = {name: len(run.settings(name)["model.hidden"]) for name in run.variants}
    kinds = {name: name.removeprefix(f"{depth} ") for name, depth in depths.items()}
    # Each is compared with Batch Norm on the same minibatches.
    partners = {
        name: _partner(name) for name in run.variants if _partner(name) in set(run.variants)
    }
    numbers = summary.summarize(run, (), partners)
    summary.write_summary(run, numbers)

    table = tables.comparison_table(run, numbers)
    theirs = run.config["baseline"]
    table = table.drop(columns=f"steps to {theirs}'s best")
    table = table.rename(columns={f"final − {theirs}": "final − batch_norm"})
    table.loc[[name for name in table.index if name not in partners], "final − batch_norm"] = ""
    table = table.loc[sorted(table.index, key=lambda name: (-depths[name], kinds[name]))]
    table["ImageNet, [BRN]"] = table.index.map(kinds).map(PAPER)
    caption = tables.caption(
        run,
        table,
        "A name tells the number of hidden layers, labels x images of each minibatch, and the "
        "normalizer; differences are to Batch Norm on the same minibatches; own statistics are "
        "those of minibatches of test images made the same way; all other accuracies are with "
        "moving averages",
        "The last column is another data set and network: Inception-v3",
    )
    deepest = max(depths.values())
    curves = [name for name in run.variants if depths[name] == deepest]
    measured = set(run.metrics["split"])
    splits = {split: title for split, title in SPLITS.items() if split in measured}
    paths = figures.accuracy_figure(run, curves, splits=splits)
    if len(set(depths.values())) > 1:
        lines: dict[str, dict[int, str]] = {}
        for name, kind in kinds.items():
            lines.setdefault(kind, {})[depths[name]] = name
        paths += figures.accuracy_against_figure(run, numbers, lines, "hidden layers")
    cli.show(run, table.fillna(""), caption, paths)


def _partner(name: str) -> str:
    """The variant that has Batch Norm in place of what this one has."""
    return name.replace("batch_renorm", "batch_norm").removesuffix(" halves")


if __name__ == "__main__":
    cli.launch(main, doc=__doc__)
