"""What a person sees: cells, captions and figures."""

import re

import pytest
from matplotlib.image import imread

from bnrepro.report import figures, tables
from bnrepro.report.report import Report, caption, list_variants, summarize, write
from bnrepro.report.statistics import estimate
from tests.records_fixtures import ACCURACY, small_run

# Of plain: 0.92, 0.93 and 0.94 at the last step.
TRAINING_SET = [
    ("plain", seed, step, "train_set", "accuracy", 0.9 + seed / 100 + step / 1000)
    for seed in range(3)
    for step in (0, 20)  # less often than on the test set
]


def table_of(run):
    """The table and its caption."""
    _, table = list_variants(run, (0.95, 0.97))
    return table, caption(run, table)


def test_cells_show_mean_and_half_of_the_interval(tmp_path):
    table, caption = table_of(small_run(tmp_path, extra=TRAINING_SET))
    assert list(table.index) == ["plain", "batch_norm"]
    # Deviation 0.02, three seeds: 4.302653 * 2 / sqrt(3) = 4.97.
    assert table.loc["plain", "final, %"] == "92.00 ± 4.97"
    # Of 2, 3 and 3 points: deviation sqrt(1/3), times 4.302653 / sqrt(3); the only difference.
    assert table.loc["batch_norm", "final − plain"] == "+2.67 ± 1.43*"
    assert table.loc["plain", "final − plain"] == "0"
    assert table.loc["batch_norm", "steps to 95%"] == "10 (10 to 10) (2 of 3)"
    assert table.loc["plain", "steps to 97%"] == "never"
    assert table.loc["plain", "seeds"] == "3"
    # What else was evaluated has a column.
    assert table["training set, %"].tolist() == ["93.00 ± 2.48", "–"]
    assert caption.startswith("Test accuracy on mnist/3.0.1 after 20 steps")
    for text in ("differences are paired", "steps are to the first", "no run diverged"):
        assert text in caption


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"preview": True}, "PREVIEW: fewer steps"),
        ({"steps": 30}, "UNFINISHED: plain, batch_norm"),
    ],
)
def test_the_caption_begins_with_what_is_amiss(tmp_path, changes, text):
    assert text not in table_of(small_run(tmp_path))[1]
    run = small_run(tmp_path, **changes)
    run.provenance["stand_in"] = True
    caption = table_of(run)[1]
    assert caption.startswith(text) and "STAND-IN DATA: not MNIST" in caption


def test_runs_that_diverged_are_counted_in_table_and_caption(tmp_path):
    table, caption = table_of(small_run(tmp_path, diverged=[("plain", 1)]))
    assert table.loc["plain", "seeds"] == "3 (1 diverged)"
    # Of 94, 10 and 92.
    assert table.loc["plain", "final, %"].startswith("65.33 ± ")
    assert "chance accuracy: plain at 10% (1 of 3)" in caption
    table, caption = table_of(small_run(tmp_path, diverged=[("plain", seed) for seed in range(3)]))
    assert table["steps to plain's best"].tolist() == ["baseline diverged"] * 2
    assert "with the same seed, if it did not diverge;" in caption


def test_two_stars_mark_what_survives_the_correction_for_several_differences(tmp_path):
    # Differences of 2, 3, 3 points to plain, as in the fixture, of 10, 10, 11, and so on.
    ends = {"sure": (1.04, 1.00, 1.03), "almost": (0.99, 0.97, 1.01), "not": (0.95, 0.92, 0.95)}
    accuracy = ACCURACY | {
        (name, seed): (0.1, 0.5, end) for name in ends for seed, end in enumerate(ends[name])
    }
    table, caption = table_of(small_run(tmp_path, accuracy))
    marks = table["final − plain"].str.extract(r"(\*+)$")[0].fillna("").to_dict()
    # By scipy's ttest_rel, p is 0.0010, 0.0153, 0.0261 and 0.0742: times 4, 3, 2 and 1.
    assert marks == {"plain": "", "sure": "**", "batch_norm": "**", "almost": "*", "not": ""}
    assert "Holm's correction over the 4 of this table" in caption


def test_a_normalizer_has_the_same_colour_in_whatever_company():
    alone = figures.looks({"x": "batch_norm"})["x"]
    for company in ("batch_renorm", "none"):
        assert figures.looks({"a": company, "b": "batch_norm"})["b"] == alone
    # Its second line has the same colour and another style.
    first, second = figures.looks({"x": "batch_norm", "2x32": "batch_norm"}).values()
    assert first == alone and second[0] == alone[0] and second[1] != alone[1]


def test_the_style_of_a_line_tells_the_same_of_all_normalizers():
    kinds = {
        "a batch_norm": "batch_norm",
        "b batch_norm": "batch_norm",
        "b batch_renorm": "batch_renorm",
        "a batch_renorm": "batch_renorm",
        "none": "none",
    }
    found = {name: style for name, (_, style) in figures.looks(kinds).items()}
    assert found["a batch_norm"] == found["a batch_renorm"] == found["none"] == "-"
    assert found["b batch_norm"] == found["b batch_renorm"] != "-"


@pytest.mark.parametrize(("best", "scale"), [(0.96, "function"), (0.85, "linear")])
def test_curves_above_90_percent_have_a_log_scale_of_the_error(tmp_path, best, scale):
    accuracy = dict.fromkeys(ACCURACY, (0.1, 0.8, best))
    (axes,) = figures.accuracy_figure(small_run(tmp_path, accuracy)).draw().axes
    assert axes.get_yscale() == scale
    assert ("log scale of the error" in axes.get_ylabel()) == (scale == "function")
    low, high = axes.get_ylim()
    assert low < 80 and 100 * best < high <= 100


