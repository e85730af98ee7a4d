"""From the study of a sweep to its records."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from filelock import FileLock
from flax.traverse_util import unflatten_dict
from optuna.trial import FrozenTrial

from bnrepro.comparison.config import common_config
from bnrepro.records import LOCK, RecordsError, Run, differences, metric_rows, open_sweep, write_run
from bnrepro.sweep.plan import Plan, identity
from bnrepro.sweep.space import decode
from bnrepro.sweep.study import SharedStudy, finished, trial_name
from bnrepro.trackers import Tracker


def open_workdir(plan: Plan, workdir: Path) -> None:
    """Makes a workdir for a sweep, or makes sure that what it holds is this sweep's.

    Raises:
      RecordsError: it cannot be written, or holds something else.
    """
    held = open_sweep(workdir)
    if held is None:
        return
    config = {key: value for key, value in common_config(held).items() if key != "sweep"}
    if differing := differences(identity(config, held["sweep"]), plan.identity):
        raise RecordsError(
            f"{workdir} holds another sweep ({'; '.join(differing)}); choose another --workdir, or "
            "the same values to go on"
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
        # More trials if the sweep was to have more of them once.
        "sweep": plan.described | {"trials": max(plan.count, *(index + 1 for index in trials))},
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
