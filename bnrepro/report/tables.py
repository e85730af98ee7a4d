"""The one way from entries to a table: its cells, what notes say about them, and its print."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bnrepro.records import Run
from bnrepro.report.entries import MISSING, Entry
from bnrepro.report.question import Question
from bnrepro.report.statistics import LEVEL, Estimate, estimate, holm
from bnrepro.report.summary import BASELINE_BEST, failure_counts


class Unit(NamedTuple):
    """How numbers of a kind are shown."""

    scale: int
    form: str


PERCENT, STEPS, NUMBER = Unit(100, ".2f"), Unit(1, ",.0f"), Unit(1, ".4g")


class Cell(str):
    """A number in a table.

    Attributes:
      seeds: the values that it is the mean of, in the order of seeds; "" if none.
      best: whether it is the best of those that it is compared with.
    """

    seeds: str
    best: bool

    def __new__(cls, text: str, seeds: str = "", best: bool = False) -> "Cell":
        """The text, with what else is known of it."""
        cell = super().__new__(cls, text)
        cell.seeds, cell.best = seeds, best
        return cell


def is_best(cell: str) -> bool:
    """Whether a cell is marked as the best."""
    return isinstance(cell, Cell) and cell.best


# Notes on the marks in a difference, besides stars.
_UNPAIRED, _OTHER_STEPS = "†", "‡"
_NOTES = {
    _UNPAIRED: "† where too few seeds are common to both, so that the interval is Welch's",
    _OTHER_STEPS: "‡ where the baseline's value is of other steps",
    MISSING: "– where the data sets differ or one has no value",
}
# Column titles of splits other than the one that is asked for.
SPLITS = {
    "holdout": "holdout, %",
    "train_set": "training set, %",
    "test_minibatches": "own statistics, %",
}


def list_table(entries: Sequence[Entry], question: Question) -> pd.DataFrame:
    """One row per entry, in this order, with all that was asked for; cells like "97.92 ± 0.05"."""
    unit = unit_of(question)
    columns: dict[str, Sequence[str]] = {
        question.title: [mean_cell(entry.mean, unit) for entry in entries]
    }
    if question.baseline is not None:
        title = f"{question.when} − {question.baseline}"
        columns[title] = list(differences(entries, unit).values())
    for split in question.splits:
        title = SPLITS.get(split, f"{split}, %")
        columns[title] = [mean_cell(entry.others[split]) for entry in entries]
    for accuracy in question.steps_to:
        reached = [entry.reached[f"steps_to_{accuracy:g}"] for entry in entries]
        columns[f"steps to {100 * accuracy:g}%"] = list(map(steps_cell, reached))
    if question.steps_to_best:
        columns[f"steps to {question.baseline}'s best"] = list(map(_steps_to_best, entries))
    if len({entry.dataset for entry in entries}) > 1:
        columns["data set"] = [entry.dataset for entry in entries]
    columns["seeds"] = list(map(seeds_of, entries))
    # As objects: pandas would turn cells into plain strings.
    return pd.DataFrame(columns, dtype=object)


def pivot_table(cells: Mapping[tuple[Any, Any], str], columns: Iterable[Any] = ()) -> pd.DataFrame:
    """Cells by (row, column), with rows and, unless they are given, columns as they come."""
    rows = dict.fromkeys(row for row, _ in cells)
    columns = list(columns) or list(dict.fromkeys(column for _, column in cells))
    grid = [[cells.get((row, column), "") for column in columns] for row in rows]
    return pd.DataFrame(grid, list(rows), columns, dtype=object)


def differences(entries: Sequence[Entry], unit: Unit = PERCENT) -> dict[Entry, str]:
    """The difference of each entry to its baseline: one family of comparisons.

    For example "+0.25 ± 0.14*", with * where the interval excludes zero. With several differences,
    ** where that survives Holm's correction over all of them. An entry without a baseline has "".
    """
    found = {entry: entry.difference for entry in entries if entry.difference}
    p_values = [one.estimate.p_value() for one in found.values()]
    several = sum(one.estimate.has_interval for one in found.values()) > 1
    texts = {
        entry: "0" if entry.is_baseline else MISSING if entry.baseline else "" for entry in entries
    }
    for (entry, (difference, paired, same_steps)), p_value, adjusted in zip(
        found.items(), p_values, holm(p_values), strict=True
    ):
        marks = "*" * ((p_value < LEVEL) + (several and adjusted < LEVEL))
        marks += ("" if paired else _UNPAIRED) + ("" if same_steps else _OTHER_STEPS)
        texts[entry] = mean_cell(difference, unit, "+", marks)
    return texts


def cells_text(table: pd.DataFrame) -> str:
    """All cells of a table in one text."""
    return " ".join(map(str, table.to_numpy().ravel()))


def mean_note(shown: str, seeds: str = "seeds") -> str:
    """What the numbers of `mean_cell` among these cells are."""
    note = f"mean over {seeds}"
    if "±" in shown:
        note += " ± half the width of its 95% confidence interval (Student's t)"
    if re.search(r"\(\S+ to \S+\)", shown):
        note += "; instead of an interval, the minimum and maximum of fewer than three values"
    return note


def difference_notes(shown: str) -> list[str]:
    """What the marks of `differences` in this text mean."""
    tested, notes = shown.count("±"), []
    if "*" in shown:
        notes.append(
            "* where the interval excludes zero"
            if tested == 1
            else "* where this interval alone excludes zero, ** where the difference also survives "
            f"Holm's correction over the {tested} of this table"
        )
    return notes + [note for mark, note in _NOTES.items() if mark in shown]


def failure_note(run: Run) -> str:
    """Which runs diverged, and how they count."""
    failed = ", ".join(
        f"{name} at {100 * run.chance(name):g}% ({count} of {run.config['seeds']})"
        for name, count in failure_counts(run).items()
    )
    return f"runs that diverged count at chance accuracy: {failed}" if failed else "no run diverged"


def print_table(table: pd.DataFrame, caption: str, width: int = 120) -> None:
    """Prints the table, fitted to the width of the terminal or, where there is none, to `width`."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=width)
    console.print(terminal_table(table))
    console.print(Text(caption, "table.caption"))


