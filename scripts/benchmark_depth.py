"""Times training and compiling against the depth of the network: `benchmark depth`.

Networks and minibatches are those of configs/labels_and_depth.py, 16 labels x 2 images.
"""

import argparse
import time
from collections.abc import Mapping
from functools import partial
from itertools import product
from typing import Any

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bnrepro.comparison.config import variant_configs, with_settings
from bnrepro.comparison.program import make_program
from bnrepro.comparison.run import make_job
from bnrepro.comparison.variant import Feed
from bnrepro.data.datasets import Dataset
from bnrepro.report.figures import Picture, looks, save
from configs import labels_and_depth
from scripts import signed_page
from scripts.benchmark_layers import Call, measure
from scripts.benchmark_train import STEPS, noise, training_call

DEPTHS = (3, 6, 12, 18, 24)
NORMALIZERS = ("batch_norm", "batch_renorm")


def config_of(depth: int, normalizer: str) -> dict[str, Any]:
    """The variant with so many hidden layers, on minibatches of 16 labels x 2 images."""
    config = labels_and_depth.get_config().to_dict()
    variant = variant_configs(config)[f"{labels_and_depth.DEPTHS[0]} 16x2 {normalizer}"]
    return with_settings(variant, {"model.hidden": (100,) * depth})


def measured(rounds: int) -> "tuple[pd.DataFrame, pd.Series[float]]":
    """Milliseconds of a step, read in turn, and seconds of compiling, by normalizer and depth."""
    dataset = noise()
    # The first network that a process compiles also waits for what JAX loads once: not counted.
    _prepare(config_of(1, NORMALIZERS[0]), dataset)
    calls, compiling = [], {}
    for depth, normalizer in product(DEPTHS, NORMALIZERS):
        call, compiling[normalizer, depth] = _prepare(config_of(depth, normalizer), dataset)
        calls.append(((normalizer, depth), call))
    return measure(calls, rounds) / STEPS, pd.Series(compiling)


def _prepare(config: Mapping[str, Any], dataset: Dataset) -> tuple[Call, float]:
    """What trains a network, and the seconds that compiling all of its variant takes."""
    program = make_program(*make_job("benchmark", dict(config), dataset))
    seeds = list(range(config["seeds"]))

    def seconds() -> float:
        begin = time.perf_counter()
        states = program.init(np.array(seeds), {})
        fed = Feed(program)(seeds, 0, STEPS)
        states, _ = program.train_steps(states, program.arrays, fed, 0, STEPS)
        jax.block_until_ready(program.evaluate(states.evaluated, states.numbers))
        return time.perf_counter() - begin

    # Only the first time is anything compiled.
    compiling = seconds() - seconds()
    return training_call(program, STEPS), compiling


def page(options: argparse.Namespace) -> str:
    """Times by depth, the lines through them, and a figure, which is written beside the page."""
    timings, compiling = measured(options.rounds)
    quartiles = timings.quantile([0.25, 0.5, 0.75])
    steps = quartiles.apply(lambda of: "{1:.2f} ({0:.2f} to {2:.2f})".format(*of)).unstack(0)
    seconds = compiling.map("{:.1f}".format).unstack(0)
    columns = [steps.add_suffix(", ms"), seconds.add_suffix(", s to compile")]
    times = pd.concat(columns, axis=1).rename_axis("hidden layers")
    lines, rows = {}, {}
    for norm in NORMALIZERS:
        medians = quartiles[norm].loc[0.5]
        lines[norm] = line = np.poly1d(np.polyfit(DEPTHS, medians, 1))
        rows[norm] = {
            "intercept, ms": f"{line[0]:.2f}",
            "slope, ms per layer": f"{line[1]:.2f}",
            "largest deviation": f"{np.abs(medians / line(DEPTHS) - 1).max():.1%}",
        }
    fits = pd.DataFrame.from_dict(rows, orient="index")
    seeds = config_of(DEPTHS[0], NORMALIZERS[0])["seeds"]
    text = f"""\
Milliseconds of a training step of all {seeds} seeds of configs/labels_and_depth.py, on 16 labels x
2 images, {STEPS} steps in one dispatch: medians and quartiles of {options.rounds} readings, taken
in turn in one process. Images are noise of MNIST's size. Seconds to compile are what a variant's
first initialization, {STEPS} steps and evaluation take longer than its second. Lines are fitted to
the medians by least squares; the largest deviation of a median is relative to the line.
"""
    picture = Picture(
        options.output.stem,
        "Milliseconds of a training step, and seconds of compiling, against hidden layers.",
        partial(_draw, quartiles, compiling, lines),
    )
    save(picture, options.output.parent)
    shown = f"![{picture.alt}]({picture.name}.png)"
    return signed_page("Training against depth", times, fits, text, shown)


def _draw(
    quartiles: pd.DataFrame, compiling: "pd.Series[float]", lines: Mapping[str, np.poly1d]
) -> Figure:
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    of_steps, of_compiling = figure.subplots(1, 2)
    for normalizer, (colour, _) in looks({norm: norm for norm in NORMALIZERS}).items():
        low, medians, high = quartiles[normalizer].to_numpy()
        look: dict[str, Any] = {"color": colour, "marker": "o", "ms": 4, "label": normalizer}
        bars = medians - low, high - medians
        of_steps.errorbar(DEPTHS, medians, bars, ls="none", capsize=2, **look)
        ends_of_line = np.array([0, DEPTHS[-1]])
        of_steps.plot(ends_of_line, lines[normalizer](ends_of_line), color=colour, lw=1)
        of_compiling.plot(DEPTHS, compiling[normalizer], **look)
    of_steps.set(ylabel="training step, ms (bars: quartiles)")
    of_compiling.set(ylabel="compiling, s")
    for axes in (of_steps, of_compiling):
        axes.set(xlabel="hidden layers", xticks=(0, *DEPTHS), ylim=(0, None))
    of_steps.legend()
    return figure
