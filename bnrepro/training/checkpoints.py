"""Checkpoints of the states of all seeds: atomic, and known to be whole before they are used."""

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

_log = logging.getLogger(__name__)

# Orbax numbers its writes in one count for the whole process, by which two at once, of managers in
# two threads, mistake each other's directories and wait for ever.
_orbax = Semaphore()

# What Orbax writes beside the numbers, at most.
_BYTES_A_PROCESS, _BYTES_AN_ARRAY = 2**16, 2**11


class CheckpointError(Exception):
    """A checkpoint that cannot be written or read; the message is one sentence for the user."""


class Checkpoints:
    """The last few checkpoints of one training, and the best.

    Orbax writes a folder a step, in the background, and renames it when it is complete. Beside it
    stands what Orbax does not keep, `<step>.json`: the SHA-256 of its files and its score. A
    checkpoint without that, or of other content, is not used.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        """Goes on with what `folder` holds.

        Args:
          folder: made if it is missing.
          keep: number of checkpoints to keep beside the best.
        """
        self._folder = folder.absolute()
        self._keep = keep
        self._manager: ocp.CheckpointManager | None = None
        self._background = ThreadPoolExecutor(1)
        self._written: Future[None] | None = None

    def restore(self, states: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest good checkpoint: its step, the states, and the notes kept with them.

        Newer ones that are damaged are removed, with a warning.

        Args:
          states: shapes, types and shardings of the states (`jax.ShapeDtypeStruct`).

        Returns:
          None if none was ever completed.

        Raises:
          CheckpointError: all are damaged.
        """
        bad: dict[int, str] = {}
        for step in sorted(saved_steps(self._folder), reverse=True):
            damage = find_damage(self._folder, step)
            if damage is None:
                self._discard(bad, step)
                return step, *restore(self._folder, step, states)
            bad[step] = damage
        if any(self._signature(step).exists() for step in bad):
            step, damage = next(iter(bad.items()))
            raise CheckpointError(
                f"none of the {len(bad)} checkpoints in {self._folder} is whole (the newest: "
                f"{damage}); --overwrite starts anew"
            )
        self._discard(bad, None)
        return None

    def save(self, step: int, states: Any, notes: dict[str, Any], score: float) -> None:
        """Starts to write a checkpoint, once the one before is written.

        Args:
          step: larger than any before.
          states: arrays.
          notes: as JSON.
          score: the larger, the better.

        Raises:
          CheckpointError: this or the one before cannot be written.
        """
        try:
            if self._manager is None:
                options = ocp.CheckpointManagerOptions(cleanup_tmp_directories=True)
                self._manager = ocp.CheckpointManager(self._folder, options=options)
            if self._written is not None:
                _fail_together(self._written.exception())
            if step in saved_steps(self._folder):
                return
            items = ocp.args.Composite(
                states=ocp.args.StandardSave(states), notes=ocp.args.JsonSave(notes)
            )
            _orbax.acquire()
            try:
                _fail_together(self._lack_of_room(states, notes))
                self._manager.save(step, args=items)
                self._written = self._background.submit(self._finish, self._manager, step, score)
            except BaseException:
                _orbax.release()
                raise
        except Exception as error:  # Orbax and TensorStore raise any kind
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Waits until all is written.

        Raises:
          CheckpointError: the last one cannot be written.
        """
        try:
            self._background.shutdown()
            if self._manager is not None:
                self._manager.close()  # raises what went wrong in Orbax once more
            if self._written is not None:
                self._written.result()
        except Exception as error:
            raise self._unwritable(error) from error

    def _lack_of_room(self, states: Any, notes: dict[str, Any]) -> OSError | None:
        """What is wrong if the disk has no room for a checkpoint.

        One that was begun would fail as well, but with tracebacks of TensorStore's threads; so it
        does where something else fills up the disk meanwhile.
        """
        arrays = jax.tree.leaves(states)
        # Of all processes, which share the folder, and as if nothing could be compressed.
        needed = sum(array.nbytes for array in arrays) + len(json.dumps(notes))
        needed += jax.process_count() * _BYTES_A_PROCESS + len(arrays) * _BYTES_AN_ARRAY
        free = shutil.disk_usage(self._folder).free
        if free >= needed:
            return None
        numbers = f"{needed:,} bytes are needed, {free:,} are free"
        return OSError(f"no space left on the disk ({numbers})")

    def _unwritable(self, error: Exception) -> CheckpointError:
        return CheckpointError(f"cannot write a checkpoint to {self._folder}: {_first_line(error)}")

    def _finish(self, manager: ocp.CheckpointManager, step: int, score: float) -> None:
        """Waits for Orbax, signs what it wrote, and removes what is not to be kept."""
        try:
            manager.wait_until_finished()
        finally:
            _orbax.release()
        if jax.process_index() != 0:
            return
        signature = self._signature(step)
        beside = signature.with_suffix(".partial")
        files = checksums(self._folder / str(step))
        beside.write_text(json.dumps({"score": score, "files": files}))
        beside.replace(signature)

        signed = [step for step in saved_steps(self._folder) if self._signature(step).exists()]
        best = max(signed, key=lambda step: (self._score(step), step))
        for old in sorted(signed)[: -self._keep]:
            if old != best:
                self._remove(old)

    def _score(self, step: int) -> float:
        try:
            return float(json.loads(self._signature(step).read_text())["score"])
        except (ValueError, TypeError, KeyError):
            return -math.inf  # damaged: no reason to keep it

    def _remove(self, step: int) -> None:
        # In this order: what is left of it, if it comes to that, is not used.
        self._signature(step).unlink(missing_ok=True)
        shutil.rmtree(self._folder / str(step))

    def _signature(self, step: int) -> Path:
        return self._folder / f"{step}.json"

    def _discard(self, bad: dict[int, str], good: int | None) -> None:
        for step, damage in bad.items():
            if self._signature(step).exists():
                _log.warning(
                    "checkpoint %s is damaged (%s): going on from step %d",
                    self._folder / str(step),
                    damage,
                    good,
                )
            if jax.process_index() == 0:
                self._remove(step)


def saved_steps(folder: Path) -> list[int]:
    """The steps that `folder` has a checkpoint of, whole or not."""
    if not folder.is_dir():
        return []
    return [int(path.name) for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()]


def find_damage(folder: Path, step: int) -> str | None:
    """What is wrong with a checkpoint's files; None if they are what was written."""
    try:
        expected = json.loads((folder / f"{step}.json").read_text())["files"].items()
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return "it has no checksums"
    found = checksums(folder / str(step))
    for name, checksum in expected:
        if name not in found:
            return f"{name} is missing"
        if found[name] != checksum:
            return f"{name} is not what was written"
    return None


def restore(folder: Path, step: int, states: Any) -> tuple[Any, dict[str, Any]]:
    """The states and notes of a checkpoint that is whole.

    Raises:
      CheckpointError: it holds other states than these.
    """
    items = ocp.args.Composite(
        states=ocp.args.StandardRestore(states), notes=ocp.args.JsonRestore()
    )
    path = folder.absolute() / str(step)
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            restored = checkpointer.restore(path, args=items)
    except Exception as error:  # Orbax and TensorStore raise any kind
        raise CheckpointError(f"cannot read {path}: {_first_line(error)}") from error
    return restored.states, restored.notes


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a checkpoint, by its path in it."""
    return {path.relative_to(folder).as_posix(): _checksum(path) for path in sorted(_files(folder))}


def _fail_together(failure: BaseException | None) -> None:
    """Raises a failure, also of another process: one that went on would wait for it for ever."""
    failed = multihost_utils.process_allgather(np.array(failure is not None))
    if failure is not None:
        raise failure
    if failed.any():
        raise OSError("another process could not")


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent) / name for name in names)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    if "No space left on device" in str(error):  # in the midst of paths and codes of TensorStore's
        return "no space left on the disk"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
