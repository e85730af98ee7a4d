"""Figures of a comparison, written as SVG and PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, ScalarFormatter
from scipy import stats

from bnrepro.records import FIGURES, Run, complete_file
from bnrepro.report.summary import evaluations

# Okabe and Ito's colours, told apart by the colour-blind as well.
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_TEST = {"test": "test accuracy, %"}
_STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 10,
    "legend.frameon": False,
    # The same figure gives the same file.
    "svg.hashsalt": "bnrepro",
}


def accuracy_figure(
    run: Run,
    variants: Sequence[str] | None = None,
    name: str = "accuracy",
    splits: Mapping[str, str] = _TEST,
) -> list[Path]:
    """Accuracy against steps, mean and 95% interval over seeds, of all or some variants.

    Args:
      run: what was measured.
      variants: those to show, if not all.
      name: of the file.
      splits: what to show, a panel each, with its title.
    """
    names = run.variants if variants is None else list(variants)
    tables = {title: _accuracy(run, split, names) for split, title in splits.items()}
    with mpl.rc_context(_STYLE):
        size = (4.4 * len(splits) + 2 * (len(splits) == 1), 4)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
        for axes, (title, accuracy) in zip(panels, tables.items(), strict=True):
            for variant, colour in _coloured(names):
                # Colours come again after the seventh line, then dashed and dotted.
                style = ("-", "--", ":", "-.")[names.index(variant) // len(_COLOURS) % 4]
                _plot_mean(axes, accuracy, variant, style, colour, len(names) <= len(_COLOURS))
            axes.set(xlabel="training steps")
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            if len(splits) > 1:
                axes.set_title(title, fontsize=9)
        # The start, near chance, would flatten all that follows.
        panels[0].set_ylim(min(_lower_limit(t.to_numpy()) for t in tables.values()), 100)
        panels[0].set(ylabel=next(iter(splits.values())) if len(splits) == 1 else "accuracy, %")
        panels[-1].legend(
            loc="lower right", ncols=-(-len(names) // 12), fontsize=8 if len(names) > 5 else None
        )
        first = next(iter(tables.values()))
        seeds_shown = first.columns.get_level_values("seed").nunique()
        text = _title(run, f"{seeds_shown} seeds, band: 95% interval")
        figure.suptitle(text, fontsize=9)
        return _save(figure, run.workdir / FIGURES / name)


def _accuracy(run: Run, split: str, names: Sequence[str]) -> pd.DataFrame:
    """Percent: one row a step, one column a (variant, seed)."""
    rows = evaluations(run, split)
    rows = rows[rows["variant"].isin(names)]
    return 100 * rows.pivot(index="step", columns=["variant", "seed"], values="value")


def _plot_mean(
    axes: Axes, accuracy: pd.DataFrame, variant: str, style: str, colour: str, band: bool
) -> None:
    """A line for the mean over seeds, and a band for its 95% interval."""
    seeds = accuracy.loc[:, accuracy.columns.get_level_values("variant") == variant]
    mean = seeds.mean(axis=1)
    axes.plot(seeds.index, mean, style, color=colour, label=variant)
    if seeds.shape[1] > 1 and band:
        count = seeds.count(axis=1)
        half = stats.t.ppf(0.975, count - 1) * seeds.sem(axis=1)
        axes.fill_between(seeds.index, mean - half, mean + half, color=colour, alpha=0.25, lw=0)


def accuracy_against_figure(
    run: Run, summary: pd.DataFrame, lines: Mapping[str, Mapping[int, str]], xlabel: str
) -> list[Path]:
    """Final accuracy against a number: a line a title, {title: {number: variant}}."""
    finals = summary[summary["metric"] == "final"].set_index("variant")
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 4), layout="constrained")
        axes = figure.subplots()
        for title, colour in _coloured(list(lines)):
            points = sorted(lines[title].items())
            rows = 100 * finals.loc[[name for _, name in points], ["mean", "ci95_high"]]
            half = (rows["ci95_high"] - rows["mean"]).fillna(0)
            numbers = [number for number, _ in points]
            # Of what was trained once for all numbers, one line without points.
            once = len(set(lines[title].values())) == 1
            style: dict[str, Any] = {"ls": ":"} if once else {"marker": "o", "ms": 3, "capsize": 2}
            axes.errorbar(
                numbers, rows["mean"], 0 if once else half, color=colour, label=title, **style
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({number for points in lines.values() for number in points}))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        # Errors on a log scale: both 71 against 92% and 97.3 against 97.9% can be seen.
        axes.set_yscale("function", functions=(_from_accuracy, _to_accuracy))
        axes.set_yticks([20, 50, 70, 80, 90, 95, 97, 98, 99], minor=False)
        shown = [variant for points in lines.values() for variant in points.values()]
        errors = (100 - 100 * finals.loc[shown, "mean"]).fillna(50)
        axes.set_ylim(max(0, 100 - 1.2 * errors.max()), 100 - 0.8 * errors.min())
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.set(xlabel=xlabel, ylabel="final test accuracy, % (log scale of the error)")
        axes.legend(loc="lower right")
        text = f"{run.config['steps']:,} steps, bars: 95% interval over seeds"
        axes.set_title(_title(run, text), fontsize=9)
        return _save(figure, run.workdir / FIGURES / "accuracy_against")


def _from_accuracy(percent: np.ndarray) -> np.ndarray:
    return -np.log(np.maximum(100 - percent, 0.01))


def _to_accuracy(height: np.ndarray) -> np.ndarray:
    return 100 - np.exp(-height)


def sigmoid_input_figure(run: Run) -> list[Path]:
    """Figures (b, c): percentiles of one sigmoid's input over training, a panel a variant."""
    seed = run.config["first_seed"]
    rows = run.metrics[
        (run.metrics["seed"] == seed) & run.metrics["metric"].str.startswith("sigmoid_input/")
    ]
    with mpl.rc_context(_STYLE):
        names = run.variants
        columns = min(len(names), 4)
        rows_of_panels = -(-len(names) // columns)
        size = (2.8 * columns + 0.6, 2.8 * rows_of_panels + 0.4)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(rows_of_panels, columns, sharey=True, squeeze=False).ravel()
        for axes in panels[len(names) :]:
            axes.remove()
        for axes, (variant, colour) in zip(panels, _coloured(names), strict=False):
            percentiles = rows[rows["variant"] == variant].pivot(
                index="step", columns="metric", values="value"
            )
            for metric, style in zip(percentiles.columns, ("--", "-", "--"), strict=False):
                axes.plot(percentiles.index, percentiles[metric], style, color=colour, lw=1.2)
            axes.set_title(variant)
            axes.set_xlabel("training steps")
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        panels[0].set_ylabel("input to the sigmoid")
        title = (
            "15th, 50th and 85th percentile over the test set, first unit of the last hidden layer"
        )
        figure.suptitle(_title(run, f"{title}, seed {seed}"), fontsize=9)
        return _save(figure, run.workdir / FIGURES / "sigmoid_input")


def _coloured(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, _COLOURS[i % len(_COLOURS)]) for i, name in enumerate(names)]


def _lower_limit(percent: np.ndarray) -> float:
    """Leaves room for nine tenths of all values."""
    if percent.size == 0:
        return 0.0
    return max(0.0, 5 * np.floor(np.nanquantile(percent, 0.1) / 5) - 5)


def _title(run: Run, text: str) -> str:
    marks = ["PREVIEW"] * run.config["preview"] + ["STAND-IN DATA"] * run.provenance["stand_in"]
    return ", ".join([*marks, run.provenance["dataset"], text])


def _save(figure: Figure, stem: Path) -> list[Path]:
    paths = [stem.with_suffix(suffix) for suffix in (".svg", ".png")]
    for path in paths:
        with complete_file(path) as beside:
            # A date would make two equal figures differ.
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(beside, format=path.suffix[1:], dpi=150, metadata=metadata)
    return paths
