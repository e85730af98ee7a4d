"""The ledger: what was measured of each claim, and the verdict that follows."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from bnrepro.claims.claim import Claim
from bnrepro.report.statistics import Estimate, Rule, Verdict, holm

COLUMNS = (
    "claim", "measurement", "comparison", "mean", "ci95_low", "ci95_high", "n", "low", "high",
    "p_value", "p_holm", "verdict", "core_minutes", "fingerprint", "registered", "commit",
)  # fmt: skip


class Evidence(NamedTuple):
    """What a measurement gave.

    Attributes:
      estimate: the number.
      core_minutes: that its comparison, or its computation, took on one core.
      commit: that it was run at.
    """

    estimate: Estimate
    core_minutes: float
    commit: str


class Registered(NamedTuple):
    """A claim's fingerprint, and the commit that registered it ("" if none did)."""

    fingerprint: str
    commit: str


def make_ledger(
    claims: Sequence[Claim],
    evidence: Mapping[str, Sequence[Evidence]],
    registered: Mapping[str, Registered],
) -> pd.DataFrame:
    """One row a measurement, with the columns `COLUMNS`.

    P-values are adjusted by Holm's method over all measurements that have a sampling error. What is
    computed exactly is no test: it has no p-value, and its verdict is certain.

    Args:
      claims: those of the ledger.
      evidence: by id, one for each measurement.
      registered: by id.
    """
    rows: list[dict[str, Any]] = []
    for claim in claims:
        for measurement, found in zip(claim.measurements, evidence[claim.id], strict=True):
            estimate, rule = found.estimate, measurement.rule
            exact = not measurement.comparison and estimate.standard_error == 0
            row = {
                "claim": claim.id,
                "measurement": measurement.what,
                "comparison": measurement.comparison,
                "mean": estimate.mean,
                "ci95_low": estimate.ci95_low,
                "ci95_high": estimate.ci95_high,
                "n": estimate.n,
                "low": rule.low,
                "high": rule.high,
                "p_value": math.nan if exact else rule.p_value(estimate),
                "core_minutes": found.core_minutes,
                **registered[claim.id]._asdict(),
            }
            row["registered"] = row.pop("commit")
            rows.append(row | {"commit": found.commit, "rule": rule, "estimate": estimate})
    ledger = pd.DataFrame(rows)
    ledger["p_holm"] = holm(ledger["p_value"].to_list())
    # An exact one is beyond doubt; one with too few values for a test is not settled.
    certain = ledger["p_value"].isna() & (ledger["comparison"] == "")
    doubts = ledger["p_holm"].mask(certain, 0.0)
    ledger["verdict"] = [
        str(rule.verdict(estimate, p_value))
        for rule, estimate, p_value in zip(ledger["rule"], ledger["estimate"], doubts, strict=True)
    ]
    return ledger[list(COLUMNS)]


def combined(verdicts: Iterable[str]) -> Verdict:
    """A claim's verdict: all of its measurements must hold, and one that does not is enough."""
    found = set(verdicts)
    if Verdict.DOES_NOT_HOLD in found:
        return Verdict.DOES_NOT_HOLD
    return Verdict.HOLDS if found == {Verdict.HOLDS} else Verdict.NOT_SETTLED


def claims_table(claims: Sequence[Claim], ledger: pd.DataFrame) -> pd.DataFrame:
    """The ledger as a person reads it: one row a claim, with a line for each measurement."""
    rows = {}
    for claim in claims:
        lines: Any = ledger[ledger["claim"] == claim.id].to_dict("records")
        # Measurements of one comparison share its cost.
        costs = {line["comparison"] or i: line["core_minutes"] for i, line in enumerate(lines)}
        commits = {line["commit"][:7] for line in lines}
        registered = str(lines[0]["registered"])[:7] or "not registered"
        rows[claim.id] = {
            "statement": claim.statement,
            "source": ", ".join(dict.fromkeys(quote.document for quote in claim.quotes)),
            "papers": claim.papers or "–",
            "measured": "\n".join(map(_line, lines)),
            "verdict": str(combined(line["verdict"] for line in lines)),
            "core-minutes": f"{sum(costs.values()):.1f}",
            "registered, run": f"{registered}, {' '.join(sorted(commits))}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("id")


def caption(ledger: pd.DataFrame, dataset: str, *, fast: bool) -> str:
    """What the numbers of the table are, and what to beware of."""
    trained = ledger["comparison"] != ""
    minutes = ledger[trained].drop_duplicates("comparison")["core_minutes"].sum()
    minutes += ledger.loc[~trained, "core_minutes"].sum()
    notes = [
        f"Measured on {dataset}: means over n seeds with 95% confidence intervals (Student's t)",
        "then what the claim says of the mean, and the p-value adjusted by Holm's method over the "
        f"{ledger['p_holm'].notna().sum()} tests of this ledger; exact: computed without sampling "
        "error, no test",
        "a claim holds if all of its measurements do, and does not hold here if one does not",
        f"{minutes:.1f} core-minutes in all, which claims that read the same comparison share",
    ]
    text = "; ".join(notes) + "."
    return f"FAST: shorter runs of fewer seeds. {text}" if fast else text


def rule_text(rule: Rule) -> str:
    """A rule in words, as in "above 0.5"."""
    if math.isinf(rule.high):
        return f"above {rule.low:g}"
    if math.isinf(rule.low):
        return f"below {rule.high:g}"
    return f"between {rule.low:g} and {rule.high:g}"


def _line(line: Mapping[str, Any]) -> str:
    """As in "difference, points: 0.25 [0.11, 0.39], n = 10; above 0, p < 0.001: holds"."""
    number = "not measured"
    if line["n"]:
        number = f"{line['mean']:.3g}"
        if line["ci95_low"] < line["ci95_high"]:
            number += f" [{line['ci95_low']:.3g}, {line['ci95_high']:.3g}]"
        number += f", n = {line['n']}"
    p_value = line["p_holm"]
    test = f"p = {p_value:.3f}" if p_value >= 0.001 else "p < 0.001"
    if math.isnan(p_value):
        test = "no test" if line["comparison"] else "exact"
    rule = rule_text(Rule(line["low"], line["high"]))
    return f"{line['measurement']}: {number}; {rule}, {test}: {line['verdict']}"
