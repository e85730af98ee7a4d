"""Checkpoints of trials that are trained together, from which another worker can resume them."""

import logging
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bnrepro.records import Row
from bnrepro.training.checkpoints import CheckpointError, Checkpoints, newest_notes

# Seconds between two checkpoints; shorter trials are quickly trained again.
SAVE_EVERY = 30
_STATES = "states"

_log = logging.getLogger(__name__)


class GroupCheckpoints(Checkpoints):
    """The checkpoints of a group of trials; to be closed."""

    def __init__(self, folder: Path, keep: int) -> None:
        """Locks the folder, to which a worker presumed dead might still write.

        Raises:
          Timeout: another process has locked it.
          OSError: it cannot be written.
        """
        self._group, self._lock = folder, FileLock(folder / "lock", timeout=0)
        self._lock.acquire()
        super().__init__(folder / _STATES, keep)
        self._began = self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the group has been trained, by earlier workers too."""
        return time.monotonic() - self._began

    def restore(self, states: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """As `Checkpoints.restore`, but returns None if all are damaged: the trials start over."""
        try:
            restored = super().restore(states)
        except CheckpointError as error:
            _log.warning("%s; these trials start over", error)
            shutil.rmtree(self._folder)
            return None
        if restored:
            self._began -= restored[2].get("seconds", 0)
        return restored

    def due(self) -> bool:
        """Whether the last one is old enough."""
        return time.monotonic() - self._saved >= SAVE_EVERY

    def save(self, step: int, states: Any, notes: dict[str, Any], score: float) -> None:
        """As `Checkpoints.save`."""
        super().save(step, states, {**notes, "seconds": self.seconds}, score)
        self._saved = time.monotonic()

    def close(self) -> None:
        """As `Checkpoints.close`."""
        try:
            super().close()
        finally:
            self._lock.release()

    def remove(self) -> None:
        """Deletes all checkpoints; call it after `close`."""
        shutil.rmtree(self._group, ignore_errors=True)


def open_group(folder: Path | None, name: str, keep: int) -> GroupCheckpoints | None:
    """The checkpoints of a group, by its name; None if they cannot be kept."""
    if folder is None:
        return None
    try:
        return GroupCheckpoints(folder / name, keep)
    except (Timeout, OSError) as error:
        _log.warning("no checkpoints in %s: %s", folder / name, error)
        return None


def rows_so_far(folder: Path | None, groups: Mapping[str, str]) -> dict[str, list[Row]]:
    """The rows of some trials as of the last checkpoint of each one's group, both by name."""
    rows = defaultdict[str, list[Row]](list)
    if folder is None:
        return rows
    for group in set(groups.values()):
        notes = newest_notes(folder / group / _STATES)
        for row in notes["rows"] if notes else ():
            if groups.get(row[0]) == group:
                rows[row[0]].append(tuple(row))
    return rows
