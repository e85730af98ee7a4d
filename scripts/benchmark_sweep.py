"""Times sweeps, in groups and one by one: `benchmark sweep`."""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bnrepro.comparison.config import common_config, with_settings
from bnrepro.sweep.plan import Plan
from bnrepro.sweep.space import make_space
from bnrepro.sweep.study import SharedStudy, finished
from bnrepro.sweep.worker import work
from configs import small_batch
from scripts import signed_page

# Trials differ in the learning rate, within a range at which all networks train.
_LOW, _HIGH = 0.01, 0.3
SETTINGS = {"seeds": 1, "normalizer.name": "batch_norm", "steps": 2_000, "eval_every": 2_000}
LAUNCHED, ALONE, REPEATS = 4, 8, 3


def page(options: argparse.Namespace) -> str:
    """The table of trials a minute."""
    trials = {
        "each launched by itself": LAUNCHED,
        "one by one": ALONE,
        "grouped": options.trials,
    }
    readings = []
    for _ in range(REPEATS):
        launched = _launches_a_minute()
        alone, dataset = _trials_a_minute(ALONE, 1)
        grouped, dataset = _trials_a_minute(options.trials, None)
        readings.append((launched, alone, grouped))
    rates = pd.DataFrame(readings, columns=[*trials])
    medians = rates.median()
    table = pd.DataFrame(
        {
            "trials": trials,
            "trials a minute": medians.map("{:.1f}".format),
            "of each repeat": rates.map("{:.1f}".format).agg(", ".join),
        }
    )
    to_launched, to_one, _ = medians["grouped"] / medians
    text = f"""\
Grouped is {to_one:.1f} times as fast as one by one, and {to_launched:.1f} times as fast as
launching each by itself with experiments.train (ratios of the medians). A trial is one seed of the
3 x 100 network of configs/small_batch.py with Batch Norm, {SETTINGS["steps"]:,} steps of 64 images
of {dataset}, two evaluations; trials differ in their learning rate. One worker, which uses one
compiled program for all of its trials. The time to load data and to compile counts for the grouped
ones and for those launched; those one by one are counted from the end of the first."""
    title = "Sweeps: grouped against one by one"
    return signed_page(title, table, text, packages=("jax", "optuna"))


def _launches_a_minute() -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "experiments.train", "--novariants"]
        command += ["--config=configs/small_batch.py"]
        command += [f"--config.{key}={value}" for key, value in SETTINGS.items()]
        begin = time.time()
        for i, rate in enumerate(np.geomspace(_LOW, _HIGH, LAUNCHED)):
            own = [f"--workdir={folder}/{i}", f"--config.optimizer.learning_rate={rate:g}"]
            subprocess.run([*command, *own], check=True, capture_output=True)
        return 60 * LAUNCHED / (time.time() - begin)


def _trials_a_minute(trials: int, at_once: int | None) -> tuple[float, str]:
    """The rate, and the name of the data set."""
    config = with_settings(common_config(small_batch.get_config().to_dict()), SETTINGS)
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(
            config=config,
            space=make_space({"optimizer.learning_rate": f"log({_LOW},{_HIGH})"}),
            sampler="random",
            trials=trials,
            storage=f"sqlite:///{folder}/sweep.db",
            name="benchmark",
            checkpoints=Path(folder, "checkpoints"),
            at_once=at_once,
        )
        with SharedStudy(plan) as study:
            study.refill()
            begin = time.time()
            work(plan)
            dataset = study.provenance()["dataset"]
            ended: Any = finished(study.trials()).values()
            ends = sorted(trial.datetime_complete.timestamp() for trial in ended)
    if at_once == 1:
        return 60 * (len(ends) - 1) / (ends[-1] - ends[0]), dataset
    return 60 * len(ends) / (ends[-1] - begin), dataset
