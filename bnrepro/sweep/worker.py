"""Takes trials of a sweep and trains them, those that differ in nothing but numbers as one program.

python -m bnrepro.sweep.worker takes the plan on stdin, as engines start it.
"""

import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from time import perf_counter
from typing import Any

import jax
import numpy as np

from bnrepro.comparison.config import ConfigError, check_config, with_settings
from bnrepro.comparison.provenance import here_and_now
from bnrepro.comparison.run import make_job
from bnrepro.comparison.variant import Program, make_program, train_variants
from bnrepro.data import Dataset, DatasetError, load_dataset
from bnrepro.records import RecordsError, Row
from bnrepro.sweep.plan import Plan
from bnrepro.sweep.space import SweepError
from bnrepro.sweep.study import Claim, SharedStudy

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
      should_end: asked between trials and at evaluations; what was begun then is left to others.

    Raises:
      SweepError: the storage cannot be used.
      ConfigError: a config that does not go with the data set.
      DatasetError: a data set that cannot be had.
      RecordsError: another sweep, or another data set than that of the other workers.
    """
    dataset = load_dataset(plan.config["dataset"], plan.config["data_dir"] or None)
    study = SharedStudy(plan)
    study.register({"dataset": dataset.name, "stand_in": dataset.stand_in, **here_and_now()})

    # A few, since each holds the data set on the device.
    @lru_cache(maxsize=4)
    def program_of(static: str) -> Program:
        return _program(plan, json.loads(static), dataset)

    @cache
    def trials_of(static: str) -> int:
        return plan.at_once or _at_once(program_of(static), plan.traced)

    while not should_end() and (claims := study.claim(_how_many(plan))):
        groups: dict[str, list[Claim]] = {}
        for claim in claims:
            shape = {key: v for key, v in claim.settings.items() if key not in plan.traced}
            groups.setdefault(json.dumps(shape), []).append(claim)
        # Also those whose turn is later: who waits for them must know that somebody has them.
        with study.alive(claims):
            for static, members in groups.items():
                size = trials_of(static)
                for first in range(0, len(members), size):
                    together = members[first : first + size]
                    if not _train(plan, study, program_of(static), together, should_end):
                        return


def _train(
    plan: Plan,
    study: SharedStudy,
    program: Program,
    claims: Sequence[Claim],
    should_end: Callable[[], bool],
) -> bool:
    """Trains some trials as one program; False if it was to end."""
    start = perf_counter()
    numbers = {c.name: {key: c.settings[key] for key in plan.traced} for c in claims}
    left, pruned = {claim.name: claim for claim in claims}, set[str]()
    rows: list[Row] = []

    study.begin(claims)
    for step, all_rows in train_variants(program, numbers, dropped=pruned):
        rows = all_rows
        if should_end():
            return False
        study.report(claims[0], step)
        if plan.prune and 0 < step < plan.config["steps"]:
            own = _by_trial(rows)
            for name, claim in list(left.items()):
                if study.hopeless(claim, _score(plan, own[name], step), step):
                    pruned.add(name)
                    seconds = perf_counter() - start
                    study.finish(left.pop(name), 0.0, own[name], seconds, pruned=True)
    seconds, own = perf_counter() - start, _by_trial(rows)
    for name, claim in left.items():
        score = _score(plan, own[name], plan.config["steps"])
        study.finish(claim, score, own[name], seconds / len(claims), pruned=False)
    return True


def _by_trial(rows: Sequence[Row]) -> defaultdict[str, list[Row]]:
    """The rows of each trial, at once: to look for those of one takes as long as for all."""
    own = defaultdict[str, list[Row]](list)
    for row in rows:
        own[row[0]].append(row)
    return own


def _score(plan: Plan, rows: Sequence[Row], step: int) -> float:
    """Mean test accuracy over seeds at a step; one that diverged counts as 0."""
    return (
        sum(row[5] for row in rows if row[2:5] == (step, "test", "accuracy")) / plan.config["seeds"]
    )


def _how_many(plan: Plan) -> int:
    """How many trials to take at once."""
    if plan.at_once is not None:
        return plan.at_once
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
    return make_program(config, dataset, samplers=job.samplers, devices=job.devices)


def _at_once(program: Program, traced: Sequence[str]) -> int:
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
    compiled = train_steps.lower(program.init(seeds, numbers), *program.data, 1).compile()
    memory = compiled.memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes


def main() -> None:
    """A worker process; it ends with its parent.

    Raises:
      SystemExit: with code 2, after a sentence on stderr, if it cannot work.
    """
    plan, parent = Plan.from_json(sys.stdin.read()), os.getppid()
    try:
        work(plan, lambda: os.getppid() != parent)
    except (SweepError, ConfigError, DatasetError, RecordsError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
