"""Checkpoints of the states of all seeds: written atomically, and verified before use."""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from bnrepro.errors import UserError, first_line
from bnrepro.training.devices import all_or_none

_log = logging.getLogger(__name__)

# The most that Orbax writes in addition to the numbers.
_BYTES_A_PROCESS, _BYTES_AN_ARRAY = 2**17, 2**11


class CheckpointError(UserError):
    """A checkpoint that cannot be written or read."""


class Checkpoints:
    """The last few checkpoints of one training, and the best.

    Orbax writes a folder per step in the background, renames it when it is complete, and removes
    those that are not kept. `<step>.json`, beside the folder, has the SHA-256 of its files. A
    checkpoint without it, or with other content, is not used.
    """

    def __init__(self, folder: Path, keep: int, apart: float = 0) -> None:
        """Continues with the checkpoints in `folder`.

        Args:
          folder: created if it is missing.
          keep: number of checkpoints to keep besides the best.
          apart: seconds from one to the next that is due.
        """
        self._folder, self._keep, self._apart = folder.absolute(), keep, apart
        self._saved = time.monotonic()

    @cached_property
    def _manager(self) -> ocp.CheckpointManager:
        score = itemgetter("score")
        kept = [LatestN(self._keep), BestN(get_metric_fn=score, n=1)]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(kept),
            best_fn=score,  # without one, Orbax would not write the metrics
            cleanup_tmp_directories=True,
            temporary_path_class=_Signed,
            # Threads of two managers would mistake each other's directories for their own.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        return ocp.CheckpointManager(self._folder, options=options)

    def restore(
        self, states: Callable[[Mapping[str, Any]], Any]
    ) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest intact checkpoint: its step, the states, and the notes saved with them.

        Damaged ones are removed, with a warning.

        Args:
          states: returns shapes, types and shardings of the states (`jax.ShapeDtypeStruct`), given
            the notes.

        Returns:
          None if no checkpoint was ever completed.

        Raises:
          CheckpointError: all are damaged.
        """
        damage = {step: find_damage(self._folder, step) for step in saved_steps(self._folder)}
        whole = {step for step, wrong in damage.items() if wrong is None}
        for step in sorted(damage.keys() - whole, reverse=True):
            path = self._folder / str(step)
            if path.with_suffix(".json").exists():  # if not, it was never completed
                if not whole:
                    raise CheckpointError(
                        f"none of the {len(damage)} checkpoints in {self._folder} is intact (the "
                        f"newest: {damage[step]}); use --overwrite to start over"
                    )
                why = "checkpoint %s is damaged (%s): resuming from step %d"
                _log.warning(why, path, damage[step], max(whole))
            if jax.process_index() == 0:
                shutil.rmtree(path)
        if not whole:
            return None
        folder, step = self._folder, max(whole)
        notes = _read(folder, step, notes=ocp.args.JsonRestore()).notes
        fields = _read(folder, step, states=ocp.args.StandardRestore(states(notes))).states
        return step, fields, notes

    def due(self) -> bool:
        """Whether to save one when the config says so; it is saved anyway when training stops."""
        return time.monotonic() - self._saved >= self._apart

    def save(self, step: int, states: Any, notes: dict[str, Any], score: float) -> None:
        """Starts to write a checkpoint, once the one before is written.

        Args:
          step: larger than any before; one that exists is not written again.
          states: arrays.
          notes: as JSON.
          score: larger is better.

        Raises:
          CheckpointError: this or the one before cannot be written.
        """
        with _in_one_sentence(f"write a checkpoint to {self._folder}"):
            manager = self._manager
            with all_or_none():
                manager.wait_until_finished()
                self._check_room(states, notes)
            items = ocp.args.Composite(
                states=ocp.args.StandardSave(states), notes=ocp.args.JsonSave(notes)
            )
            manager.save(step, args=items, metrics={"score": score})
        self._saved = time.monotonic()

    def close(self) -> None:
        """Waits until all is written.

        Raises:
          CheckpointError: the last one cannot be written.
        """
        if "_manager" in vars(self):
            with _in_one_sentence(f"write a checkpoint to {self._folder}"):
                self._manager.close()
                if jax.process_index() == 0:
                    _remove_orphans(self._folder)

    def _check_room(self, states: Any, notes: dict[str, Any]) -> None:
        """Raises an OSError if the disk has no room for a checkpoint.

        Without this check, writing would fail with tracebacks from TensorStore's threads. That can
        still happen if something else fills up the disk meanwhile.
        """
        arrays = jax.tree.leaves(states)
        # For all processes, which share the folder, and as if nothing could be compressed.
        needed = sum(array.nbytes for array in arrays) + len(json.dumps(notes))
        needed += jax.process_count() * _BYTES_A_PROCESS + len(arrays) * _BYTES_AN_ARRAY
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            numbers = f"{needed:,} bytes are needed, {free:,} are free"
            raise OSError(f"no space left on the disk ({numbers})")


class _Signed(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """Signs a checkpoint as soon as it is complete, before Orbax removes older ones."""

    async def finalize(self) -> None:
        await super().finalize()
        folder = Path(self.get_final())
        if folder.name.isdecimal():  # a checkpoint, not a part of one
            _remove_orphans(folder.parent)
            beside = folder.with_suffix(".partial")
            beside.write_text(json.dumps({"files": checksums(folder)}))
            beside.replace(folder.with_suffix(".json"))


def saved_steps(folder: Path) -> list[int]:
    """The steps at which `folder` has a checkpoint, intact or not."""
    try:
        paths = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):  # perhaps another process has just removed it
        return []
    return [int(path.name) for path in paths if path.is_dir() and path.name.isdecimal()]


def find_damage(folder: Path, step: int) -> str | None:
    """What is wrong with a checkpoint's files; None if they are what was written."""
    try:
        expected = json.loads((folder / f"{step}.json").read_text())["files"].items()
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return "it has no checksums"
    try:
        found = checksums(folder / str(step))
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    for name, checksum in expected:
        if name not in found:
            return f"{name} is missing"
        if found[name] != checksum:
            return f"{name} is not what was written"
    return None


