"""Trains and evaluates all seeds of variants, as one program, resuming from checkpoints."""

import inspect
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from time import perf_counter
from typing import Any

import jax
import numpy as np

from bnrepro.comparison.program import Program
from bnrepro.records import Row, choosing_accuracies, choosing_split
from bnrepro.training.checkpoints import Checkpoints
from bnrepro.training.devices import all_or_none, fetch
from bnrepro.training.state import NOT_DIVERGED, TrainState

# Metrics of every step; measures are taken only at some.
_EVERY_STEP = ("loss", "accuracy")
# Seconds after which a dispatch is too long for a process that may be asked to stop.
_SLOW = 3.0
# The score of a state that was not evaluated: below that of any that was.
_NOT_EVALUATED = -1.0


def train_variants(
    program: Program,
    variants: Mapping[str, Mapping[str, float]],
    *,
    checkpoints: Checkpoints | None = None,
    should_stop: Callable[[int], bool] = lambda step: False,
    dropped: Collection[str] = (),
) -> Iterator[tuple[int, list[Row]]]:
    """Resumes from the last checkpoint; yields (step, all rows so far) after each evaluation.

    Args:
      program: made for their config.
      variants: their names, each with the numbers in which it differs from that config, by flat
        key; the keys are the same for all.
      checkpoints: to resume from and to write, if any.
      should_stop: called after some steps, with their number; if true, the state is saved.
      dropped: variants to stop training; checked after each evaluation.
    """
    config, devices = program.config, program.devices
    all_seeds = (config["first_seed"] + np.arange(config["seeds"])).tolist()
    runs = [(name, seed) for name in variants for seed in all_seeds]
    keys = next(iter(variants.values()))
    numbers = {key: np.array([variants[name][key] for name, _ in runs], np.float32) for key in keys}
    arguments = np.array([seed for _, seed in runs]), numbers

    step, score = 0, _NOT_EVALUATED
    rows: list[Row] = []
    # Loss and accuracy of the steps since the last evaluation, (runs, steps) each, in pieces:
    # joining them each time would take quadratic time.
    history: list[dict[str, np.ndarray]] = []

    def saved_fields(notes: Mapping[str, Any]) -> Any:
        """Shapes, types and shardings of the fields of the states that were saved."""
        # More may have been trained together. Earlier versions do not say.
        count = len(notes.get("runs", runs))
        saved = jax.tree.map(lambda x: np.zeros(count, x.dtype), arguments)
        # Within a traced function, JAX allows no compiler options.
        fields = jax.eval_shape(lambda *own: vars(inspect.unwrap(program.init)(*own)), *saved)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=devices.sharding), fields
        )

    restored = checkpoints and checkpoints.restore(saved_fields)
    if restored:
        step, fields, notes = restored
        states, saved = TrainState(**fields), [tuple(run) for run in notes.get("runs", runs)]
        where = [saved.index(run) for run in runs]
        if saved != runs:
            states = devices.select(states, where)
        rows = [tuple(row) for row in notes["rows"] if row[0] in variants]
        score = notes["score"]
        if notes["history"]:
            history = [{metric: np.array(x)[where] for metric, x in notes["history"].items()}]
        yield step, rows
    else:
        states = program.init(*arguments)

    def save() -> None:
        if checkpoints is not None:
            kept = {metric: values.tolist() for metric, values in _joined(history).items()}
            # A copy: they are written in the background, while more rows come.
            notes = {"rows": list(rows), "history": kept, "score": score, "runs": runs}
            checkpoints.save(step, vars(states), notes, score)

    steps, every = config["steps"], config["checkpoint"]["every"]

    most, compiled = program.source.steps_at_once, False

    def steps_at_once(step: int) -> int:
        return min(most, config["eval_every"] - step % config["eval_every"])

    with closing(Feed(program)) as feed:
        while True:
            if step % config["eval_every"] == 0 and (history or not rows):
                splits = fetch(program.evaluate(states.evaluated, states.numbers))
                splits["train"] = {
                    # In float64 for every type, so that a resumed run has the same mean.
                    metric: values.mean(1, dtype=np.float64)
                    for metric, values in _joined(history).items()
                    if values.shape[1]  # steps without a measure between two evaluations
                }
                choosing = choosing_split(config)
                rows += _rows(runs, step, splits, choosing, fetch(states.diverged_at), rows)
                history = []
                yield step, rows
                finals = choosing_accuracies(config, rows, step)
                if not finals:  # all diverged
                    return
                score = sum(finals) / len(runs)  # one that diverged counts as 0, as in a sweep
                evaluations = step // config["eval_every"]
                regular = step == steps or (every and step and evaluations % every == 0)
                if regular and checkpoints and checkpoints.due():
                    save()
                kept = [i for i, (name, _) in enumerate(runs) if name not in dropped]
                if not kept:
                    return
                # Fewer runs need another compilation, which only pays off if many were dropped.
                if 2 * len(kept) <= len(runs):
                    runs, compiled = [runs[i] for i in kept], False
                    states = devices.select(states, kept)
            if step == steps:
                return
            if should_stop(step):
                save()
                return
            start = perf_counter()
            count, seeds = steps_at_once(step), [seed for _, seed in runs]
            ahead = steps_at_once(step + count) if step + count < steps else 0
            fed = feed(seeds, step, count, ahead)
            states, metrics = program.train_steps(states, program.arrays, fed, step, count)
            new = fetch(metrics)
            # To stop in time. Several processes have to agree on the number of steps.
            slow = compiled and perf_counter() - start > _SLOW
            if slow and jax.process_count() == 1:
                most = max(1, count // 2)
            compiled = True
            measured = (step + np.arange(count)) % config["measure_every"] == 0
            history.append(
                {
                    metric: values[:, :count][:, slice(None) if metric in _EVERY_STEP else measured]
                    for metric, values in new.items()
                }
            )
            step, score = step + count, _NOT_EVALUATED


class Feed:
    """Feeds a stream's minibatches, and reads the next ones while the devices train."""

    def __init__(self, program: Program):
        self._program, self._pool = program, ThreadPoolExecutor(1)
        self._ahead: dict[Any, Future[Any]] = {}

    def __call__(self, seeds: Sequence[int], first: int, count: int, ahead: int = 0) -> Any:
        """The minibatches of these steps, on the devices; nothing if there is no stream.

        Begins to read those of the next `ahead` steps.
        """
        if self._program.source.feed is None:
            return ()
        steps = tuple(seeds), first, count
        read = self._ahead.get(steps) or self._pool.submit(self._read, *steps)
        steps = tuple(seeds), first + count, ahead
        self._ahead = {steps: self._pool.submit(self._read, *steps)} if ahead else {}
        with all_or_none():
            return read.result()

    def _read(self, seeds: Sequence[int], first: int, count: int) -> Any:
        source, config, devices = self._program.source, self._program.config, self._program.devices
        assert source.feed is not None
        size = config["microbatch_size"]
        here = devices.fed_here(len(seeds), config["batch_size"] // size, size)
        # The compiled loop takes arrays of one shape, and uses only the steps it is told to.
        missing = source.steps_at_once - count

        def whole(x: np.ndarray) -> np.ndarray:
            if missing:
                x = np.pad(x, [(0, 0), (0, missing), *[(0, 0)] * (x.ndim - 2)])
            return x.reshape(*x.shape[:2], -1, size, *x.shape[3:])

        fed = source.feed(seeds, first, count, here.reshape(len(seeds), -1))
        return devices.feed(jax.tree.map(whole, fed))

    def close(self) -> None:
        """Stops reading."""
        self._pool.shutdown(cancel_futures=True)


def _joined(history: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    # Before the run was resumed, other measures may have been requested.
    metrics = [metric for metric in history[0] if metric in history[-1]] if history else []
    return {metric: np.concatenate([new[metric] for new in history], axis=1) for metric in metrics}


def _rows(
    runs: Sequence[tuple[str, int]],
    step: int,
    splits: Mapping[str, Mapping[str, np.ndarray]],
    choosing: str,
    diverged_at: np.ndarray,
    before: list[Row],
) -> list[Row]:
    """The rows to record for one evaluation; for a run that diverged, a single row says so."""
    out = {row[:2] for row in before if row[4] == "diverged"}
    rows: list[Row] = []
    for i, (name, seed) in enumerate(runs):
        if (name, seed) in out:
            continue
        # At step 0, moving averages are not yet those of the network, whose output may overflow.
        failed = step > 0 and not math.isfinite(splits[choosing]["loss"][i])
        if failed or diverged_at[i] != NOT_DIVERGED:
            at = step if diverged_at[i] == NOT_DIVERGED else int(diverged_at[i])
            rows.append((name, seed, at, "train", "diverged", 1.0))
            continue
        rows += [
            (name, seed, step, split, metric, float(values[i]))
            for split, metrics in splits.items()
            for metric, values in metrics.items()
            if not np.isnan(values[i])  # as of a measure that divides by zero
        ]
    return rows
