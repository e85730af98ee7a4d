"""The report of a run: a table with its caption, and figures."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import pandas as pd

from bnrepro.records import FIGURES, SUMMARY_CSV, SUMMARY_MD, Run, complete_file
from bnrepro.report.entries import Entry, find_entries
from bnrepro.report.figures import Picture, save
from bnrepro.report.question import Question
from bnrepro.report.statistics import Estimate, estimate, estimate_columns
from bnrepro.report.summary import failure_counts
from bnrepro.report.tables import (
    SPLITS,
    cells_text,
    difference_notes,
    failure_note,
    list_table,
    mean_note,
)

# What a caption says about the columns of other splits.
_EXPLANATIONS = {
    "holdout": "holdout: final accuracy on training images that were held out",
    "train_set": "training set: final accuracy on it, with moving averages",
    "test_minibatches": "own statistics: final accuracy in training mode, on minibatches of test "
    "images made as for training, which Batch Norm normalizes by their own statistics and Batch "
    "Renorm, within its limits of r and d, by the moving averages",
}


class Report(NamedTuple):
    """A report, which a terminal, a page or a notebook can show.

    Attributes:
      summary: the numbers for a program, from `summarize`.
      table: the same for a reader, with `Cell`s.
      caption: what its numbers are, with caveats.
      pictures: the figures.
    """

    summary: pd.DataFrame
    table: pd.DataFrame
    caption: str
    pictures: Sequence[Picture]

    @classmethod
    def of(
        cls,
        run: Run,
        entries: Sequence[Entry],
        table: pd.DataFrame,
        pictures: Sequence[Picture],
        *remarks: str,
    ) -> "Report":
        """The report of entries and their table; remarks are the last sentences of the caption."""
        table = table.fillna("")
        return cls(summarize(entries), table, caption(run, table, *remarks), pictures)


def list_variants(
    run: Run,
    steps_to: Sequence[float] = (),
    *,
    baseline: str = "",
    baselines: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[Entry], pd.DataFrame]:
    """The variants of a run with all that reports show of them, and the table of that.

    It has final test accuracy, its difference to the baseline, final accuracy on the other splits,
    and the steps to accuracies and to the baseline's best.

    Args:
      run: what was measured.
      steps_to: the accuracies, in (0, 1].
      baseline: what the table calls the baseline (default: the config's).
      baselines: the baseline of variants that have another than the config's.
    """
    measured = run.metrics.loc[run.metrics["metric"] == "accuracy", "split"]
    question = Question(
        baseline=baseline or run.config["baseline"],
        baselines=baselines,
        splits=sorted(set(measured) - {"train", "test"}),
        steps_to=steps_to,
        steps_to_best=True,
    )
    entries = find_entries({"": run}, question)
    table = list_table(entries, question).rename(columns={question.title: "final, %"})
    return entries, table.set_axis([entry.variant for entry in entries])


def summarize(entries: Sequence[Entry]) -> pd.DataFrame:
    """One row per variant and number, for entries from `list_variants`.

    The column `seeds` counts those with a finite value, and `of` those that could have one: for
    steps, also seeds that never reached it. `steps` is the length of the shortest run that did not
    diverge.
    """
    rows = []
    for entry in entries:
        difference = entry.difference.estimate if entry.difference else estimate([])
        means = {"final": entry.mean, "final_minus_baseline": difference}
        means |= {f"final_{split}": mean for split, mean in entry.others.items()}
        numbers: dict[str, tuple[Estimate, int]] = {name: (m, m.n) for name, m in means.items()}
        numbers |= {name: (estimate(of), len(of)) for name, of in entry.reached.items()}
        for name, (mean, of) in numbers.items():
            last = {"of": of, "steps": min(entry.steps, default=0), "dataset": entry.dataset}
            rows.append({"variant": entry.variant, "metric": name} | estimate_columns(mean) | last)
    return pd.DataFrame(rows)


def caption(run: Run, table: pd.DataFrame, *remarks: str) -> str:
    """What the numbers of a table of final test accuracies are, with caveats and remarks."""
    config, dataset = run.config, run.provenance["dataset"]
    number = config["seeds"]
    seeds = "seeds" if "seeds" in table else f"{number} seed{'s' * (number > 1)}"
    unfinished = [name for name in run.variants if not run.finished(name)]
    when = "at the last evaluation" if unfinished else f"after {config['steps']:,} steps"
    notes = [f"Test accuracy on {dataset} {when}: {mean_note(cells_text(table), seeds)}"]
    deltas = cells_text(table.filter(like=" − "))
    if deltas:
        notes.append("differences are paired by seed, in percentage points")
        notes += difference_notes(deltas)
    notes += [text for split, text in _EXPLANATIONS.items() if SPLITS[split] in table]
    labels = config["evaluation"].get("labels_per_batch") if "evaluation" in config else 0
    few = any(run.settings(name).get("sampler.name") == "labels" for name in run.variants)
    if labels and few and SPLITS["test_minibatches"] in table:
        notes[-1] += f"; those of few labels have {labels}"
    if table.columns.str.startswith("steps to").any():
        notes.append(
            f"steps are to the first evaluation, of one every {config['eval_every']:,}, that got "
            "there, as a mean over the seeds that did"
        )
    baseline = config["baseline"]
    if f"steps to {baseline}'s best" in table:
        best = f"{baseline}'s best is its highest accuracy at any evaluation with the same seed"
        notes.append(best + ", if it did not diverge" * (baseline in failure_counts(run)))
    notes.append(failure_note(run))
    warnings = [f"UNFINISHED: {', '.join(unfinished)}"] * bool(unfinished)
    warnings += ["PREVIEW: fewer steps than the experiment has"] * config["preview"]
    warnings += ["STAND-IN DATA: not MNIST"] * run.provenance["stand_in"]
    return ". ".join([*warnings, "; ".join(notes), *remarks]) + "."


def write(run: Run, report: Report) -> None:
    """Writes `summary.csv`, `summary.md` and the figures to the workdir.

    Raises:
      RecordsError: it cannot be written.
    """
    with complete_file(run.workdir / SUMMARY_CSV) as path:
        report.summary.to_csv(path, index=False, encoding="utf-8")
    with complete_file(run.workdir / SUMMARY_MD) as path:
        text = f"{report.table.to_markdown(disable_numparse=True)}\n\n{report.caption}\n"
        path.write_text(text, encoding="utf-8")
    for picture in report.pictures:
        save(picture, run.workdir / FIGURES)
