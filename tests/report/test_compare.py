"""Comparisons of variants and runs, against numbers worked out by hand or by scipy."""

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from bnrepro.errors import UserError
from bnrepro.report import formats
from bnrepro.report.compare import Comparison, compare
from bnrepro.report.question import Question, check_run, run_labels
from bnrepro.report.tables import is_best
from tests.records_fixtures import ACCURACY, small_run

PLAIN, BATCH_NORM = [0.94, 0.90, 0.92], [0.96, 0.93, 0.95]


def flat(*values):
    """Test accuracy that ends at these values, one a seed."""
    return [(0.1, 0.5, value) for value in values]


def a_run(variants, overrides=None, first_seed=0, **changes):
    """A run whose variants have these curves, one a seed."""
    accuracy = {
        (name, first_seed + seed): curve
        for name, curves in variants.items()
        for seed, curve in enumerate(curves)
    }
    changes.setdefault("seeds", max(map(len, variants.values())))
    changes.setdefault("baseline", next(iter(variants)))
    names = {name: {} for name in variants} | (overrides or {})
    return small_run(Path("w"), accuracy, variants=names, **changes)


def grid(**changes):
    """Learning rate x normalizer, the larger rate first by name."""
    overrides = {
        "a": {"optimizer": {"learning_rate": 10.0}, "normalizer": {"name": "none"}},
        "b": {"optimizer": {"learning_rate": 10.0}, "normalizer": {"name": "batch_norm"}},
        "c": {"optimizer": {"learning_rate": 0.5}, "normalizer": {"name": "none"}},
    }
    curves = {name: flat(*3 * (0.9 + i / 100,)) for i, name in enumerate(overrides)}
    return a_run(curves, overrides, **changes)


def best(comparison: Comparison) -> list[list[bool]]:
    return comparison.cells.map(is_best).to_numpy().tolist()


def column(comparison: Comparison, title: str) -> list[str]:
    return comparison.cells[title].tolist()


@pytest.mark.parametrize(
    ("metric", "at", "title", "expected"),
    [
        ("test/accuracy", "best", "best test/accuracy, %", "92.67 ± 2.87"),  # 94, 92, 92
        ("test/accuracy", 10, "step 10 test/accuracy, %", "90.00 ± 4.97"),
        ("test/loss", "best", "best test/loss", "0.2346"),
        ("test/sigmoid_input/p50", "final", "final test/sigmoid_input/p50", "2.5"),
    ],
)
def test_values_are_those_of_the_metric_and_step_asked_for(metric, at, title, expected):
    losses = [("plain", 0, step, "test", "loss", x) for step, x in ((10, 0.23456), (20, 1.0))]
    shown = compare({"w": small_run(Path("w"), extra=losses)}, Question(metric, at))
    assert column(shown, title)[0] == expected
    assert ("optimistic" in shown.caption) == (at == "best")


def test_the_rows_of_a_run_may_come_in_any_order():
    run = small_run(Path("w"))
    backwards = replace(run, metrics=run.metrics[::-1])
    question = Question(steps_to=[0.95], baseline="plain")
    expected = compare({"w": run}, question)
    shown = compare({"w": backwards}, question)
    pd.testing.assert_frame_equal(shown.cells, expected.cells)
    pd.testing.assert_frame_equal(shown.numbers, expected.numbers)
    # In the order of seeds, as in `ACCURACY`.
    assert shown.cells.iloc[1, 0].seeds == "96.00, 93.00, 95.00"


@pytest.mark.parametrize(
    ("plain", "other", "first_seed", "expected"),
    [
        (3 * (0.9,), 3 * (0.95,), 0, "+5.00 ± 0.00*"),
        (3 * (0.9,), 3 * (0.95,), 7, "+5.00 ± 0.00*†"),
        ((0.9, 0.8), (0.95, 0.9), 0, "+7.50 (+5.00 to +10.00)"),
        ((0.9, 0.8), (0.95,), 0, "+5.00"),
        ((0.9, 0.8), (0.95,), 7, "+10.00†"),
    ],
)
def test_a_difference_is_paired_over_common_seeds_else_welchs(plain, other, first_seed, expected):
    runs = {
        "one": a_run({"plain": flat(*plain)}),
        "two": a_run({"other": flat(*other)}, first_seed=first_seed),
    }
    shown = compare(runs, Question(baseline="plain"))
    assert column(shown, "final − plain")[1] == expected
    assert shown.numbers["paired"].iloc[1] == (first_seed == 0)
    assert ("* where" in shown.caption) == ("*" in expected)
    assert ("† where too few seeds are common" in shown.caption) == ("†" in expected)


