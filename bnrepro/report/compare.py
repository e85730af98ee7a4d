"""Compares variants of any number of runs, in a list or a pivot by the settings that differ."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bnrepro.records import Run
from bnrepro.report import tables
from bnrepro.report.entries import MISSING, Entry, check_keys, find_entries, in_order
from bnrepro.report.question import Question
from bnrepro.report.statistics import estimate, holm
from bnrepro.report.summary import estimate_columns

_UNPAIRED, _OTHER_STEPS = "†", "‡"
# Notes on the marks in a difference, besides those of `tables.star_notes`.
_NOTES = {
    _UNPAIRED: "† where no seed is common to both, so that the interval is Welch's",
    _OTHER_STEPS: "‡ where the baseline's value is of other steps",
    MISSING: "– where the data sets differ or one has no value",
}


class Comparison(NamedTuple):
    """The answer to a question.

    Attributes:
      cells: for a reader; the index labels the rows.
      best: which of them are the best.
      caption: what they are, with caveats.
      numbers: the same for a program, one row per variant.
    """

    cells: pd.DataFrame
    best: pd.DataFrame
    caption: str
    numbers: pd.DataFrame


def compare(runs: Mapping[str, Run], question: Question) -> Comparison:
    """Compares all variants of the runs.

    Args:
      runs: by label; each has what the question asks for (`check_run`).
      question: what to compare.

    Raises:
      QuestionError: the runs cannot answer it.
    """
    entries = find_entries(runs, question)
    check_keys(entries, [*question.rows, *question.columns])
    entries = in_order(entries, question.rows)
    differences = _differences(entries, question)
    cells, best = (_pivot if question.columns else _list)(entries, question, differences)
    caption = _caption(runs, question, differences, cells)
    return Comparison(cells, best, caption, _numbers(entries, question))


def _list(
    entries: Sequence[Entry], question: Question, differences: Mapping[Entry, str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per variant."""
    several = len({entry.run for entry in entries}) > 1
    names = list(question.rows) or ["run: variant" if several else "variant"]
    labels, rows = [], []
    for entry in entries:
        label = entry.labels(question.rows) or (entry.name if several else entry.variant,)
        labels.append((*label[:-1], label[-1] + _unfinished(entry)))
        row: dict[str, str] = {_title(question): tables.mean_cell(entry.mean, _unit(question))}
        if question.baseline is not None:
            row[f"{question.when} − {question.baseline}"] = differences[entry]
        if question.steps_to is not None:
            title = f"steps to {100 * question.steps_to:g}%"
            row[title] = tables.steps_cell(estimate(entry.reached), len(entry.reached))
        row["data set"] = entry.dataset
        row["seeds"] = _seeds(entry)
        rows.append(row)
    cells = pd.DataFrame(rows, pd.MultiIndex.from_tuples(labels, names=names))
    if cells["data set"].nunique() == 1:
        del cells["data set"]
    best = pd.DataFrame(False, cells.index, cells.columns)
    best.iloc[:, 0] = _best(entries, question)
    return cells, best


