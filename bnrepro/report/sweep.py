"""The report of a sweep: its trials by accuracy, and the best of them as commands."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import pandas as pd

from bnrepro.records import Run, choosing_split
from bnrepro.report.commands import config_flags
from bnrepro.report.entries import Entry, short_text
from bnrepro.report.figures import figure_title
from bnrepro.report.report import list_variants
from bnrepro.report.statistics import estimate, pooled
from bnrepro.report.tables import failure_note, mean_cell, mean_note, seeds_of

NORMALIZER = "normalizer.name"
_RANKS = ("finished", "pruned", "diverged")


class Sweep:
    """The trials of a sweep.

    Attributes:
      run: its records.
      space: the values of each key: a list, or a range with `low`, `high` and `log`.
      varied: the part of the space that has more than one value.
      chosen_by: the split whose accuracy ranks the trials: "holdout" if there is one, else "test".
      trials: those that have ended, by number, with the mean of that accuracy.
      tested: the same with the mean of test accuracy.
      by_normalizer: the trials of each normalizer; some may have none.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.chosen_by = run, choosing_split(run.config)
        self.space: dict[str, Any] = run.config["sweep"]["vary"]
        self.varied = {key: values for key, values in self.space.items() if len(values) > 1}
        # Those that are still being trained have no place among the others yet.
        ended = [entry for entry in list_variants(run)[0] if run.ended(entry.variant)]
        self.trials = self.tested = _sharing_variance(ended)
        if self.chosen_by == "holdout":
            held = [replace(one, mean=one.others.get("holdout", estimate([]))) for one in ended]
            self.trials = _sharing_variance(held)
            self.tested = [
                replace(one, others={**one.others, "holdout": trial.mean})
                for one, trial in zip(self.tested, self.trials, strict=True)
            ]
        names = self.space.get(NORMALIZER) or [run.config["normalizer"]["name"]]
        self.by_normalizer = {
            name: [trial for trial in self.trials if trial.settings[NORMALIZER] == name]
            for name in names
        }

    def recurs(self, key: str) -> bool:
        """Whether several trials have the same value of a key."""
        return isinstance(self.space[key], list) or self.run.config["sweep"]["sampler"] == "grid"

    def table(self) -> pd.DataFrame:
        """One row per trial: the best first, then pruned trials, last those without an accuracy.

        Columns: the settings of the space, to four digits; accuracy on the holdout set, if that
        chooses; final accuracy, or the last one of a pruned trial; the seeds it is the mean of; and
        the step at which a trial was pruned.
        """
        held, rows = self.chosen_by == "holdout", {}
        tested = {trial.variant: trial.mean for trial in self.tested}
        for trial in sorted(self.trials, key=_rank):
            rows[trial.variant] = {key: short_text(trial.settings[key]) for key in self.space} | {
                **({"holdout, %": mean_cell(trial.mean)} if held else {}),
                "final, %": mean_cell(tested[trial.variant]),
                "seeds": seeds_of(trial),
                "pruned at": "" if trial.finished else f"{max(trial.steps, default=0):,}",
            }
        return pd.DataFrame.from_dict(rows, orient="index", dtype=object)

    def caption(self) -> str:
        """What the numbers of the table are, with caveats."""
        config, outcomes = self.run.config, Counter(map(outcome, self.trials))
        text = f"final test accuracy after {config['steps']:,} steps"
        shown = " ".join(mean_cell(trial.mean) for trial in self.trials)
        pooling = (
            "trials that finished without divergence share one variance over seeds, pooled, but "
            "for those that vary far more (Cochran's test); "
        ) * ("±" in shown)
        parts = [
            f"{figure_title(self.run, text)}: {mean_note(shown)}; {pooling}"
            f"{failure_note(self.run)}",
            f"{len(self.trials):,} of {config['sweep']['trials']:,} trials "
            f"({config['sweep']['sampler']}): {outcomes['finished']:,} finished, "
            f"{outcomes['pruned']:,} pruned, {outcomes['diverged']:,} diverged with all seeds",
        ]
        if outcomes["pruned"]:
            parts.append("The accuracy of a pruned trial is that of its last step, no final one")
        eligible = _eligible(self.trials)
        if len(eligible) < outcomes["finished"]:
            parts.append("Trials with a diverged seed come after the others and are not chosen")
        if len(eligible) > 1:
            best = f"The best of {len(eligible):,} trials was chosen by its accuracy on"
            if self.chosen_by == "holdout":
                parts.append(
                    f"{best} held-out images, so that its holdout accuracy is an optimistic "
                    "estimate. Its final test accuracy is not: it chose nothing"
                )
            else:
                parts.append(
                    f"{best} the test set, so that this is an optimistic estimate: rerun it on "
                    "other seeds"
                )
        return ". ".join(parts) + "."

    def best_commands(self) -> list[str]:
        """Shell commands that rerun the best finished trial of each normalizer.

        If the normalizer is not varied, the best of all trials. A normalizer is left out if none of
        its trials finished with all seeds.
        """
        commands = []
        for normalizer, trials in self.by_normalizer.items():
            if best := winner(trials):
                name = f"best_{normalizer}" if NORMALIZER in self.space else "best"
                workdir = f"--workdir=runs/{shlex.quote(name)}"
                flags = config_flags({key: best.settings[key] for key in self.space})
                commands.append(" ".join([self.run.config["sweep"]["command"], workdir, *flags]))
        return commands


def _sharing_variance(trials: Sequence[Entry]) -> list[Entry]:
    """The trials, of which those that finished with all seeds share the variance of their means.

    About three values say too little about how much each trial varies.
    """
    whole = _eligible(trials)
    means = dict(zip(whole, pooled([trial.mean.sample for trial in whole]), strict=True))
    return [replace(trial, mean=means.get(trial, trial.mean)) for trial in trials]


def outcome(trial: Entry) -> Literal["finished", "pruned", "diverged"]:
    """How a trial ended: with a final accuracy, before its last step, or with no seed left."""
    if not trial.trained:
        return "diverged"
    return "finished" if trial.finished else "pruned"


def percent(trial: Entry) -> float:
    """Mean of the last accuracy over seeds, NaN if all diverged."""
    return 100 * trial.mean.mean if trial.trained else float("nan")


def winner(trials: Sequence[Entry]) -> Entry | None:
    """The best trial that finished with all seeds."""
    return min(_eligible(trials), key=_rank, default=None)


def _eligible(trials: Sequence[Entry]) -> list[Entry]:
    """The trials that finished with all seeds: only these can be the best."""
    return [trial for trial in trials if outcome(trial) == "finished" and not trial.diverged]


def _rank(trial: Entry) -> tuple[int, bool, float]:
    """The sort key of trials: by outcome, then those with a diverged seed last, then the best."""
    return _RANKS.index(outcome(trial)), trial.diverged > 0, -trial.mean.mean
