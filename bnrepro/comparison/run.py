"""Trains every variant of a config with all its seeds, and writes the records."""

import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import lru_cache
from itertools import count, product
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import jax
import pandas as pd
from jax.experimental import multihost_utils

from bnrepro.comparison.config import DEFAULTS, common_config, variant_configs, with_defaults
from bnrepro.comparison.keys import ConfigError
from bnrepro.comparison.plan import Group, group_variants, side_by_side
from bnrepro.comparison.program import Data, Program, make_data, make_program
from bnrepro.comparison.provenance import begin, dataset_identity
from bnrepro.comparison.variant import train_variants
from bnrepro.data.datasets import Dataset, load_dataset
from bnrepro.errors import Preempted
from bnrepro.records import (
    CHECKPOINTS,
    Row,
    Run,
    choosing_accuracies,
    lock_workdir,
    metric_rows,
    open_workdir,
    read_run,
    write_run,
)
from bnrepro.trackers import TensorBoard, Tracker
from bnrepro.training.checkpoints import Checkpoints
from bnrepro.training.devices import Devices, all_or_none, make_devices

# Called with the variant at work, its steps so far and, if it was evaluated there, its accuracy on
# the split that chooses: a mean over the seeds that did not diverge.
Progress = Callable[[str, int, float | None], None]

_log = logging.getLogger(__name__)

# After new rows are written, wait this many times as long as the writing took. In a comparison,
# those of a variant that ends are written at once.
PAUSE = 20


class Job(NamedTuple):
    """A variant's config, and what it is trained with."""

    config: dict[str, Any]
    data: Data
    devices: Devices


