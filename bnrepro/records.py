"""Reads and writes the records of a run: the only interface between training and reports.

A workdir holds

- `config.json`: the config, as launched;
- `metrics.csv`: variant, seed, step, split, metric, value;
- `provenance.json`: commit, command, versions, machine, data set and times;
- the report made from them: `summary.csv`, `summary.md`, `figures/`;
- `tensorboard/`, `wandb/`: settings and metrics as trackers write them, a folder per variant;
- `checkpoints/`: states to resume from, a folder per variant; `.lock`: held while writing;
- for a sweep, whose trials are its variants, `sweep.db`: their state; until all have ended, a
  folder of checkpoints and rows for each group of trials that run together.

A file is complete or absent: it is written under another name and renamed.
"""

import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from bnrepro.errors import UserError, first_line

# variant, seed, step, split, metric, value
Row = tuple[str, int, int, str, str, float]
_METRIC_TYPES = {
    "variant": "str",
    "seed": "int64",
    "step": "int64",
    "split": "str",
    "metric": "str",
    "value": "float64",
}
METRIC_COLUMNS = tuple(_METRIC_TYPES)
CONFIG, METRICS, PROVENANCE = "config.json", "metrics.csv", "provenance.json"
SUMMARY_CSV, SUMMARY_MD = "summary.csv", "summary.md"
FIGURES, CHECKPOINTS = "figures", "checkpoints"
TENSORBOARD, WANDB = "tensorboard", "wandb"
DATABASE = "sweep.db"
LOCK = ".lock"
_OURS = {
    *(CONFIG, METRICS, PROVENANCE, SUMMARY_CSV, SUMMARY_MD),
    *(FIGURES, CHECKPOINTS, TENSORBOARD, WANDB, DATABASE, f"{DATABASE}.lock"),
}
# What a process that was killed while writing leaves behind.
_PARTIAL = ".partial-"

# Where the data is and who reads it, where to train, what to keep, what to measure and the sweep it
# belongs to are not settings of a run.
_NO_SETTINGS = (
    "data_dir",
    "data_workers",
    "devices.",
    "checkpoint.",
    "sweep.",
    "measures",
    "measure_every",
)

# MNIST and its stand-in have this many; workdirs that do not say how many hold one of them.
_CLASSES = 10


class RecordsError(UserError):
    """A workdir that cannot be used."""


@dataclass(frozen=True)
class Run:
    """The content of a workdir.

    Attributes:
      workdir: where it was read from.
      config: as launched.
      metrics: one row per number, with the columns `METRIC_COLUMNS`.
      provenance: where the numbers come from.
    """

    workdir: Path
    config: dict[str, Any]
    metrics: pd.DataFrame
    provenance: dict[str, Any]

    @property
    def variants(self) -> list[str]:
        """The baseline first, the others by name: a ConfigDict does not keep their order.

        Numbers in names, such as 0_03 for 0.03, are in the order of their values.
        """
        baseline = self.config["baseline"]

        def parts(name: str) -> list[Any]:
            found = re.split(r"(\d+(?:\.\d+)?)", shown_name(name))
            return [float(part) if i % 2 else part for i, part in enumerate(found)]

        return [baseline, *sorted(set(self.config["variants"]) - {baseline}, key=parts)]

    def settings(self, variant: str) -> dict[str, Any]:
        """A variant's settings by flat key, as in `{"optimizer.learning_rate": 3.0}`."""
        common = {
            key: value for key, value in self.config.items() if key not in ("variants", "baseline")
        }
        flat = _flatten(common) | _flatten(self.config["variants"][variant])
        return {key: value for key, value in flat.items() if not key.startswith(_NO_SETTINGS)}

    def chance(self, variant: str) -> float:
        """Accuracy of a guess, in (0, 1], at which a run that diverged counts."""
        classes = self.provenance.get("classes", _CLASSES)
        # With several digits side by side, each combination is a label.
        own = self.config["variants"][variant]
        return classes ** -own.get("digits", self.config.get("digits", 1))

    def finished(self, variant: str) -> bool:
        """Whether all seeds of a variant have finished or diverged."""
        rows = self.metrics[self.metrics["variant"] == variant]
        last = rows[rows["step"] == self.config["steps"]]["seed"]
        diverged = rows[rows["metric"] == "diverged"]["seed"]
        return len({*last, *diverged}) == self.config["seeds"]

    def ended(self, variant: str) -> bool:
        """Whether a variant gets no more rows: it has finished or, as a trial, was pruned."""
        if "sweep" in self.config:
            # A sweep records the time of a trial once it has ended.
            return variant in self.provenance.get("seconds", self.config["variants"])
        return self.finished(variant)


