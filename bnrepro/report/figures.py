"""Figures of a comparison, drawn only when they are shown or written."""

import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from bnrepro.records import Run, complete_file, shown_name
from bnrepro.report.axes import Axis
from bnrepro.report.entries import Entry, setting_text
from bnrepro.report.statistics import FEWEST, Estimate, estimate
from bnrepro.report.summary import evaluations, failure_counts, failures, unit_percentiles

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
    "batch_norm_stop_gradient": "#AA3377",
    "moving_average_norm": "#999999",
}
# For lines that the normalizer does not tell apart.
_COLOURS = ("#6A5ACD", "#44AA99", "#CC6677", "#555555", "#A6A62A", "#AA4499", "#A0522D")
_MARKERS = "osDv^<>XP*"  # of points, a line each
_STYLES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
# Of further lines of a normalizer, how far their colours are from its own to white.
_TINTS = (0.0, 0.4, 0.65)
# More lines than this cannot be distinguished.
MOST_LINES = len(_COLOURS) * len(_STYLES)
TEST = {"test": "test accuracy, %"}
LOG_ERROR_LABEL = "final test accuracy, % (log scale of the error)"
_LOG_ERROR_TICKS = (20.0, 50.0, 70.0, 80.0, 90.0, 95.0, 97.0, 98.0, 99.0, 99.5, 99.9)
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 10,
    "legend.frameon": False,
    # Names may have dollars, which are no mathematics.
    "text.parse_math": False,
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
    variants: Collection[str] | None = None,
    name: str = "accuracy",
    splits: Mapping[str, str] = TEST,
    about: str = "",
) -> Picture:
    """Accuracy against steps, mean and 95% interval over seeds, of all or some variants.

    Runs that diverged are at chance from the start.

    Args:
      run: what was measured.
      variants: the variants to show, if not all; as a mapping, with the titles of their lines.
      name: of the file.
      splits: the splits to show, one panel each, with titles.
      about: what the lines have in common, for the title.
    """
    names = run.variants if variants is None else variants
    titles = names if isinstance(names, Mapping) else {each: shown_name(each) for each in names}
    alt = f"Lines of accuracy in percent against training steps: {', '.join(splits.values())}."
    return Picture(name, alt, partial(_draw_accuracy, run, titles, splits, about))


