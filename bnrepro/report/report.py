"""The report of a run: a table with its caption, and figures."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from bnrepro.records import FIGURES, Run
from bnrepro.report.figures import Picture, save
from bnrepro.report.summary import write_summary
from bnrepro.report.tables import write_markdown


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
    write_summary(run, report.summary)
    write_markdown(run, report.table, report.caption)
    for picture in report.pictures:
        save(picture, run.workdir / FIGURES)
