"""Summaries against numbers worked out by hand."""

import numpy as np
import pytest

from bnrepro.report.question import Question
from bnrepro.report.report import list_variants, summarize
from bnrepro.report.summary import by_seed
from tests.records_fixtures import ACCURACY, small_run


def cell(run, variant, metric):
    summary = summarize(list_variants(run)[0])
    rows = summary[(summary["variant"] == variant) & (summary["metric"] == metric)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_steps_to_an_accuracy_are_those_of_the_first_evaluation_that_reaches_it(tmp_path):
    table = by_seed(
        small_run(tmp_path), Question(baseline="plain", steps_to=(0.95, 0.97), steps_to_best=True)
    )
    assert table.loc["batch_norm", "steps_to_0.95"].tolist() == [10, np.inf, 10]
    assert (table["steps_to_0.97"] == np.inf).all()
    # The highest of plain: 0.94, 0.92, 0.92.
    assert table.loc["batch_norm", "steps_to_baseline_best"].tolist() == [10, 20, 10]
    assert table.loc["plain", "steps_to_baseline_best"].tolist() == [20, 10, 20]


@pytest.mark.parametrize("classes", [10, 100])
def test_a_run_that_diverged_counts_at_chance_accuracy_and_gets_nowhere(tmp_path, classes):
    evaluated = [("plain", seed, 20, "train_set", "accuracy", 0.9) for seed in (0, 2)]
    run = small_run(tmp_path, extra=evaluated, diverged=[("plain", 1), ("batch_norm", 2)])
    run.provenance["classes"] = classes
    table = by_seed(run, Question(steps_to=[0.9], splits=["train_set"]))
    assert table.loc["plain", "value"].tolist() == [0.94, 1 / classes, 0.92]
    assert table.loc["plain", "train_set"].tolist() == [0.9, 1 / classes, 0.9]
    difference = list_variants(run)[0][1].difference
    assert difference.estimate.sample == pytest.approx(
        [0.02, 0.93 - 1 / classes, 1 / classes - 0.92]
    )
    assert table.loc["batch_norm", "steps_to_0.9"].tolist() == [10, 10, np.inf]


def test_where_the_baseline_diverged_there_is_nothing_to_reach(tmp_path):
    run = small_run(tmp_path, diverged=[("plain", 1)])
    steps = cell(run, "batch_norm", "steps_to_baseline_best")
    assert (steps["seeds"], steps["of"]) == (2, 2)


@pytest.mark.parametrize(("changes", "chance"), [({}, 0.1), ({"digits": 2}, 0.01)])
def test_a_run_that_does_not_say_how_many_labels_it_has_is_of_ten_a_digit(
    tmp_path, changes, chance
):
    assert small_run(tmp_path, **changes).chance("plain") == chance


def test_an_interrupted_run_is_summarized_up_to_where_it_got(tmp_path):
    short = {**ACCURACY, ("plain", 2): (0.1, 0.88)}
    final = cell(small_run(tmp_path, short), "plain", "final")
    np.testing.assert_allclose(final["mean"], (0.94 + 0.90 + 0.88) / 3)
    assert final["steps"] == 10


@pytest.mark.parametrize("seeds", [0, 1, 3])
def test_no_runtime_warnings_whatever_the_number_of_seeds_that_did_not_diverge(tmp_path, seeds):
    run = small_run(tmp_path, diverged=[key for key in ACCURACY if key[1] >= seeds])
    assert len(summarize(list_variants(run, [0.95])[0])) == 8
