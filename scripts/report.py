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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bnrepro.errors import UserError, exit_codes
from scripts import bad_left_out, make_parser

if TYPE_CHECKING:
    from bnrepro.records import Run
    from bnrepro.report.page import ClaimSection, Section
    from bnrepro.report.report import Report

PAGE = "index.html"
# Drivers with their own report; the others use that of experiments.train.
DRIVERS = ("mnist_sigmoid", "small_batch", "non_iid", "labels_and_depth", "inception")


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the page; see the module's docstring for exit codes."""
    options = _parser().parse_args(arguments)
    output = options.output or options.runs / "report"

    # Here and below, imported only when needed, so that --help need not wait for pandas.
    from bnrepro.claims.claim import DOCUMENTS
    from bnrepro.records import complete_file, read_run
    from bnrepro.report.page import render

    with exit_codes():
        _check_output(output)
        workdirs, ledgers = _find(options.runs)
        runs = {}
        for workdir in workdirs:
            with bad_left_out(workdir, options.skip_bad):
                runs[workdir] = read_run(workdir)
        comparisons = _comparisons(runs, options.runs, options.skip_bad)
        claims, about = _claims(ledgers, runs, comparisons, options.skip_bad)
        if not comparisons and not claims:
            which = "workdir of which a report can be made" if workdirs else "workdir"
            raise UserError(f"no {which} was found in {options.runs}")
        page = render(claims, about, list(comparisons.values()), DOCUMENTS)
        with complete_file(output / PAGE) as path:
            path.write_text(page, encoding="utf-8")
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


def _find(runs: Path) -> tuple[list[Path], list[Path]]:
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
        folders.sort()
    return workdirs, ledgers


def _comparisons(runs: "Mapping[Path, Run]", root: Path, skip_bad: bool) -> "dict[Path, Section]":
    """A section for each run in which accuracy was measured; names the others."""
    from bnrepro.report.page import Section

    sections: dict[Path, Section] = {}
    for workdir, run in runs.items():
        if "accuracy" not in set(run.metrics["metric"]):
            print(f"left out: {workdir} has no accuracy to show", file=sys.stderr)
        else:
            title = workdir.relative_to(root).as_posix() if workdir != root else workdir.name
            with bad_left_out(workdir, skip_bad):
                section = Section.of(run, report_of(run), f"c{len(sections)}", title)
                sections[workdir] = section
    return sections


def report_of(run: "Run") -> "Report":
    """The report of the driver that a run's command names."""
    from bnrepro.records import repeating_command

    if "sweep" in run.config:
        name = "scripts.sweep"
    else:
        words = repeating_command(run.provenance).split()
        driver = next((one for one in DRIVERS if f"experiments.{one}" in words), "train")
        name = f"experiments.{driver}"
    made: Report = importlib.import_module(name).report(run)
    return made


def _claims(
    ledgers: Sequence[Path],
    runs: "Mapping[Path, Run]",
    comparisons: "Mapping[Path, Section]",
    skip_bad: bool,
) -> "tuple[list[ClaimSection], str]":
    """The claims of a ledger, and its caption; uses the most complete of several.

    A full ledger is preferred to a fast one. Without any, there is nothing to say.
    """
    from bnrepro.claims import CLAIMS
    from bnrepro.claims.ledger import LEDGER, by_claim, caption, read_ledger
    from bnrepro.claims.sections import claim_section
    from bnrepro.report.page import Drawing

    found = {}
    for folder in ledgers:
        with bad_left_out(folder, skip_bad):
            found[folder] = read_ledger(folder / LEDGER, CLAIMS)
    if not found:
        return [], ""
    folder = max(found, key=lambda one: ((found[one]["length"] == "full").all(), len(found[one])))
    for other in found.keys() - {folder}:
        print(f"left out: the ledger in {other}; the one in {folder} is used", file=sys.stderr)
    ids = {path.name: one.id for path, one in comparisons.items() if path.parent == folder}
    sections = []
    for claim, lines in by_claim(CLAIMS.values(), found[folder]):
        drawings = []
        for i, figure in enumerate(claim.figures):
            if run := runs.get(folder / figure.comparison):
                with bad_left_out(run.workdir, skip_bad):
                    drawings.append(Drawing.of(figure.picture(run), f"{claim.id}f{i}"))
        sections.append(claim_section(claim, lines, ids, drawings))
    return sections, caption(CLAIMS.values(), found[folder])


if __name__ == "__main__":
    main()
