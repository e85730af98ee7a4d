"""The figures of claims: which records each shows, and how they are drawn.

A run that diverged is at chance in figures of accuracy.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pandas as pd

from bnrepro.claims import readings
from bnrepro.claims.claim import ClaimFigure
from bnrepro.records import Run, shown_name
from bnrepro.report import figures
from bnrepro.report.figures import Lines, Picture
from bnrepro.report.statistics import Estimate, estimate

# A number over training, steps x seeds, of a variant.
Course = Callable[[Run, str], pd.DataFrame]


def accuracy(comparison: str, *variants: str, **splits: str) -> ClaimFigure:
    """Test accuracy over training, of all or some variants; or that on splits with these titles."""

    def draw(run: Run) -> Picture:
        chosen = variants or run.variants
        picture = figures.accuracy_figure(run, chosen, splits=splits or figures.TEST)
        ends = {
            split: readings.final_values(run, f"{split}/accuracy") for split in splits or ["test"]
        }
        means = [
            f"{name} {', '.join(f'{100 * end[name].mean():.4g}' for end in ends.values())}"
            for name in chosen
        ]
        return picture._replace(alt=f"{picture.alt} Means at the end: {'; '.join(means)}.")

    return ClaimFigure(comparison, draw)


def against(
    comparison: str,
    pattern: str,
    xlabel: str,
    ylabel: str = figures.LOG_ERROR_LABEL,
    metric: str = readings.ACCURACY,
    **look: Any,
) -> ClaimFigure:
    """Final values against a number, median and range over seeds.

    Args:
      comparison: whose records are shown.
      pattern: regular expression for the variants' names; the groups `line` and `x` are the title
        of a line, and the number, or kind, that is on the x axis.
      xlabel: what that is, with its unit.
      ylabel: with its unit.
      metric: as SPLIT/NAME; accuracy is shown in percent.
      look: further fields of `Lines`.
    """

    def draw(run: Run) -> Picture:
        percent = metric == readings.ACCURACY
        values = readings.final_values(run, metric) * (100 if percent else 1)
        points: dict[str, dict[Any, Estimate]] = defaultdict(dict)
        variants, found = {}, _found(run, pattern)
        for match, variant in found:
            variants[match["line"]] = variant
            x = match["x"] or "none"
            x = float(x) if re.fullmatch(r"[\d.]+", x) else x
            points[match["line"]][x] = estimate(values[variant])
        failed = figures.failures_among(run, [name for _, name in found]) if percent else 0
        lines = Lines(points, variants, xlabel, ylabel, failed=failed, **look)
        return figures.lines_figure(run, "lines", lines)

    return ClaimFigure(comparison, draw)


def over_layers(comparison: str, pattern: str, about: str) -> ClaimFigure:
    """Norms of the hidden layers' gradients at the start; `pattern` has a group `line`."""

    def draw(run: Run) -> Picture:
        rows = run.metrics[run.metrics["step"] == run.config["eval_every"]]
        rows = rows.assign(layer=rows["metric"].str.extract(r"^grad_norm/dense_(\d+)$")[0])
        layers = rows.dropna(subset="layer").astype({"layer": int}).groupby(["variant", "layer"])
        norms = layers["value"].agg(estimate)
        variants = {match["line"]: variant for match, variant in _found(run, pattern)}
        points = {
            title: {layer + 1: one for layer, one in norms[variant].items()}
            for title, variant in variants.items()
        }
        labels = "hidden layer", "norm of the gradient at the start"
        lines = Lines(points, variants, *labels, scale="log", over=True, about=about)
        return figures.lines_figure(run, "lines", lines)

    return ClaimFigure(comparison, draw)


def over_steps(
    comparison: str,
    ylabel: str,
    courses: Mapping[str, tuple[str, Course]],
    scale: str = "linear",
    **look: Any,
) -> ClaimFigure:
    """Numbers over training, median and range over seeds: by title, a variant and its course."""

    def draw(run: Run) -> Picture:
        points = {
            title: course(run, variant).T.agg(estimate).to_dict()
            for title, (variant, course) in courses.items()
        }
        variants = {title: variant for title, (variant, _) in courses.items()}
        lines = Lines(points, variants, "training steps", ylabel, scale=scale, over=True, **look)
        return figures.lines_figure(run, "lines", lines)

    return ClaimFigure(comparison, draw)


def each(course: Course | str, *variants: str) -> dict[str, tuple[str, Course]]:
    """The same of several variants, for `over_steps`: a course, or a metric as SPLIT/NAME."""
    shown = partial(readings.over_time, metric=course) if isinstance(course, str) else course
    return {variant: (variant, shown) for variant in variants}


def _found(run: Run, pattern: str) -> list[tuple[re.Match[str], str]]:
    """The variants that match, whose names have 0_3 for 0.3."""
    matches = {name: re.fullmatch(pattern, shown_name(name)) for name in run.variants}
    return [(match, name) for name, match in matches.items() if match]
