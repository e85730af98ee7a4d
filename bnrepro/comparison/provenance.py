"""Where numbers come from: commit, command, versions, machine, data set, times."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from bnrepro.data.datasets import Dataset

_PACKAGES = (
    "bnrepro", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "optuna", "numpy",
    "tensorflow-datasets",
)  # fmt: skip
# No numbers depend on these, and a result that is kept there leaves them changed.
_PAGES = tuple(f":(top,exclude){path}" for path in ("results", "docs", "README.md"))


def begin(before: Mapping[str, Any], dataset: Dataset) -> dict[str, Any]:
    """The provenance to keep with the numbers of a workdir, at the start of training.

    Args:
      before: the workdir's provenance so far; if there is any, this run is added as resuming it.
      dataset: what is trained on.

    Returns:
      Among others `sha256`, of the data set (see `Dataset`); `classes`, the number of labels;
      `image_shape`, height and width (None if they differ) and channels of an image; and
      `seconds`, for the time each variant takes alongside others, including compilation and
      evaluation; of a run that was resumed, the time of all its parts up to their last evaluation.
    """
    if before:
        resumed = [*before.get("resumed", []), here_and_now()]
        return {"seconds": {}, **before, "resumed": resumed}
    return {**trained_on(dataset), "seconds": {}}


def trained_on(dataset: Dataset) -> dict[str, Any]:
    """The provenance of numbers of this process on a data set."""
    return {**dataset_identity(dataset), "stand_in": dataset.stand_in, **here_and_now()}


def dataset_identity(dataset: Dataset) -> dict[str, Any]:
    """The part of the provenance by which a data set is known again."""
    return {
        "dataset": dataset.name,
        "sha256": dataset.sha256,
        "classes": len(dataset.class_names),
        "image_shape": list(dataset.train_images.shape[-3:]),  # of shards, that is all of it
    }


def here_and_now(packages: Sequence[str] = _PACKAGES) -> dict[str, Any]:
    """Command, commit, time, versions, XLA's flags and machine of this process.

    Changes count as uncommitted if they are to code, and not to results or pages.
    """
    module = getattr(sys.modules["__main__"], "__spec__", None)
    command = ["python", "-m", module.name] if module else ["python", Path(sys.argv[0]).name]
    return {
        "command": shlex.join([*command, *sys.argv[1:]]),
        "commit": git("rev-parse", "HEAD") or "unknown",
        "uncommitted_changes": bool(git("status", "--porcelain", "--", ":/", *_PAGES)),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()}
        | {package: _version(package) for package in packages},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
            "devices": [device.device_kind for device in jax.devices()],
        },
    }


def signature(*packages: str) -> str:
    """Lines of Markdown to go below a table of measurements: what made it, when, and where."""
    where = here_and_now(packages)
    machine, versions = where["machine"], where["versions"]
    hardware = [*machine["devices"], machine["processor"], f"{machine['cores']} cores"]
    uncommitted = " with uncommitted changes" if where["uncommitted_changes"] else ""
    shown = [f"{name} {versions[name]}" for name in ("python", *packages)]
    shown += [f"XLA_FLAGS={where['xla_flags']}"] if where["xla_flags"] else []
    return f"""\
`{where["command"]}` at commit {where["commit"]}{uncommitted},
{where["started"]}; {", ".join(hardware)};
{", ".join(shown)}.
"""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def git(*arguments: str) -> str:
    """Output of a git command in the checkout that this code runs from; "" without one."""
    try:
        result = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout.strip()


def _processor() -> str:
    """The processor's name; Linux has it only in /proc."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