def shown_name(variant: str) -> str:
    """A variant's name with 0.3 for 0_3, since a config's keys have no dots."""
    return re.sub(r"(?<=\d)_(?=\d)", ".", variant)


def repeating_command(provenance: Mapping[str, Any]) -> str:
    """The command that repeats a workdir: the last, since its config may have got variants."""
    return str(parts_of(provenance)[-1].get("command", ""))


def parts_of(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The provenance of each part of a run: of the first, and of those that resumed it."""
    return [provenance, *provenance.get("resumed", [])]


def choosing_split(config: Mapping[str, Any]) -> str:
    """The split whose accuracy chooses settings and checkpoints."""
    return "holdout" if config.get("evaluation", {}).get("holdout") else "test"


def choosing_accuracies(config: Mapping[str, Any], rows: Iterable[Row], step: int) -> list[float]:
    """The accuracies at a step on that split, of the seeds that did not diverge."""
    chosen = (step, choosing_split(config), "accuracy")
    return [row[5] for row in rows if row[2:5] == chosen]


@contextmanager
def lock_workdir(workdir: Path) -> Iterator[None]:
    """Keeps other processes from writing to a workdir; a process that dies releases it.

    Raises:
      RecordsError: another process holds it, or it cannot be written.
    """
    check_writable(workdir)
    lock = FileLock(workdir / LOCK, timeout=0)
    try:
        # Leave nothing in a foreign folder, not even a lock: open_workdir refuses it.
        if (workdir / CONFIG).exists() or not _foreign(workdir):
            lock.acquire()
    except Timeout:
        raise RecordsError(f"{workdir} is in use by another process that trains into it") from None
    except OSError as error:
        raise RecordsError(f"cannot write to {workdir}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def open_workdir(
    workdir: Path,
    config: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any] = MappingProxyType({}),
    data: Mapping[str, Any] = MappingProxyType({}),
    overwrite: bool = False,
) -> Run:
    """Makes a workdir for runs of `config`, or opens the one that already holds such runs.

    Where all runs have finished, the config may have further variants, and another baseline.

    Args:
      workdir: created if it is missing.
      config: as launched.
      defaults: of settings that a config, such as one of an earlier version, may lack; by flat key.
      data: the provenance's part on the data set, if the workdir is to be trained into.
      overwrite: replace what the workdir holds.

    Raises:
      RecordsError: it cannot be written, or holds something else.
    """
    check_writable(workdir)
    if (workdir / CONFIG).exists() and not overwrite:
        run, known = read_run(workdir), config
        if "sweep" in run.config:
            raise RecordsError(
                f"{workdir} holds a sweep, not a run; choose another --workdir, or --overwrite to "
                "replace it"
            )
        # The program of an unfinished variant may depend on which others share it.
        if all(map(run.finished, run.variants)):
            old = {k: v for k, v in config["variants"].items() if k in run.variants}
            known = {**config, "variants": old, "baseline": run.config["baseline"]}
        differing = differences(run.config, known, defaults)
        if differing:
            raise RecordsError(
                f"{workdir} holds the results of another config ({'; '.join(differing)}); choose "
                "another --workdir, or use the same config to resume (in training, --overwrite "
                "replaces it)"
            )
        check_data(run, data)
        if known != config:
            run = replace(run, config=dict(config))
            write_run(run)
        return run
    if foreign := _foreign(workdir):
        raise RecordsError(
            f"{workdir} has files that no run of ours wrote: {', '.join(foreign[:3])}"
        )
    # Without its config, the others would count as those of a stranger.
    for path in sorted(workdir.iterdir(), key=lambda path: path.name == CONFIG):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
        except OSError as error:
            raise RecordsError(f"cannot replace {path}: {error.strerror}") from error
    run = Run(workdir, dict(config), metric_rows([]), {})
    write_run(run)
    return run


def check_data(run: Run, found: Mapping[str, Any]) -> None:
    """Makes sure that a run was trained on a data set, by what its provenance says of that.

    Raises:
      RecordsError: it was another one, such as a stand-in.
    """
    # Earlier versions recorded less, and no hash of a stream.
    held = {key: run.provenance.get(key) or value for key, value in found.items()}
    if held != found:
        other = " with other content" * (held["dataset"] == found["dataset"])
        raise RecordsError(
            f"{run.workdir} holds results on {held['dataset']}, but the data found is "
            f"{found['dataset']}{other}: set data_dir or TFDS_DATA_DIR to the folder that has the "
            "former, or choose another workdir (in training, --overwrite replaces this one)"
        )


def open_sweep(workdir: Path) -> None:
    """Makes a workdir for a sweep, or makes sure that it already belongs to one.

    Raises:
      RecordsError: it cannot be written, or holds something else.
    """
    check_writable(workdir)
    if (workdir / CONFIG).exists():
        config = _read_json(workdir / CONFIG)
        if not isinstance(config.get("sweep"), dict):
            raise RecordsError(f"{workdir} holds a run, not a sweep; choose another --workdir")
        return
    # A sweep may have begun without a finished trial.
    begun = (DATABASE, CHECKPOINTS)
    if foreign := [name for name in _foreign(workdir) if not name.startswith(begun)]:
        raise RecordsError(f"{workdir} has files that no sweep wrote: {', '.join(foreign[:3])}")


def check_writable(workdir: Path) -> None:
    """Creates a folder if it is missing, and raises RecordsError if it cannot be written to."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except FileExistsError as error:
        wrong = f"cannot write to {workdir}: it is not a folder; choose another"
        raise RecordsError(wrong) from error
    except OSError as error:
        raise RecordsError(f"cannot write to {workdir}: {error.strerror}") from error


def check_output(path: Path) -> None:
    """Makes the folder of a file that is to be written, and raises RecordsError if it cannot be."""
    if path.is_dir():
        raise RecordsError(f"cannot write {path}: it is a folder")
    check_writable(path.parent)


def _foreign(workdir: Path) -> list[str]:
    """The names in a folder that do not belong to a workdir."""
    # Without a config, our files are left from an interrupted first write, not worth keeping.
    ours = _OURS if (workdir / CONFIG).exists() else {METRICS, PROVENANCE}
    names = {path.name for path in workdir.iterdir()} - ours - {LOCK}
    return sorted(name for name in names if not name.startswith(_PARTIAL))


def write_run(run: Run) -> None:
    """Writes provenance, metrics and, last, the config: if it is there, all are.

    Where it is there already, it comes before the metrics: these may be of new trials of a sweep.
    """
    # No number is ever without its provenance.
    _write_json(run.workdir / PROVENANCE, run.provenance)
    again = (run.workdir / CONFIG).exists()
    if again:
        _write_json(run.workdir / CONFIG, run.config)
    with complete_file(run.workdir / METRICS) as path:
        run.metrics.to_csv(path, index=False, na_rep="nan", encoding="utf-8")
    if not again:
        _write_json(run.workdir / CONFIG, run.config)


def read_run(workdir: Path) -> Run:
    """Reads a workdir.

    Raises:
      RecordsError: it is not a workdir, or one of its files is damaged.
    """
    try:
        if not (workdir / CONFIG).is_file():
            raise RecordsError(f"{workdir} is not a workdir: it has no {CONFIG}")
    except OSError as error:
        raise RecordsError(f"cannot read {workdir}: {error.strerror}") from error
    path = workdir / METRICS
    try:
        text = path.read_text("utf-8")
        if not text.endswith("\n"):
            raise ValueError("it is cut short: its last line is incomplete")
        metrics = pd.read_csv(io.StringIO(text), dtype=_METRIC_TYPES, keep_default_na=False)
    except (OSError, ValueError, OverflowError) as error:
        raise RecordsError(f"cannot read {path}: {first_line(error)}") from error
    if tuple(metrics.columns) != METRIC_COLUMNS:
        raise RecordsError(f"{path} must have the columns {', '.join(METRIC_COLUMNS)}")
    if metrics.duplicated(list(METRIC_COLUMNS[:-1])).any():
        raise RecordsError(f"{path} has two values for one metric, seed and step")
    config, provenance = _read_json(workdir / CONFIG), _read_json(workdir / PROVENANCE)
    _check_config(config, workdir / CONFIG)
    if unknown := set(metrics["variant"]) - set(config["variants"]):
        raise RecordsError(f"{path} has a variant that {CONFIG} lacks: {min(unknown)!r}")
    # Before anything is measured, there is no provenance.
    if (provenance or len(metrics)) and not isinstance(provenance.get("dataset"), str):
        raise RecordsError(f"{workdir / PROVENANCE} must name the dataset")
    return Run(workdir, config, metrics, provenance)


def metric_rows(rows: list[Row]) -> pd.DataFrame:
    """A metrics table from rows in the order of `METRIC_COLUMNS`."""
    return pd.DataFrame(rows, columns=list(METRIC_COLUMNS)).astype(_METRIC_TYPES)


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """A temporary path, for a file or folder, renamed to `path` at the end: complete or absent.

    Raises:
      RecordsError: it cannot be written.
    """
    if not path.name:
        raise RecordsError(f"cannot write {path}: it does not name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=_PARTIAL, dir=path.parent, ignore_cleanup_errors=True
        ) as folder:
            # Not with the name of the file, by which others may look for it.
            beside = Path(folder, f"new{path.suffix}")
            yield beside
            beside.replace(path)
    except OSError as error:
        # Libraries raise some without a number, and so without its meaning.
        raise RecordsError(f"cannot write {path}: {error.strerror or first_line(error)}") from error


def _write_json(path: Path, content: Any) -> None:
    with complete_file(path) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordsError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise RecordsError(f"cannot read {path}: it must hold one JSON object")
    return content


def _check_config(config: Mapping[str, Any], path: Path) -> None:
    """Checks what every reader of records relies on; the rest is up to the experiment."""
    for key, default in (("steps", None), ("seeds", None), ("digits", 1)):
        if type(value := config.get(key, default)) is not int:
            raise RecordsError(f"{path} must have an integer {key}, got {value!r}")
    variants = config.get("variants")
    if not isinstance(variants, dict) or not all(isinstance(v, dict) for v in variants.values()):
        raise RecordsError(f"{path} must have variants, an object of objects")
    for name, own in variants.items():
        if type(value := own.get("digits", 1)) is not int:
            raise RecordsError(f"{path} must have an integer variants.{name}.digits, got {value!r}")
    if config.get("baseline") not in list(variants):
        raise RecordsError(f"{path} must name one of its variants as baseline")


def differences(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> list[str]:
    """The settings that differ, as `key: OLD there, NEW here`, and variants that one has alone."""
    there, here = ({**config.get("variants", {})} for config in (old, new))
    alone = [
        f"variants only {where}: {', '.join(sorted(names))}"
        for where, names in (("there", there.keys() - here), ("here", here.keys() - there))
        if names
    ]
    both = there.keys() & here
    old_flat, new_flat = (
        _flatten(defaults) | _flatten({**config, "variants": {name: own[name] for name in both}})
        for config, own in ((old, there), (new, here))
    )
    return alone + [
        f"{key}: {old_flat.get(key)} there, {new_flat.get(key)} here"
        for key in sorted({*old_flat, *new_flat})
        if not key.startswith(_NO_SETTINGS) and old_flat.get(key) != new_flat.get(key)
    ]


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            # As in JSON, where a tuple and a list are the same.
            flat[prefix + key] = json.loads(json.dumps(value))
    return flat
