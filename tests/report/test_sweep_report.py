"""The report of a sweep: table, caption, commands and figures, of sweeps made by hand."""

import shlex
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from absl import flags
from flax.traverse_util import flatten_dict, unflatten_dict
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import Rectangle
from ml_collections import ConfigDict, config_flags

from bnrepro.records import metric_rows
from bnrepro.report.sweep import Sweep
from bnrepro.report.sweep_figures import sweep_figures
from scripts.sweep import report
from tests.records_fixtures import small_run

RATE, MOMENTUM, NAME = "optimizer.learning_rate", "normalizer.momentum", "normalizer.name"
RATES = {RATE: {"low": 0.01, "high": 1.0, "log": True}}
MOMENTA = {MOMENTUM: [0.9, 0.99]}
NAMES = {NAME: ["batch_norm", "none"]}
DIVERGED = None
TRAIN = "python -m experiments.train --novariants --config=configs/small_batch.py"


def pruned(accuracy):
    return (0.1, accuracy)


def a_sweep(workdir, vary, trials, sampler="grid", **changes):
    """A sweep of (settings, outcome of each seed): final accuracy, `DIVERGED` or `pruned`."""
    variants = {f"trial {i}": unflatten_dict(own, sep=".") for i, (own, *_) in enumerate(trials)}
    outcomes = {
        (name, seed): outcome
        for name, (_, *seeds) in zip(variants, trials, strict=True)
        for seed, outcome in enumerate(seeds)
    }
    curves = {
        key: (0.1, 0.5, outcome) if isinstance(outcome, float) else outcome or (0.1,)
        for key, outcome in outcomes.items()
    }
    diverged = [
        (*key, 7, "train", "diverged", 1.0)
        for key, outcome in outcomes.items()
        if outcome is DIVERGED
    ]
    config = {
        "seeds": len(trials[0]) - 1,
        "baseline": "trial 0",
        "variants": variants,
        "sweep": {"vary": vary, "sampler": sampler, "trials": 64, "command": TRAIN},
        "normalizer": {"name": "batch_norm"},
    }
    run = small_run(workdir, curves, diverged, **config | changes)
    # What the fixture adds to each variant would make the pruned ones finished.
    metrics = run.metrics[~run.metrics["metric"].str.startswith("sigmoid")]
    return Sweep(replace(run, metrics=metrics))


def test_a_holdout_chooses_where_there_is_one(tmp_path):
    """The trial that is best on the test set is not the one that is best on the holdout."""
    trials = [({RATE: 0.1}, 0.90, 0.92), ({RATE: 1.0}, 0.79, 0.81)]
    run = a_sweep(tmp_path, {RATE: [0.1, 1.0]}, trials, evaluation={"holdout": 5}).run
    held = [
        (f"trial {i}", seed, 20, "holdout", "accuracy", value)
        for i, values in enumerate([(0.60, 0.62), (0.70, 0.72)])
        for seed, value in enumerate(values)
    ]
    metrics = pd.concat([run.metrics, metric_rows(held)], ignore_index=True)
    sweep = Sweep(replace(run, metrics=metrics))
    table = sweep.table()
    assert list(table.index) == ["trial 1", "trial 0"]
    assert table.loc["trial 1", "holdout, %"] == "71.00 ± 4.30"
    assert table.loc["trial 1", "final, %"] == "80.00 ± 4.30"
    summary = report(sweep.run).summary.set_index(["metric", "variant"])["ci95_low"]
    np.testing.assert_allclose(summary["final"], [0.8670, 0.7570], atol=5e-5)
    np.testing.assert_allclose(summary["final_holdout"], [0.5670, 0.6670], atol=5e-5)
    caption = sweep.caption()
    assert "The best of 2 trials was chosen by its accuracy on held-out images" in caption
    assert "its holdout accuracy is an optimistic estimate" in caption
    assert "Its final test accuracy is not: it chose nothing." in caption
    (command,) = sweep.best_commands()
    assert f"--config.{RATE}=1.0" in command


