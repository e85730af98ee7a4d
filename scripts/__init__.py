"""What is done across runs, each by `python -m scripts.NAME`."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from bnrepro.errors import UserError, exit_codes, fail

if TYPE_CHECKING:
    import pandas as pd


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(UserError(message))  # without the usage


def make_parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """The parser of the script of that name, whose --help shows its docstring as it is written."""
    return _Parser(
        prog=f"python -m scripts.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # it takes a mistyped option for another one, as --step for --steps-to
    )


def signed_page(
    title: str, *parts: "pd.DataFrame | str", packages: Sequence[str] = ("jax", "jaxlib", "flax")
) -> str:
    """Markdown: tables and paragraphs below a title, and what made them, when and where."""
    from bnrepro.comparison.provenance import signature

    texts = [
        part.rstrip() if isinstance(part, str) else part.to_markdown(disable_numparse=True)
        for part in parts
    ]
    return "\n\n".join([f"# {title}", *texts, signature(*packages)])


def publish(output: Path, make_page: Callable[[], str]) -> str:
    """Makes a page, which may take long, prints it and writes it to a file; returns it.

    Raises:
      SystemExit: with code 2, after a sentence on stderr, if it cannot be made or written.
    """
    from bnrepro.records import check_output, complete_file

    with exit_codes():
        check_output(output)
        page = make_page()
        print(page)
        with complete_file(output) as path:
            path.write_text(page, encoding="utf-8")
    return page


@contextmanager
def bad_left_out(folder: Path, skip_bad: bool) -> Iterator[None]:
    """Names records that cannot be read or lack something; goes on, if these are to be skipped."""
    try:
        try:
            yield
        except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"no report can be made of {folder}: {reason}") from error
    except UserError as error:
        if not skip_bad:
            raise
        print(f"left out: {error}", file=sys.stderr)