def test_nothing_is_compared_across_data_sets_and_other_steps_are_marked():
    digits = small_run(Path("digits"))
    digits.provenance.update(dataset="digits", stand_in=True)
    short = {key: curve[:2] for key, curve in ACCURACY.items()}
    runs = {
        "mnist": small_run(Path("mnist")),
        "digits": digits,
        "short": small_run(Path("short"), short, steps=10, preview=True),
    }
    shown = compare(runs, Question(baseline="mnist: plain"))
    differences = column(shown, "final − mnist: plain")
    assert differences[2:4] == ["–", "–"]
    assert differences[4] == "-2.00 ± 8.61‡"  # 90 - 94, 92 - 90, 88 - 92: deviation 3.46
    assert np.isnan(shown.numbers["difference"].iloc[2])
    assert shown.numbers["steps"].tolist() == [20, 20, 20, 20, 10, 10]
    assert column(shown, "data set")[1:3] == ["mnist/3.0.1", "digits"]
    assert "Data: mnist/3.0.1 (mnist, short); digits (digits)" in shown.caption
    assert "STAND-IN DATA, not what the config asks for: digits." in shown.caption
    assert shown.caption.startswith("PREVIEW, fewer steps than the experiment has: short.")
    for mark in ("‡ where", "– where", "(steps 10 to 20)"):
        assert mark in shown.caption


def test_each_run_is_compared_with_its_own_baseline_where_it_has_one():
    runs = {name: small_run(Path(name)) for name in ("one", "two")}
    runs["two"].metrics["value"] /= 2
    shown = compare(runs, Question(baseline="plain"))
    assert column(shown, "final − plain") == ["0", "+2.67 ± 1.43**", "0", "+1.33 ± 0.72**"]
    assert "plain of the same run" in shown.caption
    shown = compare(runs, Question(baseline="one: plain"))
    assert column(shown, "final − one: plain")[2] == "-46.00 ± 2.48**"


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ("plian", "no variant 'plian' to use as the baseline; did you mean plain"),
        ("§", "'plain' is one, for example"),
        ("plain", "three has no variant plain.*2 others.*'one: plain'"),
    ],
)
def test_a_missing_or_ambiguous_baseline_is_one_sentence(baseline, message):
    runs = {name: small_run(Path(name)) for name in ("one", "two")}
    runs["three"] = a_run({"other": flat(0.9)})
    with pytest.raises(UserError, match=message):
        compare(runs, Question(baseline=baseline))


def test_a_pivot_places_variants_by_settings_in_the_order_of_their_values():
    question = Question(rows=["optimizer.learning_rate"], columns=["normalizer.name"])
    shown = compare({"w": grid()}, question)
    assert shown.cells.index.tolist() == [("0.5",), ("10",)]
    assert shown.cells.to_numpy().tolist() == [
        ["", "92.00 ± 0.00"],
        ["91.00 ± 0.00", "90.00 ± 0.00"],
    ]
    assert list(shown.cells.columns) == ["batch_norm", "none"]
    assert "Columns: normalizer.name. Seeds: 3 each." in shown.caption


def test_cells_of_a_pivot_show_the_difference_and_seeds_where_these_differ():
    question = Question(columns=["variant"], baseline="a")
    shown = compare({"w": grid()}, question)
    assert shown.cells.index.tolist() == [("final test/accuracy, %",)]
    assert shown.cells.iloc[0, :2].tolist() == [
        "90.00 ± 0.00 (baseline)",
        "91.00 ± 0.00 (+1.00 ± 0.00**)",
    ]
    shown = compare({"w": grid(diverged=[("b", 0)])}, question)
    # Of 10, 91 and 91: deviation 46.77, times 4.302653 / sqrt(3).
    assert shown.cells["b"].tolist() == ["64.00 ± 116.17 (-26.00 ± 116.17), seeds: 3 (1 diverged)"]
    assert "Seeds:" not in shown.caption
    assert "the runs that diverged, 1, count at the chance accuracy of" in shown.caption