def run_comparison(
    config: Mapping[str, Any],
    workdir: Path,
    *,
    progress: Progress = lambda variant, step, accuracy: None,
    trackers: Sequence[Tracker] | None = None,
    overwrite: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> Run:
    """Trains the part of `config` that `workdir` does not hold yet, and returns all records.

    However it ends, the files in the workdir are complete. The same call resumes each variant from
    its last checkpoint, and ends with the same records as an uninterrupted run. If several
    processes share the workdir, the first one writes.

    Args:
      config: as plain nested dicts; docs/configuration.md explains the keys.
      workdir: where the records go.
      progress: called at each evaluation, from the thread that trains the variant.
      trackers: called for each variant as rows come, by the process that writes (default:
        TensorBoard).
      overwrite: replace what the workdir holds.
      should_stop: asked after some steps of each variant; if true, the states are saved.

    Raises:
      ConfigError: a setting is invalid.
      DatasetError: the data set is not available.
      RecordsError: the workdir cannot be used.
      CheckpointError: a checkpoint cannot be written, or none can be read.
      Preempted: `should_stop`, or JAX in several processes, asked to stop; progress is saved.
    """
    variants, common = variant_configs(config), common_config(config)
    with ExitStack() as stack:
        with all_or_none():
            dataset, jobs = _make_jobs(variants, common)
            if _writes():
                stack.enter_context(lock_workdir(workdir))
                run = open_workdir(
                    workdir,
                    with_defaults(config),
                    defaults=DEFAULTS,
                    data=dataset_identity(dataset),
                    overwrite=overwrite,
                )
        with all_or_none():
            if not _writes():
                run = read_run(workdir)
        run = dataclasses.replace(run, provenance=begin(run.provenance, dataset))
        trackers = [TensorBoard()] if trackers is None else trackers
        return _train(run, jobs, progress, trackers if _writes() else (), should_stop)


def _make_jobs(
    variants: Mapping[str, dict[str, Any]], common: Mapping[str, Any]
) -> tuple[Dataset, dict[str, Job]]:
    dataset, jobs = dataset_of(common), {}
    for name, variant in variants.items():
        try:
            jobs[name] = make_job(name, variant, dataset)
        except ConfigError as error:
            # A variant that fits the requested data is not wrong if a small set stands in for it.
            # The warnings also tell what is wrong with all variants.
            if not dataset.stand_in:
                raise
            _log.warning("left out: %s", error)
    if not jobs:
        raise ConfigError(f"no variant can be trained on {dataset.name}")
    return dataset, jobs


def _train(
    run: Run,
    jobs: Mapping[str, Job],
    progress: Progress,
    trackers: Sequence[Tracker],
    should_stop: Callable[[], bool],
) -> Run:
    unfinished = [name for name in jobs if not run.finished(name)]
    if not unfinished:
        _log.warning("%s is finished: there is nothing left to train", run.workdir)
    for name in set(run.variants) - set(unfinished):
        progress(name, run.config["steps"], None)
        # Tracking that was interrupted, or is requested only now.
        if run.finished(name):
            for track in trackers:
                track(run, name)

    stop, calls = threading.Event(), count()

    def stops(step: int) -> bool:
        """Whether to stop; several processes all stop at the same call."""
        if should_stop():
            stop.set()
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(next(calls)):
            stop.set()
        return stop.is_set()

    # All rows of each variant that has started, and the seconds it took, before a resumption too.
    rows: dict[str, list[Row]] = {}
    earlier: Mapping[str, float] = run.provenance["seconds"]
    seconds: dict[str, float] = {}

    threads, making = side_by_side(job.devices for job in jobs.values()), threading.Lock()

    # One program per thread is enough: the variants of a group are trained one after another.
    @lru_cache(maxsize=threads)
    def program_of(group: Group) -> Program:
        return make_program(*jobs[group.name])

    def train(name: str, group: Group) -> None:
        start, job, step = perf_counter(), jobs[name], 0
        if stops(step):
            return
        checkpoints = Checkpoints(
            run.workdir / CHECKPOINTS / name, keep=job.config["checkpoint"]["keep"]
        )
        try:
            with making:  # each only once
                program = program_of(group)
            for step, all_rows in train_variants(
                program,
                {name: group.numbers[name]},
                checkpoints=checkpoints,
                should_stop=stops,
            ):
                # Before the rows, so that these are never written without it.
                seconds[name] = round(earlier.get(name, 0) + perf_counter() - start, 1)
                rows[name] = list(all_rows)
                found = choosing_accuracies(job.config, all_rows, step)
                progress(name, step, sum(found) / len(found) if found else None)
        finally:
            checkpoints.close()
        if step < run.config["steps"] and not stop.is_set():  # every seed diverged
            progress(name, run.config["steps"], None)

    def write_rows() -> Run:
        current = _with_rows(run, dict(rows), dict(seconds))  # threads still add to them
        if _writes():
            write_run(current)
        return current

    written, next_time = 0, 0.0
    with ThreadPoolExecutor(threads) as pool:
        try:
            # Group all variants, so that a program's arguments do not depend on what is left.
            groups = group_variants({name: job.config for name, job in jobs.items()})
            left = {
                pool.submit(train, name, group)
                for group in groups
                for name in group.numbers
                if name in unfinished
            }
            while left:
                done, left = wait(left, timeout=1, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                if stop.is_set():
                    raise Preempted
                start, number = perf_counter(), sum(map(len, dict(rows).values()))
                if number > written and (done or start >= next_time):
                    current = write_rows()
                    for name, track in product(list(rows), trackers):
                        track(current, name)
                    written, now = number, perf_counter()
                    next_time = now + PAUSE * (now - start)
        except BaseException:
            # Also when interrupted, keep what was measured: at once, in case a second Ctrl-C
            # cuts the waiting short, and again with the last evaluations.
            stop.set()
            write_rows()
            pool.shutdown(cancel_futures=True)
            write_rows()
            raise
    return _with_rows(run, rows, seconds)


def _writes() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def _with_rows(run: Run, rows: Mapping[str, list[Row]], seconds: Mapping[str, float]) -> Run:
    """The run with new rows for some variants, in the order of the variants, and their times."""
    parts = {name: run.metrics[run.metrics["variant"] == name] for name in run.variants}
    parts |= {name: metric_rows(new) for name, new in rows.items()}
    return dataclasses.replace(
        run,
        metrics=pd.concat(parts.values(), ignore_index=True),
        provenance=run.provenance | {"seconds": run.provenance["seconds"] | seconds},
    )


def dataset_of(config: Mapping[str, Any]) -> Dataset:
    """Reads the data set that a config names; raises a DatasetError if it is not available."""
    size, stream = config["image_size"], config["stream"]
    return load_dataset(config["dataset"], config["data_dir"], image_size=size, stream=stream)


def make_job(
    name: str,
    config: dict[str, Any],
    dataset: Dataset,
    available: Sequence[jax.Device] | None = None,
) -> Job:
    """Makes what is needed to train the variant of that name, on some of the `available` devices.

    Raises:
      ConfigError: a setting does not fit the data set or the devices.
    """
    try:
        return Job(config, make_data(config, dataset), make_devices(config, available))
    except ValueError as error:
        raise ConfigError(f"variant {name}: {error}") from None
