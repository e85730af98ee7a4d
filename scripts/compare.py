"""Compares the variants of any number of runs, in a list or by the settings they differ in.

Reads the records of runs, finished or not. Shows means over seeds with their 95% confidence
intervals, differences to a baseline, paired by seed, and steps to an accuracy. For example:
python -m scripts.compare runs/small_batch --rows=microbatch_size --columns=normalizer.name
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bnrepro.errors import UserError, exit_codes
from scripts import bad_left_out, make_parser

_SUFFIXES = {".md": "markdown", ".csv": "csv", ".tex": "latex", ".html": "html"}


@exit_codes()
def main(arguments: Sequence[str] | None = None) -> None:
    """Compares the runs that the command line names.

    Raises:
      SystemExit: with code 2, after a sentence on stderr, if they cannot be compared.
    """
    parser = make_parser("compare", __doc__)
    add = parser.add_argument
    add("workdirs", nargs="+", type=Path, metavar="WORKDIR", help="the workdir of a run")
    add("--metric", default="test/accuracy", metavar="SPLIT/NAME", help="default: %(default)s")
    add("--at", default="final", metavar="final|best|STEP", help="default: %(default)s")
    for option, what in (("--rows", "config keys, `run` or `variant`"), ("--columns", "keys")):
        text = f"{what} that label the {option.lstrip('-')}"
        add(option, type=lambda keys: keys.split(","), default=[], metavar="KEY,..", help=text)
    add("--baseline", metavar="VARIANT", help="variant, or 'RUN: VARIANT', to compare with")
    add("--steps-to", type=float, metavar="ACCURACY", help="show steps to it, as in 0.97")
    add("--format", choices=("text", *_SUFFIXES.values()), help="default: as --output, or text")
    add("--output", type=Path, metavar="FILE", help="write to this file")
    add("--skip-bad", action="store_true", help="skip workdirs that cannot be compared")
    options = parser.parse_args(arguments)

    # Imported only now, so that --help need not wait for pandas.
    from rich.console import Console

    from bnrepro.comparison.config import with_defaults
    from bnrepro.records import complete_file, read_run
    from bnrepro.report import formats
    from bnrepro.report.compare import compare
    from bnrepro.report.question import Question, check_run, run_labels

    output = options.output
    form = options.format or _SUFFIXES.get(output.suffix.lower() if output else "", "text")
    question = Question(
        metric=options.metric,
        at=int(options.at) if options.at.isdecimal() else options.at,
        rows=options.rows,
        columns=options.columns,
        baseline=options.baseline,
        steps_to=[] if options.steps_to is None else [options.steps_to],
    )
    runs = {}
    for label, workdir in run_labels(options.workdirs).items():
        with bad_left_out(workdir, options.skip_bad):
            run = read_run(workdir)
            # Of an earlier version, it may lack keys.
            run = replace(run, config=with_defaults(run.config))
            check_run(run, question)
            runs[label] = run
    if not runs:
        raise UserError("no workdir is left to compare")
    comparison, console = compare(runs, question), Console()
    if output is not None:
        with complete_file(output) as path:
            path.write_text(formats.render(comparison, form), encoding="utf-8")
        print(f"The comparison is in {output}.")
    elif form == "text" and (console.is_terminal or "COLUMNS" in os.environ):
        formats.show(comparison, console)
    else:
        sys.stdout.write(formats.render(comparison, form))


if __name__ == "__main__":
    main()
