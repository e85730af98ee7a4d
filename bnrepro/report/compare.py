"""Compares variants of any number of runs, in a list or a pivot by the settings that differ."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bnrepro.records import Run
from bnrepro.report import tables
from bnrepro.report.entries import Entry, check_keys, find_entries, in_order, setting_text
from bnrepro.report.question import Question
from bnrepro.report.statistics import estimate, estimate_columns, holm
from bnrepro.report.tables import Cell


class Comparison(NamedTuple):
    """The answer to a question.

    Attributes:
      cells: for a reader; the index labels the rows, and a `Cell` knows whether it is the best.
      caption: what they are, with caveats.
      numbers: the same for a program, one row per variant.
    """

    cells: pd.DataFrame
    caption: str
    numbers: pd.DataFrame


def compare(runs: Mapping[str, Run], question: Question) -> Comparison:
    """Compares all variants of the runs.

    Args:
      runs: by label; each has what the question asks for (`check_run`).
      question: what to compare.

    Raises:
      UserError: the runs cannot answer it.
    """
    entries = find_entries(runs, question)
    check_keys(entries, [*question.rows, *question.columns])
    entries = in_order(entries, question.rows)
    cells = (_pivot if question.columns else _list)(entries, question)
    caption = _caption(runs, question, entries, cells)
    return Comparison(cells, caption, _numbers(entries, question))


def _list(entries: Sequence[Entry], question: Question) -> pd.DataFrame:
    """One row per variant."""
    several = len({entry.run for entry in entries}) > 1
    names = list(question.rows) or ["run: variant" if several else "variant"]
    labels = []
    for entry in entries:
        label = entry.labels(question.rows) or (entry.name if several else entry.variant,)
        labels.append((*label[:-1], label[-1] + _unfinished(entry)))
    cells = tables.list_table(entries, question)
    cells.index = pd.MultiIndex.from_tuples(labels, names=names)
    best = zip(cells[question.title], _best(entries, question), strict=True)
    marked = [Cell(cell, cell.seeds, mark) for cell, mark in best]
    cells[question.title] = pd.Series(marked, cells.index, dtype=object)
    return cells


def _pivot(entries: Sequence[Entry], question: Question) -> pd.DataFrame:
    """One cell per variant."""
    unit, each = tables.unit_of(question), not _seeds_everywhere(entries)
    differences = tables.differences(entries, unit)

    cells = {}
    for entry, best in zip(entries, _best(entries, question), strict=True):
        mean = tables.mean_cell(entry.mean, unit)
        text = str(mean)
        if question.baseline is not None:
            text += f" ({'baseline' if entry.is_baseline else differences[entry]})"
        text += f", seeds: {tables.seeds_of(entry)}" * each + _unfinished(entry)
        place = entry.labels(question.rows), entry.labels(question.columns)
        cells[place] = Cell(text, mean.seeds, best)
    columns = dict.fromkeys(e.labels(question.columns) for e in in_order(entries, question.columns))
    pivot = tables.pivot_table(cells, columns)
    rows = [row or (question.title,) for row in pivot.index]
    index = pd.MultiIndex.from_tuples(rows, names=list(question.rows) or [""])
    return pivot.set_axis(index).set_axis([", ".join(column) for column in columns], axis=1)


def _best(entries: Sequence[Entry], question: Question) -> list[bool]:
    """Which entries are the best on their data set, and in their row of a pivot.

    They are judged by the digits shown. An entry with a seed that diverged never is the best, nor
    is one that nothing is compared with.
    """
    unit, rows = tables.unit_of(question), question.rows if question.columns else ()
    shown = [format(unit.scale * entry.mean.mean, unit.form) for entry in entries]
    scores = pd.Series(shown, dtype=float) * question.sign
    groups = pd.Series([(entry.dataset, *entry.labels(rows)) for entry in entries])
    whole = scores.where(np.array([not entry.diverged for entry in entries]))
    best = whole == whole.groupby(groups).transform("max")
    several = scores.groupby(groups).transform("count") > 1
    return (best & several & (question.sign != 0)).tolist()


def _caption(
    runs: Mapping[str, Run],
    question: Question,
    entries: Sequence[Entry],
    cells: pd.DataFrame,
) -> str:
    steps = sorted(frozenset().union(*(entry.steps for entry in entries)))
    span = " to ".join(f"{step:,}" for step in dict.fromkeys((*steps[:1], *steps[-1:])))
    span = f" (step{'s' if len(steps) > 1 else ''} {span})" * bool(steps)  # not if all diverged
    taken = {
        "final": f"last evaluation{span}",
        "best": f"best evaluation{span}, which is optimistic: the same data chose it",
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
        differences = tables.differences(entries, tables.unit_of(question))
        notes += tables.difference_notes("".join(differences.values()))
    if question.steps_to:
        notes.append("steps are those of the first evaluation and of the seeds that got there")
    if not all(entry.finished for entry in entries):
        notes.append("(unfinished) not all seeds have got to the last step")
    diverged = sum(entry.diverged for entry in entries)
    if diverged:
        do = "count at the chance accuracy of their data set" if percent else "are left out"
        notes.append(f"the runs that diverged, {diverged}, {do}")
    else:
        notes.append("no run diverged")
    remarks = []
    if question.columns:
        remarks.append(f"Columns: {', '.join(question.columns)}")
        remarks += [f"Seeds: {seeds} each" for seeds in _seeds_everywhere(entries)]
    on = pd.DataFrame({"set": [e.dataset for e in entries], "run": [e.run for e in entries]})
    names = on.drop_duplicates().groupby("set", sort=False)["run"].agg(", ".join)
    remarks.append("Data: " + "; ".join(f"{data} ({of})" for data, of in names.items()))
    named = {setting_text(name): run for name, run in runs.items()}
    previews = [name for name, run in named.items() if run.config.get("preview")]
    stand_ins = [name for name, run in named.items() if run.provenance.get("stand_in")]
    warnings = []
    if previews:
        warnings.append(f"PREVIEW, fewer steps than the experiment has: {', '.join(previews)}")
    if stand_ins:
        warnings.append(f"STAND-IN DATA, not what the config asks for: {', '.join(stand_ins)}")
    return ". ".join([*warnings, "; ".join(notes), *remarks]) + "."


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
        for title, steps in entry.reached.items():
            reached = estimate(steps)
            measured |= {title: reached.mean, f"{title}_seeds": reached.n}
        keys = [key for key in (*question.rows, *question.columns) if key not in names]
        # A config's `seeds` is the number requested, not the number there are.
        titles = [f"config.{key}" if key in measured else key for key in keys]
        rows.append(names | dict(zip(titles, entry.labels(keys, ""), strict=True)) | measured)
    return pd.DataFrame(rows)


def _seeds_everywhere(entries: Sequence[Entry]) -> list[str]:
    """The number of seeds of every entry, if it is the same for all."""
    seeds = {tables.seeds_of(entry) for entry in entries}
    return list(seeds) if len(seeds) == 1 else []


def _unfinished(entry: Entry) -> str:
    return "" if entry.finished else " (unfinished)"
