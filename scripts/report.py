"""Makes a web page of results: the ledger of claims, and each comparison.

Reads all workdirs and the ledger of scripts.claims under a folder, finished or not, and writes one
file, index.html, which needs no network. For example:
python -m scripts.report --runs=runs --output=runs/report

Exit codes: 0 done; 2 a usage error, reported in one sentence.
"""

import importlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bnrepro.claims import CLAIMS
from bnrepro.claims.claim import DOCUMENTS
from bnrepro.claims.ledger import LEDGER, by_claim, caption, read_ledger, workdir_of
from bnrepro.errors import UserError, exit_codes
from bnrepro.records import CONFIG, Run, complete_file, read_run, repeating_command
from bnrepro.report.page import GENERATOR, Drawing, Section, render
from bnrepro.report.report import Report
from scripts import bad_left_out, make_parser

PAGE = "index.html"
# Drivers with their own report; the others use that of experiments.train.
DRIVERS = ("mnist_sigmoid", "small_batch", "non_iid", "labels_and_depth", "inception")


@exit_codes()
def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the page; see the module's docstring for exit codes."""
    parser = make_parser("report", __doc__)
    add = parser.add_argument
    text = "folder with workdirs, at any depth (default: %(default)s)"
    add("--runs", type=Path, default=Path("runs"), help=text)
    text = "folder of the page (default: the folder report in --runs)"
    add("--output", type=Path, help=text)
    add("--skip-bad", action="store_true", help="skip workdirs and ledgers that cannot be read")
    options = parser.parse_args(arguments)
    root, skip_bad, output = options.runs, options.skip_bad, options.output
    output = output or root / "report"
    _check_output(output)
    if not root.is_dir():
        raise UserError(f"there is no folder {root}")

    workdirs, ledgers = list[Path](), list[Path]()
    # Each folder once, whatever links lead to it, and none around the root. Links come last:
    # a ledger names records by where they are from its own place.
    tops, seen = [root], {*root.resolve().parents}
    for top in tops:
        # Goes on where a run removes a checkpoint.
        for name, folders, names in os.walk(top):
            if (place := Path(name).resolve()) in seen:
                folders.clear()
                continue
            seen.add(place)
            workdirs += [Path(name)] * (CONFIG in names)
            ledgers += [Path(name, LEDGER)] * (LEDGER in names)
            if CONFIG in names:
                folders.clear()
            tops += [path for one in folders if (path := Path(name, one)).is_symlink()]
    runs = {}
    for workdir in sorted(workdirs):
        with bad_left_out(workdir, skip_bad):
            runs[workdir.resolve()] = read_run(workdir)
    comparisons = _comparisons(runs, root, skip_bad)
    claims = _claims(sorted(ledgers), runs, comparisons, skip_bad)
    if not comparisons and not claims:
        which = "workdir of which a report can be made" if workdirs else "workdir"
        raise UserError(f"no {which} was found in {root}")
    page = render(list(comparisons.values()), DOCUMENTS, **claims)
    with complete_file(output / PAGE) as path:
        # As a reference, HTML shows half a surrogate pair, which JSON may have, as �.
        path.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
    print(f"The page is {output / PAGE}.")


def _check_output(output: Path) -> None:
    """Makes sure that only an earlier page is overwritten."""
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


def _comparisons(runs: Mapping[Path, Run], root: Path, skip_bad: bool) -> dict[Path, Section]:
    """A section for each run in which accuracy was measured, by its place; names the others."""
    sections: dict[Path, Section] = {}
    for place, run in runs.items():
        workdir = run.workdir
        if "accuracy" not in set(run.metrics["metric"]):
            print(f"left out: {workdir} has no accuracy to show", file=sys.stderr)
        else:
            title = workdir.relative_to(root).as_posix() if workdir != root else workdir.name
            with bad_left_out(workdir, skip_bad):
                sections[place] = Section.of(run, report_of(run), f"c{len(sections)}", title)
    return sections


def report_of(run: Run) -> Report:
    """The report of the driver that a run's command names."""
    words = repeating_command(run.provenance).split()
    driver = next((one for one in DRIVERS if f"experiments.{one}" in words), "train")
    name = "scripts.sweep" if "sweep" in run.config else f"experiments.{driver}"
    made: Report = importlib.import_module(name).report(run)
    return made


def _claims(
    ledgers: Iterable[Path],
    runs: Mapping[Path, Run],
    comparisons: Mapping[Path, Section],
    skip_bad: bool,
) -> dict[str, Any]:
    """What the page says of a ledger, if there is one; uses the most complete of several.

    A full ledger is preferred to a fast one.
    """
    found = {}
    for path in ledgers:
        with bad_left_out(path.parent, skip_bad):
            found[path.parent] = read_ledger(path, CLAIMS)
    if not found:
        return {}
    folder = max(found, key=lambda one: ((found[one]["length"] == "full").all(), len(found[one])))
    for other in (one for one in found if one != folder):
        print(f"left out: the ledger in {other}; the one in {folder} is used", file=sys.stderr)
    claims = by_claim(CLAIMS.values(), found[folder])
    drawings: dict[str, list[Drawing]] = {judged.claim.id: [] for judged in claims}
    sections: dict[str, str] = {}
    for one in claims:
        name = one.claim.id
        read = {line["comparison"]: line["records"] for line in one.lines}
        for i, figure in enumerate(one.claim.figures):
            if run := runs.get(workdir_of(folder, read[figure.comparison]).resolve()):
                with bad_left_out(run.workdir, skip_bad):
                    drawings[name].append(Drawing.of(figure.picture(run), f"{name}f{i}"))
        for text in read.values():
            if section := comparisons.get(workdir_of(folder, text).resolve()):
                sections[text] = section.id
    return {
        "claims": claims,
        "caption": caption(CLAIMS.values(), found[folder]),
        "drawings": drawings,
        "records": sections,
        "commands": {one.claim.id: one.command(folder) for one in claims},
    }


if __name__ == "__main__":
    main()
