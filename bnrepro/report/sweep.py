"""The report of a sweep: its trials by accuracy, and the best of them as commands."""

import json
import shlex
from collections.abc import Sequence
from typing import Any

import pandas as pd

from bnrepro.records import Run, choosing_split
from bnrepro.report.commands import config_flags
from bnrepro.report.entries import Entry, find_entries, short_text
from bnrepro.report.figures import figure_title
from bnrepro.report.question import Question
from bnrepro.report.tables import mean_cell, seeds_cell

NORMALIZER = "normalizer.name"


def sweep_table(run: Run) -> pd.DataFrame:
    """One row per trial: the best first, then pruned ones, last those without an accuracy.

    Columns: the varied settings, to four digits; the accuracy on the holdout if that chooses; the
    final accuracy on the test set, or the last one of a pruned trial; the seeds it is the mean of;
    and the step at which a trial was pruned.
    """
    keys, held = list(_space(run)), choosing_split(run.config) == "holdout"
    tested = {trial.variant: trial.mean for trial in _entries(run, "test")}
    rows = {}
    for trial in sorted(trials_of(run), key=rank):
        rows[trial.variant] = {key: short_text(trial.settings[key]) for key in keys} | {
            **({"holdout, %": mean_cell(trial.mean)} if held else {}),
            "final, %": mean_cell(tested[trial.variant]),
            "seeds": seeds_cell(trial.mean.seeds, trial.diverged),
            "pruned at": "" if trial.finished else f"{max(trial.steps, default=0):,}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def sweep_caption(run: Run) -> str:
    """What the numbers of `sweep_table` mean, and what to beware of."""
    trials, sweep = trials_of(run), run.config["sweep"]
    finished = len(finished_trials(trials))
    pruned = sum(not trial.finished for trial in trials)
    text = f"final test accuracy after {run.config['steps']:,} steps"
    parts = [
        f"{figure_title(run, text)}: mean over seeds ± half of its 95% interval (Student's t); "
        "seeds that diverged are left out",
        f"{len(trials):,} of {sweep['trials']:,} trials ({sweep['sampler']}): {finished:,} "
        f"finished, {pruned:,} pruned, {len(trials) - finished - pruned:,} diverged with all seeds",
    ]
    if any(trial.diverged and trial.mean.seeds for trial in trials):
        parts.append("For the order of trials, a seed that diverged counts as 0")
    if pruned:
        parts.append("The accuracy of a pruned trial is that of its last step, no final one")
    if finished > 1:
        chosen = {"holdout": "holdout", "test": "test set"}[choosing_split(run.config)]
        parts.append(
            f"The best of {finished:,} trials was chosen by its accuracy on the {chosen}, so that "
            "this is an optimistic estimate: rerun it on other seeds"
        )
    return ". ".join(parts) + "."


def best_commands(run: Run) -> list[str]:
    """Shell commands that rerun the best finished trial of each normalizer.

    If the normalizer is not varied, there is one command, for the best trial of all. A normalizer
    without a trial that has a final accuracy is left out.
    """
    space, commands = _space(run), []
    for normalizer, trials in by_normalizer(run, trials_of(run)).items():
        best = best_trial(trials)
        if best:
            name = f"best_{normalizer}" if NORMALIZER in space else "best"
            workdir = f"--workdir=runs/{shlex.quote(name)}"
            flags = config_flags({key: best.settings[key] for key in space})
            commands.append(" ".join([run.config["sweep"]["command"], workdir, *flags]))
    return commands


def _space(run: Run) -> dict[str, Any]:
    """What each key was varied over: a list, or a range with low, high and log."""
    # As in JSON, like settings: a tuple and a list are the same.
    return json.loads(json.dumps(run.config["sweep"]["vary"]))


def varied_of(run: Run) -> dict[str, Any]:
    """What each key with more than one value was varied over; see `_space`."""
    return {key: values for key, values in _space(run).items() if len(values) > 1}


def trials_of(run: Run) -> list[Entry]:
    """The trials in the order of their numbers, with the accuracy by which they are ranked."""
    return _entries(run, choosing_split(run.config))


def _entries(run: Run, split: str) -> list[Entry]:
    entries = find_entries({"sweep": run}, Question(f"{split}/accuracy"))
    return sorted(entries, key=lambda trial: int(trial.variant.rpartition(" ")[2]))


def percent(trial: Entry) -> float:
    """Mean of the last accuracy over seeds, in percent; NaN if all diverged."""
    return 100 * trial.mean.mean


def rank(trial: Entry) -> tuple[bool, bool, float]:
    """The sort key of a trial: the best first, then pruned ones, last those without an accuracy."""
    return not trial.mean.seeds, not trial.finished, -_score(trial)


def _score(trial: Entry) -> float:
    """Mean over all seeds, where diverged ones count as 0: what the search maximizes."""
    seeds = trial.mean.seeds
    return trial.mean.mean * seeds / (seeds + trial.diverged) if seeds else float("nan")


def finished_trials(trials: Sequence[Entry]) -> list[Entry]:
    """The trials that have a final accuracy."""
    return [trial for trial in trials if trial.finished and trial.mean.seeds]


def best_trial(trials: Sequence[Entry]) -> Entry | None:
    """The trial with the highest final accuracy, the first in a tie; None if none has one."""
    return max(finished_trials(trials), key=_score, default=None)


def by_normalizer(run: Run, trials: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The trials of each normalizer, which may be none."""
    names = _space(run).get(NORMALIZER) or [trials[0].settings[NORMALIZER]]
    return {name: [t for t in trials if t.settings[NORMALIZER] == name] for name in names}
