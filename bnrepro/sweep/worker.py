"""Takes trials of a sweep and trains them, those that differ in nothing but numbers as one program.

python -m bnrepro.sweep.worker takes the pickled plan on stdin, as engines start it.
"""

import json
import os
import pickle
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import cache, lru_cache
from threading import Event
from time import perf_counter
from typing import Any

import jax
import numpy as np

from bnrepro.comparison.config import check_config, with_settings
from bnrepro.comparison.keys import ConfigError
from bnrepro.comparison.provenance import here_and_now
from bnrepro.comparison.run import make_job
from bnrepro.comparison.variant import Program, make_program, train_variants
from bnrepro.data import Dataset, DatasetError, load_dataset
from bnrepro.records import RecordsError, Row, choosing_split
from bnrepro.sweep.checkpoints import GroupCheckpoints, open_group
from bnrepro.sweep.plan import Plan
from bnrepro.sweep.space import SweepError
from bnrepro.sweep.study import Claim, SharedStudy
from bnrepro.training import CheckpointError

# Runs of one program on a CPU: more of these small networks do not fit a core's cache.
_RUNS_ON_CPU = 8
# Trials taken at once for a device with memory for more.
_MOST_AT_ONCE = 1024
# TPE and pruning learn from finished trials: a sweep has at least so many rounds.
_ROUNDS = 8
# Part of a device's memory to use.
_MEMORY_SHARE = 0.8


