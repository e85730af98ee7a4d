"""Summarizes the metrics of a run per variant, with 95% confidence intervals over seeds.

A run that diverged is a failure: it counts at chance accuracy, and never reaches any accuracy.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from bnrepro.records import Run
from bnrepro.report.statistics import Estimate, estimate

_SEED = ["variant", "seed"]


def failures(run: Run) -> pd.MultiIndex:
    """Each (variant, seed) that diverged."""
    diverged = run.metrics[run.metrics["metric"] == "diverged"]
    return pd.MultiIndex.from_frame(diverged[_SEED])


def failure_counts(run: Run) -> dict[str, int]:
    """How many runs diverged, of each variant of which any did."""
    failed = failures(run).get_level_values("variant")
    return {name: int((failed == name).sum()) for name in run.variants if name in failed}


def with_failures(values: pd.Series, run: Run, value: Callable[[str], float]) -> pd.Series:
    """`values` by (variant, seed), plus the `value` of its variant for each that diverged."""
    failed = failures(run)
    others = [value(variant) for variant in failed.get_level_values("variant")]
    return pd.concat([values.astype(float), pd.Series(others, failed, dtype=float)])


def never(variant: str) -> float:
    """The step at which a run that diverged reaches an accuracy: infinity."""
    return np.inf


def evaluations(run: Run, split: str = "test", metric: str = "accuracy") -> pd.DataFrame:
    """The rows of one metric in the order of steps, without seeds that diverged."""
    metrics = run.metrics
    rows = metrics[(metrics["split"] == split) & (metrics["metric"] == metric)]
    diverged = pd.MultiIndex.from_frame(rows[_SEED]).isin(failures(run))
    return rows[~diverged].sort_values("step")


def finals(rows: pd.DataFrame) -> pd.Series:
    """The last value of each (variant, seed) in `rows` from `evaluations`."""
    return rows.groupby(_SEED).tail(1).set_index(_SEED)["value"]


def steps_to(rows: pd.DataFrame, threshold: float | pd.Series) -> pd.Series:
    """The first step at which each (variant, seed) reaches its threshold; infinity if never."""
    rows = rows.set_index(_SEED)
    if isinstance(threshold, pd.Series):
        threshold = threshold.reindex(rows.index)
    return rows["step"].where(rows["value"] >= threshold, np.inf).groupby(level=_SEED).min()


def unit_percentiles(run: Run) -> pd.DataFrame:
    """Percentiles of the inputs to sigmoids of the last hidden layer.

    Returns:
      The rows of the run with a `percentile`, "p15", "p50" or "p85", and a `unit`, 0 if only one
      was measured in each seed.
    """
    names = pd.Series(run.metrics["metric"].unique())
    parts = names.str.extract(r"^sigmoid_inputs?/(?:(?P<unit>\d+)/)?(?P<percentile>p\d+)$")
    parts = parts.set_axis(names).dropna(subset="percentile").fillna("0").astype({"unit": int})
    return run.metrics.join(parts, on="metric", how="inner")


def by_seed(
    run: Run, accuracies: Sequence[float], baselines: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """The values to summarize: one row per (variant, seed), one column per metric.

    Columns: `final` test accuracy; `final_minus_baseline`, with the same seed (NaN for the baseline
    itself); `final_<split>`, final accuracy on other splits (`train_set`, `test_minibatches`);
    `steps_to_<accuracy>`, the first evaluation that reaches it (infinity if none does), for the
    given accuracies in [0, 1] and, as `steps_to_baseline_best`, for the highest accuracy of the
    baseline with the same seed (NaN if that diverged or is missing). A variant's baseline is the
    one in `baselines`, else the config's.
    """
    accuracy = evaluations(run)
    final = with_failures(finals(accuracy), run, run.chance).sort_index()
    table = pd.DataFrame({"final": final}, dtype=float)
    variants, seeds = (table.index.get_level_values(name) for name in ("variant", "seed"))
    of = [(baselines or {}).get(variant, run.config["baseline"]) for variant in variants]
    baseline = pd.MultiIndex.from_arrays([of, seeds])
    deltas = final - final.reindex(baseline).to_numpy()
    # A variant is not compared with itself, which is no test of the family.
    table["final_minus_baseline"] = deltas.where(variants != of)
    measured = run.metrics.loc[run.metrics["metric"] == "accuracy", "split"]
    for split in sorted(set(measured) - {"train", "test"}):
        values = finals(evaluations(run, split))
        table[f"final_{split}"] = with_failures(values, run, run.chance)
    for threshold in accuracies:
        reached = steps_to(accuracy, threshold)
        table[f"steps_to_{threshold:g}"] = with_failures(reached, run, never)
    best = accuracy.groupby(_SEED)["value"].max().reindex(baseline).set_axis(table.index)
    reached = with_failures(steps_to(accuracy, best), run, never)
    table["steps_to_baseline_best"] = reached.where(best.notna())
    return table


def summarize(
    run: Run, accuracies: Sequence[float], baselines: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """The `Estimate` over seeds of each column of `by_seed`.

    Returns:
      A table of `variant`, `metric`, `estimate`, `of`, `steps` and `dataset`. The estimate's n
      counts seeds with a finite value, and `of` those that could have one: for steps, also seeds
      that never reached it. `steps` is the length of the shortest run that did not diverge.
    """
    table = by_seed(run, accuracies, baselines)
    lengths = evaluations(run).groupby(_SEED)["step"].max().groupby("variant").min()
    rows = []
    for variant in run.variants:
        seeds = table[table.index.get_level_values("variant") == variant]
        steps = int(lengths.get(variant, 0))
        for metric in table.columns:
            of = int(seeds[metric].notna().sum())
            dataset = run.provenance["dataset"]
            rows.append((variant, metric, estimate(seeds[metric]), of, steps, dataset))
    columns = ["variant", "metric", "estimate", "of", "steps", "dataset"]
    return pd.DataFrame(rows, columns=columns)


def estimate_columns(estimate: Estimate) -> dict[str, float]:
    """An estimate as columns of a table for programs."""
    names = ("mean", "ci95_low", "ci95_high", "minimum", "maximum")
    return {name: getattr(estimate, name) for name in names} | {"seeds": estimate.n}
