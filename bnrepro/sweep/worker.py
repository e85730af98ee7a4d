"""A worker of a sweep: takes trials and trains those that share a program together.

Engines start python -m bnrepro.sweep.worker, which reads the pickled plan from stdin.
"""

import json
import logging
import os
import pickle
import shutil
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from threading import Event
from time import perf_counter
from uuid import uuid4

from optuna.exceptions import UpdateFinishedTrialError

from bnrepro.comparison.config import check_config
from bnrepro.comparison.plan import Group, most_together
from bnrepro.comparison.program import Program, make_program
from bnrepro.comparison.provenance import trained_on
from bnrepro.comparison.run import dataset_of, make_job
from bnrepro.comparison.variant import train_variants
from bnrepro.data.datasets import Dataset
from bnrepro.errors import exit_codes
from bnrepro.records import Row, choosing_accuracies, complete_file
from bnrepro.sweep.plan import Plan
from bnrepro.sweep.space import in_words
from bnrepro.sweep.study import ROWS, Claim, SharedStudy, groups_at_work
from bnrepro.training.checkpoints import CheckpointError, Checkpoints, copy_newest

_log = logging.getLogger(__name__)

# TPE and pruning learn from finished trials, so a sweep with either has at least this many rounds.
_ROUNDS = 8
# Seconds between two checkpoints; shorter trials are quickly trained again.
SAVE_EVERY = 30


def load_data(plan: Plan) -> Dataset:
    """The data set of a sweep, which all of its trials fit.

    Raises:
      ConfigError: a config does not fit the data set.
      DatasetError: the data set cannot be loaded.
    """
    dataset = dataset_of(plan.config)
    for group in plan.groups({in_words(settings): settings for settings in plan.to_check}):
        make_job(group.name, dict(group.config), dataset)
    return dataset


