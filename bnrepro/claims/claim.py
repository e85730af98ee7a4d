"""What a claim is: the documents' own words, what is measured, and the rule that decides."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from bnrepro.claims import readings
from bnrepro.records import Run
from bnrepro.report.figures import Picture
from bnrepro.report.statistics import Estimate, Rule

DOCUMENTS = {
    "D0": "Why Batch Normalization Matters? (A. Sawarn, Towards AI; 000_18ded6760d19cae2.txt)",
    "D1": "Deepchecks Glossary: Batch Normalization (001_8ffdedb3720cfa7b.txt)",
    "D2": "Batch Normalization and Its Optimization Techniques: Review "
    "(N. Kumaran, A. Vaidya; 002_581fd38c7fd434a8.txt)",
    "D3": "an article on Batch Normalization with MNIST as its example (003_a4ebaae832863936.txt)",
    "D4": "Breaking Down Batch Normalization (004_9f42607674748d64.txt)",
}


class Quote(NamedTuple):
    """A document's own words.

    Attributes:
      document: one of `DOCUMENTS`.
      section: the nearest heading above; "" in a document without headings.
      words: verbatim except for line breaks; "..." where words are left out.
    """

    document: str
    section: str
    words: str


@dataclass(frozen=True)
class Measurement:
    """A number, and what a claim says about it.

    Attributes:
      what: the number in words, with its unit.
      rule: what the claim says about it.
      reason: why the bounds of the rule are where they are.
      measure: makes the estimate from the `Run` of `comparison` or, without one, from a `Dataset`.
      comparison: the config in `configs/claims/` whose records are read; "" if nothing is trained.
    """

    what: str
    rule: Rule
    reason: str
    measure: Callable[[Any], Estimate]
    comparison: str = ""

    @property
    def reads(self) -> list[str]:
        """The variants that it names, and kinds of variants, whose names begin with the kind's."""
        keywords: Mapping[str, Any] = getattr(self.measure, "keywords", {})
        read = [keywords[key] for key in ("ours", "theirs", "variant") if key in keywords]
        for _, variant, *_ in keywords.get("terms", ()):
            read += [variant] if isinstance(variant, str) else variant
        return read

    def variants(self, names: Collection[str]) -> list[str]:
        """Those of a comparison's variants that it reads."""
        kinds = tuple(f"{name} " for name in self.reads if name not in names)
        return [name for name in names if name in self.reads or name.startswith(kinds)]


NO_SIZE = "the documents name a direction and no size"


def more(what: str, measure: Callable[[Any], Estimate], comparison: str) -> Measurement:
    """That a number is above zero, where the documents name no size."""
    return Measurement(what, Rule(low=0), NO_SIZE, measure, comparison)


def contrast(*terms: readings.Term, **scale: Any) -> Callable[[Run], Estimate]:
    """What measures a weighted sum of final values."""
    return partial(readings.contrast, terms=terms, **scale)


def gain(what: str, ours: str, theirs: str, comparison: str) -> Measurement:
    """That one variant's final accuracy is above another's."""
    return more(f"{what}, points", partial(readings.gain, ours=ours, theirs=theirs), comparison)


class ClaimFigure(NamedTuple):
    """A figure to judge a claim by.

    Attributes:
      comparison: the config in `configs/claims/` whose records it shows.
      picture: makes it from their `Run`.
    """

    comparison: str
    picture: Callable[[Run], Picture]


@dataclass(frozen=True)
class Claim:
    """A statement of the documents. It holds if all of its measurements say so.

    Attributes:
      id: a letter and a number; A: definitions, B: what Batch Norm does, C: where it fails.
      statement: in one sentence of our own.
      quotes: the documents' own words.
      reading: how a careful reader understands them.
      measurements: what is measured; at least one.
      papers: the papers' own figures, if there are any.
      looked_into: what else was measured, above all on why the claim does not hold.
      figures: the effect that the measurements are about; the verdict does not depend on them.
    """

    id: str
    statement: str
    quotes: tuple[Quote, ...]
    reading: str
    measurements: tuple[Measurement, ...]
    papers: str = ""
    looked_into: str = ""
    figures: tuple[ClaimFigure, ...] = ()

    @property
    def sources(self) -> list[str]:
        """The documents that it quotes, each once."""
        return list(dict.fromkeys(quote.document for quote in self.quotes))

    @property
    def comparisons(self) -> list[str]:
        """The configs in `configs/claims/` that it reads, each once."""
        names = dict.fromkeys(measurement.comparison for measurement in self.measurements)
        return [name for name in names if name]


def claim(
    id: str, statement: str, quotes: str, reading: str, *measured: Measurement, **others: Any
) -> Claim:
    """The claim; each of its quotes begins on a line of its own, as in "D2 [SECTION] WORDS"."""
    found = re.findall(r"(?ms)^ *(D\d) (?:\[(.*?)\] )?(.*?)(?=^ *D\d |\Z)", quotes)
    quoted = (Quote(name, section, " ".join(words.split())) for name, section, words in found)
    return Claim(id, statement, tuple(quoted), reading, measured, **others)
