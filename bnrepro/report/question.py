"""The question that a comparison answers, and which runs can answer it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bnrepro.errors import UserError, nearest
from bnrepro.records import Run


@dataclass(frozen=True)
class Question:
    """What to compare.

    Attributes:
      metric: as SPLIT/NAME.
      at: "final", the last evaluation of each seed; "best"; or a step.
      rows: settings, `run` or `variant` that label the rows; none for a list of all variants.
      columns: likewise for the columns; none for a list.
      baseline: the variant, or "run: variant", that the others are compared with, if any.
      steps_to: the accuracies in (0, 1] to show the steps to.
      baselines: the baseline of variants that have another one, by name; both are of one run.
      splits: splits to show final accuracy on as well.
      steps_to_best: also shows the steps to the highest accuracy of the baseline of the same seed.

    Raises:
      UserError: no run can answer it.
    """

    metric: str = "test/accuracy"
    at: str | int = "final"
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    baseline: str | None = None
    steps_to: Sequence[float] = ()
    baselines: Mapping[str, str] = field(default_factory=dict)
    splits: Sequence[str] = ()
    steps_to_best: bool = False

    def __post_init__(self) -> None:
        out_of_range = [accuracy for accuracy in self.steps_to if not 0 < accuracy <= 1]
        wrong = None
        if not self.split or not self.name:
            wrong = f"a metric must be SPLIT/NAME, as in test/accuracy, got {self.metric!r}"
        elif not isinstance(self.at, int) and self.at not in ("final", "best"):
            wrong = f"values can be taken at final, best or a step, got {self.at!r}"
        elif self.at == "best" and not self.sign:
            wrong = f"only accuracy and loss have a best; take {self.metric} at final or a step"
        elif out_of_range:
            wrong = f"the accuracy to show the steps to must be in (0, 1], got {out_of_range[0]:g}"
        elif self.steps_to and self.columns:
            wrong = "steps to an accuracy need a list: give all keys as rows, none as columns"
        if wrong:
            raise UserError(wrong)

    @property
    def split(self) -> str:
        """Where the metric was measured."""
        return self.metric.partition("/")[0]

    @property
    def name(self) -> str:
        """The metric's name in its split; it may itself contain slashes."""
        return self.metric.partition("/")[2]

    @property
    def is_accuracy(self) -> bool:
        """Whether values are shares, which tables show in percent."""
        return self.name == "accuracy"

    @property
    def when(self) -> str:
        """Where values are taken, in words."""
        return f"step {self.at:,}" if isinstance(self.at, int) else self.at

    @property
    def title(self) -> str:
        """What a column of the values is called."""
        return f"{self.when} {self.metric}" + ", %" * self.is_accuracy

    @property
    def sign(self) -> int:
        """1 if higher is better, -1 if lower is, 0 if neither."""
        return {"accuracy": 1, "loss": -1}.get(self.name, 0)

    def baseline_of(self, variant: str) -> str | None:
        """The baseline of a variant."""
        return self.baselines.get(variant, self.baseline)


def run_labels(workdirs: Sequence[Path]) -> dict[str, Path]:
    """Workdirs by label: the folder's name or, if two share it, the path."""
    names = [workdir.absolute().name for workdir in workdirs]
    return {
        name if names.count(name) == 1 else str(workdir): workdir
        for name, workdir in zip(names, workdirs, strict=True)
    }


def check_run(run: Run, question: Question) -> None:
    """Makes sure that a run has what is asked for.

    Raises:
      UserError: it does not; the message says what it has.
    """
    rows = run.metrics[run.metrics["metric"] != "diverged"]
    names = rows["split"] + "/" + rows["metric"]
    accuracy = [f"{question.split}/accuracy"] if question.steps_to else []
    for metric in (question.metric, *accuracy):
        if metric not in set(names):
            known = names.unique()
            has = ", ".join(known) or "nothing yet"
            raise UserError(f"{run.workdir} has no {metric}: it has {has}{nearest(metric, known)}")
    steps = np.unique(rows.loc[names == question.metric, "step"])
    if isinstance(question.at, int) and question.at not in steps:
        spacing = np.unique(np.diff(steps))
        every = f"every {spacing[0]:,}" if len(spacing) == 1 else f"{len(steps):,} of them"
        raise UserError(
            f"{run.workdir} has no {question.metric} at step {question.at:,}: it has steps "
            f"{steps[0]:,} to {steps[-1]:,}, {every}"
        )
