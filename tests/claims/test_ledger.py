"""Verdicts and the ledger, on made-up measurements."""

import math
from pathlib import Path

import pytest

from bnrepro.claims.claim import Claim, Measurement, Quote
from bnrepro.claims.ledger import (
    Evidence,
    by_claim,
    caption,
    claims_table,
    combined,
    judged,
    rows_of,
)
from bnrepro.report.statistics import Estimate, Rule, estimate


def claim(name, *measurements):
    return Claim(name, "It is so.", (Quote("D0", "", "so it is"),), "As said.", measurements)


def measurement(rule, comparison="some"):
    return Measurement("number", rule, "a reason", estimate, comparison)


def ledger_of(claims, estimates, diverged=""):
    rows = []
    for one in claims:
        evidence = [Evidence(found, 1.5, "abc", diverged, "") for found in estimates[one.id]]
        rows += rows_of(one, evidence, "f00", "def", "full")
    return judged(rows)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (("holds", "holds"), "holds"),
        (("holds", "not settled"), "not settled"),
        (("not settled", "does not hold here"), "does not hold here"),
    ],
)
def test_a_claim_holds_if_all_measurements_do_and_fails_if_one_does(verdicts, expected):
    assert combined(verdicts) == expected


def test_p_values_are_adjusted_over_all_that_is_sampled_and_decide_the_verdicts():
    sure, unsure = estimate([1.0, 1.1, 0.9, 1.0]), estimate([1.0, 0.1, 0.4, 0.8])
    exact = Estimate(2.0, 2.0, 2.0, n=3, standard_error=0, df=3)
    claims = [
        claim("A1", measurement(Rule(high=1), comparison="")),
        claim("B1", measurement(Rule(low=0)), measurement(Rule(high=0))),
        claim("B2", measurement(Rule(low=0))),
    ]
    estimates = {"A1": [exact], "B1": [sure, sure], "B2": [unsure]}
    ledger = ledger_of(claims, estimates)
    # Of three tests; the exact one is none.
    assert ledger["p_holm"].tolist() == pytest.approx(
        [math.nan, 3 * sure.p_value(), 3 * sure.p_value(), unsure.p_value()], nan_ok=True
    )
    assert ledger["verdict"].tolist() == [
        "does not hold here",
        "holds",
        "does not hold here",
        "holds" if unsure.p_value() < 0.05 else "not settled",
    ]


def test_claims_that_read_one_comparison_share_its_cost_and_name_once_what_diverged():
    claims = [claim("B1", *[measurement(Rule(low=0))] * 2), claim("B2", measurement(Rule(low=0)))]
    found = estimate([1.0, 1.1, 0.9])
    ledger = ledger_of(claims, {"B1": [found] * 2, "B2": [found]}, diverged="plain 2 of 3")
    table = claims_table(claims, ledger)
    assert table["core-minutes"].tolist() == ["1.5", "1.5"]
    assert "1.5 core-minutes in all" in caption(claims, ledger)
    # By scipy's ttest_1samp, p is 0.00332: times 3.
    number = "number: 1 [0.752, 1.25], n = 3; above 0, p = 0.00995: holds"
    diverged = "diverged, and counted as failures: plain 2 of 3"
    assert table.loc["B1", "measured"].splitlines() == [number, number, diverged]
    ledger = ledger_of(claims, {"B1": [estimate([])] * 2, "B2": [found]}, diverged="plain 2 of 3")
    _, _, diverged = claims_table(claims, ledger).loc["B1", "measured"].splitlines()
    assert diverged == "diverged, so that it has no value: plain 2 of 3"


def test_what_read_other_records_is_repeated_with_them_and_shows_all_commits():
    one = claim("B1", measurement(Rule(low=0)), measurement(Rule(low=0), "other"))
    first, then = "1234567" * 5, "abcdef1" * 5
    read = {"some": first, "../run": f"{then}, {first}, uncommitted changes"}
    evidence = [
        Evidence(estimate([1.0, 1.1, 0.9]), 1.5, commit, "", workdir)
        for workdir, commit in read.items()
    ]
    rows = rows_of(one, evidence, "f00", "def", "fast")
    (shown,) = by_claim([one], judged(rows))
    command = "python -m scripts.claims --only=B1 --fast --records=other=runs/run"
    assert shown.command(Path("runs", "claims")) == command
    assert shown.commits == "1234567, abcdef1, uncommitted changes"