def test_settings_are_those_of_the_variant_and_a_missing_one_has_a_dash():
    run, other = grid(), grid(batch_size=7)
    del other.config["eval_every"]
    keys = ["eval_every", "batch_size", "variant"]
    shown = compare({"one": run, "two": other}, Question(rows=keys))
    assert shown.cells.index.names == keys
    assert shown.cells.index.tolist() == [
        *(("10", "60", name) for name in "abc"),
        *(("–", "7", name) for name in "abc"),
    ]
    assert list(shown.cells.columns) == ["final test/accuracy, %", "seeds"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["learning_rate"], "no setting 'learning_rate'; did you mean optimizer.learning_rate"),
        (["§"], "these differ: batch_size, optimizer.learning_rate, normalizer.name, run, variant"),
        (
            ["normalizer.name"],
            "up to 4 variants in one cell; .* differs: batch_size, optimizer.learning_rate$",
        ),
        (
            ["batch_size", "normalizer.name"],
            "up to 2 variants .* differs: optimizer.learning_rate$",
        ),
        (["batch_size", "normalizer.name", "optimizer.learning_rate"], None),
    ],
)
def test_keys_that_are_unknown_or_too_few_are_refused_with_those_that_would_do(rows, message):
    runs, question = {"one": grid(), "two": grid(batch_size=7)}, Question(rows=rows)
    if message is None:
        assert len(compare(runs, question).cells) == 6
        return
    with pytest.raises(UserError, match=message):
        compare(runs, question)


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("accuracy", (0.9, 0.95, 0.95), [False, True, True]),
        ("accuracy", (0.9, 0.95001, 0.95002), [False, True, True]),
        ("loss", (0.2, 0.1, 0.3), [False, True, False]),
        ("other", (0.2, 0.1, 0.3), [False, False, False]),
    ],
)
def test_the_best_are_those_whose_shown_mean_is(metric, values, expected):
    run = grid()
    rows = run.metrics["metric"] == "accuracy"
    for name, value in zip("abc", values, strict=True):
        run.metrics.loc[rows & (run.metrics["variant"] == name), "value"] = value
    run.metrics.loc[rows, "metric"] = metric
    shown = compare({"w": run}, Question(f"test/{metric}"))
    assert best(shown) == [[mark, False] for mark in expected]


def test_the_best_of_a_pivot_is_that_of_its_row_and_data_set():
    other = grid()
    other.provenance["dataset"] = "digits"
    question = Question(rows=["optimizer.learning_rate"], columns=["run", "normalizer.name"])
    shown = compare({"one": grid(), "two": other}, question)
    assert list(shown.cells.columns)[::2] == ["one, batch_norm", "two, batch_norm"]
    # A single variant is the best of nothing.
    assert best(shown) == [[False] * 4, [True, False, True, False]]


def test_unfinished_variants_are_marked_and_those_not_begun_have_no_number():
    accuracy = {key: curve for key, curve in ACCURACY.items() if key[0] == "plain"}
    changes = {"variants": {"plain": {}, "batch_norm": {}}, "steps": 30}
    run = small_run(Path("w"), accuracy, **changes)
    shown = compare({"w": run}, Question(steps_to=[0.95], baseline="plain"))
    assert shown.cells.index.tolist() == [("plain (unfinished)",), ("batch_norm (unfinished)",)]
    assert shown.cells.iloc[1].tolist() == ["–", "–", "–", "0"]
    assert "(unfinished) not all seeds" in shown.caption
    shown = compare({"w": run}, Question(columns=["variant"]))
    assert shown.cells.loc[:, "plain"].tolist() == ["92.00 ± 4.97, seeds: 3 (unfinished)"]
    assert "(unfinished)" not in compare({"w": small_run(Path("w"))}, Question()).caption


def test_what_has_a_seed_that_diverged_is_never_the_best():
    curves = {"plain": flat(0.3, 0.3, 0.3), "other": flat(0.99, 0.99, 0.99)}
    run = a_run(curves, diverged=[("other", 0)])
    assert best(compare({"w": run}, Question())) == [[True, False], [False, False]]


