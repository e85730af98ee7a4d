"""The figures of a sweep: accuracy against what was varied."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import FuncNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from bnrepro.report.axes import are_numbers, axis_of
from bnrepro.report.entries import Entry
from bnrepro.report.figures import (
    LOG_ERROR_LABEL,
    Picture,
    figure_title,
    from_accuracy,
    log_error_ticks,
    looks,
    set_log_error_scale,
    to_accuracy,
)
from bnrepro.report.sweep import NORMALIZER, Sweep, outcome, percent, winner

# Parts of the axis of a continuous range, of which a line shows the medians.
_PARTS = 8
_SOME_DIVERGED = "some seeds diverged"
_LEAST = 0.01  # error in percent, where the log scale of the error ends
_GREY, _BEST_COLOUR = "#808080", "#D55E00"
_PRUNED_CELL, _DIVERGED_CELL = to_rgba("#ececec"), to_rgba("#b0b0b0")

# Trials by their place along x and y and, where each has a mark of its own, by name.
_Cells = dict[tuple[Any, ...], list[Entry]]


def sweep_figures(sweep: Sweep) -> list[Picture]:
    """Accuracy against each varied key, and a heat map for each pair of varied numbers.

    The normalizer, which colours tell, has a figure of its own only if nothing else varies.
    """
    varied = sweep.varied
    if not any(trial.mean.n for trial in sweep.trials):
        return []
    keys = [key for key in varied if key != NORMALIZER] or list(varied)
    pictures = [
        Picture(
            f"accuracy_against_{_file_name(key)}",
            f"Final accuracy in percent against {key}: a dot for each trial.",
            partial(_accuracy_against, sweep, key),
        )
        for key in keys
    ]
    numbers = [key for key in keys if are_numbers(varied[key])]
    for pair in itertools.combinations(numbers, 2):
        alt = f"Final accuracy in percent, by colour, against {pair[0]} and {pair[1]}."
        name = f"heat_map_{_file_name(pair[0])}_{_file_name(pair[1])}"
        pictures.append(Picture(name, alt, partial(_heat_map, sweep, pair)))
    return pictures


def _file_name(key: str) -> str:
    return key.replace(".", "_")


def _limits(accuracies: Iterable[float], ends: Iterable[float] = ()) -> tuple[float, float]:
    """The range of accuracies to show, in percent: down to ten times the error of the best.

    That is of the best with any errors. A sweep has many trials near chance, which would squeeze
    all others together. The ends of intervals are shown up to a tenth of the least error.
    """
    errors = [100 - accuracy for accuracy in accuracies]
    if not errors:
        return 0, 99
    best, worst = (max(end(errors), _LEAST) for end in (min, max))
    some = min((error for error in errors if error > _LEAST), default=_LEAST)
    least = max(min([best, *(100 - end for end in ends)]), best / 10)
    return max(0, 100 - 1.2 * min(worst, 10 * some)), 100 - 0.8 * least


def _accuracy_against(sweep: Sweep, key: str) -> Figure:
    """One dot per trial, one colour and line per normalizer."""
    axis = axis_of(sweep.varied[key])
    alone = not sweep.varied.keys() - {key, NORMALIZER}
    bars = alone and sweep.run.config["seeds"] > 1
    shown = [trial for trial in sweep.trials if trial.trained]
    means = [trial.mean for trial in _unpruned(shown)] if bars else []
    ends = [100 * mean.ends[1] for mean in means]
    low, high = _limits(map(percent, shown), ends)

    def place(trial: Entry) -> float:
        return axis.place(trial.settings[key])

    def part(trial: Entry) -> int:
        return int(np.searchsorted(axis.parts(_PARTS), place(trial), "right"))

    group: Callable[[Entry], float] = place
    text = "line through the trials that finished"
    if spans := {"95% interval" if mean.has_interval else "minimum to maximum" for mean in means}:
        text += f", bars: {' or '.join(sorted(spans))} over seeds"
    if not alone:
        where = "at each value"
        if not sweep.recurs(key):
            group, where = part, f"in each of {_PARTS} parts of the axis"
        text = f"line: median of the trials {where}, band: their quartiles"
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    groups = sweep.by_normalizer
    colours = {name: colour for name, (colour, _) in looks({n: n for n in groups}).items()}
    several = colours if len(colours) > 1 else {}
    legend = {name: _key(marker="o", ls="-", color=colour) for name, colour in several.items()}
    # Trials below the axis, or without an accuracy, get a row per normalizer below it.
    outside = any(not percent(trial) >= low for trial in sweep.trials)
    row = 0.035 * outside
    for i, (name, colour) in enumerate(colours.items()):
        members = sorted(groups[name], key=place)
        if alone:
            points = [
                [place(trial), percent(trial), *(100 * end for end in trial.mean.ends)]
                for trial in _unpruned(members)
            ]
        else:  # sorted by their place, the trials of a group are side by side
            grouped = [list(same) for _, same in itertools.groupby(_unpruned(members), group)]
            points = [[np.median([*map(place, same)]), *_middle(same)] for same in grouped]
        x, middle, bottom, top = np.array(points).reshape(-1, 4).T
        axes.plot(x, np.maximum(middle, low), color=colour)
        if not alone:
            band = np.maximum(bottom, low), np.maximum(top, low)
            axes.fill_between(x, *band, color=colour, alpha=0.2, lw=0)
        seen = middle >= low
        below = np.minimum(middle - bottom, middle - low)
        halves = np.array([below, top - middle])[:, seen] if bars else None
        look: dict[str, Any] = {"ls": "", "color": colour, "marker": "o", "ms": 4, "capsize": 2}
        axes.errorbar(x[seen], middle[seen], halves, **look)
        _draw_dots(axes, members, place, low, colour, (i + 0.5) * row, legend)
    axis.apply(axes, "x")
    set_log_error_scale(axes, low, high)
    if outside:
        axes.axhline(low, color="black", lw=0.8)
        bounds = from_accuracy(np.array([low, high]))
        share = row * len(colours)
        axes.set_ylim(to_accuracy(bounds - np.ptp(bounds) * share / (1 - share))[0])
    axes.set(xlabel=key, ylabel=LOG_ERROR_LABEL.replace("test", sweep.chosen_by))
    _legend_below(figure, legend)
    axes.set_title(f"{_title(sweep)}\n{text}", fontsize=9, wrap=True)
    return figure


def _unpruned(trials: Sequence[Entry]) -> list[Entry]:
    return [trial for trial in trials if outcome(trial) != "pruned"]


def _middle(trials: Sequence[Entry]) -> tuple[float, float, float]:
    """Median and quartiles of trials, in percent.

    As in tables, seeds that diverged count at chance. If all did, there are no numbers.
    """
    if not any(trial.trained for trial in trials):
        return math.nan, math.nan, math.nan
    values = [100 * trial.mean.mean for trial in trials]
    low, middle, high = np.percentile(values, [25, 50, 75])
    return middle, low, high


def _draw_dots(
    axes: Axes,
    trials: Sequence[Entry],
    place: Callable[[Entry], float],
    low: float,
    colour: str,
    row: float,
    legend: dict[str, Any],
) -> None:
    """Draws a dot per trial or, if it is below `low`, a mark at the share `row` of the height."""
    for trial in trials:
        y = percent(trial)
        style: dict[str, Any] = {"color": colour, "marker": "o", "ms": 3, "alpha": 0.6}
        if not y >= low:
            meaning, marker = ("below the axis", "v") if trial.trained else ("diverged", "x")
            y, at_bottom = row, axes.get_xaxis_transform()
            style |= {"marker": marker, "ms": 5, "transform": at_bottom}
            legend[meaning] = _key(marker=marker)
        if trial.trained and trial.diverged:
            style |= {"marker": "D", "ms": 4}
            legend[_SOME_DIVERGED] = _key(marker="D", ms=4)
        if not trial.finished:
            style["mfc"] = "none"
            legend["pruned: its last accuracy"] = _key(marker="o", mfc="none")
        axes.plot(place(trial), y, **style)


def _heat_map(sweep: Sweep, keys: Sequence[str]) -> Figure:
    """One panel per normalizer, with a cell per pair of numbers if these recur, else dots.

    Args:
      sweep: what was swept.
      keys: the keys of the numbers along x and y.
    """
    in_cells = all(sweep.recurs(key) for key in keys)
    along, width, height = {key: axis_of(sweep.varied[key]) for key in keys}, 2.8, 2.8
    if in_cells:
        # The points of a grid over a range, too.
        numbers = {key: {trial.settings[key] for trial in sweep.trials} for key in keys}
        along = {key: axis_of([*own]) for key, own in numbers.items()}
        width, height = (0.55 * len(own) for own in numbers.values())
    panels: dict[str, _Cells] = {}
    for trial in sweep.trials:
        place = [axis.place(trial.settings[key]) for key, axis in along.items()]
        cell = (*place, "" if in_cells else trial.variant)
        panels.setdefault(trial.settings[NORMALIZER], {}).setdefault(cell, []).append(trial)
    panels = {name: panels[name] for name in sweep.by_normalizer if name in panels}
    groups = [_unpruned(own) for cells in panels.values() for own in cells.values()]
    middles = [_middle(own)[0] for own in groups if any(trial.trained for trial in own)]
    low, high = _limits(middles)
    rows = math.ceil(len(panels) / 3)
    columns = math.ceil(len(panels) / rows)
    size = (max(width, 2.2) * columns + 1.6, max(height, 1.6) * rows + 1.2)
    with mpl.rc_context({"axes.grid": False}):
        figure = Figure(figsize=size, layout="constrained")
        places = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in places[len(panels) :]:
            axes.remove()
        # Dark is good, so that good lines stand out where lines cross.
        scale = FuncNorm((from_accuracy, to_accuracy), low, high)
        colours, legend = ScalarMappable(scale, "viridis_r"), dict[str, Any]()
        draw, most = (_cells, 10) if in_cells else (_points, 5)
        for axes, (name, cells) in zip(places, panels.items(), strict=False):
            for which, axis in zip("xy", along.values(), strict=True):
                axis.apply(axes, which, most)
                if in_cells:
                    axes.set(**{f"{which}lim": (axis.low - 0.55, axis.high + 0.55)})
            draw(axes, cells, winner(sweep.by_normalizer[name]), colours, legend)
            axes.tick_params(labelsize=8)
            axes.set_title(name, fontsize=9)
            axes.set(xlabel=keys[0], ylabel=keys[1] if axes in places[::columns] else "")
        figure.colorbar(
            colours,
            ax=list(places[: len(panels)]),
            label=f"final {sweep.chosen_by} accuracy, %",
            ticks=log_error_ticks(low, high),
            format="%g",
            extend="min" if any(middle < low for middle in middles) else "neither",
            aspect=20 * rows,
        )
        _legend_below(figure, legend)
        shared = in_cells and sweep.varied.keys() - {*keys, NORMALIZER}
        text = "\na cell: the median of its trials" if shared else ""
        figure.suptitle(_title(sweep) + text, fontsize=9, wrap=True)
        return figure


def _cells(
    axes: Axes, cells: _Cells, the_best: Entry | None, colours: Any, legend: dict[str, Any]
) -> None:
    """Draws a cell for each pair of numbers, in the colour of the median of its trials."""
    for (x, y, _), members in cells.items():
        outcomes = set(map(outcome, members))
        outline: dict[str, Any] = {"ec": "white", "lw": 1}
        if "finished" in outcomes:
            middle, *_ = _middle(_unpruned(members))
            colour, text = colours.to_rgba(middle), f"{middle:.2f}"
        elif "pruned" in outcomes:
            last = max(percent(trial) for trial in members if trial.trained)
            colour, text = _PRUNED_CELL, f"({last:.2f})"
            legend["pruned: its last accuracy"] = Rectangle((0, 0), 1, 1, fc=colour)
        else:
            colour, text = _DIVERGED_CELL, "div"
            legend["diverged"] = Rectangle((0, 0), 1, 1, fc=colour)
        if "finished" in outcomes and any(trial.diverged for trial in members):
            text += "*"
            legend["* seeds diverged"] = _key()
        if the_best in members:
            outline = {"ec": _BEST_COLOUR, "lw": 2.5, "zorder": 2}
            legend["has the best single trial"] = Rectangle((0, 0), 1, 1, fc="none", **outline)
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fc=colour, **outline))
        dark = np.dot(colour[:3], (0.299, 0.587, 0.114)) < 0.5
        # Not black and white, which pages replace by the colours of their text and paper.
        ink = "#fefefe" if dark else "#111111"
        axes.text(x, y, text, ha="center", va="center", color=ink, fontsize=7, zorder=3)


def _points(
    axes: Axes, cells: _Cells, the_best: Entry | None, colours: Any, legend: dict[str, Any]
) -> None:
    """Draws a dot per trial, each of which is a cell by itself."""
    for (x, y, _), (trial,) in cells.items():
        style: dict[str, Any] = {"marker": "o", "ms": 6, "color": _GREY}
        if outcome(trial) == "diverged":
            style |= {"marker": "x", "ms": 5}
            legend["diverged"] = _key(marker="x")
        elif outcome(trial) == "pruned":
            style |= {"mfc": "none"}
            legend["pruned"] = _key(marker="o", mfc="none")
        else:
            # The outline is for the light colours, on white.
            style |= {"color": colours.to_rgba(percent(trial)), "mec": "black", "mew": 0.4}
            if trial.diverged:
                style |= {"marker": "D", "ms": 5}
                legend[_SOME_DIVERGED] = _key(marker="D", ms=4)
        if trial is the_best:
            style |= {"marker": "*", "ms": 14, "mec": _BEST_COLOUR, "mew": 1.2, "zorder": 3}
            legend["the best"] = _key(marker="*", ms=10, mfc="none", mec=_BEST_COLOUR)
        axes.plot(x, y, **style)


def _title(sweep: Sweep) -> str:
    steps, trials = sweep.run.config["steps"], len(sweep.trials)
    text = f"{steps:,} steps, {trials:,} trial{'s' * (trials > 1)}"
    if len(sweep.by_normalizer) == 1:
        text = f"{next(iter(sweep.by_normalizer))}, {text}"
    if any(trial.diverged for trial in sweep.trials):
        text += "; seeds that diverged count at chance"
    return figure_title(sweep.run, text)


def _legend_below(figure: Figure, legend: Mapping[str, Any]) -> None:
    if legend:
        # Matplotlib fills a legend by column; this order makes it read by row.
        names = [name for column in range(4) for name in list(legend)[column::4]]
        handles = [legend[name] for name in names]
        figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8)


def _key(**style: Any) -> Line2D:
    """An entry of a legend."""
    drawn: dict[str, Any] = {"ls": "", "ms": 5, "color": _GREY} | style
    return Line2D([], [], **drawn)
