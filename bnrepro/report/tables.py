"""The table of a comparison, as text for a terminal and as Markdown."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bnrepro.records import SUMMARY_MD, Run, complete_file
from bnrepro.report.summary import Interval


def comparison_table(run: Run, summary: pd.DataFrame) -> pd.DataFrame:
    """The summary as a person reads it: one row a variant, cells like "97.92 ± 0.05"."""
    baseline = run.config["baseline"]
    titles = {
        "final": "final, %",
        "best": "best, %",
        "final_minus_baseline": f"final − {baseline}",
        "final_holdout": "holdout, %",
        "final_train_set": "training set, %",
        "final_test_minibatches": "own statistics, %",
        "steps_to_baseline_best": f"steps to {baseline}'s best",
    }
    columns = {
        metric: titles.get(metric) or f"steps to {100 * float(metric.rpartition('_')[2]):g}%"
        for metric in dict.fromkeys(summary["metric"])
    }
    cells: Any = summary.set_index(["variant", "metric"])
    diverged = run.metrics[run.metrics["metric"] == "diverged"].groupby("variant").size()
    rows = {}
    for variant in run.variants:
        seeds = int(cells.loc[(variant, "final"), "seeds"])
        rows[variant] = {
            title: "0" if (variant, metric) == (baseline, "final_minus_baseline")
            else _cell(metric, cells.loc[(variant, metric)], seeds)
            for metric, title in columns.items()
        }  # fmt: skip
        rows[variant]["seeds"] = seeds_cell(seeds, int(diverged.get(variant, 0)))
    return pd.DataFrame.from_dict(rows, orient="index")


def pivot_table(
    summary: pd.DataFrame, places: Mapping[tuple[str, str], str], missing: str
) -> pd.DataFrame:
    """Final accuracy of the variant that `places` names for each (row, column)."""
    finals: Any = summary[summary["metric"] == "final"].set_index("variant")
    rows: dict[str, dict[str, str]] = {}
    for (row, column), variant in places.items():
        rows.setdefault(row, {})[column] = mean_cell(_interval(finals.loc[variant]))
    return pd.DataFrame.from_dict(rows, orient="index").fillna(missing)


def differences(summary: pd.DataFrame, variants: Mapping[str, str]) -> pd.Series:
    """Final accuracy less that of the baseline, for {row: variant}."""
    cells: Any = summary[summary["metric"] == "final_minus_baseline"].set_index("variant")
    return pd.Series(
        {row: difference_cell(_interval(cells.loc[name])) for row, name in variants.items()},
        dtype=object,
    )


def caption(run: Run, table: pd.DataFrame, *remarks: str) -> str:
    """What the numbers of a table are of, and what to beware of."""
    config = run.config
    notes = [
        f"Test accuracy on {run.provenance['dataset']} after {config['steps']:,} steps: mean over "
        "seeds ± half of its 95% interval (Student's t)"
    ]
    if table.columns.str.contains(" − ").any():
        notes.append(
            "differences are paired by seed, in percentage points, * where the interval excludes "
            "zero"
        )
    if table.columns.str.startswith("steps to").any():
        notes.append(
            f"steps are those of the first evaluation, one every {config['eval_every']:,}, and of "
            "the seeds that got there"
        )
    parts = ["; ".join([*notes, "seeds that diverged are left out"])]
    if run.provenance["stand_in"]:
        parts.insert(0, "STAND-IN DATA: not MNIST")
    if config["preview"]:
        parts.insert(0, "PREVIEW: fewer steps than the experiment has")
    unfinished = [name for name in run.variants if not run.finished(name)]
    if unfinished:
        parts.insert(0, f"UNFINISHED: {', '.join(unfinished)}")
    return ". ".join([*parts, *remarks]) + "."


def write_markdown(run: Run, table: pd.DataFrame, caption: str) -> None:
    """Writes `summary.md`: table and caption."""
    with complete_file(run.workdir / SUMMARY_MD) as path:
        path.write_text(f"{table.to_markdown(disable_numparse=True)}\n\n{caption}\n")


def print_table(table: pd.DataFrame, caption: str, console: Console) -> None:
    """Shows the table on a terminal, fitted to its width."""
    console.print(terminal_table(table, pd.DataFrame(False, table.index, table.columns)))
    console.print(Text(caption, "table.caption"))


def terminal_table(table: pd.DataFrame, bold: pd.DataFrame) -> Table:
    """The table for a terminal, a column for each level of the index, with those in bold."""
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


def mean_cell(mean: Interval, unit: Unit = PERCENT, sign: str = "") -> str:
    """For example "97.92 ± 0.05"; of a single seed there is no interval."""
    if mean.seeds == 0:
        return "–"
    text = format(unit.scale * mean.mean, sign + unit.form)
    if mean.seeds == 1:
        return text
    return f"{text} ± {format(unit.scale * (mean.ci95_high - mean.mean), unit.form)}"


def difference_cell(difference: Interval, unit: Unit = PERCENT) -> str:
    """For example "+0.25 ± 0.14*", with * where the interval excludes zero."""
    mark = "*" if difference.ci95_low > 0 or difference.ci95_high < 0 else ""
    return mean_cell(difference, unit, "+") + mark


def steps_cell(steps: Interval, seeds: int) -> str:
    """For example "1,900 ± 282 (2 of 3)", of the seeds that got there."""
    if seeds == 0:
        return "–"
    if steps.seeds == 0:
        return "never"
    return mean_cell(steps, STEPS) + (f" ({steps.seeds} of {seeds})" if steps.seeds < seeds else "")


def seeds_cell(seeds: int, diverged: int) -> str:
    """For example "2 (1 diverged)"."""
    return str(seeds) + (f" ({diverged} diverged)" if diverged else "")


def _cell(metric: str, row: pd.Series, seeds: int) -> str:
    if metric.startswith("steps_to"):
        return steps_cell(_interval(row), seeds)
    return (difference_cell if metric == "final_minus_baseline" else mean_cell)(_interval(row))


def _interval(row: pd.Series) -> Interval:
    return Interval(*row[list(Interval._fields)])