@pytest.fixture
def draw(tmp_path):
    """Draws a sweep, which is given as to `a_sweep`, and returns the figures by name."""

    def draw(*sweep, **changes):
        pictures = sweep_figures(a_sweep(tmp_path, *sweep, **changes))
        return {picture.name: picture.draw() for picture in pictures}

    return draw


def marks(axes, marker):
    """Places of all marks of a kind, as (x, y)."""
    return [
        (float(x), float(y))
        for line in axes.lines
        if line.get_marker() == marker
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    ]


def path_of(axes, colour):
    """The points of the line of a colour."""
    (line,) = (
        line
        for line in axes.lines
        if line.get_color() == colour
        and line.get_linestyle() == "-"
        and line.get_marker() == "None"
    )
    return np.column_stack([line.get_xdata(), line.get_ydata()]).tolist()


# As in all figures: of no normalization, of Batch Norm.
BLACK, BLUE = "#000000", "#0072B2"


def test_trials_come_by_accuracy_then_those_pruned_then_those_without_any(tmp_path):
    trials = [
        ({RATE: 0.01}, 0.90, 0.92),
        ({RATE: 0.02}, DIVERGED, DIVERGED),
        ({RATE: 0.03}, pruned(0.99), pruned(0.98)),
        ({RATE: 0.04}, 0.95, DIVERGED),
    ]
    sweep = a_sweep(tmp_path, RATES, trials)
    table = sweep.table()
    # A seed that diverged counts at chance accuracy, and its trial comes after all others.
    assert list(table.index) == ["trial 0", "trial 3", "trial 2", "trial 1"]
    assert f"--config.{RATE}=0.01" in sweep.best_commands()[0]
    assert a_sweep(tmp_path, RATES, trials[1:]).best_commands() == []
    counts = "at chance accuracy: trial 1 at 10% (2 of 2), trial 3 at 10% (1 of 2)"
    assert counts in sweep.caption()
    assert table["final, %"].tolist() == [
        "91.00 (90.00 to 92.00)",
        "52.50 (10.00 to 95.00)",
        "98.50 (98.00 to 99.00)",
        "10.00 (10.00 to 10.00)",
    ]
    assert table["seeds"].tolist() == ["2", "2 (1 diverged)", "2", "2 (2 diverged)"]
    assert table["pruned at"].tolist() == ["", "", "10", ""]


def test_trials_that_finished_share_one_variance(tmp_path):
    trials = [({RATE: 0.1}, 0.90, 0.92), ({RATE: 0.2}, 0.79, 0.81), ({RATE: 0.3}, 0.9, DIVERGED)]
    sweep = a_sweep(tmp_path, RATES, trials)
    # Squares 2 and 2 over two degrees of freedom: t(0.975, 2) = 4.302653, times the root of 2 / 2.
    assert sweep.table()["final, %"].tolist() == [
        "91.00 ± 4.30",
        "80.00 ± 4.30",
        "50.00 (10.00 to 90.00)",
    ]
    assert "share one variance" in sweep.caption()


def test_trials_of_equal_accuracy_come_by_number_not_by_name(tmp_path):
    sweep = a_sweep(tmp_path, RATES, [({RATE: 0.1 + i / 100}, 0.9) for i in range(12)])
    assert list(sweep.table().index) == [f"trial {i}" for i in range(12)]


def test_the_table_has_a_column_for_each_varied_key(tmp_path):
    vary = {RATE: [1e-5, 3], "model.hidden": [(100, 100), (50,)], "model.bias": [True]}
    settings = [
        {RATE: 1e-5, "model.hidden": (100, 100), "model.bias": True},
        {RATE: 3, "model.hidden": (50,), "model.bias": True},
    ]
    table = a_sweep(tmp_path, vary, [(s, 0.9) for s in settings]).table()
    assert list(table.columns) == [*vary, "final, %", "seeds", "pruned at"]
    assert table[list(vary)].to_numpy().tolist() == [
        ["1e-05", "[100, 100]", "True"],
        ["3", "[50]", "True"],
    ]


