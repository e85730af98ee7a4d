"""The axes on which figures place the values of a varied key."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullFormatter

from bnrepro.report.entries import short_text


@dataclass(frozen=True)
class Axis:
    """Where the values of a varied key lie.

    Attributes:
      choices: all choices, in order; empty for a range.
      even: whether the choices are placed at 0, 1, ...; if not, numbers are at their own value.
      log: whether the scale is logarithmic.
      low: the first place.
      high: the last place.
      ticks: labels by place.
    """

    choices: Sequence[Any]
    even: bool
    log: bool
    low: float
    high: float
    ticks: Mapping[float, str]

    def place(self, value: Any) -> float:
        """Where a setting lies."""
        return self.choices.index(value) if self.even else value

    def share(self, place: float) -> float:
        """How far along the axis a place is, from 0 to 1."""
        scale = math.log if self.log else float
        return (scale(place) - scale(self.low)) / (scale(self.high) - scale(self.low))

    def limits(self) -> tuple[float, float]:
        """The ends of the axis, with a margin."""
        if self.log:
            margin = (self.high / self.low) ** 0.04
            return self.low / margin, self.high * margin
        margin = 0.3 if self.even else 0.04 * (self.high - self.low)
        return self.low - margin, self.high + margin

    def apply(self, axes: Axes, which: str, most: int = 10) -> None:
        """Applies this to the "x" or "y" axis of a plot, with at most so many ticks."""
        drawn = axes.xaxis if which == "x" else axes.yaxis
        scale = "log" if self.log else "linear"
        axes.set(**{f"{which}scale": scale, f"{which}lim": self.limits()})
        ticks = _thinned(list(self.ticks), most)
        drawn.set_ticks(ticks, [self.ticks[tick] for tick in ticks])
        drawn.set_minor_formatter(NullFormatter())


def axis_of(values: Any) -> Axis:
    """The axis for a range, or for two or more choices."""
    if isinstance(values, dict):
        low, high, log = values["low"], values["high"], values["log"]
        ticks = {number: f"{number:g}" for number in _round_numbers(low, high, log)}
        return Axis((), False, log, low, high, ticks)
    if not are_numbers(values):
        return even_axis(values)
    numbers = sorted(values)
    log, gaps = _spaced_by_ratio(numbers), np.diff(numbers)
    if not log and gaps.min() < 0.3 * gaps.mean():
        # For example 0.9, 0.99, 0.999: the last two would coincide.
        return even_axis(numbers)
    ticks = {number: short_text(number) for number in _thinned(numbers)}
    return Axis(numbers, False, log, numbers[0], numbers[-1], ticks)


def even_axis(choices: Sequence[Any]) -> Axis:
    """The axis on which choices lie at 0, 1, ..."""
    ticks = {i: short_text(choices[i]) for i in _thinned(range(len(choices)))}
    return Axis(choices, True, False, 0, len(choices) - 1, ticks)


def are_numbers(values: Any) -> bool:
    """Whether they are the ends of a range, or numbers to choose from."""
    return isinstance(values, dict) or all(type(value) in (int, float) for value in values)


def _spaced_by_ratio(numbers: Sequence[float]) -> bool:
    """Whether increasing numbers call for a logarithmic axis."""
    if numbers[0] <= 0:
        return False
    if numbers[-1] >= 20 * numbers[0] or len(numbers) < 3:
        return numbers[-1] >= 20 * numbers[0]
    gaps, ratios = np.diff(numbers), np.diff(np.log(numbers))
    spread = ratios.max() / ratios.min()
    # True for 1, 2, 5, 10. The ratios of 0.98, 0.985, 0.99 are similar, but the gaps more so.
    return bool(spread <= 1.4 and spread < gaps.max() / gaps.min())


def _round_numbers(low: float, high: float, log: bool) -> list[float]:
    """Round numbers for the ticks of a range."""
    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for digits in ((1,), (1, 3), (1, 2, 5)):
            numbers = [float(f"{digit}e{power}") for power in powers for digit in digits]
            inside = [number for number in numbers if low <= number <= high]
            if len(inside) >= 4:
                return [*_thinned(inside)]
    return [number for number in MaxNLocator(5).tick_values(low, high) if low <= number <= high]


def _thinned(ticks: Sequence[Any], most: int = 10) -> Sequence[Any]:
    """Evenly chosen ticks, at most so many."""
    return ticks[:: -(-len(ticks) // most)]
