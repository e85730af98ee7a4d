"""The web page: what it shows, what it must not run, and mistakes in one sentence."""

import dataclasses
import re
import shutil
from pathlib import Path

import pytest

from bnrepro.claims import CLAIMS
from bnrepro.claims.ledger import Evidence, judged, rows_of
from bnrepro.records import write_run
from bnrepro.report.statistics import estimate
from scripts import report
from tests.commands import code_of, refusal
from tests.records_fixtures import small_run

CHROMIUM = shutil.which("chromium")
EVIL = "<script>alert(1)</script>"
# Values of three seeds for the measurements of four claims.
VALUES = {"B1": ([-1.0, -1.1, -0.9], [0.25, 0.26, 0.24]), "B2": ([1.0, 1.01, 0.99],),
          "C2": ([-0.5, -0.51, -0.49],), "C3": ([0.5, -0.5, 0.1],)}  # fmt: skip
MINUTES = {"B1": 10.5, "B2": 10.25, "C2": 9.75, "C3": 0.5}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A run with a name like a tag, and a ledger beside the records that a claim reads."""
    monkeypatch.chdir(tmp_path)
    run = small_run(tmp_path / "runs" / "one")
    run.provenance["command"] = f"python -m experiments.train --config={EVIL}"
    renamed = run.metrics.replace({"variant": {"batch_norm": EVIL}})
    run.config["variants"][EVIL] = run.config["variants"].pop("batch_norm")
    write_run(dataclasses.replace(run, metrics=renamed))
    folder = tmp_path / "runs" / "claims"
    write_run(small_run(folder / "sigmoid"))
    rows = []
    for name, samples in VALUES.items():
        evidence = [
            Evidence(estimate(values), MINUTES[name], "abcdef0123", "plain 1 of 3", one.comparison)
            for values, one in zip(samples, CLAIMS[name].measurements, strict=True)
        ]
        rows += rows_of(CLAIMS[name], evidence, "f00", "fedcba9876", "full")
    judged(rows).to_csv(folder / "ledger.csv", index=False)
    return Path("runs")


def page_of(runs, *flags):
    report.main([f"--runs={runs}", *flags])
    return (runs / "report" / "index.html").read_text(encoding="utf-8")


def test_the_page_shows_ledger_and_comparisons_and_can_be_made_again(runs):
    page = page_of(runs)
    # B1 by both of its measurements; C3 is within no margin.
    score = " ".join(re.search(r'(?s)<p class="score">(.*?)</p>', page)[1].split())
    assert score == "Verdicts on 4 statements – holds: 2, does not hold here: 1, not settled: 1."
    assert "it minimizes the internal covariate shift" in page
    assert "registered fedcba9, run at abcdef0" in page
    assert "by seed: -1, -1.1, -0.9" in page
    assert page.count("diverged, and counted as failures: plain 1 of 3") == len(VALUES)
    # As in `ACCURACY`.
    assert "94.67 ± 3.79" in page and "by seed: 96.00, 93.00, 95.00" in page
    # Measurements link to the records they were taken from.
    (anchor,) = set(re.findall(r'<a href="#(c\d)">records</a>', page))
    assert re.search(rf'<h3 id="{anchor}">claims/sigmoid</h3>', page)
    assert page_of(runs) == page
    # For those who cannot see them, figures have words.
    figures = re.findall(r"<figure[^>]*>", page)
    assert len(figures) >= 7 and all('role="img" aria-label="' in one for one in figures)


def test_names_are_escaped_and_nothing_is_loaded(runs):
    page = page_of(runs)
    assert EVIL not in page and "&lt;script&gt;alert(1)" in page
    assert page.count("<script>") == 1
    assert "default-src 'none'" in page
    assert not re.search(r"\b(src|srcset)=|@import|url\((?!#)", page)
    # Ids of inline figures differ, or a browser would take the first one's shapes.
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_a_claim_has_the_figures_of_its_records_with_their_numbers(runs, capsys):
    write_run(small_run(runs / "claims" / "percentiles"))
    page = page_of(runs)
    section = re.search(r'<h3 id="B1">.*?</section>', page, re.DOTALL)[0]
    # As in `ACCURACY`: 94, 90 and 92; 96, 93 and 95.
    assert "Means at the end: plain 92; batch_norm 94.67.</figcaption>" in section
    # B2 has two; there are no records for C2 and C3.
    assert page.count("<figcaption>") == 3
    metrics = runs / "claims" / "percentiles" / "metrics.csv"
    metrics.write_text(metrics.read_text().replace("sigmoid_input", "other"))
    capsys.readouterr()
    said = refusal(capsys, report.main, f"--runs={runs}")
    assert said.startswith(f"no report can be made of {metrics.parent}")
    assert page_of(runs, "--skip-bad").count("<figcaption>") == 2


def test_mistakes_are_told_in_one_sentence(runs, capsys):
    assert refusal(capsys, report.main, "--runs=nowhere") == "there is no folder nowhere\n"
    Path("empty").mkdir()
    assert refusal(capsys, report.main, "--runs=empty") == "no workdir was found in empty\n"
    write_run(small_run(Path("begun", "one"), accuracy={("plain", 0): []}))
    assert code_of(report.main, "--runs=begun") == 2
    said = capsys.readouterr().err
    assert said.startswith("left out: begun/one has no accuracy to show\n")
    assert said.endswith("no workdir of which a report can be made was found in begun\n")
    Path("mine").mkdir()
    Path("mine", "thesis.txt").write_text("mine")
    said = refusal(capsys, report.main, "--runs=runs", "--output=mine")
    assert said.startswith("mine holds something other than our page (thesis.txt)")
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.txt"]
    Path("mine", "thesis.txt").rename("mine/index.html")
    Path("mine", "index.html").write_text("<p>Made like those of bnrepro.report.</p>")
    said = refusal(capsys, report.main, "--runs=runs", "--output=mine")
    assert said.startswith("mine holds something other than our page (index.html)")


def test_workdirs_behind_links_are_seen_and_a_link_to_a_folder_around_it_is_not_followed(
    runs, capsys
):
    shutil.move(runs / "one", "elsewhere")
    (runs / "linked").symlink_to(Path("elsewhere").resolve())
    (runs / "claims" / "back").symlink_to("..")
    # Nor is what has a link elsewhere shown twice, or by another name than its own.
    (runs / "again").symlink_to("claims")
    (runs / "latest").symlink_to("claims/sigmoid")
    page = page_of(runs)
    assert re.findall(r'<h3 id="c\d">(.*?)</h3>', page) == ["claims/sigmoid", "linked"]
    assert not capsys.readouterr().err  # as of a second ledger


def test_the_environment_names_each_commit_and_is_left_out_where_nothing_was_compared(runs):
    run = small_run(runs / "one")
    later = [{"commit": "b" * 40, "uncommitted_changes": True}, {"commit": "a" * 40}]
    run.provenance.update(commit="a" * 40, resumed=later)
    write_run(run)
    page = page_of(runs)
    assert "Commits aaaaaaa, bbbbbbb, uncommitted changes, mnist/3.0.1;" in page
    assert "Commit unknown, mnist/3.0.1;" in page
    shutil.rmtree(runs / "one")
    shutil.rmtree(runs / "claims" / "sigmoid")
    assert "Environment" not in page_of(runs)


def test_half_a_surrogate_pair_is_shown_as_a_replacement_character(runs):
    run = small_run(runs / "one")
    run.provenance["command"] = "train --workdir=\ud800"
    write_run(run)
    # By the standard of HTML, the replacement character.
    assert "train --workdir=&#55296;" in page_of(runs)


def test_a_config_too_deep_to_read_is_named_and_can_be_left_out(runs, capsys):
    path = runs / "one" / "config.json"
    deep = '{"a": ' * 5_000 + "0" + "}" * 5_000
    path.write_text(path.read_text().replace("{", f'{{"deep": {deep},', 1))
    assert str(path.parent) in refusal(capsys, report.main, f"--runs={runs}")
    assert ">one<" not in page_of(runs, "--skip-bad")


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("one/metrics.csv", ",2.85\n", ",2", "is cut short"),
        ("claims/ledger.csv", "claim,measurement", "claim,what", "is not a ledger of claims"),
        ("claims/ledger.csv", "-1 -1.1 -0.9", "-1 <b>", "is not a ledger of claims"),
        (
            "claims/ledger.csv",
            "final accuracy, batch_norm less plain",
            "x",
            "other measurements of B1",
        ),
    ],
)
def test_what_is_damaged_is_named_and_can_be_left_out(runs, capsys, file, old, new, sentence):
    text = (runs / file).read_text()
    assert old in text
    (runs / file).write_text(text.replace(old, new))
    said = refusal(capsys, report.main, f"--runs={runs}")
    assert str(runs / file) in said and sentence in said
    assert not (runs / "report").exists()
    assert ">claims/sigmoid<" in page_of(runs, "--skip-bad")
    assert f"left out: {said}" in capsys.readouterr().err


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_in_a_browser_it_filters_sorts_links_and_fits_a_phone_and_paper(runs):
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    name = 9 * "moving_average_"
    write_run(small_run(runs / "wide", {(name, 0): (0.1, 0.9, 0.9)}, baseline=name))
    report.main([f"--runs={runs}"])
    shots = Path(__file__).parents[2] / "runs" / "screenshots"
    shots.mkdir(parents=True, exist_ok=True)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
        errors = []
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((runs / "report" / "index.html").resolve().as_uri())
        rows = page.locator("#ledger tbody tr:visible th")
        page.get_by_role("button", name="Core-minutes").click()
        assert rows.all_inner_texts() == ["C3", "C2", "B2", "B1"]
        page.get_by_role("button", name="Id", exact=True).click()
        assert rows.all_inner_texts() == ["B1", "B2", "C2", "C3"]
        page.get_by_role("button", name="Verdict").click()
        assert rows.all_inner_texts() == ["C2", "B1", "B2", "C3"]
        page.get_by_label("Verdict").select_option("holds")
        page.get_by_label("Source").select_option("D1")
        assert rows.all_inner_texts() == ["B1"]
        assert page.locator("#shown").inner_text() == "1 of 4 statements"

        page.get_by_role("link", name="B1").click()
        assert page.evaluate("location.hash") == "#B1"
        seeds = page.locator("#B1 ~ table .num").first
        seeds.hover()
        assert seeds.locator(".seeds").is_visible()
        page.screenshot(path=shots / "report_light.png")

        def paper():
            return page.evaluate("getComputedStyle(document.body).backgroundColor")

        light = paper()
        page.get_by_role("button", name="Dark").click()
        assert paper() != light
        page.screenshot(path=shots / "report_dark.png")

        # A4 at 96 dots an inch, within margins of 1 cm.
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 718, "height": 1047})
        assert page.evaluate("document.documentElement.scrollWidth") <= 718
        assert page.get_by_text("1 of 4 statements").is_visible()

        page.emulate_media(media="screen")
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.get_by_label("Source").select_option("")
        page.get_by_role("button", name="Core-minutes").click(timeout=5_000)
        assert rows.all_inner_texts() == ["B2", "B1"]
        page.screenshot(path=shots / "report_phone.png", full_page=True)
        browser.close()
    assert errors == []
