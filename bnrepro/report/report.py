"""The report of a run: a table with its caption, and figures."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from bnrepro.records import FIGURES, SUMMARY_CSV, SUMMARY_MD, Run, complete_file
from bnrepro.report.figures import Picture, save
from bnrepro.report.summary import estimate_columns


class Report(NamedTuple):
    """A report, which a terminal, a page or a notebook can show.

    Attributes:
      summary: from `summarize`.
      table: the same for a reader, with `Cell`s.
      caption: what its numbers are, with caveats.
      pictures: the figures.
    """

    summary: pd.DataFrame
    table: pd.DataFrame
    caption: str
    pictures: Sequence[Picture]


def write(run: Run, report: Report) -> None:
    """Writes `summary.csv`, `summary.md` and the figures to the workdir.

    Raises:
      RecordsError: it cannot be written.
    """
    summary = report.summary
    numbers = pd.DataFrame(map(estimate_columns, summary["estimate"]), summary.index)
    columns = ["variant", "metric", *numbers, "of", "steps", "dataset"]
    with complete_file(run.workdir / SUMMARY_CSV) as path:
        summary.join(numbers)[columns].to_csv(path, index=False)
    with complete_file(run.workdir / SUMMARY_MD) as path:
        path.write_text(f"{report.table.to_markdown(disable_numparse=True)}\n\n{report.caption}\n")
    for picture in report.pictures:
        save(picture, run.workdir / FIGURES)
