"""From the study of a sweep to its records, and how far it is."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock
from flax.traverse_util import unflatten_dict
from optuna.trial import FrozenTrial, TrialState

from bnrepro.comparison.config import common_config
from bnrepro.records import LOCK, RecordsError, Run, differences, metric_rows, open_sweep, write_run
from bnrepro.sweep.plan import Plan, identity
from bnrepro.sweep.space import decode, space_to_json
from bnrepro.sweep.study import SharedStudy, finished, trial_name
from bnrepro.trackers import Tracker


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


def open_workdir(plan: Plan, workdir: Path) -> None:
    """Makes a workdir for a sweep, or makes sure that what it holds is this sweep's.

    Raises:
      RecordsError: it cannot be written, or holds something else.
    """
    held = open_sweep(workdir)
    if held is None:
        return
    config = {key: value for key, value in common_config(held).items() if key != "sweep"}
    vary, sampler, trials = (held["sweep"].get(key) for key in ("vary", "sampler", "trials"))
    if differing := differences(identity(config, vary, sampler, trials), plan.identity):
        raise RecordsError(
            f"{workdir} holds another sweep ({'; '.join(differing)}); choose another --workdir, or "
            "the same values to go on"
        )


def progress_of(plan: Plan, trials: Mapping[int, FrozenTrial], best: int) -> Progress:
    """How far a sweep with these trials is, with so many of the best."""
    ended = finished(trials)
    running = {i: trial for i, trial in trials.items() if trial.state == TrialState.RUNNING}
    # Of a group, the first trial says how far all of them are.
    sizes = Counter(str(trial.user_attrs.get("group")) for trial in running.values())
    steps = sum(
        trial.user_attrs.get("step", 0) * sizes[str(trial.user_attrs.get("group"))]
        for trial in running.values()
    )
    # A pruned trial has a value, too: its last one.
    scores = {
        i: trial.value
        for i, trial in ended.items()
        if trial.state == TrialState.COMPLETE and trial.value is not None
    }
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


def collect(study: SharedStudy, workdir: Path, trackers: Sequence[Tracker] = ()) -> Run | None:
    """Writes the records of the trials that have finished; None if none has.

    Args:
      study: of the sweep.
      workdir: where the records go.
      trackers: told of each of these trials.

    Raises:
      RecordsError: they cannot be written.
      SweepError: the storage cannot be used.
    """
    # Who reads last writes last, also where several machines share the workdir.
    with FileLock(workdir / LOCK):
        ended = finished(study.trials())
        if not ended:
            return None
        run = _run(study, workdir, ended)
        write_run(run)
    for name in run.variants:
        for track in trackers:
            track(run, name)
    return run


def _run(study: SharedStudy, workdir: Path, trials: Mapping[int, FrozenTrial]) -> Run:
    plan = study.plan
    settings = {index: decode(plan.space, trial.params) for index, trial in trials.items()}
    config = {
        **plan.config,
        "variants": {
            trial_name(index): unflatten_dict(flat, sep=".") for index, flat in settings.items()
        },
        "baseline": trial_name(next(iter(trials))),
        "sweep": {
            "vary": space_to_json(plan.space),
            "sampler": plan.sampler,
            # More if the sweep was to have more of them once.
            "trials": max(plan.count, *(index + 1 for index in trials)),
            "command": plan.command,
        },
    }
    rows = [
        (trial_name(index), *row)
        for index, trial in trials.items()
        for row in trial.user_attrs["result"]["rows"]
    ]
    seconds = {trial_name(i): trial.user_attrs["result"]["seconds"] for i, trial in trials.items()}
    # Workers are started by other commands.
    provenance = study.provenance() | {"command": plan.launched_by, "seconds": seconds}
    return Run(workdir, config, metric_rows(rows), provenance)


def _diverged(trial: FrozenTrial) -> bool:
    return any(row[3] == "diverged" for row in trial.user_attrs["result"]["rows"])
