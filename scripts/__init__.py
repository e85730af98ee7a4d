"""What is done across runs, each by `python -m scripts.NAME`."""

import argparse


def make_parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """The parser of the script of that name, whose --help shows its docstring as it is written."""
    return argparse.ArgumentParser(
        prog=f"python -m scripts.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
