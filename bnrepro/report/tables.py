"""The table of a comparison, as text for a terminal and as Markdown."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from bnrepro.records import SUMMARY_MD, Run, complete_file


def comparison_table(run: Run, summary: pd.DataFrame) -> pd.DataFrame:
    """The summary as a person reads it: one row a variant, cells like "97.92 ± 0.05"."""
    baseline = run.config["baseline"]
    titles = {
        "final": ("final, %", _percent),
        "best": ("best, %", _percent),
        "final_minus_baseline": (f"final − {baseline}", _difference),
        "final_train_set": ("training set, %", _percent),
        "final_test_minibatches": ("own statistics, %", _percent),
        "steps_to_baseline_best": (f"steps to {baseline}'s best", _steps),
    }
    columns = {
        metric: titles.get(metric)
        or (f"steps to {100 * float(metric.rpartition('_')[2]):g}%", _steps)
        for metric in dict.fromkeys(summary["metric"])
    }
    cells: Any = summary.set_index(["variant", "metric"])
    diverged = run.metrics[run.metrics["metric"] == "diverged"].groupby("variant").size()
    rows = {}
    for variant in run.variants:
        seeds = int(cells.loc[(variant, "final"), "seeds"])
        rows[variant] = {
            title: "0" if (variant, metric) == (baseline, "final_minus_baseline")
            else form(cells.loc[(variant, metric)], seeds)
            for metric, (title, form) in columns.items()
        }  # fmt: skip
        rows[variant]["seeds"] = str(seeds)
        if variant in diverged:
            rows[variant]["seeds"] += f" ({diverged[variant]} diverged)"
    return pd.DataFrame.from_dict(rows, orient="index")


def pivot_table(
    summary: pd.DataFrame, places: Mapping[str, tuple[str, str]], missing: str
) -> pd.DataFrame:
    """Final accuracy of each variant in the (row, column) that `places` gives it."""
    finals: Any = summary[summary["metric"] == "final"].set_index("variant")
    rows: dict[str, dict[str, str]] = {}
    for variant, (row, column) in places.items():
        rows.setdefault(row, {})[column] = _percent(finals.loc[variant])
    return pd.DataFrame.from_dict(rows, orient="index").fillna(missing)


def differences(summary: pd.DataFrame, variants: Mapping[str, str]) -> pd.Series:
    """Final accuracy less that of the baseline, for {row: variant}."""
    cells: Any = summary[summary["metric"] == "final_minus_baseline"].set_index("variant")
    return pd.Series(
        {row: _difference(cells.loc[name]) for row, name in variants.items()}, dtype=object
    )


def caption(run: Run, *remarks: str) -> str:
    """What the numbers are of, and what to beware of."""
    config = run.config
    parts = [
        f"Test accuracy on {run.provenance['dataset']} after {config['steps']:,} steps: mean over "
        "seeds ± half of its 95% interval (Student's t); differences are paired by seed, in "
        "percentage points, * where the interval excludes zero; steps are those of the first "
        f"evaluation, one every {config['eval_every']:,}, and of the seeds that got there; seeds "
        "that diverged are left out"
    ]
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
    shown = Table(caption=caption, caption_justify="left")
    shown.add_column("")
    for column in table.columns:
        shown.add_column(str(column), justify="right")
    for variant, row in table.iterrows():
        shown.add_row(str(variant), *row)
    console.print(shown)


def _percent(cell: pd.Series, seeds: int = 0) -> str:
    return _with_interval(cell, 100, ".2f")


def _difference(cell: pd.Series, seeds: int = 0) -> str:
    mark = "*" if cell["ci95_low"] > 0 or cell["ci95_high"] < 0 else ""
    return _with_interval(cell, 100, "+.2f") + mark


def _steps(cell: pd.Series, seeds: int) -> str:
    if cell["seeds"] == 0:
        return "never"
    reached = f" ({cell['seeds']} of {seeds})" if cell["seeds"] < seeds else ""
    return _with_interval(cell, 1, ",.0f") + reached


def _with_interval(cell: pd.Series, scale: int, form: str) -> str:
    if cell["seeds"] == 0:
        return "–"
    text = format(scale * cell["mean"], form)
    if cell["seeds"] == 1:
        return text
    half = scale * (cell["ci95_high"] - cell["mean"])
    return f"{text} ± {format(half, form.lstrip('+'))}"