def _draw_accuracy(
    run: Run, names: Mapping[str, str], splits: Mapping[str, str], about: str
) -> Figure:
    tables = {title: _accuracy(run, split, names) for split, title in splits.items()}
    seeds = next(iter(tables.values())).columns.get_level_values("seed").nunique()
    band = len(names) <= len(_COLOURS)
    columns = -(-len(names) // 20)
    legend_width = columns * (0.5 + 0.08 * max(map(len, names.values())))
    size = (4.4 * len(splits) + 1.2 * (len(splits) == 1) + legend_width, 4)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    styles = looks_of(run, {name: name for name in names})
    wide, lines = False, []
    for axes, (title, accuracy) in zip(panels, tables.items(), strict=True):
        for variant, (colour, style) in styles.items():
            of_variant = accuracy.loc[:, accuracy.columns.get_level_values("variant") == variant]
            means, passes = _plot_mean(axes, of_variant, style, colour, band=band)
            lines.append(means)
            wide |= passes
        axes.set(xlabel="training steps")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        if len(splits) > 1:
            axes.set_title(title, fontsize=9)
    # The start, near chance, would flatten the rest.
    low = min(_lower_limit(table.to_numpy()) for table in tables.values())
    highest = np.nanmax(np.concatenate([line.get_ydata() for line in lines]), initial=0)
    label = next(iter(splits.values())) if len(splits) == 1 else "accuracy, %"
    if highest > 90:
        set_log_error_scale(panels[0], low, 100 - 0.6 * max(100 - highest, 0.01))
        label += " (log scale of the error)"
    else:
        panels[0].set_ylim(low, 10 * np.ceil((highest + 1) / 10) if highest > 9 else None)
    panels[0].set(ylabel=label)
    legend: dict[str, Any] = {"fontsize": 8 if len(names) > 5 else None, "ncols": columns}
    figure.legend(lines[: len(names)], list(names.values()), loc="outside right upper", **legend)
    text, ends = f"{about}, " * bool(about) + f"{seeds} seed{'s' * (seeds > 1)}", []
    if seeds > 1:
        ends.append(f"{'band' if band else 'bars at the end'}: {_ends(seeds)}")
    if wide:
        ends[-1] += " or, where that passes 100%, thin: each seed"
    if failed := failures_among(run, names):
        ends.append(_at_chance(failed))
    text += ("\n" if ends else "") + ", ".join(ends)
    figure.suptitle(figure_title(run, text), x=0.01, ha="left", fontsize=9)
    return figure


def _accuracy(run: Run, split: str, names: Collection[str]) -> pd.DataFrame:
    """Accuracy in percent: one row per step, one column per (variant, seed)."""
    rows = evaluations(run, split)
    rows = rows[rows["variant"].isin([*names])]
    accuracy = 100 * rows.pivot(index="step", columns=["variant", "seed"], values="value")
    failed = failures(run)
    failed = failed[failed.get_level_values("variant").isin([*names])]
    at_chance = [100 * run.chance(name) for name in failed.get_level_values("variant")]
    level = np.tile(at_chance, (len(accuracy), 1))
    return pd.concat([accuracy, pd.DataFrame(level, accuracy.index, failed)], axis=1)


def _plot_mean(
    axes: Axes, accuracy: pd.DataFrame, style: Any, colour: str, *, band: bool
) -> tuple[Line2D, bool]:
    """Draws a line for the mean over seeds and, around it or at its end, the 95% interval.

    Returns:
      The line, and whether the interval goes beyond 100%, so that the seeds themselves are drawn
      instead.
    """
    means = [estimate(row) for row in accuracy.to_numpy()]
    (line,) = axes.plot(accuracy.index, [one.mean for one in means], ls=style, color=colour)
    low, high = np.array([one.ends for one in means]).reshape(-1, 2).T
    wide = bool(band and (high > 100).any())
    if wide:
        axes.plot(accuracy.index, accuracy, color=colour, lw=0.5, alpha=0.5)
    elif band:
        axes.fill_between(accuracy.index, low, high, color=colour, alpha=0.25, lw=0)
    elif means:
        end, bars = means[-1].mean, np.array([[low[-1]], [high[-1]]])
        axes.errorbar(accuracy.index[-1:], [end], abs(bars - end), ls="", color=colour, capsize=2)
    return line, wide


def failures_among(run: Run, variants: Collection[str]) -> int:
    """How many runs of these variants diverged."""
    return sum(count for name, count in failure_counts(run).items() if name in variants)


def _at_chance(failed: int) -> str:
    return f"{failed} run{'s' * (failed > 1)} diverged: at chance"


def _ends(seeds: int) -> str:
    """What `Estimate.ends` are for this many seeds."""
    return "95% interval" if seeds >= FEWEST else "minimum to maximum"


class Lines(NamedTuple):
    """Numbers over seeds, against another number or by kind.

    Attributes:
      points: by the title of the line, and the number or kind that they are drawn against.
      variants: one of each title, whose normalizer tells the colour.
      xlabel, ylabel: with units.
      scale: of the y axis: "linear", "log" or "error", a log scale of the error in percent.
      over: draws lines with bands on a linear x axis, not points with bars on a logarithmic one.
      median: shows medians with minimum and maximum, not means with intervals.
      threshold: a level to mark, if any.
      about: the first line of the title.
      failed: how many of the runs diverged, which are at chance.
    """

    points: Mapping[str, Mapping[Any, Estimate]]
    variants: Mapping[str, str]
    xlabel: str
    ylabel: str
    scale: str = "error"
    over: bool = False
    median: bool = True
    threshold: float | None = None
    about: str = ""
    failed: int = 0

    def shown(self, one: Estimate) -> tuple[float, float, float]:
        """What is drawn of an estimate: its middle, and the lower and upper end."""
        if self.median:
            return float(np.median(one.sample or [np.nan])), one.minimum, one.maximum
        return one.mean, *one.ends


def lines_figure(run: Run, name: str, lines: Lines) -> Picture:
    """Numbers against another number or by kind, a line a title; `name` is that of the file."""
    texts = []
    for title, points in lines.points.items():
        at = sorted(points)
        few = sorted({round(i) for i in np.linspace(0, len(at) - 1, 5)})
        texts.append(
            f"{title} "
            + ", ".join(
                f"{lines.shown(points[at[i]])[0]:.4g} at {setting_text(at[i])}" for i in few
            )
        )
    alt = f"{lines.about}: " * bool(lines.about) + f"{lines.ylabel} against {lines.xlabel}, "
    alt += f"{'median' if lines.median else 'mean'} over seeds: {'; '.join(texts)}."
    return Picture(name, alt[0].upper() + alt[1:], partial(_draw_lines, run, lines))


def accuracy_against_figure(
    run: Run, lines: Mapping[str, Mapping[int, Entry]], xlabel: str
) -> Picture:
    """Final accuracy against a number: one line per title, {title: {number: variant}}."""
    percent = {
        one: estimate(100 * np.array(one.mean.sample))
        for of in lines.values()
        for one in of.values()
    }
    points = {
        title: {number: percent[one] for number, one in of.items()} for title, of in lines.items()
    }
    variants = {title: next(iter(of.values())).variant for title, of in lines.items()}
    failed = sum(one.diverged for one in percent)
    drawn = Lines(points, variants, xlabel, LOG_ERROR_LABEL, median=False, failed=failed)
    if not any(one.mean > 90 for one in percent.values()):
        drawn = drawn._replace(ylabel="final test accuracy, %", scale="linear")
    return lines_figure(run, "accuracy_against", drawn)


def _draw_lines(run: Run, lines: Lines) -> Figure:
    legend_width = 0.5 + 0.08 * max(map(len, lines.points))
    figure = Figure(figsize=(5.8 + legend_width, 4), layout="constrained")
    axes = figure.subplots()
    numbers = sorted({number for points in lines.points.values() for number in points})
    by_kind = isinstance(numbers[0], str)
    # Kinds stand at equal distances.
    ticks = [2.0**i for i in range(len(numbers))] if by_kind else numbers
    places = dict(zip(numbers, ticks, strict=True))
    styles = looks_of(run, lines.variants)
    trained_once, shown, drawn = False, [], []
    for i, (title, (colour, line_style)) in enumerate(styles.items()):
        points = sorted(lines.points[title].items())
        middle, low, high = np.array([lines.shown(one) for _, one in points]).T
        shown.append((middle, low, high))
        if lines.over:
            at = [number for number, _ in points]
            drawn += axes.plot(at, middle, ls=line_style, color=colour, label=title)
            axes.fill_between(at, low, high, color=colour, alpha=0.25, lw=0)
            continue
        # Side by side, since lines may coincide.
        apart = min(0.009, 0.03 / max(len(styles) - 1, 1))
        shift = (ticks[-1] / ticks[0]) ** (apart * (i - (len(styles) - 1) / 2))
        at = [shift * places[number] for number, _ in points]
        once = len(points) > 1 and len({id(one) for _, one in points}) == 1
        trained_once |= once
        bars = np.abs([middle - low, high - middle])
        if once:
            bars[:, 1:] = np.nan
        look: dict[str, Any] = {"color": colour, "marker": _MARKERS[i % len(_MARKERS)], "ms": 5}
        look["mfc"] = "white" if once else colour
        drawn += axes.plot(at, middle, ls="none" if by_kind else line_style, label=title, **look)
        # The points again, above the lines that are drawn later.
        axes.errorbar(at, middle, bars, ls="none", capsize=2, zorder=3, **look)
    if lines.over:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    else:
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [setting_text(number) for number in numbers])
    if lines.threshold is not None:
        axes.axhline(lines.threshold, color=_NORMALIZERS["none"], lw=0.8, ls=(0, (1, 2)))
    if lines.scale == "error":
        errors = np.nan_to_num(100 - np.concatenate([np.ravel(one) for one in shown]), nan=50)
        # An interval may go beyond 100%.
        errors = errors.clip(0.5 * np.nanmin(100 - np.concatenate([one[0] for one in shown])), 100)
        set_log_error_scale(axes, max(0, 100 - 1.2 * errors.max()), 100 - 0.8 * errors.min())
    elif lines.scale == "log":
        axes.set_yscale("log")
        # Matplotlib's own labels would be mathematics.
        Axis(*axes.get_ylim(), log=True).apply(axes, "y")
    elif not lines.median:  # accuracies
        axes.set_ylim(bottom=max(0, axes.get_ylim()[0]))
    axes.set(xlabel=lines.xlabel, ylabel=lines.ylabel)
    # Named here, since of lines alone a legend leaves out those whose title begins with "_".
    figure.legend(drawn, list(styles), loc="outside right upper")
    # Of an unfinished run, some have no values yet.
    counts = [one.n for points in lines.points.values() for one in points.values() if one.n]
    fewest = min(counts, default=0)
    over = f"minimum to maximum of {fewest}" if lines.median else f"{_ends(fewest)} over"
    text = f"\n{'band' if lines.over else 'bars'}: {over} seeds"
    if trained_once:
        text += ", hollow: trained once"
    if lines.failed:
        text += f", {_at_chance(lines.failed)}"
    about = f"{lines.about}\n" * bool(lines.about)
    title = figure_title(run, f"{run.config['steps']:,} steps")
    axes.set_title(about + title + text, fontsize=9)
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
    more = sorted({*_LOG_ERROR_TICKS, 60.0, 85.0, 92.0})
    for ticks in (_LOG_ERROR_TICKS, more, MaxNLocator(5).tick_values(low, high)):
        shown = [tick for tick in ticks if low <= tick <= high]
        if len(shown) >= 4:
            break
    return shown


