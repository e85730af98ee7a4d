"""The ledger: what was measured of each claim, and the verdict that follows."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from bnrepro.claims.claim import Claim, Measurement
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

    P-values are adjusted by Holm's method over all rows that are measured with an error; what is
    computed exactly is no test.

    Args:
      claims: those of the ledger.
      evidence: by id, one for each measurement.
      registered: by id.
    """
    pairs = [
        (claim, measurement, found)
        for claim in claims
        for measurement, found in zip(claim.measurements, evidence[claim.id], strict=True)
    ]
    p_values = [measurement.rule.p_value(found.estimate) for _, measurement, found in pairs]
    sampled = [bool(measurement.comparison) or p > 0 for (_, measurement, _), p in zip(pairs, p_values, strict=True)]
    adjusted = holm([p if tested else math.nan for p, tested in zip(p_values, sampled, strict=True)])
    rows = []
    for (claim, measurement, found), p_value, tested, p_holm in zip(
        pairs, p_values, sampled, adjusted, strict=True
    ):
        estimate, rule = found.estimate, measurement.rule
        rows.append(
            {
                "claim": claim.id,
                "measurement": measurement.what,
                "comparison": measurement.comparison,
                "mean": estimate.mean,
                "ci95_low": estimate.ci95_low,
                "ci95_high": estimate.ci95_high,
                "n": estimate.n,
                "low": rule.low,
                "high": rule.high,
                "p_value": p_value if tested else math.nan,
                "p_holm": p_holm,
                "verdict": str(rule.verdict(estimate, p_holm if tested else p_value)),
                "core_minutes": found.core_minutes,
                "fingerprint": registered[claim.id].fingerprint,
                "registered": registered[claim.id].commit,
                "commit": found.commit,
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def combined(verdicts: Iterable[str]) -> Verdict:
    """A claim's verdict from those of its measurements: all must hold, and one failure is enough."""
    found = set(verdicts)
    if Verdict.DOES_NOT_HOLD in found:
        return Verdict.DOES_NOT_HOLD
    return Verdict.HOLDS if found == {Verdict.HOLDS} else Verdict.NOT_SETTLED


def claims_table(claims: Sequence[Claim], ledger: pd.DataFrame) -> pd.DataFrame:
    """The ledger as a person reads it: one row a claim, a line in its cells for each measurement."""
    rows = {}
    for claim in claims:
        lines = ledger[ledger["claim"] == claim.id].to_dict("records")
        # Measurements of one comparison share its cost.
        costs = {line["comparison"] or i: line["core_minutes"] for i, line in enumerate(lines)}
        rows[claim.id] = {
            "statement": claim.statement,
            "source": ", ".join(dict.fromkeys(quote.document for quote in claim.quotes)),
            "papers": claim.papers or "–",
            "measured": "\n".join(map(_measured, claim.measurements, lines)),
            "p (Holm)": "\n".join(_p_cell(line["p_holm"], line["n"]) for line in lines),
            "verdict": str(combined(line["verdict"] for line in lines)),
            "core-min": f"{sum(costs.values()):.1f}",
            "registered, run": " ".join(
                dict.fromkeys(
                    str(line[key])[:7] or "not registered"
                    for line in lines
                    for key in ("registered", "commit")
                )
            ),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("id")


def caption(ledger: pd.DataFrame, dataset: str, fast: bool) -> str:
    """What the numbers of the table are, and what to beware of."""
    tests = int(ledger["p_holm"].notna().sum())
    comparisons = ledger.drop_duplicates("comparison") if len(ledger) else ledger
    trained = comparisons[comparisons["comparison"] != ""]["core_minutes"].sum()
    exact = ledger[ledger["comparison"] == ""]["core_minutes"].sum()
    notes = [
        f"Measured on {dataset}: means over n seeds with 95% confidence intervals (Student's t)",
        "after the arrow, the bounds within which a measurement agrees with its claim",
        f"p-values adjusted by Holm's method over the {tests} tests of this ledger; exact: computed "
        "without sampling error, no test",
        "a claim holds if all of its measurements do, and does not hold here if one fails",
        f"{trained + exact:.1f} core-minutes in all; claims that read the same comparison share its "
        "cost",
    ]
    text = "; ".join(notes) + "."
    return f"FAST: shorter runs of fewer seeds. {text}" if fast else text


def _measured(measurement: Measurement, line: Mapping[str, float]) -> str:
    """For example "difference, points: 0.25 [0.11, 0.39], n = 10 → above 0: holds"."""
    if line["n"] == 0:
        number = "not measured"
    else:
        interval = "" if line["ci95_low"] == line["ci95_high"] else (
            f" [{line['ci95_low']:.3g}, {line['ci95_high']:.3g}]"
        )
        number = f"{line['mean']:.3g}{interval}, n = {line['n']}"
    return f"{measurement.what}: {number} → {rule_text(measurement.rule)}: {line['verdict']}"


def rule_text(rule: Rule) -> str:
    """A rule in words, as in "above 0.5"."""
    if math.isinf(rule.high):
        return f"above {rule.low:g}"
    if math.isinf(rule.low):
        return f"below {rule.high:g}"
    return f"{rule.low:g} to {rule.high:g}"


def _p_cell(p_value: float, n: int) -> str:
    if math.isnan(p_value):
        return "exact" if n else "–"
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"
