"""The variants of any number of runs, with what a comparison asks of each."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bnrepro.records import Run
from bnrepro.report.question import Question, QuestionError
from bnrepro.report.statistics import Estimate, difference, estimate
from bnrepro.report.summary import evaluations, failures, finals, never, steps_to, with_failures

# What stands for a setting, or a number, that is not there.
MISSING = "–"


class Difference(NamedTuple):
    """To the baseline: whether `paired` by seed, and whether both were taken at the same steps."""

    estimate: Estimate
    paired: bool
    same_steps: bool


# Two entries are never equal, only the same: a Series has no truth value.
@dataclass(frozen=True, eq=False)
class Entry:
    """One variant of one run.

    Attributes:
      run: what the run is called.
      variant: what the variant is called.
      dataset: what it was trained on, with its version.
      settings: by flat key; besides, `run` and `variant`.
      finished: whether all seeds have got to their end.
      trained: how many seeds have a finite value and did not diverge.
      diverged: how many seeds diverged.
      values: the metric by seed, where it is finite; of accuracy, chance where a seed diverged.
      mean: of the values.
      steps: those of the evaluations that the values are chosen from.
      reached: steps to the accuracy asked for by seed, infinity where it never got there.
      baseline: what it is compared with, if anything.
    """

    run: str
    variant: str
    dataset: str
    settings: Mapping[str, Any]
    finished: bool
    trained: int
    diverged: int
    values: pd.Series
    mean: Estimate
    steps: frozenset[int]
    reached: pd.Series
    baseline: "Entry | None" = None

    @property
    def name(self) -> str:
        """Of the variant among those of several runs."""
        return f"{self.run}: {self.variant}"

    @property
    def is_baseline(self) -> bool:
        """Whether it is what it is compared with."""
        return self.baseline is not None and self.baseline.name == self.name

    def labels(self, keys: Sequence[str], missing: str = MISSING) -> tuple[str, ...]:
        """The settings of these keys, as tables have them."""
        return tuple(setting_text(self.settings.get(key, missing)) for key in keys)

    @cached_property
    def difference(self) -> Difference | None:
        """To the baseline, if that is another on the same data set and both have values."""
        other = self.baseline
        if other is None or self.is_baseline or other.dataset != self.dataset:
            return None
        found, paired = difference(self.values, other.values)
        # What diverged has none.
        same_steps = not self.steps or not other.steps or self.steps == other.steps
        return Difference(found, paired, same_steps) if found.n else None


def find_entries(runs: Mapping[str, Run], question: Question) -> list[Entry]:
    """All variants of the runs, given by what they are called, with what is asked of each.

    Raises:
      QuestionError: the baseline is none of them, or more than one.
    """
    entries = [
        _entry(label, run, variant, question)
        for label, run in runs.items()
        for variant in run.variants
    ]
    return entries if question.baseline is None else _with_baseline(entries, question.baseline)


def setting_text(value: Any) -> str:
    """A setting or a name as tables have it, in one line."""
    short = f"{value:g}" if isinstance(value, float) else ""
    text = short if short and float(short) == value else str(value)
    return "".join(character if character.isprintable() else "�" for character in text)


def short_text(value: Any) -> str:
    """As `setting_text`, but for long numbers, as the points of a grid are."""
    text = setting_text(value)
    return f"{value:.4g}" if isinstance(value, float) and len(text) > 6 else text


def check_keys(entries: Sequence[Entry], keys: Sequence[str]) -> None:
    """Makes sure that keys are known, and tell all entries apart if there are any.

    Raises:
      QuestionError: they do not; the sentence says which would.
    """
    texts = [{key: setting_text(e.settings[key]) for key in e.settings} for e in entries]
    settings: Any = pd.DataFrame(texts).fillna(MISSING)
    known = list(settings)
    for key in keys:
        if key not in known:
            differing = [key for key in known if settings[key].nunique() > 1]
            hint = _nearest(key, known, f"these differ: {', '.join(differing)}")
            raise QuestionError(f"there is no setting {key!r}; {hint}")
    if keys and settings.duplicated(list(keys)).any():
        groups = settings.groupby(list(keys))
        differing = [key for key in known if (groups[key].nunique() > 1).any()]
        # What a variant is called differs anyhow: no key of its own unless there is no other.
        differing = [key for key in differing if key not in ("run", "variant")] or differing
        raise QuestionError(
            f"rows and columns by {', '.join(keys)} put up to {groups.size().max()} variants in "
            f"one cell; add a key that also differs: {', '.join(differing[:5])}"
        )


def in_order(entries: Sequence[Entry], keys: Sequence[str]) -> list[Entry]:
    """By the values of the keys in turn: numbers by size, then all else as text."""

    def place(entry: Entry, key: str) -> tuple[bool, float, str]:
        value = entry.settings.get(key, MISSING)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return (not number, value if number else 0, setting_text(value))

    return sorted(entries, key=lambda entry: [place(entry, key) for key in keys])


def _entry(label: str, run: Run, variant: str, question: Question) -> Entry:
    run = replace(run, metrics=run.metrics[run.metrics["variant"] == variant])
    rows = evaluations(run, question.split, question.name)
    if isinstance(question.at, int):
        rows = rows[rows["step"] == question.at]
    seeds = rows.groupby(["variant", "seed"])
    if question.at == "best":
        values = seeds["value"].max() if question.sign > 0 else seeds["value"].min()
    else:
        values = finals(rows)
    values = values[np.isfinite(values)]
    trained = len(values)
    if question.name == "accuracy":
        values = with_failures(values, run, run.chance)
    reached = pd.Series(dtype=float)
    if question.steps_to is not None:
        reached = steps_to(evaluations(run, question.split), question.steps_to)
        reached = with_failures(reached, run, never).droplevel("variant")
    name, called = setting_text(variant), setting_text(label)
    return Entry(
        run=called,
        variant=name,
        dataset=setting_text(run.provenance["dataset"]),
        settings=run.settings(variant) | {"run": called, "variant": name},
        finished=run.finished(variant),
        trained=trained,
        diverged=len(failures(run)),
        values=values.droplevel("variant"),
        mean=estimate(values),
        steps=frozenset(rows["step"] if question.at == "best" else seeds["step"].max()),
        reached=reached,
    )


def _with_baseline(entries: Sequence[Entry], name: str) -> list[Entry]:
    named = [entry for entry in entries if entry.name == name]
    named = named or [entry for entry in entries if entry.variant == name]
    if not named:
        known = [name for entry in entries for name in (entry.variant, entry.name)]
        hint = _nearest(name, known, f"{known[0]!r} is one, for example")
        raise QuestionError(f"there is no variant {name!r} to use as the baseline; {hint}")
    # Where several runs have it, each has its own.
    own = {entry.run: entry for entry in named}
    for entry in entries:
        if len(own) > 1 and entry.run not in own:
            raise QuestionError(
                f"{entry.run} has no variant {name} to use as its baseline, but {len(own)} others "
                f"do: choose one of these, as in {named[0].name!r}"
            )
    return [replace(entry, baseline=own.get(entry.run, named[0])) for entry in entries]


def _nearest(word: str, known: Iterable[str], otherwise: str) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"the nearest is {near[0]!r}" if near else otherwise
