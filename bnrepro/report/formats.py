"""A comparison as text, or as a file for a paper, a page or another program."""

import html
import io
from collections.abc import Callable
from typing import NamedTuple

import pandas as pd
from rich.console import Console
from rich.text import Text

from bnrepro.report.compare import Comparison
from bnrepro.report.tables import is_best, terminal_table

# Width of text that is not for a terminal; a wide table takes more.
_WIDTH = 120
# Terminal characters per column; with fewer, its numbers would wrap.
_COLUMN = 12


def show(comparison: Comparison, console: Console) -> None:
    """Shows table and caption on a terminal, fitted to its width, the best in bold."""
    cells, at_once = comparison.cells, max(1, console.width // _COLUMN)
    for first in range(0, cells.shape[1], at_once):
        console.print(terminal_table(cells.iloc[:, first : first + at_once]))
    console.print(Text(comparison.caption, "table.caption"))


def render(comparison: Comparison, form: str) -> str:
    """The comparison as "text", "markdown", "csv", "latex" or "html"; no cell is cut or wrapped."""
    if form == "csv":
        return comparison.numbers.to_csv(index=False)
    if form == "text":
        console = Console(file=io.StringIO(), width=10_000)
        shown = terminal_table(comparison.cells)
        console.width = max(_WIDTH, console.measure(shown).maximum)
        with console.capture() as captured:
            console.print(shown, Text(comparison.caption), sep="")
        return captured.get()
    markup, (before, after) = _MARKUPS[form], _MARKUPS[form].bold

    def marked(cell: str) -> str:
        escaped = markup.escape(cell)
        return before + escaped + after if is_best(cell) else escaped

    names = comparison.cells.index.names
    table = comparison.cells.reset_index(names=names, allow_duplicates=True).map(marked)
    table.columns = [markup.escape(column) for column in table.columns]
    return markup.document(table, "l" * len(names), markup.escape(comparison.caption))


def _markdown(table: pd.DataFrame, labels: str, caption: str) -> str:
    alignment = ["left"] * len(labels) + ["right"] * (table.shape[1] - len(labels))
    text = table.to_markdown(index=False, disable_numparse=True, colalign=alignment)
    return f"{text}\n\n{caption}\n"


def _latex(table: pd.DataFrame, labels: str, caption: str) -> str:
    alignment = labels.ljust(table.shape[1], "r")
    # LaTeX's text mode has only a hyphen.
    table = table.replace(r"(?<!\w)-(?=\d)", "$-$", regex=True)
    text = table.to_latex(index=False, escape=False, column_format=alignment)
    return f"\\begin{{table}}\n\\centering\n{text}\\caption{{{caption}}}\n\\end{{table}}\n"


def _html(table: pd.DataFrame, labels: str, caption: str) -> str:
    text = f"{table.style.hide().to_html(exclude_styles=True)}\n<p>{caption}</p>\n"
    # ASCII is shown correctly in a page of any encoding.
    return text.encode("ascii", "xmlcharrefreplace").decode()


# pandas escapes cells but not captions. In LaTeX it does not escape <, > and |, which Computer
# Modern shows as something else, or [ and *, which \\ takes as its argument at the start of a row.
_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "[": "{[}", "*": "{*}", "±": r"$\pm$", "−": "$-$", "–": "--", "†": r"$\dagger$",
    "‡": r"$\ddagger$",
} | {character: f"\\{character}" for character in "&%$#_{}"})  # fmt: skip
_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*[]<&|"})


class _Markup(NamedTuple):
    escape: Callable[[str], str]
    bold: tuple[str, str]
    # Given the escaped table, an "l" for each column of labels, and the escaped caption.
    document: Callable[[pd.DataFrame, str, str], str]


_MARKUPS = {
    "markdown": _Markup(lambda text: text.translate(_MARKDOWN), ("**", "**"), _markdown),
    "latex": _Markup(lambda text: text.translate(_LATEX), (r"\textbf{", "}"), _latex),
    "html": _Markup(html.escape, ("<b>", "</b>"), _html),
}