def work(plan: Plan, should_end: Callable[[], bool] = lambda: False) -> None:
    """Trains trials until there is none left to take.

    Args:
      plan: of the sweep.
      should_end: asked every now and then; what was begun then is saved, and left to others.

    Raises:
      SweepError: the storage cannot be used.
      ConfigError: a config that does not go with the data set.
      DatasetError: a data set that cannot be had.
      RecordsError: another sweep, or another data set than that of the other workers.
      CheckpointError: a checkpoint cannot be written.
    """
    dataset = load_dataset(
        plan.config["dataset"],
        plan.config["data_dir"] or None,
        image_size=plan.config["image_size"],
    )

    # A few, since each holds the data set on the device.
    @lru_cache(maxsize=4)
    def program_of(static: str) -> Program:
        return _program(plan, json.loads(static), dataset)

    @cache
    def room_for(static: str) -> int:
        return plan.at_once or min(_most(plan), _memory_for(program_of(static), plan.traced))

    def how_many(settings: dict[str, Any], unfinished: int) -> int:
        fair_share = -(-unfinished // plan.workers)
        return min(room_for(json.dumps(plan.static(settings))), fair_share)

    with closing(SharedStudy(plan)) as study, study.alive():
        study.register(
            {
                "dataset": dataset.name,
                "stand_in": dataset.stand_in,
                "classes": len(dataset.class_names),
                **here_and_now(),
            }
        )
        while not should_end() and (claims := study.claim(how_many)):
            # Of TPE, they may be several programs.
            programs = defaultdict[str, list[Claim]](list)
            for claim in sorted(claims, key=lambda claim: claim.index):
                programs[json.dumps(plan.static(claim.settings))].append(claim)
            for static, members in programs.items():
                size = room_for(static)
                for first in range(0, len(members), size):
                    together = members[first : first + size]
                    if not _train(study, program_of(static), together, should_end):
                        return


def _train(
    study: SharedStudy, program: Program, claims: Sequence[Claim], should_end: Callable[[], bool]
) -> bool:
    """Trains some trials as one program; False if it was to end."""
    start, plan = perf_counter(), study.plan
    eval_every = plan.config["eval_every"]
    numbers = {c.name: {key: c.settings[key] for key in plan.traced} for c in claims}
    left, pruned = {claim.name: claim for claim in claims}, set[str]()
    step, rows, ending = 0, list[Row](), False

    def finish(name: str, score: float, rows: list[Row]) -> None:
        seconds = (perf_counter() - start) / len(claims)
        study.finish(left.pop(name), score, rows, seconds, pruned=name in pruned)

    with _checkpoints(study, claims) as checkpoints:

        def should_stop(step: int) -> bool:
            nonlocal ending
            ending = should_end()
            if checkpoints is not None:
                checkpoints.ending = ending
            return ending

        for step, rows in train_variants(
            program, numbers, checkpoints=checkpoints, should_stop=should_stop, dropped=pruned
        ):
            study.report(claims[0], step)
            # A checkpoint may lie between two evaluations.
            if plan.prune and 0 < step < plan.config["steps"] and step % eval_every == 0:
                own = _by_trial(rows)
                for name, claim in list(left.items()):
                    if study.hopeless(claim, _score(plan, own[name], step), step):
                        pruned.add(name)
                        finish(name, 0.0, own[name])
        if ending:
            return False
        own = _by_trial(rows)
        for name in list(left):
            finish(name, _score(plan, own[name], plan.config["steps"]), own[name])
    return True


@contextmanager
def _checkpoints(study: SharedStudy, claims: Sequence[Claim]) -> Iterator[GroupCheckpoints | None]:
    """Where these trials go on from, if they are a whole group, and what they leave."""
    folder, keep = study.plan.checkpoints, study.plan.config["checkpoint"]["keep"]
    group = claims[0].group
    with ExitStack() as stack:
        checkpoints = None
        if group and len(claims) == group[1] and all(claim.group == group for claim in claims):
            checkpoints = stack.enter_context(open_group(folder, group[0], keep))
        if checkpoints is None:
            checkpoints = stack.enter_context(open_group(folder, study.begin(claims), keep))
        yield checkpoints


def _by_trial(rows: Sequence[Row]) -> defaultdict[str, list[Row]]:
    """The rows of each trial, at once: to look for those of one takes as long as for all."""
    own = defaultdict[str, list[Row]](list)
    for row in rows:
        own[row[0]].append(row)
    return own


def _score(plan: Plan, rows: Sequence[Row], step: int) -> float:
    """Mean accuracy, over seeds, on what chooses at a step; one that diverged counts as 0.

    Reports count it at chance accuracy. Here, where trials are only ordered, less keeps the search
    away from settings that diverge.
    """
    chosen = (step, choosing_split(plan.config), "accuracy")
    return sum(row[5] for row in rows if row[2:5] == chosen) / plan.config["seeds"]


def _most(plan: Plan) -> int:
    """How many trials of one program are worthwhile, whatever there is memory for."""
    on_cpu = jax.default_backend() == "cpu"
    most = max(1, _RUNS_ON_CPU // plan.config["seeds"]) if on_cpu else _MOST_AT_ONCE
    if plan.sampler == "tpe" or plan.prune:
        most = min(most, plan.count // _ROUNDS)
    return max(1, most)


def _program(plan: Plan, static: dict[str, Any], dataset: Dataset) -> Program:
    """What trains the trials that have these settings in common, on one device."""
    config = with_settings(plan.config, static | {"devices.strategy": "single"})
    check_config(config)
    job = make_job(f"of {static}", config, dataset)
    return make_program(*job)


def _memory_for(program: Program, traced: Sequence[str]) -> int:
    """How many trials of a program the device has memory for."""
    stats = program.devices.mesh.devices.flat[0].memory_stats() or {}
    if "bytes_limit" not in stats:
        return _MOST_AT_ONCE
    free = _MEMORY_SHARE * stats["bytes_limit"] - stats["bytes_in_use"]
    return max(1, int(free / bytes_per_trial(program, traced)))


def bytes_per_trial(program: Program, traced: Sequence[str]) -> int:
    """Memory of the device that the training of one trial takes, beside the data set."""
    seeds = program.config["first_seed"] + np.arange(program.config["seeds"])
    numbers = {key: np.zeros(len(seeds), np.float32) for key in traced}
    train_steps: Any = program.train_steps
    compiled = train_steps.lower(program.init(seeds, numbers), program.arrays, (), 0, 1).compile()
    memory = compiled.memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes


def main() -> None:
    """A worker process; on SIGTERM, or when its parent has ended, it saves its trials and ends.

    Raises:
      SystemExit: with code 2, after a sentence on stderr, if it cannot work.
    """
    told, parent = Event(), os.getppid()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    plan = pickle.load(sys.stdin.buffer)
    try:
        work(plan, lambda: told.is_set() or os.getppid() != parent)
    except (SweepError, ConfigError, DatasetError, RecordsError, CheckpointError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
