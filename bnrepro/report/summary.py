"""From the metrics of a run to one number a variant, with its 95% interval over seeds."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from bnrepro.records import SUMMARY_CSV, Run, complete_file

SUMMARY_COLUMNS = (
    "variant", "metric", "mean", "ci95_low", "ci95_high", "seeds", "steps", "dataset",
)  # fmt: skip


def accuracy_by_seed(run: Run, split: str = "test") -> pd.DataFrame:
    """Accuracy: one row a step, one column a (variant, seed); diverged seeds are left out."""
    metrics = run.metrics
    diverged = metrics[metrics["metric"] == "diverged"]
    out = set(zip(diverged["variant"], diverged["seed"], strict=True))
    rows = metrics[(metrics["split"] == split) & (metrics["metric"] == "accuracy")]
    table = rows.pivot(index="step", columns=["variant", "seed"], values="value")
    return table[[column for column in table.columns if column not in out]]


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
    accuracy = accuracy_by_seed(run)
    table = pd.DataFrame({"final": _finals(accuracy), "best": accuracy.max()}, dtype=float)
    variants, seeds = (table.index.get_level_values(name) for name in ("variant", "seed"))
    of = [(baselines or {}).get(variant, run.config["baseline"]) for variant in variants]
    reference = table.reindex(pd.MultiIndex.from_arrays([of, seeds])).set_index(table.index)
    table["final_minus_baseline"] = table["final"] - reference["final"]
    for split in sorted(set(run.metrics["split"]) - {"train", "test"}):
        table[f"final_{split}"] = _finals(accuracy_by_seed(run, split))
    for threshold in accuracies:
        table[f"steps_to_{threshold:g}"] = _steps_to(accuracy, threshold)
    table["steps_to_baseline_best"] = _steps_to(accuracy, reference["best"])
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


def mean_interval(values: np.ndarray) -> tuple[float, float, float, int]:
    """Mean, 95% interval by Student's t, and number of the values that are not NaN."""
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return np.nan, np.nan, np.nan, 0
    mean = float(values.mean())
    if len(values) == 1:
        return mean, np.nan, np.nan, 1
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return mean, mean - float(half), mean + float(half), len(values)


def write_summary(run: Run, summary: pd.DataFrame) -> None:
    """Writes `summary.csv`."""
    with complete_file(run.workdir / SUMMARY_CSV) as path:
        summary.to_csv(path, index=False)


def _finals(accuracy: pd.DataFrame) -> pd.Series:
    """The last value of each column, which may end before the table does."""
    finals = [accuracy[column].dropna().iloc[-1] for column in accuracy.columns]
    return pd.Series(finals, accuracy.columns, dtype=float)


def _steps_to(accuracy: pd.DataFrame, threshold: float | pd.Series) -> pd.Series:
    if accuracy.empty:
        return pd.Series(index=accuracy.columns, dtype=float)
    reached = accuracy.ge(threshold, axis="columns")
    return reached.idxmax().where(reached.any())
