"""From the metrics of a run to one number a variant, with its 95% interval over seeds."""

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from bnrepro.records import SUMMARY_CSV, Run, complete_file

SUMMARY_COLUMNS = (
    "variant", "metric", "mean", "ci95_low", "ci95_high", "seeds", "steps", "dataset",
)  # fmt: skip
_SEED = ["variant", "seed"]


class Interval(NamedTuple):
    """A mean with its 95% interval (NaN of fewer than two values) and the number of values."""

    mean: float
    ci95_low: float
    ci95_high: float
    seeds: int


def evaluations(run: Run, split: str = "test", metric: str = "accuracy") -> pd.DataFrame:
    """The rows of one metric in the order of steps; seeds that diverged are left out."""
    metrics = run.metrics
    diverged = pd.MultiIndex.from_frame(metrics.loc[metrics["metric"] == "diverged", _SEED])
    rows = metrics[(metrics["split"] == split) & (metrics["metric"] == metric)]
    return rows[~pd.MultiIndex.from_frame(rows[_SEED]).isin(diverged)].sort_values("step")


def finals(rows: pd.DataFrame) -> pd.Series:
    """The last value of each (variant, seed) in `rows` from `evaluations`."""
    return rows.groupby(_SEED).tail(1).set_index(_SEED)["value"]


def steps_to(rows: pd.DataFrame, threshold: float | pd.Series) -> pd.Series:
    """The first step of each (variant, seed) with a value of at least its threshold, or NaN."""
    rows = rows.set_index(_SEED)
    if isinstance(threshold, pd.Series):
        threshold = threshold.reindex(rows.index)
    return rows["step"].where(rows["value"] >= threshold).groupby(level=_SEED).min()


def by_seed(
    run: Run, accuracies: Sequence[float], baselines: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """What is summarized: one row a (variant, seed), one column a metric.

    Columns: `final` and `best` test accuracy; `final_minus_baseline`, of the same seed;
    `final_<split>`, final accuracy on what else was evaluated (`train_set`, `test_minibatches`);
    `steps_to_<accuracy>`, the first evaluation that reaches it (NaN if none does), for the
    given accuracies in [0, 1] and, as `steps_to_baseline_best`, for the best of the baseline's
    run of the same seed. Baselines are those given for a variant, else the config's.
    """
    accuracy = evaluations(run)
    best = accuracy.groupby(_SEED)["value"].max()
    table = pd.DataFrame({"final": finals(accuracy), "best": best}, dtype=float)
    variants, seeds = (table.index.get_level_values(name) for name in ("variant", "seed"))
    of = [(baselines or {}).get(variant, run.config["baseline"]) for variant in variants]
    reference = table.reindex(pd.MultiIndex.from_arrays([of, seeds])).set_index(table.index)
    table["final_minus_baseline"] = table["final"] - reference["final"]
    for split in sorted(set(run.metrics["split"]) - {"train", "test"}):
        table[f"final_{split}"] = finals(evaluations(run, split))
    for threshold in accuracies:
        table[f"steps_to_{threshold:g}"] = steps_to(accuracy, threshold)
    table["steps_to_baseline_best"] = steps_to(accuracy, reference["best"])
    return table


def summarize(
    run: Run, accuracies: Sequence[float], baselines: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Mean and 95% interval (Student's t) over seeds of each column of `by_seed`.

    Returns:
      A table with `SUMMARY_COLUMNS`. `seeds` counts those that have a value: the ones that did not
      diverge and, for steps, that got there. `steps` is the length of the shortest of the runs.
    """
    table = by_seed(run, accuracies, baselines)
    tests = run.metrics[run.metrics["split"] == "test"]
    last_steps = tests.groupby(["variant", "seed"])["step"].max()
    rows = []
    for variant in run.variants:
        seeds = table[table.index.get_level_values("variant") == variant]
        steps = int(last_steps[seeds.index].min()) if len(seeds) else 0
        for metric in table.columns:
            mean, low, high, count = mean_interval(seeds[metric].to_numpy())
            rows.append((variant, metric, mean, low, high, count, steps, run.provenance["dataset"]))
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def mean_interval(values: np.ndarray) -> Interval:
    """Mean and 95% interval by Student's t of the values that are finite."""
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, np.nan, np.nan, 1)
    half = float(
        special.stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(values))
    )
    return Interval(mean, mean - half, mean + half, len(values))


def difference_interval(ours: pd.Series, theirs: pd.Series) -> tuple[Interval, bool]:
    """Mean and 95% interval of the difference of two sets of finite values by seed.

    Returns:
      The interval, and whether it is paired: it is over the seeds that both have, if there are
      any. Else it is Welch's, and its `seeds` are those of the smaller set.
    """
    pairs = (ours - theirs).dropna()
    count = min(len(ours), len(theirs))
    if len(pairs) or not count:
        return mean_interval(pairs.to_numpy()), True
    mean = float(ours.mean() - theirs.mean())
    if count == 1:
        return Interval(mean, np.nan, np.nan, count), False
    with warnings.catch_warnings():
        # Seeds that all got to the same number are no reason to warn.
        warnings.simplefilter("ignore", RuntimeWarning)
        # Only here: it takes a second to import.
        from scipy import stats

        low, high = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    return Interval(mean, float(low), float(high), count), False


def write_summary(run: Run, summary: pd.DataFrame) -> None:
    """Writes `summary.csv`."""
    with complete_file(run.workdir / SUMMARY_CSV) as path:
        summary.to_csv(path, index=False)
