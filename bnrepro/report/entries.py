"""The variants of any number of runs, with the values that a comparison asks for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bnrepro.errors import UserError, nearest
from bnrepro.records import Run
from bnrepro.report.question import Question
from bnrepro.report.statistics import Estimate, difference, estimate
from bnrepro.report.summary import asked, by_seed, failure_counts

# Shown for a setting or a number that is missing.
MISSING = "–"


class Difference(NamedTuple):
    """The difference to the baseline; whether it is paired by seed, and taken at the same steps."""

    estimate: Estimate
    paired: bool
    same_steps: bool


# Entries are compared by identity: a Series has no truth value.
@dataclass(frozen=True, eq=False)
class Entry:
    """One variant of one run.

    Attributes:
      run: the run's label.
      variant: the variant's name.
      dataset: what it was trained on, with its version.
      settings: by flat key; also `run` and `variant`.
      finished: whether all seeds have finished.
      trained: how many seeds have a finite value and did not diverge.
      diverged: how many seeds diverged.
      values: the metric by seed, if finite; accuracy is at chance for a seed that diverged.
      mean: of the values.
      steps: of the evaluations that the values are chosen from.
      others: the mean of final accuracy on each other split that was asked for.
      reached: by name, as in "steps_to_0.95", the steps by seed, infinity if it was never reached.
      baseline: the entry that it is compared with, if any.
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
    others: Mapping[str, Estimate]
    reached: Mapping[str, pd.Series]
    baseline: "Entry | None" = None

    @property
    def name(self) -> str:
        """The variant's name among those of several runs."""
        return f"{self.run}: {self.variant}"

    @property
    def is_baseline(self) -> bool:
        """Whether it is its own baseline."""
        return self.baseline is not None and self.baseline.name == self.name

    def labels(self, keys: Sequence[str], missing: str = MISSING) -> tuple[str, ...]:
        """The settings of these keys, as shown in tables."""
        return tuple(setting_text(self.settings.get(key, missing)) for key in keys)

    @cached_property
    def difference(self) -> Difference | None:
        """The difference to the baseline, if that is another entry on the same data set."""
        other = self.baseline
        if other is None or self.is_baseline or other.dataset != self.dataset:
            return None
        found, paired = difference(self.values, other.values)
        # An entry that diverged has none.
        same_steps = not self.steps or not other.steps or self.steps == other.steps
        return Difference(found, paired, same_steps) if found.n else None


def find_entries(runs: Mapping[str, Run], question: Question) -> list[Entry]:
    """All variants of the runs, given by label, with the values that are asked for.

    Raises:
      UserError: there is no such baseline, or it is ambiguous.
    """
    entries = [entry for label, run in runs.items() for entry in _entries(label, run, question)]
    if question.baselines:
        named = {entry.variant: entry for entry in entries}
        baselines = [named.get(question.baseline_of(entry.variant) or "") for entry in entries]
        return [replace(e, baseline=base) for e, base in zip(entries, baselines, strict=True)]
    return entries if question.baseline is None else _with_baseline(entries, question.baseline)


def setting_text(value: Any) -> str:
    """A setting or a name as shown in tables, in one line."""
    short = f"{value:g}" if isinstance(value, float) else ""
    text = short if short and float(short) == value else str(value)
    return "".join(character if character.isprintable() else "�" for character in text)


def short_text(value: Any) -> str:
    """As `setting_text`, but with long numbers, such as points of a grid, shortened."""
    text = setting_text(value)
    return f"{value:.4g}" if isinstance(value, float) and len(text) > 6 else text


def check_keys(entries: Sequence[Entry], keys: Sequence[str]) -> None:
    """Makes sure that keys are known and, if there are any, distinguish all entries.

    Raises:
      UserError: they do not; the message says which would.
    """
    texts = [{key: setting_text(e.settings[key]) for key in e.settings} for e in entries]
    settings: Any = pd.DataFrame(texts).fillna(MISSING)
    known = list(settings)
    for key in keys:
        if key not in known:
            differing = [key for key in known if settings[key].nunique() > 1]
            hint = nearest(key, known) or f"; these differ: {', '.join(differing)}"
            raise UserError(f"there is no setting {key!r}{hint}")
    if keys and settings.duplicated(list(keys)).any():
        groups = settings.groupby(list(keys))
        differing = [key for key in known if (groups[key].nunique() > 1).any()]
        # Names always differ: suggest them only if nothing else does.
        differing = [key for key in differing if key not in ("run", "variant")] or differing
        raise UserError(
            f"rows and columns by {', '.join(keys)} put up to {groups.size().max()} variants in "
            f"one cell; add a key that also differs: {', '.join(differing[:5])}"
        )


def in_order(entries: Sequence[Entry], keys: Sequence[str]) -> list[Entry]:
    """Entries sorted by the values of the keys in turn: numbers by size, then the rest as text."""

    def place(entry: Entry, key: str) -> tuple[bool, float, str]:
        value = entry.settings.get(key, MISSING)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return (not number, value if number else 0, setting_text(value))

    return sorted(entries, key=lambda entry: [place(entry, key) for key in keys])


def _entries(label: str, run: Run, question: Question) -> list[Entry]:
    """The entries of a run; what is asked for is taken of all variants at once."""
    rows, table = asked(run, question), by_seed(run, question)
    chosen = rows if question.at == "best" else rows.groupby(["variant", "seed"]).tail(1)
    steps = chosen.groupby("variant")["step"].agg(frozenset).to_dict()
    seeds: Any = {name: own.droplevel("variant") for name, own in table.groupby(level="variant")}
    diverged, parts = failure_counts(run), dict(iter(run.metrics.groupby("variant")))
    dataset, called = setting_text(run.provenance["dataset"]), setting_text(label)
    entries = []
    for variant in run.variants:
        name, own = setting_text(variant), seeds.get(variant, table[:0].droplevel("variant"))
        values, failed = own["value"][np.isfinite(own["value"])], diverged.get(variant, 0)
        rest = replace(run, metrics=parts.get(variant, run.metrics[:0]))
        entries.append(
            Entry(
                run=called,
                variant=name,
                dataset=dataset,
                settings=run.settings(variant) | {"run": called, "variant": name},
                finished=rest.finished(variant),
                # Of accuracy, seeds that diverged have a value, too.
                trained=len(values) - failed * question.is_accuracy,
                diverged=failed,
                values=values,
                mean=estimate(values),
                steps=steps.get(variant, frozenset()),
                others={split: estimate(own[split]) for split in question.splits},
                reached={key: own[key].dropna() for key in own.filter(like="steps_to_")},
            )
        )
    return entries


def _with_baseline(entries: Sequence[Entry], name: str) -> list[Entry]:
    named = [entry for entry in entries if entry.name == name]
    named = named or [entry for entry in entries if entry.variant == name]
    if not named:
        known = [name for entry in entries for name in (entry.variant, entry.name)]
        hint = nearest(name, known) or f"; {known[0]!r} is one, for example"
        raise UserError(f"there is no variant {name!r} to use as the baseline{hint}")
    # If several runs have it, each uses its own.
    own = {entry.run: entry for entry in named}
    for entry in entries:
        if len(own) > 1 and entry.run not in own:
            raise UserError(
                f"{entry.run} has no variant {name} to use as its baseline, but {len(own)} others "
                f"do: choose one of these, as in {named[0].name!r}"
            )
    return [replace(entry, baseline=own.get(entry.run, named[0])) for entry in entries]
