"""Means with their intervals, differences, families of tests, and verdicts: the only such module.

All tests are two-sided at 5% and all intervals are 95%, so that an interval agrees with the p-value
beside it. Both need at least three values: the spread of two says almost nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
import pandas as pd

# Not scipy.stats, which takes most of a second to import.
from scipy import special

LEVEL = 0.05
FEWEST = 3


@dataclass(frozen=True)
class Estimate:
    """A mean and its uncertainty.

    Attributes:
      mean: NaN without values.
      minimum, maximum: of the values; NaN without values.
      n: how many values there are; for a difference without pairs, in the smaller sample.
      standard_error: of the mean; NaN if there are too few values.
      df: the degrees of freedom of its Student's t distribution.
      sample: the values, in the order of seeds; none in a difference without pairs.
    """

    mean: float
    minimum: float
    maximum: float
    n: int
    standard_error: float = math.nan
    df: float = math.nan
    sample: tuple[float, ...] = field(default=(), compare=False, repr=False)

    @property
    def has_interval(self) -> bool:
        """Whether there are enough values for an interval and for tests."""
        return not math.isnan(self.standard_error)

    @property
    def ci95_low(self) -> float:
        """The lower end of the 95% confidence interval, NaN without one."""
        return self.mean - self._half

    @property
    def ci95_high(self) -> float:
        """The upper end of the 95% confidence interval, NaN without one."""
        return self.mean + self._half

    @property
    def ends(self) -> tuple[float, float]:
        """The 95% confidence interval or, if there is none, minimum and maximum."""
        if self.has_interval:
            return self.ci95_low, self.ci95_high
        return self.minimum, self.maximum

    def p_value(self, mean: float = 0.0) -> float:
        """The p-value, in [0, 1], of a two-sided t-test that the true mean is `mean`, or NaN."""
        if not self.has_interval:
            return math.nan
        if self.standard_error == 0:
            return float(self.mean == mean)
        return float(2 * special.stdtr(self.df, -abs(self.mean - mean) / self.standard_error))

    @property
    def _half(self) -> float:
        return float(special.stdtrit(self.df, 1 - LEVEL / 2) * self.standard_error)


def estimate(values: Sequence[float] | np.ndarray | pd.Series) -> Estimate:
    """The mean of the finite values of a sample, by Student's t."""
    sample = _finite(values)
    n = len(sample)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    ends = float(sample.min()), float(sample.max())
    found = Estimate(float(sample.mean()), *ends, n, sample=tuple(sample.tolist()))
    if n < FEWEST:
        return found
    return replace(found, standard_error=float(sample.std(ddof=1)) / math.sqrt(n), df=n - 1)


def estimate_columns(estimate: Estimate) -> dict[str, float]:
    """An estimate as columns of a table for programs."""
    names = ("mean", "ci95_low", "ci95_high", "minimum", "maximum")
    return {name: getattr(estimate, name) for name in names} | {"seeds": estimate.n}


def pooled(samples: Sequence[Sequence[float] | np.ndarray | pd.Series]) -> list[Estimate]:
    """The mean of each of many small samples, with a variance that they share.

    The variance is taken within the samples, as in an analysis of variance. A sample that varies
    more than the others can explain (Cochran's outlier test of variances, for samples of any size)
    keeps its own and is left out of theirs. If there are too few values, each keeps its own.
    """
    values = [_finite(sample) for sample in samples]
    estimates = [estimate(sample) for sample in values]
    dfs = {i: len(sample) - 1 for i, sample in enumerate(values) if len(sample) > 1}
    squares = {i: df * float(values[i].var(ddof=1)) for i, df in dfs.items()}
    for i in sorted(squares, key=lambda i: squares[i] / dfs[i], reverse=True):
        total, rest = sum(squares.values()), sum(dfs[j] for j in squares) - dfs[i]
        # How often the largest of equal variances would have so large a share of all squares.
        share = squares[i] / total if total else 0.0
        chance = special.betainc(rest / 2, dfs[i] / 2, 1 - share) if rest else 1.0
        if chance * len(squares) >= LEVEL:
            break
        del squares[i]
    df = sum(dfs[i] for i in squares)
    if df < FEWEST - 1:
        return estimates
    deviation = math.sqrt(sum(squares.values()) / df)
    return [
        replace(one, standard_error=deviation / math.sqrt(one.n), df=df)
        if one.n and (i in squares or i not in dfs)
        else one
        for i, one in enumerate(estimates)
    ]


def difference(ours: pd.Series, theirs: pd.Series) -> tuple[Estimate, bool]:
    """The mean difference of two samples of finite values, each indexed by seed.

    Returns:
      The estimate, and whether it is paired: over the seeds that both have, unless these are too
      few for an interval and not all of either. Otherwise it is Welch's, which allows unequal
      variances.
    """
    pairs = (ours - theirs).dropna()
    if len(pairs) >= min(FEWEST, len(ours), len(theirs)):
        return estimate(pairs), True
    found = Estimate(
        mean=float(ours.mean() - theirs.mean()),
        minimum=float(ours.min() - theirs.max()),
        maximum=float(ours.max() - theirs.min()),
        n=min(len(ours), len(theirs)),
    )
    if found.n < FEWEST:
        return found, False
    sizes = np.array([len(ours), len(theirs)])
    variances = np.array([ours.var(), theirs.var()]) / sizes
    total = float(variances.sum())
    # By Welch and Satterthwaite; without any variance, by Student.
    df = total**2 / float((variances**2 / (sizes - 1)).sum()) if total else float(sizes.sum()) - 2
    return replace(found, standard_error=math.sqrt(total), df=df), False


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of a family of tests, adjusted by Holm's step-down method.

    Rejecting those below 5% makes one or more false rejections in at most 5% of families. NaN, for
    what could not be tested, stays NaN and does not count.
    """
    values = np.asarray(p_values, float)
    # NaN is sorted last.
    order = np.argsort(values)[: np.isfinite(values).sum()]
    adjusted = np.full(len(values), np.nan)
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * values[order]))
    return adjusted.tolist()


class Verdict(StrEnum):
    """The verdict on a statement about a mean."""

    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold here"
    NOT_SETTLED = "not settled"


@dataclass(frozen=True)
class Rule:
    """A statement about a true mean, fixed before it is measured: low < mean < high.

    `Rule(low=0.5)` says that it is above a threshold, `Rule(high=3)` that it is below one, and
    `Rule(-0.1, 0.1)` that it is zero within a margin.
    """

    low: float = -math.inf
    high: float = math.inf

    def p_value(self, estimate: Estimate) -> float:
        """The p-value, in [0, 1], of the nearest bound, or NaN.

        Below 5%, the 95% interval contains no bound. With two bounds, these are the two one-sided
        tests of equivalence, each at 2.5% (Schuirmann uses 5%, or a 90% interval).
        """
        return max(estimate.p_value(self.low), estimate.p_value(self.high))

    def verdict(self, mean: float, p_value: float) -> Verdict:
        """Whether it holds of an estimated mean, by its p-value, perhaps adjusted for a family."""
        if not p_value < LEVEL:
            return Verdict.NOT_SETTLED
        return Verdict.HOLDS if self.low < mean < self.high else Verdict.DOES_NOT_HOLD


def _finite(values: Sequence[float] | np.ndarray | pd.Series) -> np.ndarray:
    array = np.asarray(values, float)
    return array[np.isfinite(array)]
