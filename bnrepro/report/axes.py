"""Axes of figures: of a range, linear or logarithmic, or of choices."""

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
    """Where the values of a varied key lie: those of a range to scale, choices at 0, 1, ...

    Attributes:
      low: the first place.
      high: the last place.
      log: whether the scale is logarithmic.
      choices: all choices, in order; empty for a range.
    """

    low: float
    high: float
    log: bool
    choices: Sequence[Any] = ()

    def place(self, value: Any) -> float:
        """Where a setting lies."""
        return self.choices.index(value) if self.choices else value

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
            margin = 0.3 if self.choices else 0.04 * (self.high - self.low)
            limits = self.low - margin, self.high + margin
        axes.set(**{f"{which}scale": "log" if self.log else "linear", f"{which}lim": limits})
        if self.choices:
            step = -(-len(self.choices) // most)
            labels = [*map(short_text, self.choices[::step])]
            drawn.set_ticks(range(0, len(self.choices), step), labels)
        elif self.log:
            decades = math.log10(self.high / self.low)
            digits = [one for one in _DIGITS if len(one) * decades <= most] or _DIGITS[-1:]
            drawn.set_major_locator(LogLocator(subs=digits[0], numticks=most))
            drawn.set_major_formatter("{x:g}")
        else:
            drawn.set_major_locator(MaxNLocator(5))
        drawn.set_minor_formatter(NullFormatter())


def axis_of(values: Any) -> Axis:
    """The axis for a range, or for choices; numbers are in the order of their size."""
    if isinstance(values, dict):
        return Axis(**values)
    return Axis(0, len(values) - 1, False, sorted(values) if are_numbers(values) else values)


def are_numbers(values: Any) -> bool:
    """Whether they are the ends of a range, or numbers to choose from."""
    return isinstance(values, dict) or all(type(value) in (int, float) for value in values)
