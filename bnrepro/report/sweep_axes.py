"""The axes on which figures place the values of a varied key."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from bnrepro.report.entries import short_text

# First digits of the ticks of a logarithmic range: the first of these that are not too many.
_DIGITS = ((1, 2, 5), (1, 3), (1,))


@dataclass(frozen=True)
class Axis:
    """Where the values of a varied key lie.

    Attributes:
      low: the first place.
      high: the last place.
      log: whether the scale is logarithmic.
      choices: all choices, in order; empty for a range.
      even: whether the choices are placed at 0, 1, ...; if not, numbers are at their own value.
    """

    low: float
    high: float
    log: bool
    choices: Sequence[Any] = ()
    even: bool = False

    def place(self, value: Any) -> float:
        """Where a setting lies."""
        return self.choices.index(value) if self.even else value

    def parts(self, count: int) -> np.ndarray:
        """The bounds between so many equal parts of the axis."""
        spaced = np.geomspace if self.log else np.linspace
        return spaced(self.low, self.high, count + 1)[1:-1]

    def apply(self, axes: Axes, which: str, most: int = 10) -> None:
        """Applies this to the "x" or "y" axis of a plot, with about so many ticks at most."""
        drawn = axes.xaxis if which == "x" else axes.yaxis
        if self.log:
            margin = (self.high / self.low) ** 0.04
            limits = self.low / margin, self.high * margin
        else:
            margin = 0.3 if self.even else 0.04 * (self.high - self.low)
            limits = self.low - margin, self.high + margin
        axes.set(**{f"{which}scale": "log" if self.log else "linear", f"{which}lim": limits})
        if self.choices:
            labelled = self.choices[:: -(-len(self.choices) // most)]
            drawn.set_ticks([*map(self.place, labelled)], [*map(short_text, labelled)])
        elif self.log:
            decades = math.log10(self.high / self.low)
            digits = [one for one in _DIGITS if len(one) * decades <= most] or _DIGITS[-1:]
            drawn.set_major_locator(LogLocator(subs=digits[0], numticks=most))
            drawn.set_major_formatter("{x:g}")
        else:
            drawn.set_major_locator(MaxNLocator(5))
        drawn.set_minor_formatter(NullFormatter())


def axis_of(values: Any) -> Axis:
    """The axis for a range, or for two or more choices."""
    if isinstance(values, dict):
        return Axis(**values)
    if not are_numbers(values):
        return even_axis(values)
    numbers = sorted(values)
    log, gaps = _spaced_by_ratio(numbers), np.diff(numbers)
    if not log and gaps.min() < 0.3 * gaps.mean():
        # For example 0.9, 0.99, 0.999: the last two would coincide.
        return even_axis(numbers)
    return Axis(numbers[0], numbers[-1], log, numbers)


def even_axis(choices: Sequence[Any]) -> Axis:
    """The axis on which choices lie at 0, 1, ..."""
    return Axis(0, len(choices) - 1, False, choices, even=True)


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
