"""Makes a web page of results: the ledger of claims, and each comparison.

Reads all workdirs and the ledger of scripts.claims under a folder, finished or not, and writes one
file, index.html, which needs no network. For example:
python -m scripts.report --runs=runs --output=runs/report

Exit codes: 0 done; 2 a usage error, reported in one sentence.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnrepro.errors import UserError
from experiments import cli
from scripts import make_parser

if TYPE_CHECKING:
    from bnrepro.claims.claim import Claim
    from bnrepro.records import Run
    from bnrepro.report.page import ClaimSection, Drawing, Section
    from bnrepro.report.report import Report

PAGE = "index.html"
# Drivers with their own report; the others use that of experiments.train.
DRIVERS = ("mnist_sigmoid", "small_batch", "non_iid", "labels_and_depth", "inception")


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the page; see the module's docstring for exit codes."""
    options = _parser().parse_args(arguments)
    output = options.output or options.runs / "report"

    # Imported only now, so that --help need not wait for pandas.
    from bnrepro.claims.claim import DOCUMENTS
    from bnrepro.records import complete_file
    from bnrepro.report.page import render

    try:
        _check_output(output)
        workdirs, ledgers = _find(options.runs, output)
        sections = _sections(workdirs, options.runs, options.skip_bad)
        if not sections and not ledgers:
            raise UserError(f"no workdir was found in {options.runs}")
        claims, about = _ledger(ledgers, workdirs, sections, options.skip_bad)
        page = render(claims, about, list(sections.values()), DOCUMENTS)
        with complete_file(output / PAGE) as path:
            path.write_text(page, encoding="utf-8")
    except UserError as error:
        cli.fail(error)
    print(f"The page is {output / PAGE}.")


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("report", __doc__)
    add = parser.add_argument
    text = "folder with workdirs, at any depth (default: %(default)s)"
    add("--runs", type=Path, default=Path("runs"), help=text)
    text = "folder of the page (default: the folder report in --runs)"
    add("--output", type=Path, help=text)
    add("--skip-bad", action="store_true", help="skip workdirs and ledgers that cannot be read")
    return parser


def _check_output(output: Path) -> None:
    """Makes sure that only an earlier page is overwritten."""
    from bnrepro.report.page import GENERATOR

    try:
        others = sorted(path.name for path in output.iterdir()) if output.exists() else []
        page = output / PAGE
        ours = page.exists() and GENERATOR in page.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error.strerror}") from error
    if others and not ours:
        raise UserError(
            f"{output} holds something other than our page ({others[0]}); choose another --output"
        )


def _find(runs: Path, output: Path) -> tuple[list[Path], list[Path]]:
    """The workdirs in a folder at any depth, and the folders that hold a ledger."""
    from bnrepro.claims.ledger import LEDGER
    from bnrepro.records import CONFIG

    if not runs.is_dir():
        raise UserError(f"there is no folder {runs}")
    workdirs, ledgers = [], []
    for name, folders, names in os.walk(runs):
        folder = Path(name)
        if CONFIG in names:
            workdirs.append(folder)
            folders.clear()
        if LEDGER in names:
            ledgers.append(folder)
        folders[:] = sorted(one for one in folders if folder / one != output)
    return workdirs, ledgers


def _sections(workdirs: Sequence[Path], runs: Path, skip_bad: bool) -> "dict[Path, Section]":
    """A section for each workdir in which accuracy was measured."""
    sections: dict[Path, Section] = {}
    for workdir in workdirs:
        title = workdir.relative_to(runs).as_posix() if workdir != runs else workdir.name
        with _left_out(skip_bad):
            section = _section(workdir, f"c{len(sections)}", title)
            if section is not None:
                sections[workdir] = section
    return sections


@contextmanager
def _left_out(skip_bad: bool) -> Iterator[None]:
    """Names records that cannot be read, and goes on, if these are to be skipped."""
    try:
        yield
    except UserError as error:
        if not skip_bad:
            raise
        print(f"left out: {error}", file=sys.stderr)


def _section(workdir: Path, id: str, title: str) -> "Section | None":
    """The section of a workdir, if accuracy was measured in it.

    Raises:
      UserError: no report can be made of its records.
    """
    from bnrepro.records import read_run
    from bnrepro.report.page import Section

    run = read_run(workdir)
    if "accuracy" not in set(run.metrics["metric"]):
        return None
    with _made_of(workdir):
        return Section.of(run, report_of(run), id, title)


@contextmanager
def _made_of(workdir: Path) -> Iterator[None]:
    """Names records that lack something, as other people's may."""
    try:
        yield
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"no report can be made of {workdir}: {reason}") from error


