"""How small may a microbatch be? Section 4.2 of [BRN], on MNIST.

    python -m experiments.small_batch --config=configs/small_batch.py --workdir=runs/small_batch

Trains every normalizer with the same gradient batch, split into microbatches of decreasing size,
each normalized separately; configs/small_batch_cnn.py does it with convolutions, and
configs/small_batch_normalizers.py with the normalizers that were made for small batches. Shows
final accuracy against microbatch size, Batch Renorm's lead over Batch Norm, and the paper's
ImageNet figures for comparison. Variants are called by normalizer and size, as in "batch_norm 4".
"""

import pandas as pd

from bnrepro.records import Run
from bnrepro.report import figures, tables
from bnrepro.report.report import Report, list_variants
from experiments import cli

# Top-1 accuracy, %, of Inception-v3 on ImageNet ([BRN] 4.1, 4.2): Batch Norm, Batch Renorm.
PAPER = {"32": "78.3, 78.5", "4": "74.2, 76.5"}
CURVES_AT = 4
# Normalizers that take statistics over the microbatch.
_OF_MICROBATCHES = ("batch_", "moving_average_")


def report(run: Run) -> Report:
    """Accuracy by microbatch size and normalizer, and Batch Renorm's lead over Batch Norm."""
    variants = variants_by_size(run)
    renorm, norm = (variants.get(f"batch_{name}", {}) for name in ("renorm", "norm"))
    # Batch Renorm is compared with Batch Norm at the same size.
    baselines = {renorm[size]: norm[size] for size in renorm if size in norm}
    entries, _ = list_variants(run, baselines=baselines)
    of = dict(zip(run.variants, entries, strict=True))
    lines = {
        normalizer: {size: of[name] for size, name in names.items()}
        for normalizer, names in variants.items()
    }
    table = tables.pivot_table(
        {
            (str(size), normalizer): tables.mean_cell(entry.mean)
            for normalizer, sizes in lines.items()
            for size, entry in sizes.items()
        }
    )
    remarks = ["Rows are microbatch sizes, columns normalizers"]
    # Of those without statistics over the microbatch.
    if "1" in table.index:
        others = "Normalizers"
        if all(run.settings(name)["model.name"] == "mlp" for name in run.variants):
            for normalizer in {"batch_norm", "batch_renorm"} & lines.keys():
                table.loc["1", normalizer] = "refused"
            others = (
                "Batch Norm and Batch Renorm refuse a microbatch of one: in a dense layer a single "
                "value has no deviation from its mean; normalizers"
            )
        remarks.append(
            f"{others} that take no statistics over the microbatch were trained once for all rows"
        )
    if baselines:
        leads = tables.differences([of[name] for name in baselines])
        found = {str(size): leads.get(of[name]) for size, name in renorm.items()}
        # As objects, which keep their seeds.
        table["batch_renorm − batch_norm"] = pd.Series(found, dtype=object)
    table["ImageNet, [BRN]"] = table.index.map(PAPER)
    remarks.append(
        "The last column is another data set and network: Inception-v3, Batch Norm and Batch Renorm"
    )
    table = table.sort_index(key=lambda sizes: -sizes.astype(int)).rename_axis("microbatch size")
    pictures = [figures.accuracy_against_figure(run, lines, "microbatch size")]
    curves = {sizes[CURVES_AT]: title for title, sizes in variants.items() if CURVES_AT in sizes}
    if curves:
        name, about = f"curves_at_{CURVES_AT}", f"microbatches of {CURVES_AT}"
        pictures.append(figures.accuracy_figure(run, curves, name, about=about))
    return Report.of(run, entries, table, pictures, *remarks)


def variants_by_size(run: Run) -> dict[str, dict[int, str]]:
    """The variants at each microbatch size, by what their names say besides it."""
    variants: dict[str, dict[int, str]] = {}
    size_of = {name: run.settings(name)["microbatch_size"] for name in run.variants}
    for name, size in size_of.items():
        title = name.removesuffix(f" {size}")
        # Unless another variant, of the same size, is called that.
        variants.setdefault(name if size_of.get(title) == size else title, {})[size] = name
    all_sizes = {1}.union(*variants.values())
    for title, sizes in variants.items():
        any_size = next(iter(sizes.values()))
        # The same at every size, no matter at which it was trained.
        if not run.settings(any_size)["normalizer.name"].startswith(_OF_MICROBATCHES):
            variants[title] = dict.fromkeys(all_sizes, any_size) | sizes
    return dict(sorted(variants.items()))


if __name__ == "__main__":
    cli.launch(report, doc=__doc__)
