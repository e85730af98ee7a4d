"""What is varied: ranges, lists, grids, and what cannot be."""

import logging

import numpy as np
import optuna
import pytest

from bnrepro.comparison.config import common_config
from bnrepro.comparison.keys import ConfigError
from bnrepro.sweep.space import (
    Range,
    SweepError,
    check_trials,
    decode,
    distributions,
    drawn,
    encode,
    grid,
    make_space,
    parse_values,
)
from configs import mnist_sigmoid

CONFIG = common_config(mnist_sigmoid.get_config().to_dict())
RATE, MOMENTUM, NAME = "optimizer.learning_rate", "normalizer.momentum", "normalizer.name"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log(0.01,3)", Range(0.01, 3.0, True)),
        (" uniform( -1 , 1e3 ) ", Range(-1.0, 1000.0, False)),
        ("0.9,0.99", [0.9, 0.99]),
        ("batch_norm, batch_renorm", ["batch_norm", "batch_renorm"]),
        ("(100,),(50,50)", [[100], [50, 50]]),
        ("True,False", [True, False]),
        ("3", [3]),
        ([0.1, 0.2], [0.1, 0.2]),
        ([*2 ** np.arange(1, 3)], [2, 4]),
    ],
)
def test_values_are_written_as_ranges_or_lists(text, expected):
    assert parse_values("key", text) == expected


@pytest.mark.parametrize(
    ("varied", "message"),
    [
        ({RATE: "log(3,0.01)"}, r"from low to high, got log\(3,0.01\)"),
        ({RATE: "log(0,1)"}, "above 0"),
        ({RATE: "uniform(0.1,nan)"}, "finite"),
        ({RATE: "log(0.1)"}, "two numbers"),
        ({RATE: ""}, "range or a list"),
        ({RATE: [1, 1.0]}, "twice"),
        ({RATE: [1j]}, "cannot be stored in the records"),
        ({RATE: "{[1]: 2}"}, "must be a number"),
        ({RATE: "0.1,-3"}, "must be in .*, got -3"),
        ({"optimizer.learning_rat": "0.1,1"}, "did you mean optimizer.learning_rate"),
        ({NAME: "log(1,2)"}, "unknown"),
        ({"steps": "10,20"}, "steps is common to all trials"),
        ({"evaluation.holdout": "0,10"}, "evaluation.holdout is common to all trials"),
        ({"batch_size": "uniform(2.5,10)"}, "integer"),
        ({NAME: "none,batch_norm", "microbatch_size": "50,60"}, "a multiple of microbatch_size"),
        # Both ends go, and some of what lies between does not.
        ({"microbatch_size": "log(2,60)"}, r"size=\d+: batch_size must be a multiple"),
        ({}, "say what to vary"),
    ],
)
def test_what_cannot_be_varied_so_is_refused_with_the_reason(varied, message):
    with pytest.raises((SweepError, ConfigError), match=message):
        check_trials(CONFIG, drawn(make_space(varied), "random", 100))


def test_a_common_value_that_the_sweep_varies_need_not_fit_the_others():
    config = CONFIG | {"batch_size": 50}
    check_trials(config, [{"microbatch_size": 50}, {"microbatch_size": 25}])
    with pytest.raises(ConfigError, match=r"^a trial with microbatch_size=20: batch_size must be"):
        check_trials(config, [{"microbatch_size": 20}])


def test_a_grid_has_every_combination_once_and_what_varies_last_goes_fastest():
    space = {NAME: ["batch_norm", "none"], RATE: [0.1, 1.0, 10.0]}
    points = grid(space, None)
    assert points[:3] == [{NAME: "batch_norm", RATE: rate} for rate in (0.1, 1.0, 10.0)]
    assert len(points) == len({tuple(point.values()) for point in points}) == 6
    assert len(grid(space, 6)) == 6


def test_a_range_gets_as_many_points_of_a_grid_as_there_is_room_for_on_its_scale():
    space = {RATE: Range(0.01, 100.0, True), NAME: ["batch_norm", "none"]}
    rates = sorted({point[RATE] for point in grid(space, 11)})
    np.testing.assert_allclose(rates, [0.01, 0.1, 1, 10, 100])
    space = {MOMENTUM: Range(0.0, 1.0, False), RATE: Range(1.0, 4.0, True)}
    points = grid(space, 15)
    assert {point[MOMENTUM] for point in points} == {0.0, 0.5, 1.0}
    assert {point[RATE] for point in points} == {1.0, 2.0, 4.0}
    assert len(points) == 9


@pytest.mark.parametrize(
    ("high", "trials", "expected"),
    [(64.0, 4, [1, 4, 16, 64]), (4.0, 20, [1, 2, 3, 4])],  # each once, however many fit
)
def test_a_range_of_integers_gives_different_integers(high, trials, expected):
    points = grid({"batch_size": Range(1.0, high, True)}, trials)
    assert [point["batch_size"] for point in points] == expected
    assert isinstance(points[0]["batch_size"], int)


def test_a_range_of_integers_is_drawn_from_as_integers():
    expected = optuna.distributions.IntDistribution(1, 64, log=True)
    assert distributions({"batch_size": Range(1.0, 64.0, True)}) == {"batch_size": expected}


def test_the_points_of_a_range_are_within_it_however_many_digits_its_ends_have():
    space = {RATE: Range(0.12345649, 0.98765412, True)}
    for point in grid(space, 3):
        optuna.trial.create_trial(
            value=0.0, params=encode(point), distributions=distributions(space)
        )


@pytest.mark.parametrize(
    ("space", "trials", "message"),
    [
        ({NAME: ["a", "b"], RATE: [1, 2, 3]}, 5, r"has 6 points \(2 x 3\), but --trials is 5"),
        ({RATE: Range(0.1, 1, True), NAME: [1, 2]}, 3, r"at least 4 points \(2 x 2\)"),
        ({RATE: Range(0.1, 1, True)}, None, "give the number of --trials"),
    ],
)
def test_a_grid_that_does_not_fit_the_trials_is_refused_with_its_size(space, trials, message):
    with pytest.raises(SweepError, match=message):
        grid(space, trials)


def test_settings_come_back_from_what_optuna_and_files_keep():
    space = {
        "model.hidden": [[100], [50, 50]],
        NAME: ["none", "batch_norm"],
        RATE: Range(1, 2, True),
    }
    settings = {"model.hidden": [50, 50], NAME: "none", RATE: 1.5}
    kept = optuna.trial.create_trial(
        value=0.0, params=encode(settings), distributions=distributions(space)
    )
    assert decode(space, kept.params) == settings


def test_quasi_random_points_fill_the_space_evenly_and_stay_the_same_for_more_of_them():
    space = {RATE: Range(1.0, 16.0, True), MOMENTUM: Range(0.0, 1.0, False), NAME: ["a", "b"]}
    points = drawn(space, "qmc", 17)
    assert points[:9] == drawn(space, "qmc", 9)
    # After the first, 16 points of a Sobol sequence: one in each sixteenth of an axis.
    rates = np.log2([point[RATE] for point in points[1:]]) / 4
    counts, _ = np.histogram(rates, 16, (0, 1))
    assert set(counts) == {1}
    assert sum(point[NAME] == "a" for point in points[1:]) == 8


def test_optuna_says_nothing_of_the_studies_that_draw_points(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("optuna"), "propagate", True)
    drawn({RATE: Range(0.1, 1.0, True)}, "random", 1)
    assert not caplog.records