def test_the_caption_counts_trials_and_says_that_the_best_is_an_optimistic_estimate(tmp_path):
    outcomes = (0.9, 0.8, 0.7, pruned(0.6), pruned(0.5), DIVERGED)
    trials = [({RATE: 0.1}, outcome) for outcome in outcomes]
    caption = a_sweep(tmp_path, RATES, trials).caption()
    assert caption.startswith("mnist/3.0.1, final test accuracy after 20 steps: mean over seeds")
    assert "6 of 64 trials (grid): 3 finished, 2 pruned, 1 diverged with all seeds." in caption
    assert "pruned trial is that of its last step" in caption
    assert "The best of 3 trials" in caption
    assert "optimistic estimate: rerun it on other seeds." in caption
    # The only one is the best of nothing.
    sweep = a_sweep(tmp_path, RATES, trials[:1], preview=True)
    sweep.run.provenance["stand_in"] = True
    alone = sweep.caption()
    assert alone.startswith("PREVIEW, STAND-IN DATA, mnist/3.0.1")
    assert not any(word in alone for word in ("optimistic", "pruned trial", "variance"))


def test_the_best_finished_trial_of_each_normalizer_has_a_command(tmp_path):
    trials = [
        ({RATE: 0.1, NAME: "none"}, 0.90),
        ({RATE: 0.2, NAME: "batch_norm"}, 0.93),
        ({RATE: 0.3, NAME: "batch_norm"}, 0.95),
        ({RATE: 0.4, NAME: "batch_norm"}, pruned(0.99)),
        ({RATE: 0.5, NAME: "none"}, DIVERGED),
        ({RATE: 0.6, NAME: "group_norm"}, DIVERGED),
    ]
    vary = {RATE: RATES[RATE], NAME: ["none", "group_norm", "batch_norm"]}
    assert a_sweep(tmp_path, vary, trials).best_commands() == [
        f"{TRAIN} --workdir=runs/best_none --config.{RATE}=0.1 --config.{NAME}=none",
        f"{TRAIN} --workdir=runs/best_batch_norm --config.{RATE}=0.3 --config.{NAME}=batch_norm",
    ]


def test_a_command_has_the_exact_settings_as_flags_take_them(tmp_path, monkeypatch):
    settings = {
        RATE: 0.1 + 0.2,
        "model.hidden": [100],
        "model.shape": [0.1, 1e-7],
        "model.name": "it's $HOME",
        "model.bias": False,
        "model.groups": 3,
    }
    vary = {key: [value] for key, value in settings.items()}
    (command,) = a_sweep(tmp_path, vary, [(settings, 0.9)]).best_commands()
    overrides = shlex.split(command.removeprefix(f"{TRAIN} --workdir=runs/best "))
    # From which ml_collections takes what changes a config.
    monkeypatch.setattr("sys.argv", ["program", *overrides])
    before = {"hidden": (1, 2), "shape": (1.0,), "name": "", "bias": True, "groups": 1}
    defaults = ConfigDict({"optimizer": {"learning_rate": 1.0}, "model": before})
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_dict("config", defaults, flag_values=values)
    values(["program", *overrides])
    found = flatten_dict(config.value.to_dict(), sep=".")
    assert found == settings | {"model.hidden": (100,), "model.shape": (0.1, 1e-7)}


AGAINST_RATE, AGAINST_MOMENTUM = (
    "accuracy_against_optimizer_learning_rate",
    "accuracy_against_normalizer_momentum",
)
HEAT_MAP = "heat_map_optimizer_learning_rate_normalizer_momentum"


