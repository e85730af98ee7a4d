import numpy as np
import pytest

from scripts import conformance
from scripts.conformance_peers import IMPLEMENTATIONS, Implementation
from tests.commands import refusal
from tests.layers import golden, reference

pytestmark = pytest.mark.numbers

BY_NAME = {implementation.name: implementation for implementation in IMPLEMENTATIONS}
OURS = [implementation for implementation in IMPLEMENTATIONS if implementation.package == "bnrepro"]
CELLS = [
    (implementation, case)
    for implementation in OURS
    for case in conformance.CASES
    if implementation.renorm or not case.about_renorm
]


@pytest.mark.parametrize(
    ("implementation", "case"), CELLS, ids=[f"{row.name}-{case.name}" for row, case in CELLS]
)
def test_our_layers_are_exact_in_every_case(implementation, case):
    assert case.supported(implementation)
    result = conformance.measure(implementation, case)
    assert result.papers == 0


@pytest.mark.parametrize(("data", "clipped"), [("inside", False), ("limits", True)])
def test_r_and_d_are_where_their_cases_say(data, clipped):
    mu, sigma = np.zeros(3), np.ones(3)
    r, d = [], []
    for x in golden.INPUTS[data][0]:
        step = reference.batch_renorm(x, mu, sigma, np.inf, np.inf, epsilon=1e-3, momentum=0.9)
        mu, sigma = step.mu, step.sigma
        r.append(step.r)
        d.append(step.d)
    assert (np.maximum(r, 1 / np.array(r)) > golden.R_MAX).all() == clipped
    assert (np.maximum(r, 1 / np.array(r)) > golden.R_MAX).any() == clipped
    assert (np.abs(d) > golden.D_MAX).all() == clipped
    assert (np.abs(d) > golden.D_MAX).any() == clipped


def test_a_deviation_has_a_size_and_a_note():
    rows, notes = conformance.compare([BY_NAME["flax.linen.BatchNorm"]])
    cells = rows["flax.linen.BatchNorm"]
    assert cells["constant channel"] == "exact"
    assert float(cells["mean 1e4, deviation 1"].removesuffix(" [1]")) > 1
    assert len(notes) == 1


def test_a_deviation_that_nothing_explains_is_told():
    unknown = BY_NAME["flax.linen.BatchNorm"]._replace(name="unknown")
    rows, notes = conformance.compare([unknown])
    assert rows["unknown"]["mean 1e4, deviation 1"].endswith(" unexplained")
    assert not notes


def test_an_explanation_is_looked_for_on_both_sides_of_the_slash():
    result = conformance.Result(0.5, 0.25)
    assert str(result) == "5.0e-01 / 2.5e-01"
    assert len(result.explanations("sbx BatchRenorm", "tiny")) == 2
    assert result.explanations("sbx BatchRenorm", "mask") is None  # by design alone
    assert result.explanations("flax.linen.BatchNorm", "offset") is None  # none of it by design


def test_what_is_not_installed_is_a_row_that_says_so():
    rows, _ = conformance.compare([Implementation("absent", "no-such-package", lambda _: None)])
    assert set(rows["absent"].values()) == {"not installed", ""}


def test_an_output_that_cannot_be_is_refused_in_a_sentence(tmp_path, capsys):
    said = refusal(capsys, conformance.main, f"--output={tmp_path}")
    assert said == f"cannot write {tmp_path}: it is a folder\n"
