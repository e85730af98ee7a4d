"""The table of a comparison, as text for a terminal and as Markdown."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bnrepro.records import Run
from bnrepro.report.entries import MISSING
from bnrepro.report.statistics import LEVEL, Estimate, holm
from bnrepro.report.summary import failure_counts

# Column titles of a summary's metrics, and what a caption says about them.
_TITLES = {
    "final": "final, %",
    "final_holdout": "holdout, %",
    "final_train_set": "training set, %",
    "final_test_minibatches": "own statistics, %",
}
_EXPLANATIONS = {
    "holdout, %": "holdout: final accuracy on training images that were held out",
    "training set, %": "training set: final accuracy on it, with moving averages",
    "own statistics, %": "own statistics: final accuracy on minibatches of test images, made as "
    "for training and normalized by their own statistics",
}


def comparison_table(run: Run, summary: pd.DataFrame) -> pd.DataFrame:
    """The summary for a reader: one row per variant, cells like "97.92 ± 0.05"."""
    baseline, failed = run.config["baseline"], failure_counts(run)
    titles = _TITLES | {
        "final_minus_baseline": f"final − {baseline}",
        "steps_to_baseline_best": f"steps to {baseline}'s best",
    }
    cells: Any = summary.set_index(["variant", "metric"])
    deltas = differences(summary, run.variants)
    rows: dict[str, dict[str, str]] = {name: {} for name in run.variants}
    for (variant, metric), cell in cells.iterrows():
        title = titles.get(metric) or f"steps to {100 * float(metric.rpartition('_')[2]):g}%"
        if metric == "final_minus_baseline":
            text = "0" if variant == baseline else deltas[variant]
        elif not metric.startswith("steps_to"):
            text = mean_cell(cell.estimate)
        elif cell.of == 0 and metric == "steps_to_baseline_best" and baseline in failed:
            text = "baseline diverged"
        else:
            text = steps_cell(cell.estimate, cell.of)
        rows[variant][title] = text
    for variant, row in rows.items():
        seeds = cells.loc[(variant, "final"), "estimate"].n
        row["seeds"] = seeds_cell(seeds, failed.get(variant, 0))
    # As objects: pandas would turn them into plain strings.
    return pd.DataFrame.from_dict(rows, orient="index", dtype=object)


def pivot_table(summary: pd.DataFrame, places: Mapping[tuple[str, str], str]) -> pd.DataFrame:
    """Final accuracy of the variant that `places` gives for each (row, column); "" if none."""
    finals = summary[summary["metric"] == "final"].set_index("variant")["estimate"]
    rows: dict[str, dict[str, str]] = {}
    for (row, column), variant in places.items():
        rows.setdefault(row, {})[column] = mean_cell(finals[variant])
    return pd.DataFrame.from_dict(rows, orient="index", dtype=object).fillna("")


def differences(summary: pd.DataFrame, variants: Sequence[str]) -> dict[str, str]:
    """Final accuracy of these variants minus their baseline's: a family of comparisons."""
    rows = summary[summary["metric"] == "final_minus_baseline"].set_index("variant")["estimate"]
    return dict(zip(variants, difference_cells([rows[name] for name in variants]), strict=True))


def caption(run: Run, table: pd.DataFrame, *remarks: str) -> str:
    """What the numbers of a table are, with caveats."""
    config = run.config
    notes = [
        f"Test accuracy on {run.provenance['dataset']} after {config['steps']:,} steps: "
        + mean_note(cells_text(table), "seeds" if "seeds" in table else f"{config['seeds']} seeds")
    ]
    deltas = cells_text(table.filter(like=" − "))
    if deltas:
        notes.append("differences are paired by seed, in percentage points")
        notes += star_notes(deltas, deltas.count("±"))
    notes += [text for title, text in _EXPLANATIONS.items() if title in table]
    if table.columns.str.startswith("steps to").any():
        notes.append(
            f"steps are those of the first evaluation, one every {config['eval_every']:,}, and of "
            "the seeds that got there"
        )
    baseline = config["baseline"]
    if f"steps to {baseline}'s best" in table:
        best = f"{baseline}'s best is its highest accuracy at any evaluation with the same seed"
        notes.append(best + ", if it did not diverge" * (baseline in failure_counts(run)))
    notes.append(failure_note(run))
    parts = ["; ".join(notes)]
    if run.provenance["stand_in"]:
        parts.insert(0, "STAND-IN DATA: not MNIST")
    if config["preview"]:
        parts.insert(0, "PREVIEW: fewer steps than the experiment has")
    unfinished = [name for name in run.variants if not run.finished(name)]
    if unfinished:
        parts.insert(0, f"UNFINISHED: {', '.join(unfinished)}")
    return ". ".join([*parts, *remarks]) + "."