@pytest.mark.parametrize("kind", ["batch_norm", "unknown"])
def test_many_lines_of_one_kind_are_told_apart(kind):
    found = figures.looks({str(i): kind for i in range(20)})
    assert len(set(found.values())) == 20


def test_of_more_lines_than_styles_a_normalizers_are_in_tints_of_its_colour():
    kinds = {f"{i} {kind}": kind for kind in ("batch_norm", "batch_renorm") for i in range(7)}
    found = figures.looks(kinds)
    assert len(set(found.values())) == 14
    assert found["0 batch_norm"] == ("#0072B2", "-") and found["0 batch_renorm"][0] == "#D55E00"
    # Two fifths of the way to white.
    assert found["5 batch_norm"] == ("#66AAD1", "-")
    assert found["5 batch_renorm"][1] == "-" != found["6 batch_renorm"][1]


def test_a_line_whose_name_begins_with_an_underscore_is_in_the_legend(tmp_path):
    accuracy = {("_x", seed): (0.1, 0.5, 0.6) for seed in range(3)}
    run = small_run(tmp_path, accuracy, baseline="_x")
    (legend,) = figures.accuracy_figure(run).draw().legends
    assert [text.get_text() for text in legend.get_texts()] == ["_x"]


def test_names_with_dollars_are_shown_as_they_are(tmp_path):
    names = "a$b$c", r"a$\foo$ b"
    accuracy = {(name, seed): (0.1, 0.5, 0.6) for name in names for seed in range(3)}
    run = small_run(tmp_path, accuracy, baseline=names[0])
    drawn = [figures.accuracy_figure(run), figures.sigmoid_input_figure(run)]
    for picture in drawn:
        assert all(name in figures.inline_svg(picture, "f") for name in names)


def test_a_logarithmic_axis_has_plain_numbers(tmp_path):
    points = {number: estimate([10.0**-number] * 3) for number in (0, 1, 2)}
    lines = figures.Lines({"norms": points}, {"norms": "plain"}, "layer", "norm", "log", over=True)
    picture = figures.lines_figure(small_run(tmp_path), "norms", lines)
    svg = figures.inline_svg(picture, "f")
    # Text of a tick.
    assert {"0.01", "0.1", "1"} <= set(re.findall(r"<text[^>]*>([\d.]+)</text>", svg))


def test_points_of_lines_that_coincide_have_markers_side_by_side(tmp_path):
    run = small_run(tmp_path)
    (plain, batch_norm), _ = list_variants(run)
    lines = {"once": {2: plain, 4: plain}, "each": {2: plain, 4: batch_norm}}
    lines["of another normalizer"] = {2: batch_norm, 4: plain}
    (axes,) = figures.accuracy_against_figure(run, lines, "size").draw().axes
    drawn, titles = axes.get_legend_handles_labels()
    assert titles == list(lines)
    at_two = [line.get_xdata()[0] for line in drawn]
    assert len(set(at_two)) == 3
    assert at_two == pytest.approx([2, 2, 2], rel=0.02)
    once, each, _ = drawn
    assert len({line.get_marker() for line in drawn}) == 3
    assert once.get_markerfacecolor() == "white" != each.get_markerfacecolor()


def test_a_figure_of_an_unfinished_run_is_of_what_has_values(tmp_path):
    kinds = {"plain": {"normalizer": {"name": "none"}}, "to_come": {"normalizer": {"name": "none"}}}
    accuracy = {key: curve for key, curve in ACCURACY.items() if key[0] == "plain"}
    run = small_run(tmp_path, accuracy, variants=kinds)
    plain, to_come = list_variants(run)[0]
    for first, then in ((plain, to_come), (to_come, plain)):
        picture = figures.accuracy_against_figure(run, {"line": {2: first, 4: then}}, "size")
        (axes,) = picture.draw().axes
        assert axes.get_yscale() == "function"
        assert "bars: 95% interval over seeds" in axes.get_title()


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_report_is_written_shown_and_always_the_same(tmp_path, capsys, seeds):
    accuracy = {key: curve for key, curve in ACCURACY.items() if key[1] < seeds}

    training = TRAINING_SET if seeds == 3 else []
    splits = {"test": "test set"} | ({"train_set": "training set"} if training else {})

    def written(name):
        run = small_run(tmp_path / name, accuracy, training, seeds=seeds)
        pictures = [figures.accuracy_figure(run, splits=splits), figures.sigmoid_input_figure(run)]
        table, caption = table_of(run)
        entries, _ = list_variants(run, [0.95])
        write(run, Report(summarize(entries), table, caption, pictures))
        return table, caption, {path.name: path for path in run.workdir.rglob("*.*")}

    (table, caption, first), (*_, second) = written("a"), written("b")
    assert first.keys() == {"summary.csv", "summary.md"} | {
        f"{name}.{form}" for name in ("accuracy", "sigmoid_input") for form in ("svg", "png")
    }
    for name in first:
        assert first[name].read_bytes() == second[name].read_bytes()
    for name in ("accuracy.png", "sigmoid_input.png"):
        picture = imread(first[name])[..., :3]
        # Each variant's colour is there: black and blue.
        for colour in ((0, 0, 0), (0, 0x72 / 255, 0xB2 / 255)):
            assert (abs(picture - colour).max(-1) < 0.02).sum() > 100
    header, row, *_ = first["summary.csv"].read_text().splitlines()
    assert header.endswith("minimum,maximum,seeds,of,steps,dataset")
    assert row.startswith("plain,final,0.9") and row.endswith(f"{seeds},{seeds},20,mnist/3.0.1")
    tables.print_table(table, caption, width=150)
    shown, markdown = capsys.readouterr().out, first["summary.md"].read_text()
    assert markdown.startswith("|")
    assert all(cell in markdown and cell in shown for cell in table.to_numpy().ravel())