def restore(folder: Path, step: int, states: Any) -> tuple[Any, dict[str, Any]]:
    """The states and notes of an intact checkpoint.

    Raises:
      CheckpointError: it holds other states than these.
    """
    restored = _read(
        folder, step, states=ocp.args.StandardRestore(states), notes=ocp.args.JsonRestore()
    )
    return restored.states, restored.notes


def copy_newest(folder: Path, to: Path) -> None:
    """Copies the newest intact checkpoint, if there is one, to another folder.

    Raises:
      CheckpointError: it cannot be copied.
    """
    for step in sorted(saved_steps(folder), reverse=True):
        if find_damage(folder, step) is None:
            path = folder / str(step)
            with _in_one_sentence(f"copy {path} to {to}"):
                shutil.copytree(path, to / path.name)
                shutil.copy(path.with_suffix(".json"), to)
            return


def _read(folder: Path, step: int, **items: Any) -> Any:
    path = folder.absolute() / str(step)
    with (
        _in_one_sentence(f"read {path}"),
        ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer,
    ):
        return checkpointer.restore(path, args=ocp.args.Composite(**items))


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a checkpoint, by its path in it."""
    sums = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        sums[path.relative_to(folder).as_posix()] = digest.hexdigest()
    return sums


def _remove_orphans(folder: Path) -> None:
    """Removes the checksums of checkpoints that Orbax has removed."""
    for path in folder.glob("*.json"):
        if not path.with_suffix("").is_dir():
            path.unlink()


@contextmanager
def _in_one_sentence(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Orbax and TensorStore raise any kind
        full = "No space left on device" in str(error)  # within TensorStore's paths and codes
        why = "no space left on the disk" if full else first_line(error)
        raise CheckpointError(f"cannot {what}: {why}") from error
