"""The command line that all experiments share: flags, configs, progress and interruptions."""

import atexit
import logging
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from rich import progress as bars
from rich.console import Console

from bnrepro.comparison.config import variant_configs
from bnrepro.comparison.keys import KEYS, may_be_swept
from bnrepro.errors import Preempted, UserError, exit_codes, fail
from bnrepro.records import Run
from bnrepro.report.report import Report, write
from bnrepro.report.tables import print_table

if TYPE_CHECKING:
    from bnrepro.comparison.run import Progress
    from bnrepro.trackers import Tracker

_told = threading.Event()
_ABSL = frozenset(flags.FLAGS)  # which --help leaves out


@exit_codes(resumes=True)
def launch(
    report: Callable[[Run], Report],
    *,
    doc: str,
    adapt: Callable[[dict[str, Any]], dict[str, Any]] = lambda config: config,
) -> None:
    """Parses the command line, runs the comparison of the adapted config, and reports it.

    Args:
      report: makes the report of a finished run.
      doc: shown before the flags by --help.
      adapt: turns the config that is given into the config that is run.

    Exit codes: 0 done; 2 a usage error, reported in one sentence on stderr before anything is
    trained or written, files that cannot be read or written, or too little memory; 75 asked to
    stop (SIGTERM) and 130 interrupted (Ctrl-C), both with the state saved: the same command
    resumes.
    """
    only_flag = flags.DEFINE_list("only", None, "Train only these variants: NAME,NAME.")
    overwrite_flag = flags.DEFINE_bool("overwrite", False, "Replace what the workdir holds.")
    resume_flag = flags.DEFINE_bool(
        "resume", False, "Resume the run in the workdir; an error if there is none."
    )
    distributed_flag = flags.DEFINE_bool(
        "distributed", False, "Join the other processes of the SLURM, Kubernetes or TPU job."
    )
    coordinator_flag = flags.DEFINE_string(
        "coordinator", None, "Join other processes: HOST:PORT of the first, the same in all."
    )
    processes_flag = flags.DEFINE_integer("num_processes", None, "With --coordinator: how many.")
    process_flag = flags.DEFINE_integer("process_id", None, "With --coordinator: index, from 0.")
    config, workdir = parse(doc)
    config = adapt(config)
    if only_flag.value is not None:
        config = only(config, only_flag.value)
    variant_configs(config)  # finds mistakes
    check_overrides(config, config_flags.get_override_values(flags.FLAGS["config"]))
    if resume_flag.value and overwrite_flag.value:
        raise UserError("--resume continues the workdir, --overwrite replaces it: choose one")
    if resume_flag.value and not (workdir / "config.json").exists():
        raise UserError(f"--resume found nothing to resume in {workdir}")
    explicit = coordinator_flag.value, processes_flag.value, process_flag.value
    if len({value is None for value in explicit}) > 1:
        raise UserError("--coordinator, --num_processes and --process_id go together")

    # Imported only now, so that --help and a mistyped flag need not wait for JAX.
    import jax

    quiet_logging()
    if coordinator_flag.value or distributed_flag.value:
        try:
            jax.distributed.initialize(*explicit)
        except (ValueError, RuntimeError) as error:
            fail(error)
    else:
        heed_sigterm()
    # Only the first process writes, and needs the package and the account.
    trackers = make_trackers() if jax.process_index() == 0 else []
    run = train(config, workdir, overwrite_flag.value, trackers)
    if run is not None:
        show(run, report(run))


