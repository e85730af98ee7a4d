"""What README says is so."""

import re
from pathlib import Path

import jax
import pytest

from tests.pages import run_code

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_code_in_the_readme_runs():
    scope = run_code(ROOT / "README.md")
    assert scope["y"].shape == (32, 64)
    assert int(jax.tree.leaves(scope["updates"])[0]) == 1  # the count of updates


@pytest.mark.parametrize("name", ["mnist_sigmoid", "small_batch", "non_iid"])
def test_the_tables_in_the_readme_are_those_of_the_results(name):
    assert (ROOT / "results" / name / "summary.md").read_text().strip() in README


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)h][^)]*)\)", README))
def test_every_file_the_readme_shows_or_links_to_is_there(link):
    assert (ROOT / link).exists()
