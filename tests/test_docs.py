"""What the pages in docs/ say is so."""

import functools
import json
import re
from types import SimpleNamespace

import pandas as pd
import pytest

from bnrepro.comparison import run as run_module
from scripts import pendulum, plan
from tests.commands import ROOT
from tests.pages import LINKS, run_code, run_notebook
from tests.small_dataset import small_dataset

PAGES = sorted((ROOT / "docs").glob("*.md"))
run_code = functools.cache(run_code)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_on_a_page_runs(page):
    run_code(page)


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name
)
def test_every_file_that_a_page_links_to_is_there(page):
    for link in LINKS.findall(page.read_text()):
        assert (page.parent / link).exists(), link


def test_the_tour_runs_and_draws_as_rows_come(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(run_module, "load_dataset", lambda *_, **__: small_dataset())
    drawn = []

    def display(figure, display_id=False):
        return SimpleNamespace(update=drawn.append)

    few = {"steps = 2_000": "steps = 10", "%matplotlib inline": ""}
    get = "config = small_batch.get_config().to_dict()"
    few[get] = f"{get}; config['model']['hidden'] = (4,)"
    scope = run_notebook(ROOT / "docs" / "tour.ipynb", few, {"display": display})
    assert len(drawn) >= 2
    assert set(scope["run"].metrics["variant"]) == {"batch_norm 2", "batch_renorm 2"}
    # The test by hand is that of the ledger.
    row = scope["ledger"][scope["row"]]
    assert scope["difference"].mean() == pytest.approx(row["mean"].item())
    assert scope["test"].pvalue == pytest.approx(row["p_value"].item())
    assert scope["adjusted"].to_list() == pytest.approx(
        scope["ledger"]["p_holm"].to_list(), nan_ok=True
    )


def test_the_adapter_shown_for_sbx_is_the_one_that_was_measured():
    shown = run_code(ROOT / "docs" / "reinforcement-learning.md")["batch_renorm"]
    arguments = {"use_running_average": False, "momentum": 0.9, "warmup_steps": 7}
    shown, measured = shown(**arguments), pendulum.batch_renorm(**arguments)
    assert (shown.momentum, shown.epsilon) == (measured.momentum, measured.epsilon) == (0.9, 0.001)
    for count, limits in ((6, (1, 0)), (7, (3, 5))):
        for layer in (shown, measured):
            assert (layer.r_max(count), layer.d_max(count)) == limits


@pytest.mark.parametrize(
    ("page", "result"),
    [
        ("reinforcement-learning", "reinforcement_learning/pendulum"),
        *(
            ("performance", f"benchmarks/{name}{jax}")
            for name in ("layers", "train")
            for jax in ("", "_jax_0.12")
        ),
    ],
)
def test_the_tables_on_a_page_are_those_of_the_result(page, result):
    shown = (ROOT / "docs" / f"{page}.md").read_text()
    parts = (ROOT / "results" / f"{result}.md").read_text().split("\n\n")
    tables = [part for part in parts if part.startswith("|")]
    assert tables and all(table in shown for table in tables)


@pytest.mark.parametrize(
    "name",
    [
        *("labels_and_depth", "inception", "inception_chips", "inception_iid"),
        *("settings", "settings_synchronized"),
    ],
)
def test_the_tables_of_scale_are_those_of_the_results(name):
    records = pd.read_csv(ROOT / "results" / "scale" / f"{name}.csv")
    table, caption = plan.report(records)
    page = (ROOT / "docs" / "scale.md").read_text()
    if several := table.index.nlevels > 1:
        table = table.reset_index()
    assert table.to_markdown(index=not several, disable_numparse=True) in page
    assert caption in " ".join(page.split())


def test_the_costs_of_configs_are_those_of_their_results():
    lines = (ROOT / "docs" / "experiments.md").read_text().splitlines()
    for line in (line for line in lines if line.startswith("| `configs/")):
        minutes = []
        for folder in re.findall(r"\.\./(results/\w+)/summary\.md", line):
            provenance = json.loads((ROOT / folder / "provenance.json").read_text())
            minutes.append(sum(provenance["seconds"].values()) / 60)
        costs = ", ".join(f"{m:,.0f}" if m >= 1 else f"{m:.1f}" for m in minutes)
        assert line.endswith(f"| {costs} |"), line
