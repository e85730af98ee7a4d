"""What is done across runs, each by `python -m scripts.NAME`."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def make_parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """The parser of the script of that name, whose --help shows its docstring as it is written."""
    return argparse.ArgumentParser(
        prog=f"python -m scripts.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