def only(config: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The config with only these variants; the first takes the place of a baseline left out.

    Raises:
      UserError: there is no such variant, or no name.
    """
    variants, baseline = config.get("variants") or {}, config.get("baseline")
    if not names:
        raise UserError(f"--only must name variants; the config has {', '.join(variants)}")
    for name in names:
        if name not in variants:
            known = ", ".join(variants)
            raise UserError(
                f"--only names an unknown variant: {name!r}; the config has {known}"
                + "; put a name with commas in double quotes, as in --only='\"A,B\",C'"
                * any("," in variant for variant in variants)
            )
    if baseline in variants and baseline not in names:
        baseline = names[0]
    chosen = {name: variants[name] for name in variants if name in names}
    return {**config, "variants": chosen, "baseline": baseline}


def check_overrides(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """Makes sure that each value on the command line is one that some variant takes.

    It does not if it sets that key itself or, of the sizes of few labels, draws otherwise.

    Raises:
      UserError: a value would change nothing.
    """
    variants = config["variants"]
    for key in overrides:
        section, _, field = key.rpartition(".")
        if all(
            field in (own.get(section, {}) if section else own)
            or (section == "sampler" and field != "name" and not _of_few_labels(config, own))
            for own in variants.values()
        ):
            other = f", or try other values with python -m scripts.sweep --vary={key}=A,B"
            raise UserError(
                f"--config.{key} would change nothing: all variants set it or do not use it "
                f"({', '.join(variants)}); choose among them with --only{other * may_be_swept(key)}"
            )


def _of_few_labels(config: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Whether a variant with these overrides draws minibatches of few labels."""
    return bool({**config["sampler"], **own.get("sampler", {})}["name"] == "labels")


def parse(doc: str) -> tuple[dict[str, Any], Path]:
    """Parses the command line of a command that writes to a workdir.

    Args:
      doc: shown before the flags by --help, which are those defined by then.

    Returns:
      The config as plain dicts, and the workdir.

    Raises:
      UserError: the folder or the project is missing.
    """
    workdir_flag = flags.DEFINE_string("workdir", None, "Folder that all results are written to.")
    flags.DEFINE_string(
        "wandb", None, "Log to this project of Weights & Biases, too (pip install wandb)."
    )
    config = parse_config(doc)
    if not workdir_flag.value:
        raise UserError("give the folder for the results: --workdir=runs/NAME")
    if flags.FLAGS.wandb == "":
        raise UserError("give the project of Weights & Biases: --wandb=PROJECT")
    return config, Path(workdir_flag.value)


def parse_config(doc: str) -> dict[str, Any]:
    """As `parse`, without a workdir."""
    config_flag = config_flags.DEFINE_config_file(
        "config", help_string="Config file; --config.KEY=VALUE changes one of its keys."
    )
    flags.FLAGS["config"].parser = _ConfigFile()
    if {"-h", "--help", "-help"} & set(sys.argv[1:]):
        # Ends without a word where `head` or a pager has enough of it.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        print(doc)
        for name in (name for name in flags.FLAGS if name not in _ABSL):
            # Without what absl adds for flags that may be repeated, on a line of its own.
            print(f"  --{name}: {flags.FLAGS[name].help.splitlines()[0].rstrip(';')}")
        print("\nKeys of a config, as --config.KEY=VALUE changes them:\n")
        for name, key in KEYS.items():
            print(f"  {name} = {key.default!r}: {key.explanation} ({key.rule.text})")
        sys.exit(0)
    try:
        if not any(argument.startswith("--config=") for argument in sys.argv):
            raise ValueError('give the config, with "=": --config=configs/NAME.py')
        rest = flags.FLAGS(sys.argv)
        if len(rest) > 1:
            raise ValueError(f"unexpected argument {rest[1]!r}; flags look like --flag=value")
        return config_flag.value.to_dict()
    except Exception as error:  # absl and ml_collections raise many kinds
        fail(error)


class _ConfigFile(flags.ArgumentParser):
    """Reads `FILE` or `FILE:ARGUMENT`: that of ml_collections shows tracebacks.

    Adds the keys that a config file leaves out, and gives numbers and lists the types of their
    keys, so that flags can change them: ml_collections takes the type of what is there.
    """

    def parse(self, argument: str) -> ConfigDict:
        path, *arguments = argument.split(":", 1)
        if not Path(path).is_file():
            raise UserError(f"there is no config file {path!r}")
        config = call(path, "get_config", *arguments)
        if not isinstance(config, ConfigDict):
            raise UserError(
                f"get_config() of {argument} must return a ConfigDict, got {config!r:.50}"
            )
        config = ConfigDict(config).unlock()  # it may be a FrozenConfigDict
        # In place and only these, since other keys may be references (`ConfigDict.get_ref`).
        for key, (_, default, _) in KEYS.items():
            name, _, field = key.rpartition(".")
            if name and name not in config:
                config[name] = {}
            section = config[name] if name else config
            if not isinstance(section, ConfigDict):
                continue  # a mistake, which is found later
            kind, value = type(default), section.get(field, default)
            if (kind, type(value)) in ((float, int), (tuple, list)):
                del section[field]
                value = kind(value)
            if field not in section:
                section[field] = value
        return config.lock()


def call(path: str, function: str, *arguments: str, default: Any = None) -> Any:
    """What a function of a config file returns, or the default where the file does not define it.

    Raises:
      UserError: it fails, or is not defined and there is no default.
    """
    try:
        content = runpy.run_path(path)
        if function in content:
            return content[function](*arguments)
        if default is None:
            raise ValueError("it is not defined")
        return default
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        why = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise UserError(f"{function}() of {':'.join([path, *arguments])} failed: {why}") from error


def heed_sigterm() -> None:
    """After SIGTERM, lets `end_if_told` stop the process at the next place where it can."""
    signal.signal(signal.SIGTERM, lambda *_: _told.set())
    # By then all work is done, but the interpreter takes a moment to exit.
    atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)


