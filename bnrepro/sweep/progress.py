"""How far a sweep is: as numbers, and as a live table."""

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table

from bnrepro.report.entries import short_text
from bnrepro.sweep.collect import collect
from bnrepro.sweep.plan import Plan
from bnrepro.sweep.space import decode
from bnrepro.sweep.study import SharedStudy, finished
from bnrepro.trackers import Tracker

# Of the best trials, so many are shown.
BEST = 10
# Seconds between two writings of the records while the sweep runs.
_WRITE_EVERY = 30


class Progress(NamedTuple):
    """How far a sweep is.

    Attributes:
      trials: how many there are.
      finished: that ended by themselves.
      diverged: of those, with a seed that diverged.
      pruned: of the others, that were pruned.
      running: that somebody works at.
      done: share of all steps, in [0, 1].
      best: the finished ones with the highest scores, as (index, settings, score in [0, 1]).
    """

    trials: int
    finished: int
    diverged: int
    pruned: int
    running: int
    done: float
    best: Sequence[tuple[int, dict[str, Any], float]]


def progress_of(plan: Plan, trials: Mapping[int, FrozenTrial], best: int) -> Progress:
    """How far a sweep with these trials is, with so many of the best."""
    ended = finished(trials)
    running = [trial for trial in trials.values() if trial.state == TrialState.RUNNING]
    # Of a group, the first trial says how far all of them are.
    sizes = Counter(str(trial.user_attrs.get("group")) for trial in running)
    steps = sum(
        trial.user_attrs.get("step", 0) * sizes[str(trial.user_attrs.get("group"))]
        for trial in running
    )
    # A pruned trial has a value, too: its last one.
    completed = {i: trial for i, trial in ended.items() if trial.state == TrialState.COMPLETE}
    scores = {i: trial.value or 0.0 for i, trial in completed.items()}
    ranked = sorted(scores, key=lambda index: -scores[index])[:best]
    count = sum(index < plan.count for index in ended)
    return Progress(
        trials=plan.count,
        finished=count,
        diverged=sum(_diverged(trial) for trial in ended.values()),
        pruned=sum(
            trial.state == TrialState.PRUNED and not _diverged(trial) for trial in ended.values()
        ),
        running=len(running),
        done=min(1.0, (count + steps / plan.config["steps"]) / plan.count),
        best=[(i, decode(plan.space, ended[i].params), scores[i]) for i in ranked],
    )


def _diverged(trial: FrozenTrial) -> bool:
    return any(row[3] == "diverged" for row in trial.user_attrs["result"]["rows"])


class Display:
    """A live table with the best trials so far and the time left; writes the records meanwhile."""

    def __init__(self, study: SharedStudy, workdir: Path, trackers: Sequence[Tracker]) -> None:
        self._study, self._workdir, self._trackers = study, workdir, trackers
        # On stderr: what is piped on is the final table alone.
        console = Console(stderr=True)
        # The table of the end takes its place.
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._shown = console.is_terminal
        self._began: tuple[float, float] | None = None
        self._written, self._finished = time.monotonic(), -1

    def __enter__(self) -> "Display":
        if self._shown:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._live.stop()

    def update(self) -> bool:
        """Sees to what others left, shows how far the sweep is, and tells whether it is done."""
        progress = progress_of(self._study.plan, self._study.refill(), BEST)
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


def _line(progress: Progress, left: float | None) -> str:
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


def _table(progress: Progress, left: float | None) -> Group:
    # What matters stands first: on a narrow terminal, the last columns are cut.
    table = Table("trial", Column("accuracy, %", justify="right", no_wrap=True))
    for key in progress.best[0][1] if progress.best else ():
        table.add_column(key)
    for index, settings, score in progress.best:
        cells = map(short_text, settings.values())
        table.add_row(str(index), f"{100 * score:.2f}", *cells)
    return Group(table, _line(progress, left))