@pytest.mark.parametrize(
    ("outcome", "vary", "names"),
    [
        (0.9, {RATE: [0.1]}, []),
        (0.9, NAMES, ["accuracy_against_normalizer_name"]),
        (1.0, RATES | {MOMENTUM: [0.9]} | NAMES, [AGAINST_RATE]),
        (DIVERGED, RATES | MOMENTA | NAMES, [AGAINST_RATE, AGAINST_MOMENTUM, HEAT_MAP]),
        (pruned(0.9), RATES | MOMENTA | NAMES, [AGAINST_RATE, AGAINST_MOMENTUM, HEAT_MAP]),
        (
            0.9,
            NAMES | {"model.hidden": [[100], [100, 100]], "binary_input": [True, False]},
            ["accuracy_against_model_hidden", "accuracy_against_binary_input"],
        ),
    ],
)
def test_each_sweep_has_the_figures_that_suit_it_even_of_one_trial(draw, outcome, vary, names):
    first = {
        key: values["low"] if isinstance(values, dict) else values[0]
        for key, values in vary.items()
    }
    figures = draw(vary, [(first, outcome)])
    assert list(figures) == names
    for figure in figures.values():
        figure.draw_without_rendering()


def test_of_what_was_not_even_evaluated_nothing_is_drawn(tmp_path):
    run = a_sweep(tmp_path, RATES, [({RATE: 0.01}, 0.9)]).run
    sweep = Sweep(replace(run, metrics=run.metrics[:0]))
    assert sweep_figures(sweep) == []
    assert sweep.best_commands() == []
    assert sweep.table().loc["trial 0"].tolist() == ["0.01", "–", "0", "0"]


def test_numbers_of_a_list_are_evenly_spaced_in_the_order_of_their_size(draw):
    figures = draw({RATE: [0.999, 0.9, 0.99]}, [({RATE: 0.999}, 0.9), ({RATE: 0.9}, 0.8)])
    (axes,) = figures[AGAINST_RATE].axes
    assert axes.get_xticks().tolist() == [0, 1, 2]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.9", "0.99", "0.999"]
    assert path_of(axes, BLUE) == [[0, 80], [2, 90]]


def test_the_line_goes_through_the_median_of_the_trials_at_each_value(draw):
    vary = {RATE: [0.01, 0.1, 1.0], MOMENTUM: [0.9, 0.99], **NAMES}
    accuracies = {0.01: (0.80, 0.84), 0.1: (0.92, DIVERGED), 1.0: (0.70, pruned(0.95))}
    trials = [
        ({RATE: rate, MOMENTUM: momentum, NAME: "batch_norm"}, accuracy)
        for rate, both in accuracies.items()
        for momentum, accuracy in zip((0.9, 0.99), both, strict=True)
    ]
    trials.append(({RATE: 0.1, MOMENTUM: 0.9, NAME: "none"}, 0.88))
    figure = draw(vary, trials)[AGAINST_RATE]
    (axes,) = figure.axes
    # One that diverged counts at chance, 10%; the bottom is ten times the best error, and a fifth
    # more.
    np.testing.assert_allclose(path_of(axes, BLUE), [[0, 82], [1, 64], [2, 70]])
    np.testing.assert_allclose(path_of(axes, BLACK), [[1, 88]])
    assert "line: median of the trials at each value, band: their quartiles" in axes.get_title()
    band, _ = axes.collections
    quartiles = {tuple(np.round(point, 6)) for point in band.get_paths()[0].vertices}
    assert {(0, 81), (0, 83), (1, 71.5), (2, 70)} <= quartiles
    # A dot for each that is on the axis, and one more for each on a line.
    assert len(marks(axes, "o")) == 6 + 3
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["batch_norm", "none", "diverged", "pruned: its last accuracy"]


