"""Reruns the comparisons in results/, and renews the tables of README and docs/results.md.

    python -m scripts.results  # all that are kept, which takes hours; resumes if interrupted
    python -m scripts.results --only=non_iid,moving_averages

Each result is run by the command in its provenance into runs/results/NAME. A new one is first run
there by hand, and then named by --only. When it has finished, its records, table and figures
replace those in results/NAME, and each row of its table that README.md or docs/results.md shows is
replaced by the new one; the ledger replaces that in results/claims. What these pages say about the
rows is for a person to revise. Run it at a clean commit: provenance names it.

Exit codes: 0 done; 2 a mistake, told in one sentence; 75 asked to stop (SIGTERM) and 130
interrupted (Ctrl-C), both with the state saved; else that of the command that failed.
"""

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bnrepro.errors import Preempted, UserError, exit_codes
from experiments import cli
from scripts import make_parser

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/results.md")
RUNS = Path("runs", "results")
CLAIMS = "claims"


@exit_codes(resumes=True)
def main(arguments: Sequence[str] | None = None) -> None:
    """Reruns the results that the command line names; see the module's docstring."""
    parser = make_parser("results", __doc__)
    parser.add_argument("--only", metavar="NAME,..", help="folders of results/; default: all")
    only = parser.parse_args(arguments).only
    kept = sorted(path.parent.name for path in (ROOT / "results").glob("*/provenance.json"))
    names = [*kept, CLAIMS] if only is None else only.split(",")
    commands = {name: command_of(name) for name in names}
    for number, (name, words) in enumerate(commands.items(), 1):
        print(f"result {number} of {len(commands)}: {name}", file=sys.stderr)
        workdir = RUNS / name
        if code := run([sys.executable, "-m", *words, f"--workdir={workdir}"]):
            sys.exit(code)
        keep(ROOT / workdir, ROOT / "results" / name, [ROOT / page for page in PAGES])


def command_of(name: str) -> list[str]:
    """The module that made a result and its arguments but for the workdir, by its provenance.

    Raises:
      UserError: there is no such result, nor a run of it; or its records are damaged.
    """
    from bnrepro.records import CONFIG, read_run, repeating_command

    if name == CLAIMS:
        return ["scripts.claims"]
    for folder in (ROOT / RUNS / name, ROOT / "results" / name):
        kept = read_run(folder).provenance if name and (folder / CONFIG).exists() else {}
        if command := repeating_command(kept):
            # What was trained anew at the time is resumed here.
            begun = ("--workdir=", "--overwrite", "--resume")
            return [word for word in shlex.split(command)[2:] if not word.startswith(begun)]
    raise UserError(f"--only names no result: {name!r}; a new one is first run into {RUNS / name}")


def run(command: Sequence[str]) -> int:
    """The exit code of a command.

    Raises:
      Preempted: this process was asked to stop (SIGTERM), as the command then was.
    """
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            while process.poll() is None:
                cli.end_if_told()
                time.sleep(0.2)
        except Preempted:
            process.terminate()
            raise
        except KeyboardInterrupt:
            # Ctrl-C reaches the command, too, which needs a moment to save its state.
            process.wait()
            raise
        return process.returncode


def keep(workdir: Path, result: Path, pages: Sequence[Path]) -> None:
    """Puts what a workdir holds in place of a result, and its table in place of that on pages."""
    from bnrepro import records

    new, old = (folder / records.SUMMARY_MD for folder in (workdir, result))
    if old.exists():
        texts = [renewed(*(path.read_text("utf-8") for path in (page, old, new))) for page in pages]
        for page, text in zip(pages, texts, strict=True):
            with records.complete_file(page) as path:
                path.write_text(text, "utf-8")
    shutil.rmtree(result / records.FIGURES, ignore_errors=True)
    states = (f"{records.CHECKPOINTS}*", f"{records.DATABASE}*", ".*")
    ignore = shutil.ignore_patterns(*states, records.TENSORBOARD, records.WANDB)
    shutil.copytree(workdir, result, ignore=ignore, dirs_exist_ok=True)


def renewed(text: str, old: str, new: str) -> str:
    """A page in which a table, in whole or some rows of it, is the new one.

    Raises:
      UserError: the page shows a row that the new table lacks.
    """
    before, after = _rows(old), _rows(new)

    def table(found: re.Match[str]) -> str:
        shown = found[0].splitlines()
        # Another table may have the same header.
        if not set(shown) <= set(before.values()):
            return found[0]
        if len(shown) == len(before):
            return "\n".join(after.values())
        labels = [label for label, line in before.items() if line in shown]
        if lost := [label for label in labels if label not in after]:
            raise UserError(f"a page shows the row {lost[0]!r}, which the new table lacks")
        return "\n".join(after[label] for label in labels)

    # A table with its caption, then without, or some of its rows.
    text = text.replace(old.strip(), new.strip())
    return re.sub(r"^\|.*(\n\|.*)*", table, text, flags=re.MULTILINE)


def _rows(summary: str) -> dict[str, str]:
    """The lines of a table by label; of the header and the rule below it, by what no label is."""
    header, rule, *lines = summary.split("\n\n")[0].splitlines()
    return {"|header": header, "|rule": rule} | {line.split("|")[1].strip(): line for line in lines}


if __name__ == "__main__":
    cli.heed_sigterm()
    main()
