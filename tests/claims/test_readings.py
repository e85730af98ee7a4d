"""From records to estimates, by hand calculation."""

import math
from functools import partial
from pathlib import Path

import pytest

from bnrepro.claims import readings
from tests.records_fixtures import small_run


def make_run(values, *, settings=None, diverged=(), steps=30):
    """A run of {(variant, metric): values by seed, each a sequence over steps 10, 20, ..}."""
    names = list(dict.fromkeys([variant for variant, _ in values] + [v for v, _ in diverged]))
    rows = [
        (variant, seed, 10 * (i + 1), *metric.split("/", 1), value)
        for (variant, metric), seeds in values.items()
        for seed, series in enumerate(seeds)
        for i, value in enumerate(series)
    ]
    variants = {name: (settings or {}).get(name, {}) for name in names}
    return small_run(Path(), {}, rows, diverged, variants=variants, baseline=names[0], steps=steps)


def accuracies(**finals):
    """Final accuracies of three seeds by variant."""
    return {(name, "test/accuracy"): [[value] for value in v] for name, v in finals.items()}


def test_a_contrast_pairs_seeds_and_counts_a_run_that_diverged_at_chance():
    run = make_run(accuracies(a=(0.9, 0.8, 0.7), b=(0.5, 0.5, 0.5)), diverged=[("b", 2)], steps=10)
    # 40 and 30 points, and 70 less chance (10).
    assert readings.gain(run, "a", "b").mean == pytest.approx((40 + 30 + 60) / 3)
    best = readings.contrast(run, ((1, ("a", "b")),))
    assert best.mean == pytest.approx((90 + 80 + 70) / 3)


def test_a_contrast_of_a_variant_that_is_missing_has_no_values():
    assert readings.gain(make_run(accuracies(a=(0.9, 0.8, 0.7)), steps=10), "a", "b").n == 0


def test_steps_to_the_best_are_a_share_of_its_own_and_never_counts_as_two_lengths():
    run = make_run(
        {
            ("plain", "test/accuracy"): [[0.1, 0.8, 0.9], [0.1, 0.2, 0.9]],
            ("norm", "test/accuracy"): [[0.9, 0.9, 0.9], [0.1, 0.2, 0.8]],
        }
    )
    # 10 of 30 steps, and 60 of 30.
    expected = (math.log2(1 / 3) + math.log2(2)) / 2
    assert readings.steps_ratio(run, "norm", "plain").mean == pytest.approx(expected)


def test_a_baseline_that_diverges_is_reached_at_chance_and_takes_two_lengths_itself():
    accuracy = {("norm", "test/accuracy"): [[0.1, 0.8, 0.9]]}
    run = make_run(accuracy, diverged=[("plain", 0)])
    # 10 and 60 steps.
    assert readings.steps_ratio(run, "norm", "plain").sample == pytest.approx([math.log2(1 / 6)])


def test_the_largest_rate_lies_where_accuracy_falls_below_90_percent_for_good():
    finals = accuracies(**{
        "norm rate 1": (0.95, 0.95, 0.95), "norm rate 4": (0.95, 0.95, 0.95),
        "none rate 1": (0.95, 0.95, 0.95), "none rate 4": (0.85, 0.85, 0.85),
    })  # fmt: skip
    rates = {name: {"optimizer": {"learning_rate": float(name[-1])}} for name, _ in finals}
    run = make_run(finals, settings=rates, steps=10)
    # Rate 4, the largest, and half-way from 1 to 4 in logarithms.
    found = readings.rate_ratio(run, "norm rate", "none rate")
    assert found.mean == pytest.approx(math.log2(4) - math.log2(2))
    for name in ("none rate 1", "none rate 4"):
        finals[name, "test/accuracy"] = [[0.1]] * 3
    none = make_run(finals, settings=rates, steps=10)
    found = readings.rate_ratio(none, "norm rate", "none rate")
    assert found.mean == pytest.approx(math.log2(4) - math.log2(1 / 2))


def test_the_spread_over_initializations_is_highest_less_lowest():
    finals = accuracies(**{
        "ours 1": (0.9, 0.9, 0.9), "ours 2": (0.8, 0.8, 0.8),
        "theirs 1": (0.9, 0.9, 0.9), "theirs 2": (0.1, 0.1, 0.1),
    })  # fmt: skip
    found = readings.spread_difference(make_run(finals, steps=10), "ours", "theirs")
    assert found.mean == pytest.approx(80 - 10)