def end_if_told() -> None:
    """To be called between two steps of long work.

    Raises:
      Preempted: the process was asked to stop (SIGTERM).
    """
    if _told.is_set():
        raise Preempted


def quiet_logging() -> None:
    """Shows only our own warnings."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING, force=True)
    # CheckpointError reports what goes wrong while Orbax writes in the background, and tables tell
    # which runs diverged, of whose numbers tensorboardX warns.
    for name in ("absl", "asyncio", "tensorboardX"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def make_trackers() -> "list[Tracker]":
    """The trackers that the command line asks for.

    Raises:
      UserError: a tool cannot be used.
    """
    from bnrepro.trackers import TensorBoard, WandB

    return [TensorBoard(), *([WandB(flags.FLAGS.wandb)] if flags.FLAGS.wandb else [])]


def train(
    config: dict[str, Any],
    workdir: Path,
    overwrite: bool = False,
    trackers: "Sequence[Tracker]" = (),
) -> Run | None:
    """Runs the comparison with a progress bar; returns its records in the process that writes."""
    import jax

    from bnrepro.comparison.run import run_comparison

    writes = jax.process_index() == 0
    with progress_bar(config, shown=writes) as progress:
        result = run_comparison(
            config,
            workdir,
            progress=progress,
            trackers=trackers,
            overwrite=overwrite,
            should_stop=_told.is_set,
        )
    end_if_told()
    return result if writes else None


@contextmanager
def progress_bar(config: Mapping[str, Any], shown: bool) -> "Iterator[Progress]":
    """A bar over the steps of all variants, with the last accuracy and the time left."""
    columns = *bars.Progress.get_default_columns(), bars.TextColumn("left")
    done = dict.fromkeys(config["variants"], 0)
    # On stderr, so that only the table is piped on.
    bar = bars.Progress(*columns, console=Console(stderr=True), disable=not shown)
    task = bar.add_task("", total=config["steps"] * len(done))

    def progress(variant: str, step: int, accuracy: float | None) -> None:
        bar.start()
        done[variant] = step
        text = f"{variant}, step {step:,} of {config['steps']:,}"
        text += "" if accuracy is None else f", {100 * accuracy:.2f}%"
        bar.update(task, completed=sum(done.values()), description=text)

    try:
        yield progress
    finally:
        # Stopping a bar that was never shown would print an empty line.
        if bar.live.is_started:
            bar.stop()


def show(run: Run, report: Report, most: int | None = None) -> None:
    """Writes and shows a report, or as many rows of its table, and says where everything is."""
    end_if_told()
    write(run, report)
    end_if_told()  # figures take a while
    print_table(report.table[:most], report.caption)
    if most and len(report.table) > most:
        print(f"These are the best {most} of {len(report.table)}: all are in summary.md.")
    pictures = ", ".join(f"{picture.name}.png" for picture in report.pictures)
    written = f"Records, table and figures ({pictures})" if pictures else "Records and table"
    print(f"{written} are in {run.workdir}.")
