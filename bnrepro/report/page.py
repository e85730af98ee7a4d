"""A web page of claims and comparisons: one file, which needs no network and no server."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from bnrepro.records import Run, repeating_command
from bnrepro.report.entries import setting_text
from bnrepro.report.figures import Picture, inline_svg
from bnrepro.report.report import Report
from bnrepro.report.tables import Cell

# Identifies our pages.
GENERATOR = "bnrepro.report"


class Drawing(NamedTuple):
    """A figure of the page: what it shows in words, and the SVG."""

    alt: str
    svg: Markup

    @classmethod
    def of(cls, picture: Picture, name: str) -> "Drawing":
        """The picture, drawn; `name`, of letters and digits, is unique on the page."""
        # Matplotlib escapes the text in a figure.
        return cls(picture.alt, Markup(inline_svg(picture, name)))


class Section(NamedTuple):
    """A comparison: its table and caption, its figures, and how to repeat it."""

    id: str
    title: str
    table: pd.DataFrame
    caption: str
    drawings: Sequence[Drawing]
    command: str
    environment: dict[str, str]

    @property
    def rows(self) -> list[tuple[Any, Sequence[Any]]]:
        """Labels and cells of the table, with their types, which pandas' iterrows would lose."""
        return list(zip(self.table.index, self.table.to_numpy(object).tolist(), strict=True))

    @classmethod
    def of(cls, run: Run, report: Report, id: str, title: str) -> "Section":
        """The section of a run, with the figures drawn."""
        drawings = [Drawing.of(one, f"{id}f{i}") for i, one in enumerate(report.pictures)]
        command, where = repeating_command(run.provenance), _environment(run.provenance)
        title = setting_text(title)
        return cls(id, title, report.table, report.caption, drawings, command, where)


class Reading(NamedTuple):
    """A measured number for a reader.

    Attributes:
      number: as in "0.25 [0.11, 0.39], n = 10".
      rule: what the claim says about it, as in "above 0".
      test: as in "p < 0.001"; the p-value is adjusted.
      verdict: of this measurement alone.
    """

    number: Cell
    rule: str
    test: str
    verdict: str


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
    """A claim with its verdict, what was measured, and how to repeat it.

    Attributes:
      claim: a `bnrepro.claims.Claim`.
      measured: its measurements.
      drawings: the figures of their effect.
      diverged: a sentence for each comparison in which runs did.
      verdict: as the page filters by.
      core_minutes: what it took to measure.
      command: that repeats it.
      commits: at which it was registered and run, in words.
    """

    claim: Any
    measured: Sequence[Measured]
    drawings: Sequence[Drawing]
    diverged: Sequence[str]
    verdict: str
    core_minutes: float
    command: str
    commits: str


def render(
    claims: Sequence[ClaimSection],
    caption: str,
    comparisons: Sequence[Section],
    documents: Mapping[str, str],
) -> str:
    """The page as HTML. Text from records is escaped, and only the page's own script runs.

    Args:
      claims: those of the ledger; empty if there is none.
      caption: of the ledger.
      comparisons: in the order of the page.
      documents: that the claims quote, by their short names.
    """
    templates = files("bnrepro.report") / "templates"
    script = (templates / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((templates / "page.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        generator=GENERATOR,
        script=Markup(script),
        style=Markup((templates / "page.css").read_text(encoding="utf-8")),
        digest=digest,
        claims=claims,
        caption=caption,
        comparisons=comparisons,
        documents=documents,
        verdicts=list(dict.fromkeys(claim.verdict for claim in claims)),
        environments=_environments(comparisons),
    )


def _environment(origin: Mapping[str, Any]) -> dict[str, str]:
    """The commit, data set, versions and machine of a provenance."""
    machine = origin.get("machine", {})
    commit = str(origin.get("commit", "unknown"))[:7]
    commit += ", uncommitted changes" * bool(origin.get("uncommitted_changes"))
    devices = " ".join(machine.get("devices", ()))
    parts = machine.get("processor"), f"{machine.get('cores')} cores", devices
    versions = origin.get("versions", {}).items()
    return {
        "commit": commit,
        "dataset": origin["dataset"],
        "versions": ", ".join(f"{name} {version}" for name, version in versions),
        "machine": ", ".join(str(part) for part in parts if part),
    }


def _environments(comparisons: Sequence[Section]) -> list[dict[str, Any]]:
    """The environments of the comparisons, each with its comparisons."""
    found: dict[str, dict[str, Any]] = {}
    for section in comparisons:
        where = section.environment
        found.setdefault(str(where), where | {"sections": []})["sections"].append(section)
    return list(found.values())
