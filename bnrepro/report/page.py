"""A web page of claims and comparisons: one file, which needs no network and no server."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from types import MappingProxyType
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from bnrepro.records import Run, parts_of, repeating_command
from bnrepro.report.entries import setting_text
from bnrepro.report.figures import Picture, inline_svg, measurement_figure
from bnrepro.report.report import Report
from bnrepro.report.statistics import estimate

# Identifies our pages.
GENERATOR = Markup('<meta name="generator" content="bnrepro.report">')


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
    """A comparison: its report, the figures drawn, and how and where it was made."""

    id: str
    title: str
    report: Report
    drawings: Sequence[Drawing]
    command: str
    environment: str

    @classmethod
    def of(cls, run: Run, report: Report, id: str, title: str) -> "Section":
        """The section of a run, with the figures drawn."""
        drawings = [Drawing.of(one, f"{id}f{i}") for i, one in enumerate(report.pictures)]
        command, where = repeating_command(run.provenance), _environment(run.provenance)
        return cls(id, setting_text(title), report, drawings, command, where)


def render(
    comparisons: Sequence[Section],
    documents: Mapping[str, str],
    claims: Sequence[Any] = (),
    caption: str = "",
    drawings: Mapping[str, Sequence[Drawing]] = MappingProxyType({}),
    records: Mapping[str, str] = MappingProxyType({}),
    commands: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The page as HTML. Text from records is escaped, and only the page's own script runs.

    Args:
      comparisons: in the order of the page.
      documents: that the claims quote, by their short names.
      claims: those of the ledger, as `bnrepro.claims.ledger.Judged`; empty if there is none.
      caption: of the ledger.
      drawings: the figures of each claim, by its id.
      records: the id of the section of each comparison that claims read, by its workdir.
      commands: that measure each claim again, by its id.
    """
    templates = files("bnrepro.report") / "templates"
    script = (templates / "page.js").read_text(encoding="utf-8")
    environments: dict[str, list[Section]] = {}
    for section in comparisons:
        environments.setdefault(section.environment, []).append(section)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((templates / "page.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        generator=GENERATOR,
        script=Markup(script),
        style=Markup((templates / "page.css").read_text(encoding="utf-8")),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        comparisons=comparisons,
        documents=documents,
        claims=claims,
        caption=caption,
        drawings=drawings,
        records=records,
        commands=commands,
        measurement=_measurement,
        verdicts=list(dict.fromkeys(claim.verdict for claim in claims)),
        environments=environments,
    )


def _measurement(line: Mapping[str, Any], name: str) -> Drawing | None:
    """The seeds of a row of the ledger with its rule, if it has several."""
    sample = estimate([float(value) for value in line["values"].split()])
    if sample.n < 2:
        return None
    return Drawing.of(measurement_figure(sample, line["low"], line["high"]), name)


def _environment(origin: Mapping[str, Any]) -> str:
    """The commits, data set, machine and versions of a provenance, in words."""
    machine = origin.get("machine", {})
    parts = parts_of(origin)
    commits = dict.fromkeys(str(part.get("commit", "unknown"))[:7] for part in parts)
    commit = f"Commit{'s' * (len(commits) > 1)} {', '.join(commits)}"
    commit += ", uncommitted changes" * any(part.get("uncommitted_changes") for part in parts)
    devices = " ".join(machine.get("devices", ()))
    hardware = machine.get("processor"), f"{machine.get('cores')} cores", devices
    where = ", ".join(str(part) for part in hardware if part)
    versions = ", ".join(f"{name} {one}" for name, one in origin.get("versions", {}).items())
    return f"{commit}, {origin['dataset']}; {where}; {versions}"