def _pivot(
    entries: Sequence[Entry], question: Question, differences: Mapping[Entry, str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One cell per variant."""
    places = {e: (e.labels(question.rows), e.labels(question.columns)) for e in entries}
    at = {place: entry for entry, place in places.items()}
    rows = dict.fromkeys(places[entry][0] for entry in entries)
    columns = dict.fromkeys(places[entry][1] for entry in in_order(entries, question.columns))
    grid = [[at.get((row, column)) for column in columns] for row in rows]
    each = not _seeds_everywhere(entries)
    labels = [row or (_title(question),) for row in rows]
    index = pd.MultiIndex.from_tuples(labels, names=list(question.rows) or [""])
    titles = [", ".join(column) for column in columns]
    cells = [
        ["" if e is None else _cell(e, question, differences[e], each) for e in row] for row in grid
    ]
    best = [_best(row, question) for row in grid]
    return pd.DataFrame(cells, index, titles), pd.DataFrame(best, index, titles)


def _cell(entry: Entry, question: Question, difference: str, seeds: bool) -> str:
    text: str = tables.mean_cell(entry.mean, _unit(question))
    if question.baseline is not None:
        text += f" ({'baseline' if entry.is_baseline else difference})"
    return text + (f", seeds: {_seeds(entry)}" if seeds else "") + _unfinished(entry)


def _best(entries: Sequence[Entry | None], question: Question) -> np.ndarray:
    """Which of several entries on one data set are best, judged by the digits shown.

    An entry with a seed that diverged never is.
    """
    unit = _unit(question)
    shown = [format(unit.scale * e.mean.mean, unit.form) if e else "nan" for e in entries]
    scores = pd.Series(shown, dtype=float) * question.sign
    datasets = [e.dataset if e else "" for e in entries]
    whole = scores.where(np.array([not (e and e.diverged) for e in entries]))
    best = whole == whole.groupby(datasets).transform("max")
    several = scores.groupby(datasets).transform("count") > 1
    return (best & several).to_numpy() & (question.sign != 0)


def _differences(entries: Sequence[Entry], question: Question) -> dict[Entry, str]:
    """The difference of each entry to its baseline: one family of comparisons."""
    found = {entry: entry.difference for entry in entries if entry.difference}
    estimates = [difference.estimate for difference in found.values()]
    cells = dict(zip(found, tables.difference_cells(estimates, _unit(question)), strict=True))
    texts = {entry: "0" if entry.is_baseline else MISSING for entry in entries}
    for entry, (_, paired, same_steps) in found.items():
        marks = ("" if paired else _UNPAIRED) + ("" if same_steps else _OTHER_STEPS)
        texts[entry] = cells[entry] + marks
    return texts


def _caption(
    runs: Mapping[str, Run],
    question: Question,
    differences: Mapping[Entry, str],
    cells: pd.DataFrame,
) -> str:
    entries = list(differences)
    steps = sorted(frozenset().union(*(entry.steps for entry in entries)))
    span = " to ".join(f"{step:,}" for step in dict.fromkeys((*steps[:1], *steps[-1:])))
    span = f"step{'s' if len(steps) > 1 else ''} {span}"
    taken = {
        "final": f"last evaluation ({span})",
        "best": f"best evaluation ({span}), which is optimistic: the same data chose it",
    }
    percent = ", %" * question.is_accuracy
    notes = [
        f"{question.metric}{percent}, {taken.get(str(question.at), question.when)}: "
        + tables.mean_note(tables.cells_text(cells))
    ]
    if question.baseline is not None:
        own = " of the same run" * (len({e.baseline.name for e in entries if e.baseline}) > 1)
        where = "in parentheses " * bool(question.columns)
        unit = " in percentage points" if percent else ""
        notes.append(f"{where}the difference to {question.baseline}{own}{unit}, paired by seed")
        shown = "".join(differences.values())
        notes += tables.star_notes(shown, shown.count("±"))
        notes += [note for mark, note in _NOTES.items() if mark in shown]
    if question.steps_to is not None:
        notes.append("steps are those of the first evaluation and of the seeds that got there")
    if not all(entry.finished for entry in entries):
        notes.append("(unfinished) not all seeds have got to the last step")
    diverged = sum(entry.diverged for entry in entries)
    if diverged:
        do = "count at the chance accuracy of their data set" if percent else "are left out"
        notes.append(f"the runs that diverged, {diverged}, {do}")
    else:
        notes.append("no run diverged")
    parts = ["; ".join(notes)]
    if question.columns:
        parts.append(f"Columns: {', '.join(question.columns)}")
        parts += [f"Seeds: {seeds} each" for seeds in _seeds_everywhere(entries)]
    on = pd.DataFrame({"set": [e.dataset for e in entries], "run": [e.run for e in entries]})
    names = on.drop_duplicates().groupby("set", sort=False)["run"].agg(", ".join)
    parts.append("Data: " + "; ".join(f"{data} ({of})" for data, of in names.items()))
    stand_ins = [name for name, run in runs.items() if run.provenance.get("stand_in")]
    previews = [name for name, run in runs.items() if run.config.get("preview")]
    if stand_ins:
        parts.insert(0, f"STAND-IN DATA, not what the config asks for: {', '.join(stand_ins)}")
    if previews:
        parts.insert(0, f"PREVIEW, fewer steps than the experiment has: {', '.join(previews)}")
    return ". ".join(parts) + "."


def _numbers(entries: Sequence[Entry], question: Question) -> pd.DataFrame:
    family = [entry.difference.estimate for entry in entries if entry.difference]
    adjusted = iter(holm([one.p_value() for one in family]))
    rows = []
    for entry in entries:
        names = {"run": entry.run, "variant": entry.variant}
        measured: dict[str, Any] = {
            **estimate_columns(entry.mean),
            "diverged": entry.diverged,
            "finished": entry.finished,
            "steps": max(entry.steps, default=pd.NA),
            "dataset": entry.dataset,
        }
        if question.baseline is not None:
            found, paired, _ = entry.difference or (estimate([]), None, None)
            measured |= {
                "difference": found.mean,
                "difference_ci95_low": found.ci95_low,
                "difference_ci95_high": found.ci95_high,
                "difference_p": found.p_value(),
                "difference_p_holm": next(adjusted) if entry.difference else np.nan,
                "paired": paired,
            }
        if question.steps_to is not None:
            reached = estimate(entry.reached)
            title = f"steps_to_{question.steps_to:g}"
            measured |= {title: reached.mean, f"{title}_seeds": reached.n}
        keys = [key for key in (*question.rows, *question.columns) if key not in names]
        # A config's `seeds` is the number requested, not the number there are.
        titles = [f"config.{key}" if key in measured else key for key in keys]
        rows.append(names | dict(zip(titles, entry.labels(keys, ""), strict=True)) | measured)
    return pd.DataFrame(rows)


def _seeds_everywhere(entries: Sequence[Entry]) -> list[str]:
    """The number of seeds of every entry, if it is the same for all."""
    seeds = {_seeds(entry) for entry in entries}
    return list(seeds) if len(seeds) == 1 else []


def _seeds(entry: Entry) -> str:
    return tables.seeds_cell(entry.trained + entry.diverged, entry.diverged)


def _unfinished(entry: Entry) -> str:
    return "" if entry.finished else " (unfinished)"


def _unit(question: Question) -> tables.Unit:
    return tables.PERCENT if question.is_accuracy else tables.NUMBER


def _title(question: Question) -> str:
    return f"{question.when} {question.metric}" + ", %" * question.is_accuracy