def test_of_a_loss_what_diverged_is_left_out():
    losses = [("plain", seed, 20, "test", "loss", 0.5) for seed in (0, 1)]
    run = small_run(Path("w"), extra=losses, diverged=[("plain", 1)])
    shown = compare({"w": run}, Question("test/loss"))
    assert shown.cells.iloc[0].tolist() == ["0.5", "2 (1 diverged)"]
    assert "the runs that diverged, 1, are left out" in shown.caption


def test_a_run_whose_seeds_all_diverged_is_at_chance():
    run = small_run(Path("w"), diverged=ACCURACY)
    check_run(run, Question())
    shown = compare({"w": run}, Question(baseline="plain"))
    assert shown.cells.iloc[1].tolist() == ["10.00 ± 0.00", "+0.00 ± 0.00", "3 (3 diverged)"]
    assert shown.numbers["steps"].isna().all()
    assert "last evaluation: mean" in shown.caption  # of no step


def test_a_value_that_is_not_finite_does_not_count_nor_does_an_earlier_one_stand_for_it():
    run = a_run({"plain": [(0.1, 0.5, 0.9), (0.1, 0.5, np.nan), (0.1, 0.5, np.inf)]})
    assert compare({"w": run}, Question()).cells.iloc[0].tolist() == ["90.00", "1"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"metric": "accuracy"}, "SPLIT/NAME, as in test/accuracy, got 'accuracy'"),
        ({"at": "last"}, "final, best or a step, got 'last'"),
        ({"metric": "test/x/p50", "at": "best"}, "only accuracy and loss have a best"),
        ({"steps_to": [97.0]}, "in \\(0, 1\\], got 97"),
        ({"steps_to": [0.97], "columns": ["a"]}, "need a list"),
    ],
)
def test_a_question_without_an_answer_is_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        Question(**wrong)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (Question("val/accuracy"), "has no val/accuracy: it has test/accuracy, test/sigmoid_input"),
        (Question("test/acuracy"), "p85, test/x; did you mean test/accuracy[?]$"),
        (Question("train/diverged"), "has no train/diverged"),
        (Question("train/loss", steps_to=[0.9]), "has no train/loss"),
        (Question(at=15), "at step 15: it has steps 0 to 20, every 10$"),
        (Question("test/x", at=1), "at step 1: it has steps 0 to 2,000, 3 of them$"),
        (Question("test/x", steps_to=[0.9]), None),
    ],
)
def test_a_run_that_lacks_what_is_asked_for_says_what_it_has(question, message):
    extra = [("plain", 0, step, "test", "x", 1.0) for step in (0, 2, 2000)]
    run = small_run(Path("runs/w"), extra=extra, diverged=[("plain", 0)])
    if message is None:
        check_run(run, question)
    else:
        with pytest.raises(UserError, match=f"runs/w .*{message}"):
            check_run(run, question)


def test_runs_are_called_by_their_folder_or_by_their_path_where_two_share_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    paths = [Path(path) for path in ("a/x", "b/x", "b/y", ".")]
    assert list(run_labels(paths)) == ["a/x", "b/x", "y", tmp_path.name]


def test_numbers_are_one_row_a_variant():
    question = Question(rows=["seeds", "variant", "batch_size"], baseline="plain", steps_to=[0.95])
    comparison = compare({"w": small_run(Path("w"))}, question)
    # Among the cells, the number of seeds that there are has the same name as the setting.
    assert formats.render(comparison, "markdown").splitlines()[0].count(" seeds ") == 2
    numbers = comparison.numbers
    assert list(numbers.columns) == [
        *("run", "variant", "config.seeds", "batch_size", "mean", "ci95_low", "ci95_high"),
        *("minimum", "maximum", "seeds", "diverged", "finished", "steps", "dataset", "difference"),
        *("difference_ci95_low", "difference_ci95_high", "difference_p", "difference_p_holm"),
        "paired",
        *("steps_to_0.95", "steps_to_0.95_seeds"),
    ]
    row = numbers[numbers["variant"] == "batch_norm"].iloc[0]
    mean = np.mean(BATCH_NORM)
    low, high = stats.t.interval(0.95, 2, mean, stats.sem(BATCH_NORM))
    np.testing.assert_allclose([row["mean"], row["ci95_low"], row["ci95_high"]], [mean, low, high])
    np.testing.assert_allclose(row["difference"], mean - 0.92)
    # The only difference is its own family.
    p_value = stats.ttest_rel(BATCH_NORM, PLAIN).pvalue
    np.testing.assert_allclose([row["difference_p"], row["difference_p_holm"]], p_value)
    assert (row["seeds"], row["diverged"], row["finished"], row["dataset"]) == (
        *(3, 0, True),
        "mnist/3.0.1",
    )
    assert (row["steps_to_0.95"], row["steps_to_0.95_seeds"]) == (10, 2)


