"""From the records of a comparison to numbers: what measurements and figures of claims are made of.

A run that diverged is a failure and counts at chance accuracy; of other metrics it has no value
unless a function here says what it counts as.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from bnrepro.records import Run
from bnrepro.report.statistics import Estimate, estimate
from bnrepro.report.summary import (
    evaluations,
    failures,
    finals,
    steps_to,
    unit_percentiles,
    with_failures,
)

ACCURACY = "test/accuracy"
# Accuracy of a network that trains, on ten labels: far above chance, and below all that converge.
TRAINS = 0.9
# What a ratio counts as at most, as where a run diverged.
_MOST = 10.0

# Weight, and names of variants: of several, the best by seed counts. A third element is a metric.
Term = tuple


def contrast(run: Run, terms: Sequence[Term], scale: float = 100) -> Estimate:
    """The mean over seeds of a weighted sum of final values, times `scale`.

    Args:
      run: the records.
      terms: (weight, variant) or (weight, variant, metric), the metric as SPLIT/NAME (default:
        test/accuracy); in place of a variant, a tuple of several stands for the highest of each
        seed. Seeds that lack one of the terms do not count.
      scale: 100 for percentage points.
    """
    total = sum(weight * _final(run, *names) for weight, *names in terms)
    return estimate(scale * total)


def gain(run: Run, ours: str, theirs: str, scale: float = 100) -> Estimate:
    """Final test accuracy of one variant less another's, in percentage points, paired by seed."""
    return contrast(run, ((1, ours), (-1, theirs)), scale)


def steps_ratio(run: Run, ours: str, theirs: str) -> Estimate:
    """Steps to the highest accuracy of `theirs` of the same seed, as a share of its own steps.

    One that never gets there counts as two runs' length, one that is there at step 0 as the steps
    between two evaluations. The mean is of the logarithms to base 2.
    """
    accuracy = evaluations(run)
    best = accuracy[accuracy["variant"] == theirs].groupby(["variant", "seed"])["value"].max()
    best = _of(with_failures(best, run, run.chance), theirs)
    steps = {}
    for name in (ours, theirs):
        rows = accuracy[accuracy["variant"] == name]
        threshold = pd.Series(best.reindex(rows["seed"]).to_numpy(), _index(rows))
        reached = steps_to(rows, threshold[~threshold.index.duplicated()])
        reached = with_failures(reached, run, lambda variant: math.inf)
        steps[name] = _of(reached, name).clip(run.config["eval_every"], 2 * run.config["steps"])
    return estimate(np.log2(steps[ours] / steps[theirs]))


def drift_ratio(run: Run, ours: str, theirs: str) -> Estimate:
    """How much less the inputs of sigmoids move in one variant than in another: log2 of the ratio.

    The movement of a unit is the standard deviation of its median over evaluations, that at step 0
    left out, in units of the mean distance of its 15th and 85th percentiles. The mean of the
    logarithms is over all units of the last hidden layer.
    """

    def movement(variant: str) -> pd.Series:
        units: Any = _percentiles(run, variant)
        moved = units["p50"].std() / (units["p85"] - units["p15"]).mean()
        return moved.map(math.log2).groupby("seed").mean()

    return estimate(movement(theirs) - movement(ours))


def rate_ratio(run: Run, ours: str, theirs: str) -> Estimate:
    """The largest learning rate that trains, one kind of variant to another: log2 of the ratio.

    Variants of a kind have names that begin with it and differ in their learning rate. The largest
    rate is where the final accuracy falls below 90% for good, between two rates by interpolation;
    if that of the largest rate is above, that rate. With a seed that trains at none, it counts as
    half of the smallest.
    """

    def largest(kind: str) -> pd.Series:
        names = [name for name in run.variants if name.startswith(kind + " ")]
        rates = {name: run.settings(name)["optimizer.learning_rate"] for name in names}
        table = pd.DataFrame({rate: _final(run, name) for name, rate in rates.items()})
        return table.sort_index(axis=1).apply(_crossing, axis=1)

    return estimate(largest(ours) - largest(theirs))


def _crossing(accuracies: pd.Series) -> float:
    """Log2 of the rate at which accuracies, by rate, fall below `TRAINS` for good."""
    rates, values = np.log2(accuracies.index.to_numpy(float)), accuracies.to_numpy(float)
    above = np.flatnonzero(values >= TRAINS)
    if len(above) == 0:
        return float(rates[0]) - 1
    last = above[-1]
    if last == len(values) - 1:
        return float(rates[-1])
    share = (values[last] - TRAINS) / (values[last] - values[last + 1])
    return float(rates[last] + share * (rates[last + 1] - rates[last]))


