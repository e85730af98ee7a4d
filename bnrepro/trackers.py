"""Tells other tools of a variant's settings and metrics: TensorBoard, Weights & Biases."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from flax.traverse_util import unflatten_dict
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import hparams, scalar

from bnrepro.records import TENSORBOARD, WANDB, Run, complete_file

# Told of a run and of a variant of it that is finished. Told of the same again, it only does what
# it has not done yet.
Tracker = Callable[[Run, str], None]

_log = logging.getLogger(__name__)


class TrackerError(Exception):
    """A tool that cannot be used; the message is one sentence for the user."""


class _Seed(NamedTuple):
    seed: int
    settings: dict[str, Any]
    metrics: pd.DataFrame  # step, tag (as in test/accuracy), value


def tensorboard(run: Run, variant: str) -> None:
    """Writes metrics and settings as TensorBoard events, a TensorBoard run for each seed.

    The HPARAMS tab shows a line a seed: its settings, and the last value of each metric.

    Raises:
      RecordsError: they cannot be written.
    """
    folder = run.workdir / TENSORBOARD / variant
    if folder.exists():
        return
    with complete_file(folder) as beside:
        for seed, settings, metrics in _seeds(run, variant):
            # The first of the three lists columns for the tab. TensorBoard takes one such list, of
            # whichever run, for all; without any it shows the columns of all, what differs first.
            _, start, end = hparams(_as_hparams(settings), {})
            scalars: list[Any] = [
                (row.step, scalar(row.tag, row.value)) for row in metrics.itertuples()
            ]
            _write_events(beside / f"seed_{seed}", [(0, start), *scalars, (0, end)])


def _write_events(folder: Path, summaries: Sequence[tuple[int, Any]]) -> None:
    """Writes summaries, each with its step.

    SummaryWriter does so in a thread, which dies when the disk is full and is waited for for ever.
    """
    folder.mkdir(parents=True)
    writer = EventsWriter(str(folder / "events"))
    try:
        for step, summary in summaries:
            writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))
    finally:
        writer.close()


def wandb(project: str) -> Tracker:
    """A tracker that logs to a project of Weights & Biases, one of its runs for each seed.

    What W&B keeps here, with WANDB_MODE=offline all there is, goes to `wandb/PROJECT/VARIANT` of
    the workdir. Of what W&B does not take there is a warning, and no end of the training: it is a
    copy of the records.

    Raises:
      TrackerError: there is no package, no such project name, or no account to log to.
    """
    try:
        import wandb
    except ImportError as error:
        raise TrackerError(f"--wandb needs a package ({error}): pip install wandb") from error
    try:
        wandb.Settings(project=project)
        # Else W&B would ask for the account, or fail, when the first variant is trained.
        wandb.login(verify=True)
    except wandb.Error as error:
        raise TrackerError(f"cannot log to Weights & Biases: {error}") from error

    def track(run: Run, variant: str) -> None:
        folder = run.workdir / WANDB / project / variant
        # With WANDB_MODE=disabled it is left empty.
        if any(folder.glob("*")):
            return
        try:
            with complete_file(folder) as beside:
                beside.mkdir()
                for seed in _seeds(run, variant):
                    log_seed(run, variant, seed, str(beside))
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            _log.warning("not logged to Weights & Biases, until run again: %s: %s", variant, reason)

    def log_seed(run: Run, variant: str, seed: _Seed, folder: str) -> None:
        with wandb.init(
            project=project,
            group=run.workdir.resolve().name,
            name=f"{variant} seed {seed.seed}",
            # W&B shows nested keys with dots, and cannot filter by keys that have dots themselves.
            config=unflatten_dict(seed.settings, sep="."),
            dir=folder,
            # Where an upload was cut short, it goes on: W&B drops the steps that it has.
            id=_id(run, variant, seed.seed),
            resume="allow",
            # Never into a run that the caller has open, nor over the progress bar.
            reinit="create_new",
            settings={"console": "off", "silent": True},
        ) as log:
            for step, rows in seed.metrics.groupby("step"):
                log.log(dict(zip(rows["tag"], rows["value"], strict=True)), step=step)

    return track


def _seeds(run: Run, variant: str) -> Iterator[_Seed]:
    rows = run.metrics[run.metrics["variant"] == variant]
    rows = rows.assign(tag=rows["split"] + "/" + rows["metric"])
    for seed in rows["seed"].unique().tolist():
        settings = run.settings(variant) | {"variant": variant, "seed": seed}
        yield _Seed(seed, settings, rows.loc[rows["seed"] == seed, ["step", "tag", "value"]])


def _as_hparams(settings: dict[str, Any]) -> dict[str, Any]:
    """Numbers, truth values and texts as they are, lists as text; hparams drops None."""
    return {
        key: value if isinstance(value, str | int | float | None) else str(value)
        for key, value in settings.items()
    }


def _id(run: Run, variant: str, seed: int) -> str:
    """The same for the same numbers: with --overwrite, a workdir is started anew."""
    parts = (str(run.workdir.resolve()), str(run.provenance.get("started")), variant, str(seed))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
