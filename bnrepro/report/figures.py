"""Figures of a comparison, drawn only when they are shown or written."""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, ScalarFormatter

from bnrepro.records import Run, complete_file
from bnrepro.report.statistics import FEWEST, Estimate, estimate
from bnrepro.report.summary import evaluations, failures

# The same in all figures. First come Okabe and Ito's colours, which the colour-blind can also
# distinguish.
_NORMALIZERS = {
    "none": "#000000",
    "batch_norm": "#0072B2",
    "batch_renorm": "#D55E00",
    "group_norm": "#009E73",
    "layer_norm": "#CC79A7",
    "evonorm_s0": "#E69F00",
    "filter_response_norm": "#56B4E9",
    "moving_average_batch_norm": "#8C510A",
    "batch_norm_stop_gradient": "#882255",
    "moving_average_norm": "#999999",
}
_COLOURS = tuple(_NORMALIZERS.values())[:7]
# Of points, by the colour of their line.
_MARKERS = dict(zip(_NORMALIZERS.values(), "osDv^<>XP*", strict=True))
_STYLES = ("-", "--", ":", "-.")
# More lines than this cannot be distinguished.
MOST_LINES = len(_COLOURS) * len(_STYLES)
_TEST = {"test": "test accuracy, %"}
LOG_ERROR_LABEL = "final test accuracy, % (log scale of the error)"
_LOG_ERROR_TICKS = (20.0, 50.0, 70.0, 80.0, 90.0, 95.0, 97.0, 98.0, 99.0, 99.5, 99.9)
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 10,
    "legend.frameon": False,
    # Equal figures give equal files.
    "svg.hashsalt": "bnrepro",
}


class Picture(NamedTuple):
    """A figure.

    Attributes:
      name: of its files.
      alt: what it shows, in words.
      draw: draws it, in the style that is set.
    """

    name: str
    alt: str
    draw: Callable[[], Figure]


def accuracy_figure(
    run: Run,
    variants: Sequence[str] | None = None,
    name: str = "accuracy",
    splits: Mapping[str, str] = _TEST,
) -> Picture:
    """Accuracy against steps, mean and 95% interval over seeds, of all or some variants.

    Runs that diverged are at chance from the start.

    Args:
      run: what was measured.
      variants: the variants to show, if not all.
      name: of the file.
      splits: the splits to show, one panel each, with titles.
    """
    names = run.variants if variants is None else list(variants)
    alt = f"Lines of accuracy in percent against training steps: {', '.join(splits.values())}."
    return Picture(name, alt, partial(_draw_accuracy, run, names, splits))