def from_accuracy(percent: np.ndarray) -> np.ndarray:
    """Height on a log scale of the error."""
    return -np.log(np.maximum(100 - percent, 0.01))


def to_accuracy(height: np.ndarray) -> np.ndarray:
    """Percent, from the height on a log scale of the error."""
    return 100 - np.exp(-height)


def sigmoid_input_figure(run: Run) -> Picture:
    """Figures (b, c): percentiles of a sigmoid's input over training, a panel a variant.

    Of one unit of the first seed, as in [BN], and their mean over seeds and, if several were
    measured, units.
    """
    rows = unit_percentiles(run)
    last = rows[rows["step"] == rows["step"].max()].groupby(["variant", "percentile"])["value"]
    ends = [
        f"{name} {', '.join(f'{end:.3g}' for end in of)}"
        for name, of in last.mean().groupby(level=0)
    ]
    alt = (
        "The 15th, 50th and 85th percentile of the input to a sigmoid of the last hidden layer, "
        "of one unit and as a mean over seeds, against training steps; means at the end: "
        f"{'; '.join(ends)}."
    )
    return Picture("sigmoid_input", alt, partial(_draw_sigmoid_input, run, rows))


def _draw_sigmoid_input(run: Run, rows: pd.DataFrame) -> Figure:
    seed = run.config["first_seed"]
    seeds, units = rows["seed"].nunique(), rows["unit"].nunique()
    names = run.variants
    columns = min(len(names), 4)
    rows_of_panels = -(-len(names) // columns)
    size = (max(2.8 * columns + 0.6, 6.2), 2.8 * rows_of_panels + 0.4)  # as wide as its title
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows_of_panels, columns, sharey="row", squeeze=False).ravel()
    for axes in panels[len(names) :]:
        axes.remove()
    colours = looks_of(run, {name: name for name in names})
    for axes, (variant, (colour, _)) in zip(panels, colours.items(), strict=False):
        of_variant = rows[rows["variant"] == variant]
        one = of_variant[(of_variant["seed"] == seed) & (of_variant["unit"] == 0)]
        for shown, look in ((one, {"lw": 0.7, "alpha": 0.6}), (of_variant, {"lw": 1.8})):
            percentiles = shown.pivot_table(index="step", columns="percentile", values="value")
            for metric, style in zip(percentiles.columns, ("--", "-", "--"), strict=False):
                axes.plot(percentiles.index, percentiles[metric], style, color=colour, **look)
        axes.set_title(variant)
        axes.set_xlabel("training steps")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    panels[0].set_ylabel("input to the nonlinearity")
    title = "15th, 50th and 85th percentile over the test set, a unit of the last hidden layer"
    of_one, of_all = (", unit 0", f" and {units} units") if units > 1 else ("", "")
    lines = f"thin: seed {seed}{of_one}, thick: mean over {seeds} seed{'s' * (seeds > 1)}{of_all}"
    lines += ", without those that diverged" * (len(failures(run)) > 0)
    figure.suptitle(figure_title(run, f"{title}\n{lines}"), fontsize=9)
    return figure


