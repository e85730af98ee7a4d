"""What a person sees: cells, captions and figures."""

from dataclasses import replace

import pytest
from matplotlib.image import imread

from bnrepro.report import figures, tables
from bnrepro.report.summary import summarize
from tests.records_fixtures import ACCURACY, small_run

ACCURACIES = (0.95, 0.97)


def table_of(run):
    return tables.comparison_table(run, summarize(run, ACCURACIES))


def test_cells_show_mean_and_half_of_the_interval(tmp_path):
    table = table_of(small_run(tmp_path))
    assert list(table.index) == ["plain", "batch_norm"]
    # Deviation 0.02, three seeds: 4.302653 * 2 / sqrt(3) = 4.97.
    assert table.loc["plain", "final, %"] == "92.00 ± 4.97"
    # The hand-computed case of test_summary: 2.67 ± 1.43, above zero, and the only difference.
    assert table.loc["batch_norm", "final − plain"] == "+2.67 ± 1.43*"
    assert table.loc["plain", "final − plain"] == "0"
    assert table.loc["batch_norm", "steps to 95%"] == "10 (10 to 10) (2 of 3)"
    assert table.loc["plain", "steps to 97%"] == "never"
    assert table.loc["plain", "seeds"] == "3"


def test_a_difference_that_may_be_zero_has_no_mark(tmp_path):
    wide = {**ACCURACY, ("batch_norm", 1): (0.1, 0.91, 0.5)}
    assert "*" not in table_of(small_run(tmp_path, wide)).loc["batch_norm", "final − plain"]


# Of plain: 0.92, 0.93 and 0.94 at the last step.
TRAINING_SET = [
    ("plain", seed, step, "train_set", "accuracy", 0.9 + seed / 100 + step / 1000)
    for seed in range(3)
    for step in (0, 10, 20)
]


def diverged(*runs):
    return [(variant, seed, 15, "train", "diverged", 1.0) for variant, seed in runs]


def test_runs_that_diverged_are_counted_in_table_and_caption(tmp_path):
    run = small_run(tmp_path, extra=diverged(("plain", 1)))
    table = table_of(run)
    assert table.loc["plain", "seeds"] == "3 (1 diverged)"
    # Of 94, 10 and 92.
    assert table.loc["plain", "final, %"].startswith("65.33 ± ")
    assert "chance accuracy: plain at 10% (1 of 3)" in tables.caption(run, table)
    whole = small_run(tmp_path)
    assert "no run diverged" in tables.caption(whole, table_of(whole))


def test_where_the_baseline_diverged_the_table_says_so(tmp_path):
    run = small_run(tmp_path, extra=diverged(*(("plain", seed) for seed in range(3))))
    table = table_of(run)
    assert table["steps to plain's best"].tolist() == ["baseline diverged"] * 2
    assert "with the same seed, if it did not diverge;" in tables.caption(run, table)


def test_two_stars_mark_what_survives_the_correction_for_several_differences(tmp_path):
    # Differences of 2, 3, 3 points to plain, as in the fixture, of 10, 10, 11, and so on.
    ends = {"sure": (1.04, 1.00, 1.03), "almost": (0.99, 0.97, 1.01), "not": (0.95, 0.92, 0.95)}
    accuracy = ACCURACY | {
        (name, seed): (0.1, 0.5, end) for name in ends for seed, end in enumerate(ends[name])
    }
    run = small_run(tmp_path, accuracy)
    table = table_of(run)
    marks = table["final − plain"].str.extract(r"(\*+)$")[0].fillna("").to_dict()
    # By scipy's ttest_rel, p is 0.0010, 0.0153, 0.0261 and 0.0742: times 4, 3, 2 and 1.
    assert marks == {"plain": "", "sure": "**", "batch_norm": "**", "almost": "*", "not": ""}
    assert "Holm's correction over the 4 of this table" in tables.caption(run, table)


def test_one_seed_is_shown_without_an_interval(tmp_path):
    one = {key: value for key, value in ACCURACY.items() if key[1] == 0}
    assert table_of(small_run(tmp_path, one, seeds=1)).loc["plain", "final, %"] == "94.00"


def test_the_caption_tells_previews_stand_in_data_and_unfinished_variants(tmp_path):
    def caption(run):
        return tables.caption(run, table_of(run))

    assert caption(small_run(tmp_path)).startswith("Test accuracy on mnist/3.0.1 after 20 steps")
    assert "PREVIEW" in caption(small_run(tmp_path, preview=True))
    run = small_run(tmp_path)
    run.provenance["stand_in"] = True
    assert "STAND-IN DATA" in caption(run)
    assert "UNFINISHED: batch_norm, plain" not in caption(small_run(tmp_path))
    assert "UNFINISHED: plain, batch_norm" in caption(small_run(tmp_path, steps=30))


