r"""Sweeps settings of a config: many trials, searched by Optuna and trained as few programs.

    python -m scripts.sweep --config=configs/small_batch.py --workdir=runs/rates --seeds=3 \
        --vary "optimizer.learning_rate=log(0.01,3)" \
        --vary "normalizer.name=batch_norm,batch_renorm" --trials=64 --sampler=random

Values are listed with commas, or are a range: log(LOW,HIGH) or uniform(LOW,HIGH). What is varied
can also stand in the config file, as what get_sweep() returns: {key: values}. The config's variants
are left aside. The same command again, also on other machines, goes on with what is left.
"""

import runpy
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_flags
from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table

from experiments import cli

if TYPE_CHECKING:
    from bnrepro.records import Run
    from bnrepro.sweep.collect import Progress
    from bnrepro.sweep.plan import Plan
    from bnrepro.sweep.study import SharedStudy
    from bnrepro.trackers import Tracker

# Of the best trials, so many are shown.
_BEST = 10
# Seconds between two writings of the records while the sweep runs.
_WRITE_EVERY = 30


def main() -> None:
    """Runs the sweep that the command line describes, and reports it.

    Exit codes: 0 done; 2 a mistake, told in one sentence on stderr; 75 told to end (SIGTERM) and
    130 interrupted (Ctrl-C), both with what has finished saved.
    """
    try:
        _main()
    except KeyboardInterrupt:
        cli.leave("interrupted", cli.INTERRUPTED)


def _main() -> None:
    flags.DEFINE_multi_string(
        "vary", [], "KEY=VALUES: A,B,.. or log(LOW,HIGH) or uniform(LOW,HIGH); once for each key."
    )
    flags.DEFINE_integer("trials", None, "How many; of a grid of lists, all points by default.")
    flags.DEFINE_string("sampler", None, "grid (default), random, tpe or qmc.")
    flags.DEFINE_integer("seeds", None, "Of each trial; as --config.seeds.")
    flags.DEFINE_integer("workers", None, "Default: one a GPU, or else one a core.")
    flags.DEFINE_string("at-once", "auto", "Trials of one program; auto goes by the device.")
    flags.DEFINE_string("engine", "local", "local (processes here) or ray (a Ray cluster).")
    flags.DEFINE_string("storage", None, "URL of a database; default: sweep.db in the workdir.")
    flags.DEFINE_bool("prune", False, "End trials that are below the median of the others.")
    own = ("vary", "trials", "sampler", "seeds", "workers", "at-once", "engine", "storage", "prune")
    config, workdir = cli.parse(__doc__ or "", own)
    values = {name: flags.FLAGS[name].value for name in own}

    # Only now: --help and a mistyped flag need not wait for JAX.
    from bnrepro.comparison.config import ConfigError
    from bnrepro.comparison.run import Preempted
    from bnrepro.records import CHECKPOINTS, RecordsError
    from bnrepro.sweep.collect import collect, open_workdir
    from bnrepro.sweep.engines import run_local, run_ray
    from bnrepro.sweep.space import SweepError
    from bnrepro.sweep.study import SharedStudy
    from bnrepro.trackers import TrackerError

    cli.quiet_logging()
    cli.raise_on_sigterm(Preempted)
    try:
        flag = flags.FLAGS["config"]
        file = config_flags.get_config_filename(flag)
        overrides = config_flags.get_override_values(flag)
        varied = _get_sweep(file.partition(":")[0])
        plan = make_plan(config, varied, values, workdir, file, overrides)
        if values["engine"] not in ("local", "ray"):
            raise SweepError(f"--engine must be local or ray, got {values['engine']!r}")
        engine = run_local if values["engine"] == "local" else run_ray
        if values["workers"] is not None and values["workers"] < 1:
            raise SweepError(f"--workers must be at least 1, got {values['workers']}")
        trackers = cli.make_trackers()
        open_workdir(plan, workdir)
        try:
            study = SharedStudy(plan)
        except SweepError:
            with suppress(OSError):  # what it held before, it keeps
                workdir.rmdir()
            raise
        with closing(study):
            display, discarded = _Display(study, workdir, trackers), False
            try:
                with display:
                    while not display.update():
                        if study.is_waiting():
                            engine(plan, values["workers"], display.update)
                        else:  # the last trials run elsewhere
                            time.sleep(1)
                shutil.rmtree(workdir / CHECKPOINTS, ignore_errors=True)
            except (SweepError, RecordsError):
                # What only a worker finds out, as a data set that there is not, leaves nothing.
                if discarded := study.discard():
                    _remove(workdir, values["storage"])
                raise
            finally:
                run = None if discarded else collect(study, workdir, trackers)
        if run is not None:
            _report(run)
    except (ConfigError, SweepError, RecordsError, TrackerError) as error:
        cli.fail(error)
    except Preempted:
        cli.leave("told to end", cli.PREEMPTED)


