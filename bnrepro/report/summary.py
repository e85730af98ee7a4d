"""The values of a run by variant and seed.

A run that diverged is a failure: it counts at chance accuracy, and never reaches any accuracy.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from bnrepro.records import Run
from bnrepro.report.question import Question

_SEED = ["variant", "seed"]
BASELINE_BEST = "steps_to_baseline_best"


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


def asked(run: Run, question: Question) -> pd.DataFrame:
    """The rows from `evaluations` that the values of a question are chosen from."""
    rows = evaluations(run, question.split, question.name)
    return rows[rows["step"] == question.at] if isinstance(question.at, int) else rows


def by_seed(run: Run, question: Question) -> pd.DataFrame:
    """What a question asks for: one row per (variant, seed), sorted, and one column per number.

    Columns: `value`, of the metric (accuracy is at chance for a seed that diverged); each of the
    question's `splits`, final accuracy on it; `steps_to_<accuracy>`, the first evaluation that
    reaches it (infinity if none does); `steps_to_baseline_best`, likewise for the highest accuracy
    of the baseline with the same seed (NaN if that diverged or is missing).
    """
    rows = asked(run, question)
    values = finals(rows)
    if question.at == "best":
        values = rows.groupby(_SEED)["value"].agg("max" if question.sign > 0 else "min")
    if question.is_accuracy:
        values = with_failures(values, run, run.chance)
    numbers = {"value": values.astype(float)}
    for split in question.splits:
        numbers[split] = with_failures(finals(evaluations(run, split)), run, run.chance)
    accuracy = evaluations(run, question.split)

    def reached(threshold: float | pd.Series) -> pd.Series:
        return with_failures(steps_to(accuracy, threshold), run, lambda variant: np.inf)

    for threshold in question.steps_to:
        numbers[f"steps_to_{threshold:g}"] = reached(threshold)
    table = pd.DataFrame(numbers).sort_index()
    if question.steps_to_best:
        variants, seeds = (table.index.get_level_values(name) for name in _SEED)
        of = pd.MultiIndex.from_arrays([variants.map(question.baseline_of), seeds])
        best = accuracy.groupby(_SEED)["value"].max().reindex(of).set_axis(table.index)
        table[BASELINE_BEST] = reached(best).where(best.notna())
    return table
