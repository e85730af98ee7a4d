"""The results of a sweep so far: as records, as numbers, and as a live table."""

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy
from filelock import FileLock, Timeout
from flax.traverse_util import unflatten_dict
from optuna.trial import FrozenTrial, TrialState
from rich import progress as bars
from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table

from bnrepro.comparison.config import common_config
from bnrepro.comparison.run import PAUSE
from bnrepro.records import (
    CONFIG,
    LOCK,
    TENSORBOARD,
    RecordsError,
    Row,
    Run,
    differences,
    metric_rows,
    read_run,
    write_run,
)
from bnrepro.report.entries import short_text
from bnrepro.sweep.plan import Plan, identity
from bnrepro.sweep.space import decode
from bnrepro.sweep.study import ROWS, SharedStudy, finished, groups_at_work, trial_name
from bnrepro.trackers import Tracker

# How many of the best trials are shown.
BEST = 10


def collect(study: SharedStudy, workdir: Path, trackers: Sequence[Tracker] = ()) -> Run | None:
    """Writes the records of the trials, and returns them; None if there are none yet.

    A trial that is being trained, or was interrupted, has its rows so far.

    Args:
      study: the study of the sweep.
      workdir: where the records are written.
      trackers: called for each trial.

    Raises:
      RecordsError: they cannot be written.
      SweepError: the storage cannot be used.
    """
    # The last to read is the last to write, even if several machines share the workdir.
    with FileLock(workdir / LOCK):
        plan, trials = study.plan, study.trials()
        rows, seconds = list[Row](), dict[str, float]()
        for index, trial in finished(trials).items():
            name, result = trial_name(index), trial.user_attrs["result"]
            rows += [(name, *row) for row in result["rows"]]
            seconds[name] = result["seconds"]
        groups = groups_at_work(trials)
        for group in set(groups.values()):
            found = _rows_so_far(plan.checkpoints / group / ROWS)
            rows += [row for row in found if groups.get(row[0]) == group]
        if not rows:
            return None
        indices = {trial_name(index): index for index in trials}
        rows.sort(key=lambda row: indices[row[0]])
        begun = {indices[row[0]]: row[0] for row in rows}
        config = plan.config | {
            "variants": {
                name: unflatten_dict(decode(plan.space, trials[index].params), sep=".")
                for index, name in begun.items()
            },
            "baseline": rows[0][0],
            # An earlier command may have asked for more trials.
            "sweep": plan.described | {"trials": max(plan.count, *(i + 1 for i in begun))},
        }
        # Workers are started by other commands. Records are shown to others: no password.
        shown = sqlalchemy.make_url(plan.storage).render_as_string()
        arguments = [argument.replace(plan.storage, shown) for argument in sys.argv[1:]]
        command = shlex.join(["python", "-m", "scripts.sweep", *arguments])
        provenance = study.provenance() | {"command": command, "seconds": seconds}
        run = Run(workdir, config, metric_rows(rows), provenance)
        write_run(run)
    # Of the machines that share the workdir one tracks: each would replace what others have open.
    with suppress(Timeout):
        _tracking(workdir).acquire()
        for name in run.variants:
            for track in trackers:
                track(run, name)
    return run


def _rows_so_far(path: Path) -> list[Row]:
    """The rows that a worker has written; none if the file is missing or damaged."""
    with suppress(OSError, ValueError, TypeError, OverflowError):
        rows = metric_rows([tuple(row) for row in json.loads(path.read_text("utf-8"))])
        return list(rows.itertuples(index=False, name=None))
    return []


@cache
def _tracking(workdir: Path) -> FileLock:
    """Held by the process that tracks until it ends."""
    return FileLock(workdir / TENSORBOARD / LOCK, timeout=0)


def check_storage(study: SharedStudy, workdir: Path) -> None:
    """Makes sure that a workdir has no records of trials of another storage, which would be lost.

    Raises:
      RecordsError: it has.
    """
    if not (workdir / CONFIG).exists():
        return
    plan, held = study.plan, read_run(workdir)
    there = identity(common_config(held.config), held.config["sweep"])
    another = differences(there, identity(plan.config, plan.described))
    if another or not set(map(trial_name, study.trials())).issuperset(held.variants):
        raise RecordsError(
            f"{workdir} holds trials that are not in this --storage under the name {plan.name}; "
            "give the storage and the workdir's name that the sweep began with, or choose another "
            "--workdir"
        )