def test_of_a_range_with_others_the_line_goes_through_the_median_of_each_eighth(draw):
    # Of two decades, an eighth is a factor of 1.78: up to 0.0178, to 0.0316, ...
    vary = {**RATES, MOMENTUM: [0.9, 0.99]}
    found = {0.011: 0.80, 0.0177: 0.85, 0.0179: 0.70, 0.5: 0.90, 0.99: 0.91, 1.0: 0.92}
    trials = [({RATE: rate, MOMENTUM: 0.9}, accuracy) for rate, accuracy in found.items()]
    (axes,) = draw(vary, trials, sampler="random")[AGAINST_RATE].axes
    np.testing.assert_allclose(
        path_of(axes, BLUE), [[0.01435, 82.5], [0.0179, 70], [0.5, 90], [0.995, 91.5]]
    )
    assert "median of the trials in each of 8 parts of the axis" in axes.get_title()


def test_of_a_range_alone_the_line_goes_through_all_trials_and_ends_where_they_diverge(draw):
    trials = [({RATE: 0.3}, DIVERGED), ({RATE: 0.2}, 0.90), ({RATE: 0.5}, 0.85), ({RATE: 0.1}, 0.8)]
    figure = draw(RATES, trials, sampler="random")[AGAINST_RATE]
    (axes,) = figure.axes
    expected = [[0.1, 80], [0.2, 90], [0.3, np.nan], [0.5, 85]]
    np.testing.assert_allclose(path_of(axes, BLUE), expected)
    assert "line through the trials that finished" in axes.get_title()
    assert len(figure.legends[0].get_texts()) == 1  # "diverged": one line needs none


def test_what_is_near_chance_or_diverged_is_marked_below_and_does_not_press_the_rest_together(draw):
    vary = {RATE: [0.01, 0.03, 0.1, 0.3, 1.0]}
    found = zip(vary[RATE], (0.98, 0.90, 0.1, DIVERGED, pruned(0.2)), strict=True)
    (axes,) = draw(vary, [({RATE: rate}, a) for rate, a in found])[AGAINST_RATE].axes
    # Ten times the best error of 2%, and a fifth more: 24%.
    edge = next(line for line in axes.lines if line.get_color() == "black")
    np.testing.assert_allclose(edge.get_ydata(), 76)
    np.testing.assert_allclose(axes.get_ylim()[1], 98.4)
    # A row of 3.5% of the height below that, on a log scale of the error: 24 * 15^(0.035 / 0.965).
    np.testing.assert_allclose(axes.get_ylim()[0], 100 - 24 * 15 ** (0.035 / 0.965))
    assert min(axes.get_yticks()) == 80
    assert [x for x, _ in marks(axes, "v")] == [2, 4]
    assert [x for x, _ in marks(axes, "x")] == [3]
    assert {y for _, y in marks(axes, "v") + marks(axes, "x")} == {0.0175}
    fills = [line.get_markerfacecolor() for line in axes.lines if line.get_marker() == "v"]
    assert fills == [BLUE, "none"]
    # It ends where all diverged, and passes by what was pruned.
    expected = [[0, 98], [1, 90], [2, 76], [3, np.nan]]
    np.testing.assert_allclose(path_of(axes, BLUE), expected)


@pytest.mark.parametrize(
    ("other", "bottom"),
    [(0.80, 87.03), (0.90, 88)],  # the second is the end of the axis: 100 - 1.2 * 10
)
def test_bars_show_the_interval_over_seeds_where_but_one_number_varies(draw, other, bottom):
    alone = [({RATE: 0.1}, 0.94, 0.90, 0.92), ({RATE: 0.5}, *3 * [pruned(other)])]
    (axes,) = draw(RATES, alone)[AGAINST_RATE].axes
    assert "bars: 95% interval over seeds" in axes.get_title()
    (bars,) = axes.collections
    # Deviation 0.02, three seeds: 4.302653 * 2 / sqrt(3) = 4.97.
    np.testing.assert_allclose(bars.get_segments()[0], [[0.1, bottom], [0.1, 96.97]], atol=0.005)

    trials = [(settings | {MOMENTUM: 0.9}, *seeds) for settings, *seeds in alone]
    (axes,) = draw({**RATES, MOMENTUM: [0.9, 0.99]}, trials)[AGAINST_RATE].axes
    assert "bars" not in axes.get_title()
    (band,) = axes.collections
    assert not hasattr(band, "get_segments")


