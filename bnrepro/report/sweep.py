"""The report of a sweep: its trials by accuracy, and the best of them as commands."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from bnrepro.records import Run, choosing_split
from bnrepro.report.commands import config_flags
from bnrepro.report.entries import Entry, find_entries, short_text
from bnrepro.report.figures import figure_title
from bnrepro.report.question import Question
from bnrepro.report.statistics import pooled
from bnrepro.report.tables import failure_note, mean_cell, mean_note, seeds_cell

NORMALIZER = "normalizer.name"


def sweep_table(run: Run) -> pd.DataFrame:
    """One row per trial: the best first, then pruned trials, last those without an accuracy.

    Columns: the varied settings, to four digits; accuracy on the holdout set, if that chooses;
    final accuracy, or the last one of a pruned trial; the seeds it is the mean of; and the step
    at which a trial was pruned.
    """
    keys, held = list(_space(run)), choosing_split(run.config) == "holdout"
    trials, rows = trials_of(run), {}
    tested = {trial.variant: trial.mean for trial in (_entries(run, "test") if held else trials)}
    for trial in sorted(trials, key=rank):
        rows[trial.variant] = {key: short_text(trial.settings[key]) for key in keys} | {
            **({"holdout, %": mean_cell(trial.mean)} if held else {}),
            "final, %": mean_cell(tested[trial.variant]),
            "seeds": seeds_cell(trial.trained + trial.diverged, trial.diverged),
            "pruned at": "" if trial.finished else f"{max(trial.steps, default=0):,}",
        }
    return pd.DataFrame.from_dict(rows, orient="index", dtype=object)


def sweep_caption(run: Run) -> str:
    """What the numbers of `sweep_table` are, with caveats."""
    trials, sweep = trials_of(run), run.config["sweep"]
    finished = len(finished_trials(trials))
    pruned = sum(not trial.finished for trial in trials)
    text = f"final test accuracy after {run.config['steps']:,} steps"
    parts = [
        f"{figure_title(run, text)}: {mean_note(' '.join(mean_cell(t.mean) for t in trials))}; "
        "trials that finished without divergence share one variance over seeds, pooled, but for "
        "those that vary far more (Cochran's test); "
        f"{failure_note(run)}",
        f"{len(trials):,} of {sweep['trials']:,} trials ({sweep['sampler']}): {finished:,} "
        f"finished, {pruned:,} pruned, {len(trials) - finished - pruned:,} diverged with all seeds",
    ]
    if pruned:
        parts.append("The accuracy of a pruned trial is that of its last step, no final one")
    if finished > 1:
        chosen = {"holdout": "held-out images", "test": "test set"}[choosing_split(run.config)]
        parts.append(
            f"The best of {finished:,} trials was chosen by its accuracy on the {chosen}, so that "
            "this is an optimistic estimate: rerun it on other seeds"
        )
    return ". ".join(parts) + "."


def best_commands(run: Run) -> list[str]:
    """Shell commands that rerun the best finished trial of each normalizer.

    If the normalizer is not varied, the best of all trials. A normalizer is left out if none of its
    trials finished with all seeds.
    """
    space, commands = _space(run), []
    for normalizer, trials in by_normalizer(run, trials_of(run)).items():
        best = winner(trials)
        if best:
            name = f"best_{normalizer}" if NORMALIZER in space else "best"
            workdir = f"--workdir=runs/{shlex.quote(name)}"
            flags = config_flags({key: best.settings[key] for key in space})
            commands.append(" ".join([run.config["sweep"]["command"], workdir, *flags]))
    return commands


def _space(run: Run) -> dict[str, Any]:
    """The space of each key's values: a list, or a range with low, high and log."""
    # As in JSON, like settings: a tuple and a list are the same.
    return json.loads(json.dumps(run.config["sweep"]["vary"]))


def varied_of(run: Run) -> dict[str, Any]:
    """The space of each key that has more than one value."""
    return {key: values for key, values in _space(run).items() if len(values) > 1}


def trials_of(run: Run) -> list[Entry]:
    """The trials in the order of their numbers, with the accuracy by which they are ranked."""
    return _entries(run, choosing_split(run.config))


def _entries(run: Run, split: str) -> list[Entry]:
    entries = find_entries({"sweep": run}, Question(f"{split}/accuracy"))
    # Those that are still being trained have no place among the others yet.
    ended = run.provenance.get("seconds", run.config["variants"])
    entries = [trial for trial in entries if trial.variant in ended]
    whole = [trial for trial in finished_trials(entries) if not trial.diverged]
    # About three values say too little about how much each trial varies.
    means = dict(zip(whole, pooled([trial.values for trial in whole]), strict=True))
    entries = [replace(trial, mean=means.get(trial, trial.mean)) for trial in entries]
    return sorted(entries, key=lambda trial: int(trial.variant.rpartition(" ")[2]))


def percent(trial: Entry) -> float:
    """Mean of the last accuracy over seeds, NaN if all diverged."""
    return 100 * trial.mean.mean if trial.trained else float("nan")


def rank(trial: Entry) -> tuple[bool, bool, bool, float]:
    """The sort key of trials: best first, then those with a diverged seed, then pruned ones.

    Trials whose seeds all diverged come last.
    """
    return not trial.trained, not trial.finished, trial.diverged > 0, -trial.mean.mean


def finished_trials(trials: Sequence[Entry]) -> list[Entry]:
    """The trials that have a final accuracy."""
    return [trial for trial in trials if trial.finished and trial.trained]


def winner(trials: Sequence[Entry]) -> Entry | None:
    """The best trial, unless a seed of it diverged."""
    best = min(finished_trials(trials), key=rank, default=None)
    return best if best and not best.diverged else None


def by_normalizer(run: Run, trials: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The trials of each normalizer; some may have none."""
    names = _space(run).get(NORMALIZER) or [run.config["normalizer"]["name"]]
    return {name: [t for t in trials if t.settings[NORMALIZER] == name] for name in names}