def make_plan(
    config: dict[str, Any],
    varied: Mapping[str, Any],
    values: Mapping[str, Any],
    workdir: Path,
    file: str,
    overrides: Mapping[str, Any],
) -> "Plan":
    """The sweep that a command line describes.

    Args:
      config: with variants or without.
      varied: values by key, as the config file has them.
      values: of the flags; what they vary comes on top.
      workdir: of the sweep.
      file: that the config is from, with its argument.
      overrides: what the command line changed of it, by flat key.

    Raises:
      SweepError: a flag, or what is varied, cannot be.
      ConfigError: a config that cannot be, in itself or with what is varied.
    """
    import json

    import sqlalchemy

    from bnrepro.comparison.config import check_config, common_config
    from bnrepro.records import CHECKPOINTS, DATABASE
    from bnrepro.report.commands import command_line
    from bnrepro.sweep.plan import SAMPLERS, Plan
    from bnrepro.sweep.space import SweepError, grid, make_space

    if values["seeds"] is not None:
        config, overrides = ({**old, "seeds": values["seeds"]} for old in (config, overrides))
    # As JSON has it, in which others read it.
    common = json.loads(json.dumps(common_config(config)))
    check_config(common)
    sampler = values["sampler"] or "grid"
    if sampler not in SAMPLERS:
        raise SweepError(f"--sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
    trials = values["trials"]
    if trials is not None and trials < 1:
        raise SweepError(f"--trials must be at least 1, got {trials}")
    varied, again = dict(varied), set[str]()
    for text in values["vary"]:
        key, equals, given = (part.strip() for part in text.partition("="))
        if not equals:
            raise SweepError(f"--vary is written KEY=VALUES, got {text!r}")
        if key in again:
            raise SweepError(f"--vary is given twice for {key}")
        again.add(key)
        varied[key] = given
    space = make_space(common, varied)
    if sampler == "grid":
        points = len(grid(space, trials))
        trials = trials or points
    elif trials is None:
        raise SweepError(f"say how many --trials, of sampler {sampler}")
    # SQLite's has a fixed name: a workdir may be renamed.
    database = sqlalchemy.URL.create("sqlite", database=str(workdir.absolute() / DATABASE))
    return Plan(
        config=common,
        space=space,
        sampler=sampler,
        trials=trials,
        prune=values["prune"],
        at_once=_at_once(values["at-once"]),
        storage=values["storage"] or database.render_as_string(hide_password=False),
        name=workdir.absolute().name if values["storage"] else "sweep",
        launched_by=shlex.join(["python", "-m", "scripts.sweep", *sys.argv[1:]]),
        command=command_line("python -m experiments.single", file, overrides),
        checkpoints=workdir.absolute() / CHECKPOINTS,
    )


def _at_once(text: str) -> int | None:
    from bnrepro.sweep.space import SweepError

    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise SweepError(f"--at-once must be auto or a number of trials, got {text!r}")
    return int(text)


def _get_sweep(path: str) -> dict[str, Any]:
    """What the config file says to vary, if it does."""
    from bnrepro.sweep.space import SweepError

    try:
        content = runpy.run_path(path)
        varied = content["get_sweep"]() if "get_sweep" in content else {}
    except Exception as error:  # the user's own code may raise anything
        name = type(error).__name__
        raise SweepError(f"get_sweep() of {path} failed: {name}: {error}") from error
    if not isinstance(varied, Mapping):
        raise SweepError(f"get_sweep() of {path} must return a dict of key: values, got {varied!r}")
    return dict(varied)


def _remove(workdir: Path, storage: str | None) -> None:
    """Removes what was made for a sweep that cannot be."""
    from bnrepro.records import CHECKPOINTS, DATABASE

    shutil.rmtree(workdir / CHECKPOINTS, ignore_errors=True)
    if storage is None:
        for path in workdir.glob(f"{DATABASE}*"):
            path.unlink()
    with suppress(OSError):
        workdir.rmdir()


class _Display:
    """A live table with the best trials so far and the time left; writes the records meanwhile."""

    def __init__(self, study: "SharedStudy", workdir: Path, trackers: "Sequence[Tracker]") -> None:
        self._study, self._workdir, self._trackers = study, workdir, trackers
        # On stderr: what is piped on is the final table alone.
        console = Console(stderr=True)
        # The table of the end takes its place.
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._shown = console.is_terminal
        self._began: tuple[float, float] | None = None
        self._written, self._finished = time.monotonic(), -1

    def __enter__(self) -> "_Display":
        if self._shown:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._live.stop()

    def update(self) -> bool:
        """Sees to what others left, shows how far the sweep is, and tells whether it is done."""
        from bnrepro.sweep.collect import collect, progress_of

        progress = progress_of(self._study.plan, self._study.refill(), _BEST)
        now = time.monotonic()
        # The first that is seen may be another's work, of an earlier day.
        began, done = self._began = self._began or (now, progress.done)
        speed = (progress.done - done) / max(now - began, 1e-9)
        left = (1 - progress.done) / speed if speed > 0 else None
        if self._shown:
            self._live.update(_table(progress, left), refresh=True)
        elif progress.finished != self._finished:
            print(_line(progress, left), file=sys.stderr)
        if progress.finished != self._finished and now - self._written > _WRITE_EVERY:
            collect(self._study, self._workdir, self._trackers)
            self._written = time.monotonic()
        self._finished = progress.finished
        return progress.finished >= progress.trials


def _line(progress: "Progress", left: float | None) -> str:
    counts = [f"{progress.finished} of {progress.trials} trials"]
    for name in ("running", "diverged", "pruned"):
        if count := getattr(progress, name):
            counts.append(f"{count} {name}")
    if progress.best:
        counts.append(f"best {100 * progress.best[0][2]:.2f}%")
    if left is not None:
        minutes, seconds = divmod(round(left), 60)
        counts.append(f"{minutes}:{seconds:02} left")
    return ", ".join(counts)


def _table(progress: "Progress", left: float | None) -> Group:
    from bnrepro.report.entries import short_text

    # What matters stands first: on a narrow terminal, the last columns are cut.
    table = Table("trial", Column("accuracy, %", justify="right", no_wrap=True))
    for key in progress.best[0][1] if progress.best else ():
        table.add_column(key)
    for index, settings, score in progress.best:
        cells = map(short_text, settings.values())
        table.add_row(str(index), f"{100 * score:.2f}", *cells)
    return Group(table, _line(progress, left))


def _report(run: "Run") -> None:
    from bnrepro.report import summary, sweep, tables
    from bnrepro.report.sweep_figures import sweep_figures

    summary.write_summary(run, summary.summarize(run, ()))
    table, caption = sweep.sweep_table(run), sweep.sweep_caption(run)
    tables.write_markdown(run, table, caption)
    drawn = sweep_figures(run)
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    tables.print_table(table.head(_BEST), caption, console)
    if len(table) > _BEST:
        print(f"These are the best {_BEST} of {len(table)}: all are in {run.workdir}/summary.md.")
    written = "Records, table and figures" if drawn else "Records and table"
    print(f"{written} are in {run.workdir}. To train the best again")
    print("(--config.first_seed=N for other seeds):\n")
    for command in sweep.best_commands(run):
        print(f"  {command}")


if __name__ == "__main__":
    main()
