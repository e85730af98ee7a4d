"""The table of a comparison, as text for a terminal and as Markdown."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from bnrepro.records import SUMMARY_MD, Run, complete_file


def comparison_table(run: Run, summary: pd.DataFrame, accuracies: Sequence[float]) -> pd.DataFrame:
    """The summary as a person reads it: one row a variant, cells like "97.92 ± 0.05"."""
    baseline = run.config["baseline"]
    columns = {
        "final": ("final, %", _percent),
        "best": ("best, %", _percent),
        "final_minus_baseline": (f"final − {baseline}, %", _difference),
        **{f"steps_to_{a:g}": (f"steps to {a:.0%}", _steps) for a in accuracies},
        "steps_to_baseline_best": (f"to {baseline}'s best", _steps),
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


def caption(run: Run) -> str:
    """What the numbers are of, and what to beware of."""
    config = run.config
    parts = [
        f"Test accuracy on {run.provenance['dataset']}, {config['steps']:,} steps of "
        f"{config['batch_size']}; mean over seeds ± half of the 95% interval (Student's t), "
        f"* where the difference, paired by seed, is not zero; evaluated every "
        f"{config['eval_every']:,} steps"
    ]
    if run.provenance["stand_in"]:
        parts.insert(0, "STAND-IN DATA: not MNIST")
    if config["preview"]:
        parts.insert(0, "PREVIEW: fewer steps than the experiment has")
    unfinished = [name for name in run.variants if not run.finished(name)]
    if unfinished:
        parts.insert(0, f"UNFINISHED: {', '.join(unfinished)}")
    return ". ".join(parts) + "."


def write_markdown(run: Run, table: pd.DataFrame) -> None:
    """Writes `summary.md`: caption and table."""
    with complete_file(run.workdir / SUMMARY_MD) as path:
        path.write_text(f"{table.to_markdown(disable_numparse=True)}\n\n{caption(run)}\n")


def print_table(run: Run, table: pd.DataFrame, console: Console) -> None:
    """Shows the table on a terminal, fitted to its width."""
    shown = Table(caption=caption(run), caption_justify="left")
    shown.add_column("")
    for column in table.columns:
        shown.add_column(str(column), justify="right")
    for variant, row in table.iterrows():
        shown.add_row(str(variant), *row)
    console.print(shown)


def _percent(cell: pd.Series, seeds: int) -> str:
    return _with_interval(cell, 100, ".2f")


def _difference(cell: pd.Series, seeds: int) -> str:
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