def cells_text(table: pd.DataFrame) -> str:
    """All cells of a table in one text."""
    return " ".join(map(str, table.to_numpy().ravel()))


def mean_note(shown: str, seeds: str = "seeds") -> str:
    """What the numbers of `mean_cell` among these cells are."""
    note = f"mean over {seeds}"
    if "±" in shown:
        note += " ± half of its 95% confidence interval (Student's t)"
    if re.search(r"\(\S+ to \S+\)", shown):
        note += "; instead of an interval, the minimum and maximum of fewer than three values"
    return note


def star_notes(shown: str, tested: int) -> list[str]:
    """What the marks of `difference_cells` mean; `tested` of these cells have an interval."""
    if "*" not in shown:
        return []
    if tested == 1:
        return ["* where the interval excludes zero"]
    return [
        "* where this interval alone excludes zero, ** where the difference also survives Holm's "
        f"correction over the {tested} of this table"
    ]


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
    console.print(terminal_table(table, pd.DataFrame(False, table.index, table.columns)))
    console.print(Text(caption, "table.caption"))


def terminal_table(table: pd.DataFrame, bold: pd.DataFrame) -> Table:
    """The table for a terminal, with a column for each index level and some cells in bold."""
    shown = Table()
    for name in table.index.names:
        shown.add_column(Text(str(name or "")), overflow="fold")
    for column in table.columns:
        shown.add_column(Text(str(column)), justify="right", overflow="fold")
    # As Text, since a name may look like rich's markup.
    for (labels, cells), marks in zip(table.iterrows(), bold.to_numpy(), strict=True):
        names = labels if isinstance(labels, tuple) else [labels]
        styled = [Text(c, "bold" if mark else "") for c, mark in zip(cells, marks, strict=True)]
        shown.add_row(*(Text(str(name)) for name in names), *styled)
    return shown


class Unit(NamedTuple):
    """How numbers of a kind are shown."""

    scale: int
    form: str


PERCENT, STEPS, NUMBER = Unit(100, ".2f"), Unit(1, ",.0f"), Unit(1, ".4g")


class Cell(str):
    """A number in a table.

    Attributes:
      seeds: the values that it is the mean of, in the order of seeds; "" if none.
    """

    seeds: str

    def __new__(cls, text: str, seeds: str = "") -> "Cell":
        """The text, with its seeds."""
        cell = super().__new__(cls, text)
        cell.seeds = seeds
        return cell


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


def difference_cells(differences: Sequence[Estimate], unit: Unit = PERCENT) -> list[Cell]:
    """For example "+0.25 ± 0.14*", with * where the interval excludes zero.

    With several differences, ** where that survives Holm's correction over all of them.
    """
    p_values = [one.p_value() for one in differences]
    several = sum(one.has_interval for one in differences) > 1
    return [
        mean_cell(one, unit, "+", "*" * ((p_value < LEVEL) + (several and adjusted < LEVEL)))
        for one, p_value, adjusted in zip(differences, p_values, holm(p_values), strict=True)
    ]


def steps_cell(steps: Estimate, of: int) -> str:
    """For example "1,900 ± 282 (4 of 5)", over the seeds that reached it."""
    if of == 0:
        return MISSING
    if steps.n == 0:
        return "never"
    return mean_cell(steps, STEPS, marks=f" ({steps.n} of {of})" if steps.n < of else "")


def seeds_cell(seeds: int, diverged: int) -> str:
    """For example "3 (1 diverged)"."""
    return str(seeds) + (f" ({diverged} diverged)" if diverged else "")