def work(plan: Plan, should_end: Callable[[], bool] = lambda: False) -> None:
    """Trains trials until none is left to take.

    Args:
      plan: the sweep.
      should_end: called repeatedly; once it returns True, which it goes on to do, unfinished trials
        are saved and handed back for others to resume.

    Raises:
      SweepError: the storage cannot be used.
      ConfigError: a config does not fit the data set.
      DatasetError: the data set cannot be loaded.
      RecordsError: the storage holds another sweep, other workers have another data set, or rows
        cannot be written.
      CheckpointError: a checkpoint cannot be written.
    """
    dataset = load_data(plan)

    # Each holds its data set on the device.
    @lru_cache(maxsize=4)
    def program_of(group: Group) -> Program:
        check_config(group.config)
        return make_program(*make_job(group.name, dict(group.config), dataset))

    @cache
    def room_for(group: Group) -> int:
        learns = plan.sampler == "tpe" or plan.prune
        worthwhile = max(1, plan.count // _ROUNDS) if learns else plan.count
        return plan.at_once or min(worthwhile, most_together(program_of(group), plan.traced))

    def how_many(group: Group, unfinished: int) -> int:
        fair_share = -(-unfinished // (plan.commands * plan.workers))
        return min(room_for(group), fair_share)

    with ExitStack() as stack:
        try:
            plan.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # this machine of a Ray cluster may not have the workdir's disk
            _log.warning("no other worker can resume this one's trials: %s", error)
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            plan = replace(plan, checkpoints=Path(folder))
        study = stack.enter_context(SharedStudy(plan))
        stack.enter_context(study.alive())
        study.register(trained_on(dataset))
        while not should_end() and (claims := study.claim(how_many)):
            by_name = {claim.name: claim for claim in claims}
            # With TPE, they may need several programs.
            for group in plan.groups({name: c.settings for name, c in by_name.items()}):
                names, size = list(group.numbers), room_for(group)
                for first in range(0, len(names), size):
                    together = [by_name[name] for name in names[first : first + size]]
                    try:
                        if not _train(study, program_of(group), group, together, should_end):
                            return
                    except (UpdateFinishedTrialError, CheckpointError):
                        # Others, who have them now or soon, remove what they have a copy of.
                        if not study.lost():
                            raise
                        study.hand_back(claim.trial.number for claim in together)


def _train(
    study: SharedStudy,
    program: Program,
    group: Group,
    claims: Sequence[Claim],
    should_end: Callable[[], bool],
) -> bool:
    """Trains some trials of a group together; returns False if it was asked to stop."""
    start, plan = perf_counter(), study.plan
    steps, eval_every = plan.config["steps"], plan.config["eval_every"]
    training, pruned = {claim.name: claim for claim in claims}, set[str]()
    folder = _begin(study, claims)

    def finish(name: str, rows: list[Row], score: float | None) -> None:
        seconds = (perf_counter() - start) / len(claims)
        study.finish(training.pop(name), score, rows, seconds)

    checkpoints = Checkpoints(folder, plan.config["checkpoint"]["keep"], apart=SAVE_EVERY)
    with closing(checkpoints):
        for step, rows in train_variants(
            program,
            {name: group.numbers[name] for name in training},
            checkpoints=checkpoints,
            should_stop=lambda step: should_end(),
            dropped=pruned,
        ):
            # Before the report, which tells others that there is something new to read.
            with complete_file(folder / ROWS) as path:
                path.write_text(json.dumps(rows), "utf-8")
            study.report(list(training.values()), step)
            # A checkpoint may lie between two evaluations.
            if plan.prune and 0 < step < steps and step % eval_every == 0:
                own = _by_trial(rows)
                for name, claim in list(training.items()):
                    if study.hopeless(claim, _score(plan, own[name], step), step):
                        pruned.add(name)
                        finish(name, own[name], None)
                # If it was resumed at this step, training would go on.
                if not training:
                    break
        if step < steps and should_end():
            return False
        own = _by_trial(rows)
        for name in list(training):
            finish(name, own[name], _score(plan, own[name], steps))
    shutil.rmtree(folder, ignore_errors=True)
    return True


def _begin(study: SharedStudy, claims: Sequence[Claim]) -> Path:
    """Makes these trials a group, with the last checkpoint of the one that they were part of.

    Others of that one may have ended, or may go to other workers.
    """
    name, earlier = uuid4().hex, claims[0].group
    folder = study.plan.checkpoints / name
    if earlier:
        copy_newest(study.plan.checkpoints / earlier, folder)
        # The records have these until training goes on or, without a checkpoint, starts anew.
        with suppress(OSError):
            folder.mkdir(exist_ok=True)
            shutil.copyfile(study.plan.checkpoints / earlier / ROWS, folder / ROWS)
    study.begin(claims, name)
    if earlier and earlier not in groups_at_work(study.trials()).values():
        shutil.rmtree(study.plan.checkpoints / earlier, ignore_errors=True)
    return folder


def _by_trial(rows: Sequence[Row]) -> defaultdict[str, list[Row]]:
    """The rows of each trial, split in one pass."""
    own = defaultdict[str, list[Row]](list)
    for row in rows:
        own[row[0]].append(row)
    return own


def _score(plan: Plan, rows: Sequence[Row], step: int) -> float:
    """Mean accuracy over seeds at a step, on the choosing split; a diverged seed counts as 0.

    Reports count it at chance accuracy. Here trials are only ranked, and 0 keeps the search away
    from settings that diverge.
    """
    return sum(choosing_accuracies(plan.config, rows, step)) / plan.config["seeds"]


def main() -> None:
    """Runs a worker process, which saves its trials and exits on SIGTERM or when its parent exits.

    Raises:
      SystemExit: with code 2, after a sentence on stderr, if it cannot work.
    """
    told, parent = Event(), os.getppid()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    plan = pickle.load(sys.stdin.buffer)
    with exit_codes():
        work(plan, lambda: told.is_set() or os.getppid() != parent)


if __name__ == "__main__":
    main()