def _draw_accuracy(run: Run, names: Sequence[str], splits: Mapping[str, str]) -> Figure:
    tables = {title: _accuracy(run, split, names) for split, title in splits.items()}
    seeds = next(iter(tables.values())).columns.get_level_values("seed").nunique()
    band = seeds > 1 and len(names) <= len(_COLOURS)
    columns = -(-len(names) // 20)
    legend_width = columns * (0.5 + 0.08 * max(map(len, names)))
    size = (4.4 * len(splits) + 1.2 * (len(splits) == 1) + legend_width, 4)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    styles = looks(normalizers(run, names))
    for axes, (title, accuracy) in zip(panels, tables.items(), strict=True):
        for variant, (colour, style) in styles.items():
            _plot_mean(axes, accuracy, variant, style, colour, band)
        axes.set(xlabel="training steps")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        if len(splits) > 1:
            axes.set_title(title, fontsize=9)
    # The start, near chance, would flatten the rest.
    low = min(_lower_limit(table.to_numpy()) for table in tables.values())
    means = [line.get_ydata() for axes in panels for line in axes.lines]
    highest = np.nanmax(np.concatenate(means), initial=0)
    label = next(iter(splits.values())) if len(splits) == 1 else "accuracy, %"
    if highest > 90:
        set_log_error_scale(panels[0], low, 100 - 0.6 * max(100 - highest, 0.01))
        label += " (log scale of the error)"
    else:
        panels[0].set_ylim(low, 10 * np.ceil((highest + 1) / 10))
    panels[0].set(ylabel=label)
    handles, shown = panels[0].get_legend_handles_labels()
    look: dict[str, Any] = {"fontsize": 8 if len(names) > 5 else None, "ncols": columns}
    figure.legend(handles, shown, loc="outside right upper", **look)
    text = f"{seeds} seed{'s' * (seeds > 1)}"
    if band:
        text += f", band: {_ends(seeds)}"
    figure.suptitle(figure_title(run, text), fontsize=9)
    return figure


def _accuracy(run: Run, split: str, names: Sequence[str]) -> pd.DataFrame:
    """Accuracy in percent: one row per step, one column per (variant, seed)."""
    rows = evaluations(run, split)
    rows = rows[rows["variant"].isin(names)]
    accuracy = 100 * rows.pivot(index="step", columns=["variant", "seed"], values="value")
    failed = failures(run)
    failed = failed[failed.get_level_values("variant").isin(names)]
    at_chance = [100 * run.chance(name) for name in failed.get_level_values("variant")]
    level = np.tile(at_chance, (len(accuracy), 1))
    return pd.concat([accuracy, pd.DataFrame(level, accuracy.index, failed)], axis=1)


def _plot_mean(
    axes: Axes, accuracy: pd.DataFrame, variant: str, style: str, colour: str, band: bool
) -> None:
    """A line for the mean over seeds, and a band for its 95% interval."""
    seeds = accuracy.loc[:, accuracy.columns.get_level_values("variant") == variant]
    means = [estimate(row) for row in seeds.to_numpy()]
    axes.plot(seeds.index, [one.mean for one in means], style, color=colour, label=variant)
    if band:
        low, high = np.array([one.ends for one in means]).reshape(-1, 2).T
        axes.fill_between(seeds.index, low, high, color=colour, alpha=0.25, lw=0)


def _ends(seeds: int) -> str:
    """What `Estimate.ends` are for this many seeds."""
    return "95% interval" if seeds >= FEWEST else "minimum to maximum"


def accuracy_against_figure(
    run: Run, summary: pd.DataFrame, lines: Mapping[str, Mapping[int, str]], xlabel: str
) -> Picture:
    """Final accuracy against a number: one line per title, {title: {number: variant}}."""
    alt = f"Final test accuracy in percent against {xlabel}, one line each: {', '.join(lines)}."
    draw = partial(_draw_accuracy_against, run, summary, lines, xlabel)
    return Picture("accuracy_against", alt, draw)


def _draw_accuracy_against(
    run: Run, summary: pd.DataFrame, lines: Mapping[str, Mapping[int, str]], xlabel: str
) -> Figure:
    finals = summary[summary["metric"] == "final"].set_index("variant")["estimate"]
    legend_width = 0.5 + 0.08 * max(map(len, lines))
    figure = Figure(figsize=(5.8 + legend_width, 4), layout="constrained")
    axes = figure.subplots()
    ticks = sorted({number for points in lines.values() for number in points})
    named = {title: next(iter(points.values())) for title, points in lines.items()}
    of = normalizers(run, named.values())
    styles = looks({title: of[variant] for title, variant in named.items()})
    trained_once = False
    for i, (title, (colour, line_style)) in enumerate(styles.items()):
        points = sorted(lines[title].items())
        # Side by side, since lines may coincide.
        shift = (ticks[-1] / ticks[0]) ** (0.009 * (i - (len(styles) - 1) / 2))
        numbers = [shift * number for number, _ in points]
        means = 100 * np.array([finals[name].mean for _, name in points])
        ends = 100 * np.array([finals[name].ends for _, name in points])
        once = len(points) > 1 and len(set(lines[title].values())) == 1
        trained_once |= once
        bars = None if once else np.abs(ends.T - means)
        look: dict[str, Any] = {"color": colour, "marker": _MARKERS[colour], "ms": 5}
        look["mfc"] = "white" if once else colour
        axes.plot(numbers, means, ls=line_style, label=title, **look)
        # The points again, above the lines that are drawn later.
        axes.errorbar(numbers, means, bars, ls="none", capsize=2, zorder=3, **look)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    shown = [variant for points in lines.values() for variant in points.values()]
    errors = np.nan_to_num([100 - 100 * finals[name].mean for name in shown], nan=50)
    set_log_error_scale(axes, max(0, 100 - 1.2 * errors.max()), 100 - 0.8 * errors.min())
    axes.set(xlabel=xlabel, ylabel=LOG_ERROR_LABEL)
    figure.legend(loc="outside right upper")
    fewest = min(finals[name].n for name in shown)
    text = f"{run.config['steps']:,} steps, bars: {_ends(fewest)} over seeds"
    if trained_once:
        text += ", hollow: trained once"
    axes.set_title(figure_title(run, text), fontsize=9)
    return figure


def set_log_error_scale(axes: Axes, low: float, high: float) -> None:
    """The y axis from `low` to `high`, accuracies in percent, with errors on a log scale.

    It resolves both 71 against 92% and 97.3 against 97.9%.
    """
    axes.set_yscale("function", functions=(from_accuracy, to_accuracy))
    axes.set_yticks(log_error_ticks(low, high), minor=False)
    axes.set_ylim(low, high)
    axes.yaxis.set_major_formatter("{x:g}")


def log_error_ticks(low: float, high: float) -> list[float]:
    """Round accuracies in percent, from `low` to `high`."""
    ticks = [tick for tick in _LOG_ERROR_TICKS if low <= tick <= high]
    if len(ticks) < 4:
        ticks = [tick for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]
    return ticks


def from_accuracy(percent: np.ndarray) -> np.ndarray:
    """Height on a log scale of the error."""
    return -np.log(np.maximum(100 - percent, 0.01))


def to_accuracy(height: np.ndarray) -> np.ndarray:
    """Percent, from the height on a log scale of the error."""
    return 100 - np.exp(-height)


def sigmoid_input_figure(run: Run) -> Picture:
    """Figures (b, c): percentiles of a sigmoid's input over training, a panel a variant.

    Of the first seed's unit, as in [BN], and their mean over the seeds, each of which has its own.
    """
    alt = (
        "The 15th, 50th and 85th percentile of the input to a sigmoid of the last hidden layer, "
        "of one seed and as a mean over seeds, against training steps, one panel each: "
        f"{', '.join(run.variants)}."
    )
    return Picture("sigmoid_input", alt, partial(_draw_sigmoid_input, run))


def _draw_sigmoid_input(run: Run) -> Figure:
    seed = run.config["first_seed"]
    rows = run.metrics[run.metrics["metric"].str.startswith("sigmoid_input/")]
    seeds = rows["seed"].nunique()
    names = run.variants
    columns = min(len(names), 4)
    rows_of_panels = -(-len(names) // columns)
    size = (2.8 * columns + 0.6, 2.8 * rows_of_panels + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows_of_panels, columns, sharey=True, squeeze=False).ravel()
    for axes in panels[len(names) :]:
        axes.remove()
    colours = looks(normalizers(run, names))
    for axes, (variant, (colour, _)) in zip(panels, colours.items(), strict=False):
        of_variant = rows[rows["variant"] == variant]
        one = of_variant[of_variant["seed"] == seed]
        for shown, look in ((one, {"lw": 0.7, "alpha": 0.6}), (of_variant, {"lw": 1.8})):
            percentiles = shown.pivot_table(index="step", columns="metric", values="value")
            for metric, style in zip(percentiles.columns, ("--", "-", "--"), strict=False):
                axes.plot(percentiles.index, percentiles[metric], style, color=colour, **look)
        axes.set_title(variant)
        axes.set_xlabel("training steps")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    panels[0].set_ylabel("input to the sigmoid")
    title = "15th, 50th and 85th percentile over the test set, a unit of the last hidden layer"
    lines = f"thin: seed {seed}, thick: mean over {seeds} seed{'s' * (seeds > 1)}"
    figure.suptitle(figure_title(run, f"{title}\n{lines}"), fontsize=9)
    return figure


def normalizers(run: Run, variants: Iterable[str]) -> dict[str, str]:
    """The normalizer of each variant."""
    return {name: run.settings(name)["normalizer.name"] for name in variants}


def looks(kinds: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Colour and line style of each name, given its normalizer.

    Each normalizer has its own colour. If it has several lines, their style tells what else their
    names say, such as how minibatches are drawn: the same for all normalizers.

    With more than four styles, or an unknown normalizer, names get looks in order: seven colours,
    then the same dashed, dotted, and both.
    """
    several = {kind for kind, count in Counter(kinds.values()).items() if count > 1}
    rest = {name: name.replace(kind, "").strip() for name, kind in kinds.items() if kind in several}
    styles = dict(zip(dict.fromkeys(rest.values()), _STYLES, strict=False))
    if set(kinds.values()) <= _NORMALIZERS.keys() and styles.keys() >= set(rest.values()):
        found = {
            name: (_NORMALIZERS[kind], styles[rest[name]] if kind in several else _STYLES[0])
            for name, kind in kinds.items()
        }
        if len(set(found.values())) == len(found):
            return found
    return {
        name: (_COLOURS[i % len(_COLOURS)], _STYLES[i // len(_COLOURS) % len(_STYLES)])
        for i, name in enumerate(kinds)
    }


def _lower_limit(percent: np.ndarray) -> float:
    """Leaves room for nine tenths of all values."""
    if percent.size == 0:
        return 0.0
    return max(0.0, 5 * np.floor(np.nanquantile(percent, 0.1) / 5) - 5)


def figure_title(run: Run, text: str) -> str:
    """The text, after the data set and any warnings."""
    marks = ["PREVIEW"] * run.config["preview"] + ["STAND-IN DATA"] * run.provenance["stand_in"]
    return ", ".join([*marks, run.provenance["dataset"], text])


def inline_svg(picture: Picture, name: str) -> str:
    """A figure for a page: text as text, in the page's colour, and no background.

    Args:
      picture: the figure.
      name: of letters and digits, unique on the page: the figure's ids begin with it.
    """
    file = io.StringIO()
    with mpl.rc_context(STYLE | {"svg.fonttype": "none", "font.family": "sans-serif"}):
        picture.draw().savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    return text.replace("#000000", "currentColor")


def measurement_figure(mean: Estimate, low: float, high: float) -> Picture:
    """The values of a measurement, their mean and interval, and the range that a claim gives.

    Args:
      mean: of at least two values.
      low: lower end of the claim's range, or minus infinity.
      high: upper end of the claim's range, or infinity.
    """
    ends = " to ".join(f"{end:.3g}" for end in mean.ends)
    alt = (
        f"{mean.n} dots, mean {mean.mean:.3g}, and a line from {ends}; the rule's range is shaded."
    )
    return Picture("measurement", alt, partial(_draw_measurement, mean, low, high))


def _draw_measurement(mean: Estimate, low: float, high: float) -> Figure:
    figure = Figure(figsize=(4, 0.75), layout="constrained")
    axes = figure.subplots()
    bounds = [bound for bound in (low, high) if np.isfinite(bound)]
    seen = [*mean.sample, *mean.ends, *bounds]
    left, right = min(seen), max(seen)
    margin = 0.08 * (right - left) or 1
    left, right = left - margin, right + margin
    green = _NORMALIZERS["group_norm"]
    axes.axvspan(max(low, left), min(high, right), color=green, alpha=0.15, lw=0)
    for bound in bounds:
        axes.axvline(bound, color=green, lw=1.2)
    axes.plot(mean.sample, np.zeros(mean.n), "o", color="#808080", ms=4, alpha=0.5, mew=0)
    axes.plot(mean.ends, [0.5, 0.5], "-", color="#000000", lw=1.5)
    axes.plot(mean.mean, 0.5, "o", color="#000000", ms=5)
    axes.set(ylim=(-0.6, 1), xlim=(left, right), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    return figure


def save(picture: Picture, folder: Path) -> list[Path]:
    """Writes a figure as SVG and PNG.

    Raises:
      RecordsError: it cannot be written.
    """
    paths = [folder / f"{picture.name}{suffix}" for suffix in (".svg", ".png")]
    with mpl.rc_context(STYLE):
        figure = picture.draw()
        for path in paths:
            with complete_file(path) as beside:
                # A date would make two equal figures differ.
                metadata = {"Date": None} if path.suffix == ".svg" else None
                figure.savefig(beside, format=path.suffix[1:], dpi=150, metadata=metadata)
    return paths
