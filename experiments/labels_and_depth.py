"""Do minibatches of few labels break deep networks? Section 4.3 of [BRN], with 1,000 labels.

    python -m experiments.labels_and_depth --config=configs/labels_and_depth.py \
        --workdir=runs/labels_and_depth

Trains Batch Norm and Batch Renorm on i.i.d. minibatches and on the paper's 16 labels x 2 images, in
networks of growing depth. Shows test accuracy against depth, or against the number of labels, the
curves of the deepest network in the form of the paper's figure 3, and the paper's ImageNet figures
for comparison.
"""

from bnrepro.records import Run
from bnrepro.report import figures
from bnrepro.report.entries import Entry
from bnrepro.report.report import Report
from experiments import cli
from experiments.non_iid import PAPER, curves, list_by_minibatches


def report(run: Run) -> Report:
    """Accuracies beside the paper's, curves of the deepest networks, and a figure against a number.

    That is the number of labels if it varies, else depth.
    """
    depths = {name: len(run.settings(name)["model.hidden"]) for name in run.variants}
    kinds = {name: name.removeprefix(f"{depth} ") for name, depth in depths.items()}
    entries, table = list_by_minibatches(run)
    table = table.loc[sorted(table.index, key=lambda name: (-depths[name], kinds[name]))]
    # Names of small microbatches leave out their size.
    sized = {name: f"{run.settings(name)['microbatch_size']} {kinds[name]}" for name in kinds}
    table["ImageNet, [BRN]"] = [PAPER.get(kinds[n], PAPER.get(sized[n])) for n in table.index]
    deepest = max(depths.values())
    pictures = [curves(run, [name for name in run.variants if depths[name] == deepest])]
    labels = {name: round(1 / run.chance(name)) for name in run.variants}
    if len(set(labels.values())) > 1:
        numbers, xlabel = labels, "labels"
        titles = {name: name.replace(f" {of} labels", "") for name, of in labels.items()}
    else:
        numbers, xlabel, titles = depths, "hidden layers", kinds
    if len(set(numbers.values())) > 1:
        lines: dict[str, dict[int, Entry]] = {}
        for name, entry in zip(run.variants, entries, strict=True):
            lines.setdefault(titles[name], {})[numbers[name]] = entry
        pictures.append(figures.accuracy_against_figure(run, lines, xlabel))
    return Report.of(
        run,
        entries,
        table,
        pictures,
        "A picture is several digits side by side (`digits`), and its label the number that they "
        "form; a name gives the number of hidden layers, labels x images of each minibatch, and "
        "the normalizer; differences are to Batch Norm on the same minibatches",
        "The last column is another data set and network: Inception-v3",
    )


if __name__ == "__main__":
    cli.launch(report, doc=__doc__)