def test_bars_of_two_seeds_that_share_no_variance_are_minimum_to_maximum(draw):
    trials = [({RATE: 0.1}, 0.94, 0.90), ({RATE: 0.3}, 0.95, DIVERGED)]
    (axes,) = draw(RATES, trials)[AGAINST_RATE].axes
    assert "bars: minimum to maximum over seeds" in axes.get_title()
    (axes,) = draw(RATES, [*trials, ({RATE: 0.5}, 0.93, 0.91)])[AGAINST_RATE].axes
    assert "bars: 95% interval or minimum to maximum over seeds" in axes.get_title()
    axes.figure.draw_without_rendering()
    left, _, right, _ = axes.title.get_window_extent().extents
    assert 0 <= left < right <= axes.figure.bbox.width


def cells(axes):
    """Colour and text by the middle of each cell."""
    patches = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    middles = [(patch.get_x() + 0.5, patch.get_y() + 0.5) for patch in patches]
    return {
        middle: (to_hex(patch.get_facecolor()), texts.get(middle))
        for middle, patch in zip(middles, patches, strict=True)
    }


GRID = {RATE: [1.0, 0.1], MOMENTUM: [0.9, 0.99]}


def test_a_grid_of_two_numbers_is_a_heat_map_with_a_panel_a_normalizer(draw):
    points = {(0.1, 0.9): 0.90, (1.0, 0.9): DIVERGED, (0.1, 0.99): 0.98, (1.0, 0.99): pruned(0.8)}
    trials = [
        ({RATE: rate, MOMENTUM: momentum, NAME: "batch_norm"}, outcome)
        for (rate, momentum), outcome in points.items()
    ]
    trials.append(({RATE: 1.0, MOMENTUM: 0.9, NAME: "none"}, 0.95))
    norm, none, bar = draw(GRID | NAMES, trials)[HEAT_MAP].axes
    assert [norm.get_title(), none.get_title()] == ["batch_norm", "none"]
    shown = cells(norm)
    assert {middle: text for middle, (_, text) in shown.items()} == {
        (0, 0): "90.00",
        (1, 0): "div",
        (0, 1): "98.00",
        (1, 1): "(80.00)",
    }
    grey = "#b0b0b0"
    assert shown[1, 0][0] == grey
    # Error of 2% at four fifths of itself from the end of the scale: the darker, the better.
    best, worse = (sum(to_rgb(shown[0, y][0])) for y in (1, 0))
    assert best < worse
    assert cells(none)[1, 0][1] == "95.00"
    assert [t.get_text() for t in norm.get_xticklabels()] == ["0.1", "1"]
    assert [t.get_text() for t in norm.get_yticklabels()] == ["0.9", "0.99"]
    outlined = [patch.xy for patch in norm.patches if patch.get_linewidth() > 1]
    assert outlined == [(-0.5, 0.5)]
    # Limits of the colours: 100 - 1.2 * 10 and 100 - 0.8 * 2, of what has finished.
    np.testing.assert_allclose(bar.get_ylim(), (88, 98.4))


def test_a_cell_has_the_median_of_the_trials_that_share_it(draw):
    vary = GRID | {"model.hidden": [[100], [50], [20]]}
    outcomes = {100: DIVERGED, 50: 0.95, 20: 0.90}
    trials = [
        ({RATE: 0.1, MOMENTUM: 0.9, "model.hidden": [hidden]}, outcome)
        for hidden, outcome in outcomes.items()
    ]
    figure = draw(vary, trials)[HEAT_MAP]
    assert [text.get_text() for text in figure.axes[0].texts] == ["90.00*"]
    assert "the median of its trials" in figure.get_suptitle()
    alone = draw(GRID, [({RATE: 0.1, MOMENTUM: 0.9}, 0.9)])[HEAT_MAP]
    assert "the median of its trials" not in alone.get_suptitle()


