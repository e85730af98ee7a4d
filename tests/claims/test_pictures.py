"""The figures of claims: what is drawn of made records, by hand, and that each can be drawn."""

import math
import re

import numpy as np
import pytest

from bnrepro.claims import CLAIMS, pictures, readings
from bnrepro.records import read_run
from bnrepro.report import figures
from scripts.claims import REGISTERED
from tests.records_fixtures import small_run

BLUE = figures.looks({"": "batch_norm"})[""][0]


def made(tmp_path, rows, variants=("plain", "batch_norm"), **settings):
    """A run of three seeds, 0 to 2, evaluated at 0, 10 and 20, with these rows."""
    kinds = {name: "batch_norm" if "batch_norm" in name else "none" for name in variants}
    overrides = {name: {"normalizer": {"name": kind}, **settings} for name, kind in kinds.items()}
    return small_run(tmp_path, {}, rows, variants=overrides, baseline=variants[0])


def drawn(picture):
    """The lines of the first panel by title, and the panel."""
    axes, *_ = picture.draw().axes
    handles, titles = axes.get_legend_handles_labels()
    return dict(zip(titles, handles, strict=True)), axes


def test_medians_are_drawn_against_a_number_from_the_names_and_failures_at_chance(tmp_path):
    ends = {"relu none rate 0_5": (0.9, 0.8, 0.85), "relu none rate 16": (0.9, 0.7, None),
            "relu batch_norm rate 0_5": (0.95, 0.96, 0.97), "std none 1": (0.2,) * 3}  # fmt: skip
    rows = [
        (name, seed, 20, "test", "accuracy", end)
        if end
        else (name, seed, 15, "train", "diverged", 1.0)
        for name, of in ends.items()
        for seed, end in enumerate(of)
    ]
    figure = pictures.against("x", r"relu (?P<line>\w+) rate (?P<x>.+)", "rate", threshold=90)
    lines, axes = drawn(figure.picture(made(tmp_path, rows, tuple(ends))))
    assert lines.keys() == {"none", "batch_norm"}
    assert lines["batch_norm"].get_color() == BLUE != lines["none"].get_color()
    # Beside each other by less than 2%.
    assert lines["none"].get_xdata() == pytest.approx([0.5, 16], rel=0.02)
    # Of 90, 80 and 85; of 90, 70 and 10, which is chance.
    assert lines["none"].get_ydata() == pytest.approx([85, 70])
    ranges = [path.vertices[:, 1] for path in axes.collections[0].get_paths()]
    assert np.ravel(ranges) == pytest.approx([80, 90, 10, 90])
    assert any(np.all(line.get_ydata() == 90) for line in axes.lines)
    assert axes.get_xscale() == "log" and axes.get_yscale() == "function"
    assert axes.get_title().endswith(", 1 run diverged: at chance")
    alt = figure.picture(made(tmp_path, rows, tuple(ends))).alt
    assert "none 85 at 0.5, 70 at 16; " in alt


def test_kinds_have_places_of_their_own_and_no_line_between_them(tmp_path):
    names = ("plain", "plain l2", "batch_norm", "batch_norm l2")
    rows = [
        (name, seed, 20, "test", "accuracy", 0.9 + seed / 100)
        for name in names
        for seed in range(3)
    ]
    (figure,) = CLAIMS["B10"].figures
    lines, axes = drawn(figure.picture(made(tmp_path, rows, names)))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["l2", "none"]
    assert {line.get_linestyle() for line in lines.values()} == {"None"}


def test_gradients_at_the_start_are_drawn_by_layer(tmp_path):
    name, metric = "relu 2 batch_norm", "grad_norm/dense_{}"
    rows = [
        (name, seed, step, "train", metric.format(i), step * 10**i * (1 + seed))
        for seed in range(3)
        for step in (10, 20)
        for i in range(11)
    ]
    figure = pictures.over_layers("x", r"relu (?P<line>.*)", "ReLU")
    lines, axes = drawn(figure.picture(made(tmp_path, rows, (name,))))
    # At step 10, the middle seed; layer 10 comes last.
    assert lines["2 batch_norm"].get_ydata() == pytest.approx([20 * 10.0**i for i in range(11)])
    assert list(lines["2 batch_norm"].get_xdata()) == list(range(1, 12))
    assert axes.get_yscale() == "log"