def spread_difference(run: Run, ours: str, theirs: str) -> Estimate:
    """Highest less lowest final accuracy over variants of a kind, `theirs` less `ours`, in points.

    Variants of a kind have names that begin with it.
    """

    def spread(kind: str) -> pd.Series:
        names = [name for name in run.variants if name.startswith(kind + " ")]
        table = pd.DataFrame({name: _final(run, name) for name in names})
        return table.max(axis=1) - table.min(axis=1)

    return estimate(100 * (spread(theirs) - spread(ours)))


def vanishing(run: Run, ours: str, theirs: str) -> Estimate:
    """Log10 of the gradient norm, last to first hidden layer, `theirs` less `ours`.

    At the first evaluation after step 0, over the steps measured until then; positive where the
    gradient vanishes more in `theirs`.
    """

    def ratio(variant: str) -> Any:
        last = len(run.settings(variant)["model.hidden"]) - 1
        first_norm, last_norm = (
            over_time(run, variant, f"train/grad_norm/dense_{i}").iloc[0] for i in (0, last)
        )
        return np.log10(last_norm / first_norm)

    return estimate(ratio(theirs) - ratio(ours))


def gradient_size(run: Run, ours: str, theirs: str) -> Estimate:
    """Log10 of the norm of the whole gradient at the start, `theirs` less `ours`."""

    def size(variant: str) -> Any:
        return np.log10(_gradient_norm(run, variant).iloc[0])

    return estimate(size(theirs) - size(ours))


