"""Sends a variant's settings and metrics to other tools: TensorBoard, Weights & Biases."""

import hashlib
import logging
import shutil
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from flax.traverse_util import unflatten_dict
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import hparams, scalar

from bnrepro.errors import UserError
from bnrepro.records import TENSORBOARD, WANDB, RecordsError, Run

# Called with a run and one of its variants, as rows come and when it has ended. Called again, it
# does only what it has not done yet.
Tracker = Callable[[Run, str], None]

# Marks a variant's folder in which all events are written.
_COMPLETE = ".complete"

_log = logging.getLogger(__name__)


class _Live:
    """Sends each seed's new rows to a tool, and marks the folder of a variant that is complete.

    After a process dies or fails to send rows, the one that resumes the run sends all again.

    Subclasses say how. `_begin(run, settings, folder)` makes a log for a seed; its settings name
    variant and seed. `_add(log, rows)` adds rows, whose `tag` is as in test/accuracy. `_end(log)`
    ends it.
    """

    _begin: Callable[[Run, dict[str, Any], Path], Any]
    _add: Callable[[Any, pd.DataFrame], None]
    _end: Callable[[Any], None]

    def __init__(self) -> None:
        # For the folder of each variant that goes on: by seed, its log, and how many metrics
        # are in it.
        self._open: dict[Path, dict[Any, tuple[Any, int]]] = {}

    def _tell(self, run: Run, variant: str, folder: Path) -> None:
        if (folder / _COMPLETE).exists():
            return
        if folder not in self._open:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        logs, ended = self._open.setdefault(folder, {}), run.ended(variant)
        rows = run.metrics[run.metrics["variant"] == variant]
        rows = rows.assign(tag=rows["split"] + "/" + rows["metric"])
        for seed, own in rows.groupby("seed"):
            if seed not in logs:
                settings = run.settings(variant) | {"variant": variant, "seed": seed}
                logs[seed] = self._begin(run, settings, folder), 0
            log, count = logs[seed]
            self._add(log, own.iloc[count:])
            # A trial that has lost its checkpoints starts over, and sends nothing twice.
            logs[seed] = log, max(count, len(own))
            if ended:
                self._end(log)
        if ended:
            del self._open[folder]
            (folder / _COMPLETE).touch()


class TensorBoard(_Live):
    """Writes metrics and settings as TensorBoard events, a TensorBoard run for each seed.

    The HPARAMS tab shows a line per seed: its settings, and the last value of each metric.
    """

    def __call__(self, run: Run, variant: str) -> None:
        """Writes what is new.

        Raises:
          RecordsError: it cannot be written.
        """
        folder = run.workdir / TENSORBOARD / variant
        try:
            self._tell(run, variant, folder)
        except OSError as error:
            self._open.pop(folder, None)  # the next call starts anew
            raise RecordsError(f"cannot write {folder}: {error.strerror}") from error

    def _begin(self, run: Run, settings: dict[str, Any], folder: Path) -> tuple[Path, Any]:
        now = time.time()
        path = folder / f"seed_{settings['seed']}" / f"events.out.tfevents.{now:.0f}"
        path.parent.mkdir()
        # The first lists columns for the tab. TensorBoard uses one such list, from any run, for
        # all; without any it shows all columns, differing ones first.
        _, begin, end = hparams(
            {
                key: value if isinstance(value, str | int | float | None) else str(value)
                for key, value in settings.items()
            },
            {},
        )
        _append(path, Event(wall_time=now, file_version="brain.Event:2"), _event(0, begin))
        return path, end

    def _add(self, log: tuple[Path, Any], rows: pd.DataFrame) -> None:
        numbers = zip(rows["step"], rows["tag"], rows["value"], strict=True)
        _append(log[0], *(_event(step, scalar(tag, value)) for step, tag, value in numbers))

    def _end(self, log: tuple[Path, Any]) -> None:
        path, end = log
        _append(path, _event(0, end))


def _event(step: int, summary: Any) -> Event:
    return Event(wall_time=time.time(), step=step, summary=summary)


def _append(path: Path, *events: Event) -> None:
    """Adds events to a file in TFRecord's format.

    tensorboardX's writers keep their files open, and a run may have 10,000 seeds. SummaryWriter
    also writes in a thread, which is waited for forever after the disk was full.
    """
    with path.open("ab") as file:
        for event in events:
            data = event.SerializeToString()
            length = struct.pack("<Q", len(data))
            for part in (length, data):
                file.write(part + struct.pack("<I", masked_crc32c(part)))


class WandB(_Live):
    """Logs to a project of Weights & Biases, one of its runs for each seed.

    W&B's local files, with WANDB_MODE=offline all of its data, are in `wandb/PROJECT/VARIANT` of
    the workdir. If logging fails, there is a warning and training continues: it is a copy of the
    records, and the next process that resumes the run logs that variant again.
    """

    def __init__(self, project: str) -> None:
        """Makes sure that there is an account to log to.

        Raises:
          UserError: the package or an account is missing, or the project name is invalid.
        """
        try:
            import wandb
        except ImportError as error:
            raise UserError(f"--wandb needs a package ({error}): pip install wandb") from error
        try:
            wandb.Settings(project=project)
            # Without this, W&B would ask for the account, or fail, during the first variant.
            wandb.login(verify=True)
        except wandb.Error as error:
            raise UserError(f"cannot log to Weights & Biases: {error}") from error
        super().__init__()
        self._wandb, self._project = wandb, project
        self._failed: set[Path] = set()

    def __call__(self, run: Run, variant: str) -> None:
        """Logs what is new."""
        folder = run.workdir / WANDB / self._project / variant
        if folder in self._failed:
            return
        try:
            self._tell(run, variant, folder)
        except (OSError, self._wandb.Error) as error:  # a broken pipe, if W&B's process has died
            self._failed.add(folder)
            for log, _ in self._open.pop(folder, {}).values():
                with suppress(OSError, self._wandb.Error):
                    log.finish()
            reason = " ".join(str(error).split())
            message = "not logged to Weights & Biases until the run is resumed: %s: %s"
            _log.warning(message, variant, reason)

    def _begin(self, run: Run, settings: dict[str, Any], folder: Path) -> Any:
        variant, seed = settings["variant"], settings["seed"]
        return self._wandb.init(
            project=self._project,
            group=run.workdir.resolve().name,
            name=f"{variant} seed {seed}",
            # W&B shows nested keys with dots, and cannot filter by keys that have dots themselves.
            config=unflatten_dict(settings, sep="."),
            dir=str(folder),
            # After a crash, the same run continues: W&B drops the steps that it already has.
            id=_id(run, variant, seed),
            resume="allow",
            # Do not log into a run that the caller has open, or print over the progress bar.
            reinit="create_new",
            settings={"console": "off", "silent": True},
        )

    def _add(self, log: Any, rows: pd.DataFrame) -> None:
        for step, at_step in rows.groupby("step"):
            log.log(dict(zip(at_step["tag"], at_step["value"], strict=True)), step=step)

    def _end(self, log: Any) -> None:
        log.finish()


def _id(run: Run, variant: str, seed: int) -> str:
    """The same id for the same numbers, but a new one after --overwrite."""
    parts = (str(run.workdir.resolve()), str(run.provenance.get("started")), variant, str(seed))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