def terminal_table(table: pd.DataFrame) -> Table:
    """The table for a terminal, with a column for each index level and the best cells in bold."""
    shown = Table()
    for name in table.index.names:
        shown.add_column(Text(str(name or "")), overflow="fold")
    for column in table.columns:
        shown.add_column(Text(str(column)), justify="right", overflow="fold")
    # As Text, since a name may look like rich's markup.
    for labels, cells in zip(table.index, table.to_numpy(object), strict=True):
        names = labels if isinstance(labels, tuple) else [labels]
        styled = [Text(cell, "bold" if is_best(cell) else "") for cell in cells]
        shown.add_row(*(Text(str(name)) for name in names), *styled)
    return shown


def mean_cell(mean: Estimate, unit: Unit = PERCENT, sign: str = "", marks: str = "") -> Cell:
    """For example "97.92 ± 0.05", "97.50 (97.40 to 97.60)" for two values, or "97.50" for one.

    Marks follow.
    """

    def shown(number: float, sign: str = sign) -> str:
        return format(unit.scale * number, sign + unit.form)

    if mean.n == 0:
        return Cell(MISSING)
    text = shown(mean.mean)
    if mean.has_interval:
        text += f" ± {shown(mean.ci95_high - mean.mean, '')}"
    elif mean.n > 1:
        text += f" ({shown(mean.minimum)} to {shown(mean.maximum)})"
    return Cell(text + marks, ", ".join(map(shown, mean.sample)))


def steps_cell(reached: pd.Series) -> str:
    """For example "1,900 ± 282 (4 of 5)", of the steps of 5 seeds, infinity if not reached."""
    steps, of = estimate(reached), len(reached)
    if of == 0:
        return MISSING
    if steps.n == 0:
        return "never"
    return mean_cell(steps, STEPS, marks=f" ({steps.n} of {of})" if steps.n < of else "")


def _steps_to_best(entry: Entry) -> str:
    reached, baseline = entry.reached[BASELINE_BEST], entry.baseline
    return (
        "baseline diverged"
        if reached.empty and baseline and baseline.diverged
        else steps_cell(reached)
    )


def seeds_of(entry: Entry) -> str:
    """How many seeds an entry has a value of."""
    return seeds_cell(entry.trained + entry.diverged, entry.diverged)


def seeds_cell(seeds: int, diverged: int) -> str:
    """For example "3 (1 diverged)"."""
    return str(seeds) + (f" ({diverged} diverged)" if diverged else "")


def unit_of(question: Question) -> Unit:
    """How the values of a question are shown."""
    return PERCENT if question.is_accuracy else NUMBER