def growth(run: Run, variant: str, parameter: str) -> Estimate:
    """The norm of a parameter at the last evaluation, to that half-way there.

    A run that diverged counts as ten.
    """
    values = over_time(run, variant, f"train/param_norm/{parameter}")
    ratio = (values.iloc[-1] / values.iloc[len(values) // 2 - 1]).clip(upper=_MOST)
    return estimate(_with_failures(ratio, run, variant, _MOST))


def size_ratio(run: Run, ours: str, theirs: str, parameter: str) -> Estimate:
    """Log10 of the norm of a parameter at the last evaluation, `theirs` less `ours`."""
    names = (theirs, ours)
    norms = [_final(run, name, f"train/param_norm/{parameter}") for name in names]
    smallest = float(np.finfo(np.float32).tiny)
    return estimate(np.log10(norms[0].clip(lower=smallest) / norms[1].clip(lower=smallest)))


def highest_loss(run: Run, variant: str) -> Estimate:
    """The highest mean training loss between two evaluations, in units of that of guessing.

    At most ten, which is what a run that diverged counts as. The first interval is left out.
    """
    losses = over_time(run, variant, "train/loss").iloc[1:]
    highest = (losses.max() / -math.log(run.chance(variant))).clip(upper=_MOST)
    return estimate(_with_failures(highest, run, variant, _MOST))


def spike_difference(run: Run, ours: str, theirs: str) -> Estimate:
    """The largest rise of the training loss above its lowest so far, `theirs` less `ours`.

    Losses are means between two evaluations; a run that diverged counts as ten.
    """

    def spike(variant: str) -> pd.Series:
        losses = over_time(run, variant, "train/loss")
        return _with_failures((losses - losses.cummin()).max(), run, variant, _MOST)

    return estimate(spike(theirs) - spike(ours))


def loss_change_ratio(run: Run, ours: str, theirs: str) -> Estimate:
    """Log2 of the range of the loss along the gradient, `theirs` to `ours`.

    The range is that of the loss at 0 to 4 times the optimizer's step, averaged over training.
    """
    changes = [loss_range(run, name).mean() for name in (theirs, ours)]
    return estimate(np.log2(changes[0] / changes[1]))


def gradient_change_ratio(run: Run, ours: str, theirs: str) -> Estimate:
    """Log2 of the relative change of the gradient over one step along it, `theirs` to `ours`."""
    changes = [gradient_change(run, name).mean() for name in (theirs, ours)]
    return estimate(np.log2(changes[0] / changes[1]))


def time_overhead(run: Run, ours: str, theirs: str) -> Estimate:
    """How much longer a step takes, as 100 times the natural logarithm of the ratio.

    It is nearly the percentage, and zero on average where both take the same time. The mean is over
    readings, which stand for seeds.
    """
    times = [_final(run, name, "train/milliseconds") for name in (ours, theirs)]
    return estimate(100 * np.log(times[0] / times[1]))


def _gradient_norm(run: Run, variant: str) -> pd.DataFrame:
    """Norm of the gradient of all layers, steps x seeds."""
    names = run.metrics.loc[run.metrics["variant"] == variant, "metric"].unique()
    norms = [name for name in names if name.startswith("grad_norm/")]
    squares = sum(over_time(run, variant, f"train/{name}") ** 2 for name in norms)
    return squares**0.5


def over_time(run: Run, variant: str, metric: str) -> pd.DataFrame:
    """A metric by step and seed, without the seeds that diverged; in training, none at step 0."""
    split, _, name = metric.partition("/")
    rows = evaluations(run, split, name)
    table = rows[rows["variant"] == variant].pivot(index="step", columns="seed", values="value")
    every = run.config["eval_every"]
    # All steps, also if no seed got there.
    return table.reindex(range(every * (split == "train"), run.config["steps"] + 1, every))


def final_values(run: Run, metric: str = ACCURACY) -> pd.Series:
    """The last value of each (variant, seed)."""
    split, _, name = metric.partition("/")
    values = finals(evaluations(run, split, name))
    return with_failures(values, run, run.chance) if name == "accuracy" else values


def loss_range(run: Run, variant: str) -> pd.DataFrame:
    """The range of the loss at 0 to 4 times the optimizer's step along the gradient, over steps."""
    along = [over_time(run, variant, f"train/along_gradient/loss_{k}") for k in (0.5, 1, 2, 4)]
    ends = np.stack([0 * along[0], *along])  # the loss where it stands first
    return pd.DataFrame(np.ptp(ends, axis=0), along[0].index, along[0].columns)


def gradient_change(run: Run, variant: str) -> pd.DataFrame:
    """The change of the gradient over one step along it, in units of its norm, over steps."""
    change = over_time(run, variant, "train/along_gradient/gradient_1")
    return change / _gradient_norm(run, variant)


def loss_rise(run: Run, variant: str) -> pd.DataFrame:
    """The largest rise of the training loss above its lowest, until each step."""
    losses = over_time(run, variant, "train/loss")
    return (losses - losses.cummin()).cummax()


def near_linear(run: Run, variant: str, layers: Sequence[str]) -> pd.DataFrame:
    """Share of a sigmoid's inputs within one of zero, in percent, mean of layers, over steps."""
    shares = [over_time(run, variant, f"test/near_linear/{layer}") for layer in layers]
    return pd.concat(shares).groupby(level=0).mean() * 100


def median_moved(run: Run, variant: str) -> pd.DataFrame:
    """How far the median of a sigmoid's input has moved, in units of its spread, over steps.

    From the first evaluation after step 0; the spread is the distance of the 15th and the 85th
    percentile, averaged over evaluations from then on. The mean over the units of each seed.
    """
    units = _percentiles(run, variant)
    moved = (units["p50"] - units["p50"].iloc[0]).abs() / (units["p85"] - units["p15"]).mean()
    return moved.T.groupby("seed").mean().T


def _percentiles(run: Run, variant: str) -> pd.DataFrame:
    """Of each unit's input to the sigmoid: steps after 0 x (percentile, seed, unit)."""
    rows = unit_percentiles(run)
    rows = rows[(rows["variant"] == variant) & (rows["step"] > 0)]
    rows = rows[~pd.MultiIndex.from_frame(rows[["variant", "seed"]]).isin(failures(run))]
    return rows.pivot(index="step", columns=["percentile", "seed", "unit"], values="value")


def _final(run: Run, variant: str | Sequence[str], metric: str = ACCURACY) -> pd.Series:
    """The last value by seed; of several variants, the highest."""
    if not isinstance(variant, str):
        return pd.concat([_final(run, name, metric) for name in variant], axis=1).max(axis=1)
    return _of(final_values(run, metric), variant)


def _of(values: pd.Series, variant: str) -> pd.Series:
    return values[values.index.get_level_values("variant") == variant].droplevel("variant")


def _with_failures(values: pd.Series, run: Run, variant: str, failure: float) -> pd.Series:
    failed = failures(run)
    seeds = failed[failed.get_level_values("variant") == variant].get_level_values("seed")
    return pd.concat([values, pd.Series(failure, seeds, dtype=float)])


def _index(rows: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(rows[["variant", "seed"]])