def test_drift_is_movement_of_medians_in_units_of_the_spread_mean_over_units():
    def percentiles(variant, unit, medians, spread):
        return {
            (variant, f"test/sigmoid_inputs/{unit}/p{p}"): [[m + shift for m in medians]] * 3
            for p, shift in ((15, -spread / 2), (50, 0), (85, spread / 2))
        }

    # Beside variant b, unit 0 of a moves 4 times as far in units of its spread, unit 1 as far.
    run = make_run(
        percentiles("a", 0, [0, 2, 4], 2) | percentiles("a", 1, [0, 2, 4], 2)
        | percentiles("b", 0, [0, 2, 4], 8) | percentiles("b", 1, [0, 2, 4], 2),
        diverged=[("b", 2)],
    )  # fmt: skip
    found = readings.drift_ratio(run, "b", "a")
    assert (found.mean, found.n) == (pytest.approx((math.log2(4) + 0) / 2), 2)


def test_growth_is_to_the_norm_half_way_and_ten_where_a_run_diverged():
    metric = ("a", "train/param_norm/b")
    run = make_run({metric: [[1, 2, 3, 6], [1, 2, 3, 8]]}, diverged=[("a", 2)], steps=40)
    assert readings.growth(run, "a", "b").mean == pytest.approx((3 + 4 + 10) / 3)


@pytest.mark.parametrize("measure", [
    partial(readings.highest_loss, variant="a"),
    partial(readings.growth, variant="a", parameter="b"),
])  # fmt: skip
def test_what_blows_up_counts_as_ten_if_all_seeds_diverged_at_once(measure):
    run = make_run({}, diverged=[("a", seed) for seed in range(3)])
    assert measure(run).mean == 10


def test_the_highest_loss_is_in_units_of_guessing_without_the_first_interval():
    guess = math.log(10)
    run = make_run({("a", "train/loss"): [[9.0, guess, 2 * guess]] * 3})
    assert readings.highest_loss(run, "a").mean == pytest.approx(2)


def test_a_spike_is_a_rise_above_the_lowest_loss_so_far():
    losses = {("a", "train/loss"): [[3, 1, 2, 1.5]] * 3, ("b", "train/loss"): [[3, 2, 1, 1]] * 3}
    assert readings.spike_difference(make_run(losses, steps=40), "b", "a").mean == 1


def test_gradients_vanish_by_the_logarithm_of_last_to_first_layer():
    layers = {name: {"model": {"hidden": [5, 5]}} for name in ("ours", "theirs")}
    norms = {
        (name, f"train/grad_norm/dense_{i}"): [[norm, 7, 7]] * 3
        for name, pair in (("ours", (1, 1)), ("theirs", (0.01, 1)))
        for i, norm in enumerate(pair)
    }
    run = make_run(norms, settings=layers)
    assert readings.vanishing(run, "ours", "theirs").mean == pytest.approx(2)
    # The norms of both layers together: sqrt(2), and sqrt(1.0001).
    expected = math.log10(math.sqrt(1.0001) / math.sqrt(2))
    assert readings.gradient_size(run, "ours", "theirs").mean == pytest.approx(expected)


def test_smoothness_is_the_range_of_the_loss_and_the_relative_change_of_the_gradient():
    def along(name, losses, change):
        steps = dict(zip(("0.5", "1", "2", "4"), losses, strict=True))
        metrics = {f"train/along_gradient/loss_{k}": value for k, value in steps.items()}
        metrics |= {"train/along_gradient/gradient_1": change, "train/grad_norm/dense_0": 2.0}
        return {(name, metric): [[value] * 3] * 3 for metric, value in metrics.items()}

    run = make_run(along("a", (-0.1, -0.2, 0.1, 0.6), 1.0) | along("b", (-0.1,) * 4, 0.5))
    # From -0.2 to 0.6, and from -0.1 to the loss where it stands.
    assert readings.loss_change_ratio(run, "b", "a").mean == pytest.approx(3)
    assert readings.gradient_change_ratio(run, "b", "a").mean == pytest.approx(1)


def test_overhead_is_100_times_the_logarithm_of_the_ratio():
    times = {("a", "train/milliseconds"): [[3.0]] * 3, ("b", "train/milliseconds"): [[2.0]] * 3}
    run = make_run(times, steps=10)
    assert readings.time_overhead(run, "a", "b").mean == pytest.approx(40.546511)