def percentiles(units):
    """Unit u of seed s: at step 10 from s to s + 4, with median s + 1; later u + 1 higher."""
    metric = "sigmoid_inputs/{}/{}" if units > 1 else "sigmoid_input/{1}"
    return [
        (name, seed, step, "test", metric.format(u, p), seed + q + (step == 20) * (u + 1))
        for name in ("plain", "batch_norm")
        for seed in range(3)
        for u in range(units)
        for step in (0, 10, 20)
        for p, q in (("p15", 0), ("p50", 1 if step else 100), ("p85", 4))
    ]


@pytest.mark.parametrize(("units", "moved"), [(1, 1 / 4), (3, (1 + 2 + 3) / 3 / 4)])
def test_the_median_moves_from_its_first_after_step_0_in_units_of_the_spread(
    tmp_path, units, moved
):
    run = made(tmp_path, percentiles(units))
    table = readings.median_moved(run, "plain")
    assert table.loc[10].tolist() == [0] * 3
    assert table.loc[20].tolist() == pytest.approx([moved] * 3)
    lines, axes = drawn(CLAIMS["B2"].figures[1].picture(run))
    assert lines["batch_norm"].get_ydata() == pytest.approx([0, moved])
    assert axes.get_xlabel() == "training steps"


def test_the_papers_unit_is_beside_the_mean_over_units_and_seeds(tmp_path):
    picture = CLAIMS["B2"].figures[0].picture(made(tmp_path, percentiles(3)))
    figure = picture.draw()
    assert [axes.get_title() for axes in figure.axes] == ["plain", "batch_norm"]
    for axes in figure.axes:
        ends = [line.get_ydata()[-1] for line in axes.lines]
        # Unit 0 of seed 0 has moved by 1; the mean over seeds is higher by 1, and over units by 1.
        assert ends == pytest.approx([1, 2, 5, 3, 4, 7])
    assert "thin: seed 0, unit 0, thick: mean over 3 seeds and 3 units" in figure.get_suptitle()
    assert "plain 3, 4, 7" in picture.alt


def test_what_is_drawn_over_steps_is_what_the_measurements_take_the_mean_of():
    run = read_run(REGISTERED.with_name("sigmoid"))
    for course, reading in (
        (readings.loss_range, readings.loss_change_ratio),
        (readings.gradient_change, readings.gradient_change_ratio),
    ):
        plain, norm = (course(run, name).mean() for name in ("plain", "batch_norm"))
        found = reading(run, ours="batch_norm", theirs="plain")
        assert np.log2(plain / norm).mean() == pytest.approx(found.mean)
    (figure,) = CLAIMS["B12"].figures
    # The claim's own number, in the ledger.
    assert "batch_norm standardized" in figure.picture(run).alt
    standardized = CLAIMS["B12"].measurements[0].measure(run).mean
    layers = [f"norm_{i}/standardized" for i in range(3)]
    assert readings.near_linear(run, "batch_norm", layers).iloc[-1].mean() == pytest.approx(
        standardized
    )
    rises = read_run(REGISTERED.with_name("schedules"))
    paper, none = (readings.loss_rise(rises, name).iloc[-1] for name in ("paper", "none"))
    found = readings.spike_difference(rises, ours="paper", theirs="none")
    assert (none - paper).mean() == pytest.approx(found.mean)


def test_every_trained_claim_has_a_figure_with_its_numbers_in_words():
    runs = {}
    for claim in CLAIMS.values():
        assert bool(claim.comparisons) == bool(claim.figures), claim.id
        for figure in claim.figures:
            place = REGISTERED.with_name(figure.comparison)
            if place.exists():
                runs[place] = runs.get(place) or read_run(place)
                alt = figure.picture(runs[place]).alt
                assert re.search(r"\d\.\d", alt) and "nan" not in alt, claim.id


def test_guessing_is_marked_in_the_losses():
    figure = CLAIMS["B8"].figures[0]
    _, axes = drawn(figure.picture(read_run(REGISTERED.with_name("counterexamples"))))
    assert axes.lines[-1].get_ydata()[0] == pytest.approx(math.log(10))
