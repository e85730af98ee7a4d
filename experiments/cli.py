"""The command line that all experiments share: flags, progress, and mistakes in one sentence."""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from absl import flags
from ml_collections import config_flags

if TYPE_CHECKING:
    import pandas as pd

    from bnrepro.records import Run

# A mistake of the user's, as opposed to 1 for a fault of ours.
_USAGE_ERROR = 2
_INTERRUPTED = 130

# Called with the config as plain dicts, the workdir, and whether to replace what that holds.
Experiment = Callable[[dict[str, Any], Path, bool], None]


def launch(experiment: Experiment, *, doc: str) -> None:
    """Parses the command line, runs the experiment, and ends the process.

    Exit codes: 0 done; 2 a mistake, told in one sentence on stderr before anything is trained or
    written; 130 interrupted, with complete files of what was measured until then.
    """
    try:
        _launch(experiment, doc)
    except KeyboardInterrupt:
        print(
            "interrupted: what was measured is in the workdir; without --overwrite, the same "
            "command trains what is not finished",
            file=sys.stderr,
        )
        sys.exit(_INTERRUPTED)


def _launch(experiment: Experiment, doc: str) -> None:
    config_flag = config_flags.DEFINE_config_file(
        "config", help_string="Config file; --config.KEY=VALUE changes one of its keys."
    )
    workdir_flag = flags.DEFINE_string("workdir", None, "Folder that all results are written to.")
    overwrite_flag = flags.DEFINE_bool("overwrite", False, "Replace what the workdir holds.")
    if {"-h", "--help", "-help"} & set(sys.argv[1:]):
        print(f"{doc}\n{_flags_help()}")
        sys.exit(0)
    try:
        if not any(argument.startswith("--config=") for argument in sys.argv):
            raise ValueError("give the config: --config=configs/NAME.py")
        rest = flags.FLAGS(sys.argv)
        if len(rest) > 1:
            raise ValueError(f"unexpected argument {rest[1]!r}; flags look like --flag=value")
        if not workdir_flag.value:
            raise ValueError("give the folder for the results: --workdir=runs/NAME")
        if isinstance(config_flag.value, dict):
            raise TypeError("get_config() of the config file must return a ConfigDict, not a dict")
        config, workdir = config_flag.value.to_dict(), Path(workdir_flag.value)
    except Exception as error:  # the config file is the user's own code and may raise anything
        _fail(error)

    # Only now: --help and a mistyped flag need not wait for JAX.
    from bnrepro.comparison.config import ConfigError, variant_configs
    from bnrepro.data import DatasetError
    from bnrepro.records import RecordsError

    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING, force=True)
    try:
        variant_configs(config)
        experiment(config, workdir, overwrite_flag.value)
    except (ConfigError, DatasetError, RecordsError) as error:
        _fail(error)


@contextmanager
def progress_bar(config: Mapping[str, Any]) -> Iterator[Callable[[str, int], None]]:
    """A bar over the steps of all variants, with the time left; called with (variant, steps)."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    done = dict.fromkeys(config["variants"], 0)
    # On stderr: what is piped on is the table alone.
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("", total=config["steps"] * len(done))

    def progress(variant: str, step: int) -> None:
        bar.start()
        done[variant] = step
        text = f"{variant}, step {step:,} of {config['steps']:,}"
        bar.update(task, completed=sum(done.values()), description=text)

    try:
        yield progress
    finally:
        # Stopping a bar that was never shown would print an empty line.
        if bar.live.is_started:
            bar.stop()


def show(run: "Run", table: "pd.DataFrame", caption: str, paths: Sequence[Path]) -> None:
    """Writes and shows the table, and says where everything was written."""
    from rich.console import Console

    from bnrepro.report.tables import print_table, write_markdown

    write_markdown(run, table, caption)
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    print_table(table, caption, console)
    pictures = ", ".join(path.name for path in paths if path.suffix == ".png")
    print(f"Records, table and figures ({pictures}) are in {run.workdir}.")


def _flags_help() -> str:
    known = (flags.FLAGS[name] for name in ("config", "workdir", "overwrite"))
    return "\n".join(f"  --{flag.name}: {flag.help}" for flag in known)


def _fail(error: BaseException) -> NoReturn:
    # Of an unknown key, ml_collections says its name and the nearest one, in errors in errors.
    cause: Any = error
    while isinstance(cause, AttributeError | KeyError) and cause.args:
        cause = cause.args[0]
    message = str(cause) or type(error).__name__
    if message.startswith("'") and isinstance(error, AttributeError | KeyError):
        message = f"no such config key: {message}"
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(_USAGE_ERROR)
