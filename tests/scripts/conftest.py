"""A finished run on a set small enough to train in a second, for the scripts that use checkpoints.

Its network has two layers of each kind, evaluated by the last of two checkpoints; its seeds are 3
and 4, no indices.
"""

import json
import shutil
from pathlib import Path

import pytest

from bnrepro.comparison import run as run_module
from bnrepro.comparison.restored import checked_configs, restore_variant
from bnrepro.comparison.run import run_comparison
from bnrepro.records import read_run
from tests.small_dataset import small_config, small_dataset

VARIANTS = {
    # Evaluated with decayed averages, which are not the parameters.
    "batch_norm": {"normalizer": {"name": "batch_norm"}, "ema_decay": 0.5},
    "renorm cnn": {
        "normalizer": {"name": "batch_renorm", "use_scale": False},
        "model": {"name": "cnn"},
    },
}


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The workdir, which no test may change."""
    settings = {"first_seed": 3, "measures": (), "variants": VARIANTS, "baseline": "batch_norm"}
    settings |= {"model.channels": (4, 6), "checkpoint.every": 1, "devices.strategy": "single"}
    settings |= {"evaluation.minibatches": 5, "data_dir": "somebody/elses"}
    config = small_config(**settings)
    workdir = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "load_dataset", lambda *_, **__: small_dataset())
        run_comparison(config, workdir)
    return workdir


@pytest.fixture
def copied(finished, tmp_path, monkeypatch):
    """A copy to be changed, `run` in the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path / "run")
    return Path("run")


def restore(workdir, which="last", variant="batch_norm"):
    """A variant as restored from a checkpoint, and its config."""
    run = read_run(workdir)
    return restore_variant(run, variant, which), checked_configs(run)[variant]


def files(folder):
    """What a folder holds: {path: bytes and time of the last change}."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def edit(path, change):
    """Changes what a JSON file holds."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def add_divergence(workdir, seed, step):
    """Records that a seed of batch_norm diverged."""
    with (workdir / "metrics.csv").open("a") as metrics:
        metrics.write(f"batch_norm,{seed},{step},train,diverged,1.0\n")
