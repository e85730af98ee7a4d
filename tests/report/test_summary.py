"""Summaries against numbers worked out by hand."""

import math

import numpy as np
import pytest

from bnrepro.report.summary import SUMMARY_COLUMNS, by_seed, mean_interval, summarize, write_summary
from tests.records_fixtures import ACCURACY, small_run

# The 97.5% point of Student's t with 2 degrees of freedom, from a table.
T2 = 4.302653


def cell(summary, variant, metric):
    rows = summary[(summary["variant"] == variant) & (summary["metric"] == metric)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_mean_and_interval_are_those_of_students_t():
    mean, low, high, count = mean_interval(np.array([1.0, 2.0, 3.0, np.nan]))
    half = T2 * 1 / math.sqrt(3)
    assert count == 3
    np.testing.assert_allclose((mean, low, high), (2, 2 - half, 2 + half), rtol=1e-6)


def test_one_value_has_a_mean_and_no_interval_and_none_has_neither():
    mean, low, high, count = mean_interval(np.array([4.0]))
    assert (mean, count) == (4.0, 1)
    assert np.isnan([low, high]).all()
    assert mean_interval(np.array([np.nan]))[3] == 0


def test_final_and_best_accuracy_and_the_difference_of_equal_seeds(tmp_path):
    summary = summarize(small_run(tmp_path), (0.95,))
    assert tuple(summary.columns) == SUMMARY_COLUMNS
    np.testing.assert_allclose(cell(summary, "plain", "final")["mean"], (0.94 + 0.90 + 0.92) / 3)
    np.testing.assert_allclose(cell(summary, "plain", "best")["mean"], (0.94 + 0.92 + 0.92) / 3)
    # 0.96 - 0.94, 0.93 - 0.90, 0.95 - 0.92: mean 8/300, deviation sqrt(1/3)/100.
    difference = cell(summary, "batch_norm", "final_minus_baseline")
    half = T2 * math.sqrt(1 / 3) / 100 / math.sqrt(3)
    np.testing.assert_allclose(difference["mean"], 8 / 300)
    np.testing.assert_allclose(difference["ci95_high"] - difference["mean"], half, rtol=1e-6)
    assert (difference["seeds"], difference["steps"]) == (3, 20)
    assert difference["dataset"] == "mnist/3.0.1"


def test_steps_to_an_accuracy_are_those_of_the_first_evaluation_that_reaches_it(tmp_path):
    table = by_seed(small_run(tmp_path), (0.95, 0.97))
    assert table.loc["batch_norm", "steps_to_0.95"].tolist()[::2] == [10, 10]
    assert np.isnan(table.loc[("batch_norm", 1), "steps_to_0.95"])
    assert table["steps_to_0.97"].isna().all()
    # Best of plain: 0.94, 0.92, 0.92.
    assert table.loc["batch_norm", "steps_to_baseline_best"].tolist() == [10, 20, 10]
    assert table.loc["plain", "steps_to_baseline_best"].tolist() == [20, 10, 20]


def test_seeds_that_never_get_there_are_not_counted(tmp_path):
    steps = cell(summarize(small_run(tmp_path), (0.95,)), "batch_norm", "steps_to_0.95")
    assert (steps["mean"], steps["seeds"]) == (10, 2)


def test_a_diverged_seed_is_left_out_of_means_and_of_paired_differences(tmp_path):
    run = small_run(tmp_path, extra=[("plain", 1, 15, "train", "diverged", 1.0)])
    summary = summarize(run, ())
    final = cell(summary, "plain", "final")
    np.testing.assert_allclose((final["mean"], final["seeds"]), (0.93, 2))
    assert cell(summary, "batch_norm", "final")["seeds"] == 3
    assert cell(summary, "batch_norm", "final_minus_baseline")["seeds"] == 2


def test_a_variant_whose_seeds_all_diverged_or_that_has_not_begun_has_no_numbers(tmp_path):
    diverged = [("plain", seed, 15, "train", "diverged", 1.0) for seed in range(3)]
    summary = summarize(small_run(tmp_path, extra=diverged), (0.95,))
    assert cell(summary, "plain", "final")["seeds"] == 0
    assert cell(summary, "batch_norm", "final_minus_baseline")["seeds"] == 0
    only = {key: value for key, value in ACCURACY.items() if key[0] == "plain"}
    run = small_run(tmp_path, only, variants={"plain": {}, "batch_norm": {}})
    assert cell(summarize(run, ()), "batch_norm", "final")["seeds"] == 0


def test_the_summary_is_written_with_all_its_rows(tmp_path):
    run = small_run(tmp_path)
    summary = summarize(run, (0.95,))
    write_summary(run, summary)
    lines = (tmp_path / "summary.csv").read_text().splitlines()
    assert lines[0] == ",".join(SUMMARY_COLUMNS)
    assert len(lines) == 1 + 2 * 5


def test_an_interrupted_run_is_summarized_up_to_where_it_got(tmp_path):
    short = {**ACCURACY, ("plain", 2): (0.1, 0.88)}
    final = cell(summarize(small_run(tmp_path, short), ()), "plain", "final")
    np.testing.assert_allclose(final["mean"], (0.94 + 0.90 + 0.88) / 3)
    assert final["steps"] == 10


def test_where_everything_diverged_every_row_is_there_without_a_number(tmp_path):
    diverged = [(variant, seed, 15, "train", "diverged", 1.0) for variant, seed in ACCURACY]
    summary = summarize(small_run(tmp_path, extra=diverged), (0.95,))
    assert len(summary) == 10
    assert (summary["seeds"] == 0).all()
    assert summary["mean"].isna().all()


@pytest.mark.parametrize("seeds", [1, 3])
def test_no_runtime_warnings_whatever_the_number_of_seeds(tmp_path, seeds):
    few = {key: value for key, value in ACCURACY.items() if key[1] < seeds}
    assert len(summarize(small_run(tmp_path, few, seeds=seeds), (0.95,))) == 10
