"""Checkpoints of trials that run together, from which whoever retries these trials resumes them."""

import logging
import shutil
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bnrepro.training import CheckpointError, Checkpoints

# Seconds between two checkpoints: shorter trials are quickly trained again.
SAVE_EVERY = 30

_log = logging.getLogger(__name__)


class GroupCheckpoints(Checkpoints):
    """The checkpoints of a group of trials; to be closed.

    Attributes:
      ending: whether to save the next one however short a time ago the last one was.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        """Takes the folder for this process: a worker taken for dead may still write to it.

        Raises:
          Timeout: another process has it.
          OSError: it cannot be written.
        """
        self._group, self._lock = folder, FileLock(folder / "lock", timeout=0)
        self._lock.acquire()
        super().__init__(folder / "states", keep)
        self._saved = time.monotonic()
        self.ending = False

    def restore(self, states: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """As `Checkpoints.restore`; None if all checkpoints are damaged, too: trials start anew."""
        try:
            return super().restore(states)
        except CheckpointError as error:
            _log.warning("%s; these trials start anew", error)
            shutil.rmtree(self._folder)
            return None

    def save(self, step: int, states: Any, notes: dict[str, Any], score: float) -> None:
        """As `Checkpoints.save`, if it is time for another one."""
        if self.ending or time.monotonic() - self._saved >= SAVE_EVERY:
            super().save(step, states, notes, score)
            self._saved = time.monotonic()

    def close(self) -> None:
        """As `Checkpoints.close`."""
        try:
            super().close()
        finally:
            self._lock.release()

    def remove(self) -> None:
        """Removes them all, once closed."""
        shutil.rmtree(self._group, ignore_errors=True)


def open_group(folder: Path | None, name: str, keep: int) -> GroupCheckpoints | None:
    """The checkpoints of a group of that name; None if there can be none."""
    if folder is None:
        return None
    try:
        return GroupCheckpoints(folder / name, keep)
    except (Timeout, OSError) as error:
        _log.warning("no checkpoints in %s: %s", folder / name, error)
        return None
