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
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_flags
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

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
    from bnrepro.records import RecordsError, open_sweep
    from bnrepro.sweep.collect import collect
    from bnrepro.sweep.engines import run_local, run_ray
    from bnrepro.sweep.space import SweepError
    from bnrepro.sweep.study import SharedStudy
    from bnrepro.trackers import TrackerError

    cli.quiet_logging()
    cli.raise_on_sigterm(Preempted)
    try:
        varied = _get_sweep(config_flags.get_config_filename(flags.FLAGS["config"]))
        plan = make_plan(config, varied, values, workdir)
        if values["engine"] not in ("local", "ray"):
            raise SweepError(f"--engine must be local or ray, got {values['engine']!r}")
        engine = run_local if values["engine"] == "local" else run_ray
        if values["workers"] is not None and values["workers"] < 1:
            raise SweepError(f"--workers must be at least 1, got {values['workers']}")
        trackers = cli.make_trackers()
        open_sweep(workdir)
        try:
            study = SharedStudy(plan)
        except SweepError:
            with suppress(OSError):  # what it held before, it keeps
                workdir.rmdir()
            raise
        display = _Display(study, workdir, trackers)
        try:
            with display:
                while not display.update():
                    if study.is_waiting():
                        engine(plan, values["workers"], display.update)
                    else:  # the last trials run elsewhere
                        time.sleep(1)
        finally:
            run = collect(study, workdir, trackers)
        if run is not None:
            _report(run)
    except (ConfigError, SweepError, RecordsError, TrackerError) as error:
        cli.fail(error)
    except Preempted:
        cli.leave("told to end", cli.PREEMPTED)


def make_plan(
    config: dict[str, Any], varied: Mapping[str, Any], values: Mapping[str, Any], workdir: Path
) -> "Plan":
    """The sweep that a command line describes.

    Args:
      config: with variants or without.
      varied: values by key, as the config file has them.
      values: of the flags; what they vary comes on top.
      workdir: of the sweep.

    Raises:
      SweepError: a flag, or what is varied, cannot be.
      ConfigError: a config that cannot be, in itself or with what is varied.
    """
    import json

    from bnrepro.comparison.config import check_config, common_config
    from bnrepro.records import DATABASE
    from bnrepro.sweep.plan import SAMPLERS, Plan
    from bnrepro.sweep.space import SweepError, grid, make_space

    if values["seeds"] is not None:
        config = {**config, "seeds": values["seeds"]}
    # As JSON has it, in which others read it.
    common = json.loads(json.dumps(common_config(config)))
    check_config(common)
    sampler = values["sampler"] or "grid"
    if sampler not in SAMPLERS:
        raise SweepError(f"--sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
    trials = values["trials"]
    if trials is not None and trials < 1:
        raise SweepError(f"--trials must be at least 1, got {trials}")
    varied = dict(varied)
    for text in values["vary"]:
        key, equals, given = text.partition("=")
        if not equals:
            raise SweepError(f"--vary is written KEY=VALUES, got {text!r}")
        varied[key.strip()] = given
    space = make_space(common, varied)
    if sampler == "grid":
        trials = len(grid(space, trials))
    elif trials is None:
        raise SweepError(f"say how many --trials, of sampler {sampler}")
    kept = [shlex.quote(argument) for argument in sys.argv if argument.startswith("--config")]
    if values["seeds"] is not None:
        kept.append(f"--config.seeds={values['seeds']}")
    return Plan(
        config=common,
        space=space,
        sampler=sampler,
        trials=trials,
        prune=values["prune"],
        at_once=_at_once(values["at-once"]),
        storage=values["storage"] or f"sqlite:///{workdir.absolute() / DATABASE}",
        name=workdir.absolute().name,
        launched_by=shlex.join(["python", "-m", "scripts.sweep", *sys.argv[1:]]),
        command=" ".join(["python -m experiments.single", *kept]),
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

    # The user's own code, which may do and raise anything; that it can be run is known by now.
    content = runpy.run_path(path)
    varied = content["get_sweep"]() if "get_sweep" in content else {}
    if not isinstance(varied, Mapping):
        raise SweepError(f"get_sweep() of {path} must return a dict of key: values, got {varied!r}")
    return dict(varied)


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
    from bnrepro.report.entries import setting_text

    table = Table()
    for title in ("trial", *(progress.best[0][1] if progress.best else ()), "accuracy, %"):
        table.add_column(title, justify="right" if title == "accuracy, %" else "left")
    for index, settings, score in progress.best:
        cells = map(setting_text, settings.values())
        table.add_row(str(index), *cells, f"{100 * score:.2f}")
    return Group(table, _line(progress, left))


def _report(run: "Run") -> None:
    from bnrepro.report import summary, sweep, tables
    from bnrepro.report.sweep_figures import sweep_figures

    summary.write_summary(run, summary.summarize(run, ()))
    table, caption = sweep.sweep_table(run), sweep.sweep_caption(run)
    tables.write_markdown(run, table, caption)
    sweep_figures(run)
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    tables.print_table(table.head(_BEST), caption, console)
    if len(table) > _BEST:
        print(f"These are the best {_BEST} of {len(table)}: all are in {run.workdir}/summary.md.")
    print(f"Records, table and figures are in {run.workdir}. To train the best again")
    print("(--config.first_seed=N for other seeds):\n")
    for command in sweep.best_commands(run):
        print(f"  {command}")


if __name__ == "__main__":
    main()