def looks_of(run: Run, variants: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """`looks` by the title of a line, given one of its variants."""
    return looks({title: run.settings(v)["normalizer.name"] for title, v in variants.items()})


def looks(kinds: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Colour and line style of each name, given its normalizer.

    Each normalizer has its own colour. If it has several lines, their style tells what else their
    names say, such as how minibatches are drawn: the same for all normalizers. With more of these
    than there are styles, they come in lighter tints.

    With more than that, or an unknown normalizer, names get looks in order: seven other colours,
    then the same dashed, dotted, and so on.
    """
    several = {kind for kind, count in Counter(kinds.values()).items() if count > 1}
    rest = {name: name.replace(kind, "").strip() for name, kind in kinds.items() if kind in several}
    tints_and_styles = dict(
        zip(dict.fromkeys(rest.values()), product(_TINTS, _STYLES), strict=False)
    )
    if set(kinds.values()) <= _NORMALIZERS.keys() and tints_and_styles.keys() >= {*rest.values()}:
        found = {}
        for name, kind in kinds.items():
            tint, style = tints_and_styles[rest[name]] if kind in several else (0.0, _STYLES[0])
            red, green, blue = ((1 - tint) * x + tint for x in to_rgb(_NORMALIZERS[kind]))
            found[name] = to_hex((red, green, blue)).upper(), style
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
    common = run.config.get("digits", 1)
    digits = sorted({own.get("digits", common) for own in run.config["variants"].values()})
    data = run.provenance["dataset"]
    if digits[-1] > 1:
        number = digits[0] if len(digits) == 1 else f"{digits[0]} to {digits[-1]}"
        data += f", {number} digits side by side"
        data += f" ({10 ** digits[0]:,} labels)" * (len(digits) == 1)
    return ", ".join([*marks, data, text])


def inline_svg(picture: Picture, name: str) -> str:
    """A figure for a page: text as text, in the page's colours, and no background.

    Args:
      picture: the figure.
      name: of letters and digits, unique on the page: the figure's ids begin with it.
    """
    file = io.StringIO()
    with mpl.rc_context(STYLE | {"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = picture.draw()
        # Found now, the layout does not take drawing everything twice.
        if (layout := figure.get_layout_engine()) is not None:
            layout.execute(figure)
            figure.set_layout_engine(None)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    return text.replace("#000000", "currentColor").replace("#ffffff", "var(--paper)")


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
    figure = Figure(figsize=(4, 0.75))
    # Nothing is beside the axis: no layout has to be found, which takes longer than to draw it.
    axes = figure.add_axes((0.05, 0.36, 0.9, 0.62))
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


def save(picture: Picture, folder: Path) -> None:
    """Writes a figure as SVG and PNG.

    Raises:
      RecordsError: it cannot be written.
    """
    with mpl.rc_context(STYLE):
        figure = picture.draw()
        # A date would make two equal figures differ.
        for form, metadata in (("svg", {"Date": None}), ("png", None)):
            with complete_file(folder / f"{picture.name}.{form}") as path:
                figure.savefig(path, format=form, dpi=150, metadata=metadata)
