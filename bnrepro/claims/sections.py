"""The claims of a ledger, as sections of the web page."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bnrepro.claims.claim import Claim
from bnrepro.claims.ledger import Reading, combined, cost, diverged, reading
from bnrepro.report.figures import measurement_figure
from bnrepro.report.page import Drawing
from bnrepro.report.statistics import estimate


class Measured(NamedTuple):
    """A measurement of a claim.

    Attributes:
      what: the number in words.
      read: the number, the rule and the verdict, as in the ledger.
      reason: why the rule is what it is.
      comparison: id of the `Section` that the number comes from, "" if that is not on the page.
      drawing: its seeds with the rule, if it has several.
    """

    what: str
    read: Reading
    reason: str
    comparison: str
    drawing: Drawing | None


class ClaimSection(NamedTuple):
    """A claim with its verdict, what was measured, and how to repeat it."""

    claim: Claim
    measured: Sequence[Measured]
    drawings: Sequence[Drawing]
    diverged: Sequence[str]
    verdict: str
    core_minutes: float
    command: str
    commits: str


def claim_section(
    claim: Claim,
    lines: Sequence[Mapping[str, Any]],
    comparisons: Mapping[str, str],
    drawings: Sequence[Drawing],
) -> ClaimSection:
    """The section of a claim.

    Args:
      claim: the declaration.
      lines: its rows in the ledger; at least one.
      comparisons: the id of each comparison's section, by name.
      drawings: the figures of the claim.
    """
    reasons = {one.what: one.reason for one in claim.measurements}
    measured = []
    for i, line in enumerate(lines):
        what, sample = line["measurement"], estimate([float(x) for x in line["values"].split()])
        drawing = None
        if sample.n > 1:
            picture = measurement_figure(sample, line["low"], line["high"])
            drawing = Drawing.of(picture, f"{claim.id}m{i}")
        section = comparisons.get(line["comparison"], "")
        measured.append(Measured(what, reading(line), reasons[what], section, drawing))
    fast = " --fast" * (lines[0]["length"] == "fast")
    commits = ", ".join(sorted({line["commit"][:7] for line in lines} - {""}))
    return ClaimSection(
        claim=claim,
        measured=measured,
        drawings=drawings,
        diverged=diverged(lines),
        verdict=str(combined(line["verdict"] for line in lines)),
        core_minutes=cost(lines),
        command=f"python -m scripts.claims --only={claim.id}{fast}",
        commits=f"registered {lines[0]['registered'][:7] or 'nowhere'}, run at {commits}",
    )