def report_of(run: "Run") -> "Report":
    """The report of the driver that a run's command names."""
    if "sweep" in run.config:
        name = "scripts.sweep"
    else:
        words = str(run.provenance.get("command", "")).split()
        driver = next((one for one in DRIVERS if f"experiments.{one}" in words), "train")
        name = f"experiments.{driver}"
    made: Report = importlib.import_module(name).report(run)
    return made


def _ledger(
    folders: Sequence[Path],
    workdirs: Sequence[Path],
    sections: "Mapping[Path, Section]",
    skip_bad: bool,
) -> "tuple[list[ClaimSection], str]":
    """The sections of a ledger's claims, and its caption; uses the most complete of several.

    A full ledger is preferred to a fast one. Without any, there is nothing to say.
    """
    from bnrepro.claims import CLAIMS
    from bnrepro.claims.ledger import LEDGER, caption, read_ledger

    found = {}
    for folder in folders:
        with _left_out(skip_bad):
            found[folder] = read_ledger(folder / LEDGER, CLAIMS)
    if not found:
        return [], ""
    folder = max(found, key=lambda one: ((found[one]["length"] == "full").all(), len(found[one])))
    for other in found.keys() - {folder}:
        print(f"left out: the ledger in {other}; the one in {folder} is used", file=sys.stderr)
    ledger = found[folder]
    ids = {path.name: section.id for path, section in sections.items() if path.parent == folder}
    lines: Any = ledger.to_dict("records")
    chosen = [claim for claim in CLAIMS.values() if claim.id in set(ledger["claim"])]
    drawings = _drawings(chosen, [path for path in workdirs if path.parent == folder], skip_bad)
    claims = [
        _claim(claim, [row for row in lines if row["claim"] == claim.id], ids, drawings[claim.id])
        for claim in chosen
    ]
    return claims, caption(ledger)


def _drawings(
    claims: "Sequence[Claim]", workdirs: Sequence[Path], skip_bad: bool
) -> "dict[str, list[Drawing]]":
    """The figures of each claim whose records are among these."""
    from bnrepro.records import read_run
    from bnrepro.report.page import Drawing

    found: dict[str, list[Drawing]] = {claim.id: [] for claim in claims}
    places = {workdir.name: workdir for workdir in workdirs}
    read = cache(read_run)
    for claim in claims:
        for i, one in enumerate(claim.figures):
            if one.comparison in places:
                place = places[one.comparison]
                with _left_out(skip_bad), _made_of(place):
                    drawing = Drawing.of(one.picture(read(place)), f"{claim.id}f{i}")
                    found[claim.id].append(drawing)
    return found


def _claim(
    claim: "Claim",
    lines: list[dict[str, Any]],
    sections: Mapping[str, str],
    drawings: "Sequence[Drawing]",
) -> "ClaimSection":
    """The section of a claim, from its rows in the ledger."""
    from bnrepro.claims.ledger import combined, cost, diverged, reading
    from bnrepro.report.figures import measurement_figure
    from bnrepro.report.page import ClaimSection, Drawing, Measured
    from bnrepro.report.statistics import estimate

    declared = {one.what: one for one in claim.measurements}
    measured = []
    for i, line in enumerate(lines):
        sample = [float(value) for value in line["values"].split()]
        drawing = None
        if len(sample) > 1:
            picture = measurement_figure(estimate(sample), line["low"], line["high"])
            drawing = Drawing.of(picture, f"{claim.id}m{i}")
        read = reading(line)
        measured.append(
            Measured(
                what=line["measurement"],
                number=read.number,
                rule=read.rule,
                reason=declared[line["measurement"]].reason,
                test=read.test,
                verdict=read.verdict,
                comparison=sections.get(line["comparison"], ""),
                drawing=drawing,
            )
        )
    fast = " --fast" * (lines[0]["length"] == "fast")
    commits = ", ".join(sorted({line["commit"][:7] for line in lines} - {""}))
    return ClaimSection(
        id=claim.id,
        statement=claim.statement,
        sources=claim.sources,
        quotes=claim.quotes,
        reading=claim.reading,
        looked_into=claim.looked_into,
        papers=claim.papers,
        measured=measured,
        drawings=drawings,
        diverged=diverged(lines),
        verdict=str(combined(one.verdict for one in measured)),
        core_minutes=cost(lines),
        command=f"python -m scripts.claims --only={claim.id}{fast}",
        commits=f"registered {lines[0]['registered'][:7] or 'nowhere'}, run at {commits}",
    )


if __name__ == "__main__":
    main()