class Progress(NamedTuple):
    """The progress of a sweep.

    Attributes:
      finished: how many trials have finished or were pruned.
      done: share of all steps, in [0, 1].
      text: how many have finished, are running, have a diverged seed or else were pruned, and the
        best accuracy.
      best: the finished trials with the highest scores, `BEST` at most, as (index, settings, score
        in [0, 1]).
    """

    finished: int
    done: float
    text: str
    best: Sequence[tuple[int, dict[str, Any], float]]


def progress_of(plan: Plan, trials: Mapping[int, FrozenTrial]) -> Progress:
    """The progress of a sweep, from its trials by index."""
    ended = finished(trials)
    rows = {i: trial.user_attrs["result"]["rows"] for i, trial in ended.items()}
    diverged = {i for i, own in rows.items() if any(row[3] == "diverged" for row in own)}
    pruned = {i for i, trial in ended.items() if trial.state == TrialState.PRUNED}
    running = [trial for trial in trials.values() if trial.state == TrialState.RUNNING]
    # Of trials that are trained together, one has the steps of all.
    steps = sum(trial.user_attrs.get("steps", 0) for trial in running)
    # A pruned trial also has a value: its last one.
    scores = {i: trial.value or 0.0 for i, trial in ended.items() if i not in pruned}
    ranked = sorted(scores, key=lambda index: -scores[index])[:BEST]
    count = sum(index < plan.count for index in ended)
    others = {
        "running": len(running),
        "with a diverged seed": len(diverged),
        "pruned": len(pruned - diverged),
    }
    text = [f"{count} of {plan.count} trials"]
    text += [f"{number} {words}" for words, number in others.items() if number]
    text += [f"best {100 * scores[index]:.2f}%" for index in ranked[:1]]
    return Progress(
        finished=count,
        done=min(1.0, (count + steps / plan.config["steps"]) / plan.count),
        text=", ".join(text),
        best=[(i, decode(plan.space, ended[i].params), scores[i]) for i in ranked],
    )


class Display:
    """Shows the best trials so far and the time left; writes the records meanwhile.

    Attributes:
      live: the table, a context manager; at the end, the final output replaces it.
    """

    def __init__(self, study: SharedStudy, workdir: Path, trackers: Sequence[Tracker]) -> None:
        self._study, self._workdir, self._trackers = study, workdir, trackers
        # On stderr, so that only the final table is piped on.
        self.live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
        # The speed is that of the last hour, or since the first update.
        columns = *bars.Progress.get_default_columns(), bars.TextColumn("left")
        self._bar = bars.Progress(*columns, speed_estimate_period=3600)
        self._task = self._bar.add_task("", total=1.0)
        self._next_time, self._finished, self._written = 0.0, -1, dict[int, Any]()

    def update(self) -> bool:
        """Requeues dead workers' trials, shows the progress, and returns whether all are done."""
        trials = self._study.refill()
        progress = progress_of(self._study.plan, trials)
        self._bar.update(self._task, completed=progress.done)
        if self.live.console.is_terminal:
            self.live.update(Group(_table(progress), progress.text, self._bar), refresh=True)
        elif progress.finished != self._finished:
            left = self._bar.tasks[0].time_remaining
            text = progress.text + (f", {timedelta(seconds=left)} left" if left else "")
            print(text, file=sys.stderr)
        # A trial's steps are reported after its rows are written, also at step 0.
        reported = {i: (trial.state, trial.user_attrs.get("steps")) for i, trial in trials.items()}
        start = time.monotonic()
        if reported != self._written and start >= self._next_time:
            collect(self._study, self._workdir, self._trackers)
            now = time.monotonic()
            self._next_time, self._written = now + PAUSE * (now - start), reported
        self._finished = progress.finished
        return progress.finished == self._study.plan.count


def _table(progress: Progress) -> Table:
    # The most important columns come first: a narrow terminal cuts off the last ones.
    table = Table("trial", Column("accuracy, %", justify="right", no_wrap=True))
    for key in progress.best[0][1] if progress.best else ():
        table.add_column(key)
    for index, settings, score in progress.best:
        cells = map(short_text, settings.values())
        table.add_row(str(index), f"{100 * score:.2f}", *cells)
    return table
