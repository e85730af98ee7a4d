"""The claims of a ledger, as sections of the web page."""

from collections.abc import Mapping, Sequence
from typing import Any

from bnrepro.claims.claim import Claim
from bnrepro.claims.ledger import combined, commits, cost, diverged, reading
from bnrepro.report.figures import measurement_figure
from bnrepro.report.page import ClaimSection, Drawing, Measured
from bnrepro.report.statistics import estimate


def claim_section(
    claim: Claim,
    lines: Sequence[Mapping[str, Any]],
    comparisons: Mapping[str, str],
    drawings: Sequence[Drawing],
) -> ClaimSection:
    """The section of a claim.

    Args:
      claim: the declaration.
      lines: its rows in the ledger, one for each measurement.
      comparisons: the id of each comparison's section, by name.
      drawings: the figures of the claim.
    """
    measured = []
    for i, (one, line) in enumerate(zip(claim.measurements, lines, strict=True)):
        sample, drawing = estimate([float(x) for x in line["values"].split()]), None
        if sample.n > 1:
            picture = measurement_figure(sample, line["low"], line["high"])
            drawing = Drawing.of(picture, f"{claim.id}m{i}")
        section = comparisons.get(line["comparison"], "")
        measured.append(Measured(one.what, reading(line), one.reason, section, drawing))
    fast = " --fast" * (lines[0]["length"] == "fast")
    registered = lines[0]["registered"][:7]
    text = f"registered {registered}" if registered else "not registered"
    return ClaimSection(
        claim=claim,
        measured=measured,
        drawings=drawings,
        diverged=diverged(lines),
        verdict=str(combined(line["verdict"] for line in lines)),
        core_minutes=cost(lines),
        command=f"python -m scripts.claims --only={claim.id}{fast}",
        commits=f"{text}, run at {commits(lines)}",
    )