def test_figures_and_caption_tell_which_trials_have_seeds_that_diverged(draw, tmp_path):
    some = [({RATE: 0.1, MOMENTUM: 0.9}, 0.96, DIVERGED), ({RATE: 1.0, MOMENTUM: 0.9}, 0.90, 0.90)]
    figures = draw(GRID, some)
    assert sorted(text for _, text in cells(figures[HEAT_MAP].axes[0]).values()) == [
        "53.00*",  # (96 + 10) / 2, chance being 10%
        "90.00",
    ]
    # Below the axis, which ends at ten times the best error.
    ((x, _),) = marks(figures[AGAINST_RATE].axes[0], "D")
    assert x == 0
    dots = draw(RATES | {MOMENTUM: RATES[RATE]}, some, sampler="random")[HEAT_MAP]
    assert marks(dots.axes[0], "D") == [(0.1, 0.9)]
    for figure in (*figures.values(), dots):
        told = [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)]
        assert "seeds that diverged count at chance" in " ".join(told)
        assert any("seeds diverged" in text.get_text() for text in figure.legends[0].get_texts())
    caption = a_sweep(tmp_path, GRID, some).caption()
    assert "diverged seed come after the others and are not chosen." in caption
    assert "best of" not in caption  # there is but one to choose from


def test_an_interval_is_seen_whole_or_up_to_a_tenth_of_the_best_error(draw):
    # Means of 83.00 and 76.33%, intervals up to 89.57 and 137.7%, and a fifth of the error less.
    for seeds, top in {(0.80, 0.84, 0.85): 91.66, (0.5, 0.99, 0.8): 98.11}.items():
        (axes,) = draw(RATES, [({RATE: 0.1}, *seeds)])[AGAINST_RATE].axes
        np.testing.assert_allclose(axes.get_ylim()[1], top, atol=0.005)


def test_a_trial_without_errors_leaves_the_others_above_the_axis(draw):
    # Ten times the error of the next best is 10%, and a fifth more.
    trials = [({RATE: rate}, *(2 * [y])) for rate, y in ((0.1, 1.0), (0.2, 0.99), (0.4, 0.9))]
    (axes,) = draw({RATE: [0.1, 0.2, 0.4]}, trials)[AGAINST_RATE].axes
    np.testing.assert_allclose(axes.get_ylim()[0], 88)


def test_the_points_of_a_grid_over_ranges_are_cells_too_with_short_labels(draw):
    vary = {**RATES, MOMENTUM: {"low": 0.8, "high": 1.0, "log": False}}
    trials = [({RATE: rate, MOMENTUM: 0.8}, 0.9) for rate in (0.01, 0.0225912)]
    figures = draw(vary, trials)
    axes = figures[HEAT_MAP].axes[0]
    assert set(cells(axes)) == {(0, 0), (1, 0)}
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.01", "0.02259"]
    assert "trials at each value" in figures[AGAINST_RATE].axes[0].get_title()


def test_continuous_ranges_are_a_scatter_plot_with_the_best_as_a_star(draw):
    vary = {**RATES, MOMENTUM: {"low": 0.8, "high": 1.0, "log": False}}
    found = {(0.1, 0.9): 0.9, (0.2, 0.95): 0.95, (0.3, 0.8): DIVERGED, (0.4, 0.85): pruned(0.7)}
    trials = [({RATE: a, MOMENTUM: b}, outcome) for (a, b), outcome in found.items()]
    axes = draw(vary, trials, sampler="random")[HEAT_MAP].axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert (axes.get_xlabel(), axes.get_ylabel()) == (RATE, MOMENTUM)
    assert marks(axes, "*") == [(0.2, 0.95)]
    assert marks(axes, "x") == [(0.3, 0.8)]
    assert marks(axes, "o") == [(0.1, 0.9), (0.4, 0.85)]
