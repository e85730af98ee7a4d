"""Checkpoints of trials that run together: whoever retries them goes on from there."""

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bnrepro.training import CheckpointError, Checkpoints

# Seconds between two checkpoints: shorter trials are quickly trained again.
SAVE_EVERY = 30

_log = logging.getLogger(__name__)


class GroupCheckpoints(Checkpoints):
    """The checkpoints of a group of trials, which starts anew where all of them are damaged.

    Attributes:
      ending: whether to save the next one however short a time ago the last one was.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        """As that of `Checkpoints`."""
        super().__init__(folder, keep)
        self._states_folder = folder
        self._saved = time.monotonic()
        self.ending = False

    def restore(self, states: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest good checkpoint, if any; see `Checkpoints.restore`."""
        try:
            return super().restore(states)
        except CheckpointError as error:
            _log.warning("%s; these trials start anew", error)
            shutil.rmtree(self._states_folder)
            return None

    def save(self, step: int, states: Any, notes: dict[str, Any], score: float) -> None:
        """Starts to write a checkpoint if it is time for one; see `Checkpoints.save`."""
        if self.ending or time.monotonic() - self._saved >= SAVE_EVERY:
            super().save(step, states, notes, score)
            self._saved = time.monotonic()


@contextmanager
def open_group(folder: Path | None, name: str, keep: int) -> Iterator[GroupCheckpoints | None]:
    """The checkpoints of a group, removed when its trials have ended.

    Args:
      folder: of the checkpoints of all groups.
      name: of the group.
      keep: see `Checkpoints`.

    Yields:
      None if there is no folder, it cannot be written, or another process has this group.

    Raises:
      CheckpointError: the last one cannot be written.
    """
    if folder is None:
        yield None
        return
    # A worker that was taken for dead, and is not, still writes to its group.
    lock = FileLock(folder / name / "lock", timeout=0)
    try:
        lock.acquire()
    except (Timeout, OSError) as error:
        _log.warning("no checkpoints in %s: %s", folder / name, error)
        yield None
        return
    checkpoints = GroupCheckpoints(folder / name / "states", keep)
    try:
        with closing(checkpoints):
            yield checkpoints
    finally:
        lock.release()
    if not checkpoints.ending:
        shutil.rmtree(folder / name, ignore_errors=True)