AWKWARD = "a_b & <c> | 100% $x [y] *z* \\w"


def awkward():
    """A name that every format takes for markup, and a difference below zero."""
    run = a_run({"plain": flat(*PLAIN), AWKWARD: flat(0.90, 0.86, 0.88)})
    return compare({"a&b": run, "<script>": run}, Question(baseline="plain"))


def test_latex_has_rules_bold_and_neither_markup_of_names_nor_what_pdflatex_lacks():
    text = formats.render(awkward(), "latex")
    assert text.isascii()
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert r"a\&b: plain & \textbf{92.00 $\pm$ 4.97} & 0 & 3 \\" in text
    name = r"a\_b \& \textless{}c\textgreater{} \textbar{} 100\% \$x {[}y] {*}z{*} "
    assert name + r"\textbackslash{}w & 88.00 $\pm$ 4.97 & $-$4.00 $\pm$ 0.00{*}{*} & 3 \\" in text
    assert text.index(r"\end{tabular}") < text.index(r"\caption{test/accuracy, \%, last")
    assert r"(a\&b, \textless{}script\textgreater{})" in text


def test_html_has_bold_and_shows_names_as_they_are():
    text = formats.render(awkward(), "html")
    assert text.isascii()
    assert "<script>" not in text
    assert "&lt;script&gt;: a_b &amp; &lt;c&gt; |" in text
    assert "<b>92.00 &#177; 4.97</b>" in text
    assert text.index("</table>") < text.index("<p>test/accuracy, %")


def test_markdown_has_bold_and_as_many_cells_in_each_row():
    lines = formats.render(awkward(), "markdown").splitlines()
    rows = [line.replace("\\|", "") for line in lines[:6]]
    assert {row.count("|") for row in rows} == {5}
    assert "**92.00 ± 4.97**" in rows[2]
    assert r"a_b \& \<c> \| 100% $x \[y\] \*z\* \\w" in lines[3]
    assert r"-4.00 ± 0.00\*" in lines[3]
    assert lines[6] == ""
    assert lines[7].startswith("test/accuracy, %")


def on_terminal(comparison, width, **options):
    out = io.StringIO()
    formats.show(comparison, Console(file=out, width=width, **options))
    return out.getvalue()


def test_a_terminal_shows_the_best_in_bold_and_all_within_its_width():
    comparison = awkward()
    wide = on_terminal(comparison, 150, force_terminal=True, color_system="standard")
    assert re.search(r"\x1b\[1m *92\.00 ± 4\.97", wide)
    assert not re.search(r"\x1b\[1m *88\.00", wide)
    narrow = on_terminal(comparison, 60)
    assert max(map(len, narrow.splitlines())) == 60
    for word in ("<script>:", "-4.00", "100%", "[y]", "\\w"):
        assert word in narrow


def test_a_pivot_wider_than_the_terminal_is_shown_in_parts():
    names = [f"variant{i}" for i in range(20)]
    run = a_run({name: flat(0.5 + i / 100) for i, name in enumerate(names)})
    comparison = compare({"w": run}, Question(columns=["variant"]))
    shown = on_terminal(comparison, 80)
    assert max(map(len, shown.splitlines())) <= 80
    assert all(f"{50 + i}.00" in shown for i in range(20))
    assert shown.count("test/accuracy, %, last") == 1
    # A file has all the width it needs.
    assert len(formats.render(comparison, "text").splitlines()[0]) > 200


def test_a_name_longer_than_the_terminal_is_wide_is_folded_not_cut():
    run = a_run({50 * "@": flat(0.9)})
    assert on_terminal(compare({"w": run}, Question()), 40).count("@") == 50


def test_a_name_stays_on_its_line():
    run = a_run({"plain": flat(0.9), "two\nlines\x1b[31m": flat(0.8)})
    assert "two�lines�[31m" in formats.render(compare({"w": run}, Question()), "text")