def test_the_caption_explains_the_columns_there_are_and_no_others(tmp_path):
    run = small_run(tmp_path)
    table = table_of(run)
    assert "differences are paired" in tables.caption(run, table)
    assert "steps are those" in tables.caption(run, table)
    few = tables.caption(run, table[["final, %", "seeds"]])
    assert "differences" not in few
    assert "steps are those" not in few


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


def test_markdown_and_terminal_show_the_same_cells(tmp_path, capsys):
    run = small_run(tmp_path)
    table = table_of(run)
    tables.write_markdown(run, table, tables.caption(run, table))
    tables.print_table(table, tables.caption(run, table), width=150)
    shown = capsys.readouterr().out
    markdown = (tmp_path / "summary.md").read_text()
    assert markdown.splitlines()[0].startswith("|")
    for cell in table.to_numpy().ravel():
        assert cell in markdown
        assert cell in shown


@pytest.mark.parametrize("seeds", [1, 3])
def test_figures_are_written_as_svg_and_png_and_not_empty(tmp_path, seeds):
    few = {key: value for key, value in ACCURACY.items() if key[1] < seeds}
    run = small_run(tmp_path, few, seeds=seeds)
    pictures = figures.accuracy_figure(run), figures.sigmoid_input_figure(run)
    paths = [path for picture in pictures for path in figures.save(picture, tmp_path)]
    assert [path.name for path in paths] == [
        "accuracy.svg",
        "accuracy.png",
        "sigmoid_input.svg",
        "sigmoid_input.png",
    ]
    for path in paths:
        if path.suffix == ".png":
            picture = imread(path)
            # Each variant's colour is there: black and blue.
            for colour in ((0, 0, 0), (0, 0x72 / 255, 0xB2 / 255)):
                assert (abs(picture[..., :3] - colour).max(-1) < 0.02).sum() > 100
        else:
            assert "plain" not in path.read_text()[:100]
            assert path.stat().st_size > 5_000


def test_the_same_records_give_the_same_figure_to_the_last_byte(tmp_path):
    run = small_run(tmp_path)
    first, second = (
        figures.save(figures.accuracy_figure(run), tmp_path / name)[0].read_bytes() for name in "ab"
    )
    assert first == second


def test_a_pivot_puts_each_variant_in_its_place(tmp_path):
    summary = summarize(small_run(tmp_path), ())
    table = tables.pivot_table(summary, {("1", "x"): "plain", ("2", "y"): "batch_norm"})
    assert table.to_dict() == {
        "x": {"1": "92.00 ± 4.97", "2": ""},
        "y": {"1": "", "2": "94.67 ± 3.79"},
    }
    assert tables.differences(summary, ["batch_norm"]) == {"batch_norm": "+2.67 ± 1.43*"}


def test_what_else_was_evaluated_has_a_column(tmp_path):
    table = table_of(small_run(tmp_path, extra=TRAINING_SET))
    assert table.loc["plain", "training set, %"] == "93.00 ± 2.48"
    assert table.loc["batch_norm", "training set, %"] == "–"


def test_each_split_has_a_panel(tmp_path):
    run = small_run(tmp_path, extra=TRAINING_SET)
    splits = {"test": "test set", "train_set": "training set"}
    one = figures.save(figures.accuracy_figure(run, ["plain"], "one"), tmp_path)
    svg, png = figures.save(figures.accuracy_figure(run, ["plain"], splits=splits), tmp_path)
    assert imread(png).shape[1] > imread(one[1]).shape[1]
    assert svg.stat().st_size > 5_000
    # One of them may have been evaluated less often.
    fewer = replace(run, metrics=run.metrics.query("split == 'test' or step == 20"))
    figures.accuracy_figure(fewer, splits=splits).draw().draw_without_rendering()


def test_accuracy_against_a_number_is_drawn_with_a_line_a_title(tmp_path):
    run = small_run(tmp_path)
    lines = {"one": {2: "plain", 4: "plain"}, "other": {4: "batch_norm"}}
    picture = figures.accuracy_against_figure(run, summarize(run, ()), lines, "size")
    paths = figures.save(picture, tmp_path)
    assert [path.name for path in paths] == ["accuracy_against.svg", "accuracy_against.png"]
    assert imread(paths[1]).std() > 0.01


def test_points_of_lines_that_coincide_have_markers_side_by_side(tmp_path):
    run = small_run(tmp_path)
    lines = {"once": {2: "plain", 4: "plain"}, "each": {2: "plain", 4: "batch_norm"}}
    lines["of another normalizer"] = {2: "batch_norm", 4: "plain"}
    (axes,) = figures.accuracy_against_figure(run, summarize(run, ()), lines, "size").draw().axes
    drawn, titles = axes.get_legend_handles_labels()
    assert titles == list(lines)
    at_two = [line.get_xdata()[0] for line in drawn]
    assert len(set(at_two)) == 3
    assert at_two == pytest.approx([2, 2, 2], rel=0.02)
    once, each, other = drawn
    assert once.get_marker() == each.get_marker() != other.get_marker()
    assert once.get_markerfacecolor() == "white" != each.get_markerfacecolor()
