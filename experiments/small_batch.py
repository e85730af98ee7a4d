"""How small may a microbatch be? Section 4.2 of [BRN], on MNIST.

    python -m experiments.small_batch --config=configs/small_batch.py --workdir=runs/small_batch

Trains every normalizer with the same gradient batch, split into microbatches of falling size that
are normalized each by itself. Shows final accuracy against microbatch size, Batch Renorm's lead
over Batch Norm, and the paper's ImageNet figures beside.
"""

from pathlib import Path
from typing import Any

from experiments import cli

# Top-1 accuracy, %, of Inception-v3 on ImageNet ([BRN] 4.1, 4.2): Batch Norm, Batch Renorm.
PAPER = {"32": "78.3, 78.5", "4": "74.2, 76.5"}
CURVES_AT = 4


def main(config: dict[str, Any], workdir: Path, overwrite: bool) -> None:
    """Runs the comparison and reports it."""
    from bnrepro.comparison.config import variant_configs
    from bnrepro.comparison.run import run_comparison
    from bnrepro.report import figures, summary, tables

    with cli.progress_bar(config) as progress:
        run = run_comparison(config, workdir, progress=progress, overwrite=overwrite)
    settings = {
        name: (variant["microbatch_size"], variant["normalizer"]["name"])
        for name, variant in variant_configs(config).items()
    }
    by_setting = {setting: name for name, setting in settings.items()}
    # Batch Renorm is compared with Batch Norm at the same size.
    norms = {
        name: by_setting[size, "batch_norm"]
        for (size, normalizer), name in by_setting.items()
        if normalizer == "batch_renorm" and (size, "batch_norm") in by_setting
    }
    numbers = summary.summarize(run, (), norms)
    in_order = sorted(settings.items(), key=lambda item: (-item[1][0], item[1][1]))
    places = {name: (str(size), normalizer) for name, (size, normalizer) in in_order}
    table = tables.pivot_table(numbers, places, missing="refused")
    table["batch_renorm − batch_norm"] = tables.differences(
        numbers, {places[name][0]: name for name in norms}
    )
    table["ImageNet, [BRN]"] = table.index.map(PAPER)
    table = table.fillna("").rename_axis("microbatch size")
    summary.write_summary(run, numbers)
    caption = tables.caption(
        run,
        "Rows are microbatch sizes, columns normalizers; Batch Norm and Batch Renorm refuse a "
        "microbatch of one, whose only value has no deviation from its mean",
        "The last column is another data set and network: Inception-v3, Batch Norm and Batch "
        "Renorm",
    )
    paths = figures.accuracy_against_figure(run, numbers, settings, "microbatch size")
    curves = [name for name, setting in settings.items() if setting[0] == CURVES_AT]
    if curves:
        paths += figures.accuracy_figure(run, curves, f"curves_at_{CURVES_AT}")
    cli.show(run, table, caption, paths)


if __name__ == "__main__":
    cli.launch(main, doc=__doc__)
