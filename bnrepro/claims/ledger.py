"""The ledger: what was measured for each claim, and the verdict that follows."""

import math
import os
import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from bnrepro.claims.claim import DOCUMENTS, Claim
from bnrepro.records import RecordsError
from bnrepro.report.statistics import Estimate, Rule, Verdict, estimate_columns, holm
from bnrepro.report.tables import Cell

# The files that hold a ledger, and what it says to a reader, below a title.
LEDGER, LEDGER_MD = "ledger.csv", "ledger.md"
TITLE = "# What holds"
_NUMBERS = (
    "mean", "ci95_low", "ci95_high", "n", "low", "high", "p_value", "p_holm", "core_minutes",
)  # fmt: skip
COLUMNS = (
    "claim", "measurement", "comparison", "records", "mean", "ci95_low", "ci95_high", "n", "low",
    "high", "p_value", "p_holm", "verdict", "core_minutes", "fingerprint", "registered", "commit",
    "length", "values", "diverged",
)  # fmt: skip


class Evidence(NamedTuple):
    """The result of a measurement.

    Attributes:
      estimate: the number.
      core_minutes: the time of its comparison, or its computation, on one core.
      commit: at which it was run.
      diverged: the runs of its comparison that did, as in "plain 2 of 10"; "" if none did.
      records: the workdir of its comparison, relative to the ledger's folder.
    """

    estimate: Estimate
    core_minutes: float
    commit: str
    diverged: str
    records: str


def rows_of(
    claim: Claim, evidence: Sequence[Evidence], fingerprint: str, registered: str, length: str
) -> list[dict[str, Any]]:
    """The rows of a claim, one for each measurement, without the verdicts that `judged` adds.

    An exact computation is not a test: it has no p-value, and its verdict is certain.

    Args:
      claim: what was measured.
      evidence: one for each measurement.
      fingerprint: of the claim.
      registered: the commit that registered it; "" if none did.
      length: "full" or "fast", for the shorter comparisons.
    """
    rows = []
    for measurement, one in zip(claim.measurements, evidence, strict=True):
        found, rule = one.estimate, measurement.rule
        exact = not measurement.comparison and found.standard_error == 0
        row = {
            "claim": claim.id,
            "measurement": measurement.what,
            "comparison": measurement.comparison,
            "records": one.records,
            **estimate_columns(found),
            "n": found.n,
            "low": rule.low,
            "high": rule.high,
            "p_value": math.nan if exact else rule.p_value(found),
            "core_minutes": one.core_minutes,
            "fingerprint": fingerprint,
            "registered": registered,
            "commit": one.commit,
            "length": length,
            "values": " ".join(f"{value:.6g}" for value in found.sample),
            "diverged": one.diverged,
        }
        rows.append(row)
    return rows


def judged(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The ledger of these rows, with the columns `COLUMNS`.

    Verdicts follow from p-values adjusted by Holm's method over all rows. Those without a p-value
    are exact, and certain, if they read no comparison; else not settled.
    """
    ledger = pd.DataFrame(rows)
    p_holm = pd.Series(holm(ledger["p_value"].to_list()), ledger.index)
    sure = p_holm.mask(p_holm.isna() & (ledger["comparison"] == ""), 0.0)
    columns = (ledger[name] for name in ("low", "high", "mean"))
    verdicts = [
        str(Rule(low, high).verdict(mean, p_value))
        for low, high, mean, p_value in zip(*columns, sure, strict=True)
    ]
    return ledger.assign(p_holm=p_holm, verdict=verdicts)[list(COLUMNS)]


def combined(verdicts: Iterable[str]) -> Verdict:
    """A claim's verdict: it holds if all of its measurements hold, and fails if one fails."""
    found = set(verdicts)
    if Verdict.DOES_NOT_HOLD in found:
        return Verdict.DOES_NOT_HOLD
    return Verdict.HOLDS if found == {Verdict.HOLDS} else Verdict.NOT_SETTLED


@dataclass(frozen=True)
class Judged:
    """A claim that is in a ledger, for a reader.

    Attributes:
      claim: the declaration.
      lines: its rows, one for each measurement, with a formatted `number`, `rule` and `test`.
    """

    claim: Claim
    lines: Sequence[Mapping[str, Any]]

    @property
    def verdict(self) -> str:
        """That of all its measurements."""
        return str(combined(line["verdict"] for line in self.lines))

    @property
    def core_minutes(self) -> float:
        """What it took: measurements of one comparison share its cost."""
        costs = {line["comparison"] or i: line["core_minutes"] for i, line in enumerate(self.lines)}
        return float(sum(costs.values()))

    @property
    def diverged(self) -> list[str]:
        """A sentence for each comparison in which runs diverged."""
        found = dict.fromkeys(
            f"diverged, {'and counted as failures' if line['n'] else 'so that it has no value'}: "
            f"{line['diverged']}"
            for line in self.lines
            if line["diverged"]
        )
        return list(found)

    def command(self, folder: Path) -> str:
        """The command that measures it again, from the records that it read; `folder` has them."""
        given = dict.fromkeys(
            f"--records={line['comparison']}={workdir_of(folder, line['records'])}"
            for line in self.lines
            if line["records"] != line["comparison"]
        )
        fast = ["--fast"] * (self.lines[0]["length"] == "fast")
        only = f"--only={self.claim.id}"
        return shlex.join(["python", "-m", "scripts.claims", only, *fast, *given])

    @property
    def registered(self) -> str:
        """The commit that registered it, in seven digits."""
        return str(self.lines[0]["registered"])[:7]

    @property
    def commits(self) -> str:
        """The commits at which it was run, in seven digits."""
        names = {name for line in self.lines for name in line["commit"].split(", ")} - {""}
        return ", ".join(sorted(re.sub(r"^([0-9a-f]{7})[0-9a-f]+$", r"\1", name) for name in names))


def workdir_of(folder: Path, records: str) -> Path:
    """The workdir that the column `records` of a ledger in this folder names."""
    return Path(os.path.normpath(folder / records))


def by_claim(claims: Iterable[Claim], ledger: pd.DataFrame) -> list[Judged]:
    """The claims that are in a ledger."""
    rows: Any = {name: of.to_dict("records") for name, of in ledger.groupby("claim")}
    return [Judged(claim, [*map(_shown, rows[claim.id])]) for claim in claims if claim.id in rows]


def _shown(line: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its number, as in "0.25 [0.11, 0.39], n = 10", rule and p-value in words."""
    number = "not measured"
    if line["n"]:
        number = f"{line['mean']:.3g}"
        if line["ci95_low"] < line["ci95_high"]:
            number += f" [{line['ci95_low']:.3g}, {line['ci95_high']:.3g}]"
        number += f", n = {line['n']:.0f}"
    p_value = line["p_holm"]
    test = f"p = {p_value:.3g}" if p_value >= 0.001 else "p < 0.001"
    if math.isnan(p_value):
        test = "no test" if line["comparison"] else "exact"
    values = ", ".join(f"{float(value):.4g}" for value in line["values"].split())
    rule = rule_text(Rule(line["low"], line["high"]))
    return {**line, "number": Cell(number, values), "rule": rule, "test": test}


def claims_table(claims: Iterable[Claim], ledger: pd.DataFrame) -> pd.DataFrame:
    """The ledger for a reader: one row per claim that is in it, a line for each measurement."""
    rows = {}
    for one in by_claim(claims, ledger):
        measured = [
            f"{line['measurement']}: {line['number']}; {line['rule']}, {line['test']}: "
            f"{line['verdict']}"
            for line in one.lines
        ]
        rows[one.claim.id] = {
            "statement": one.claim.statement,
            "source": ", ".join(one.claim.sources),
            "papers": one.claim.papers or "–",
            "measured": "\n".join([*measured, *one.diverged]),
            "verdict": one.verdict,
            "core-minutes": f"{one.core_minutes:.1f}",
            "registered, run": f"{one.registered or 'not registered'}, {one.commits}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("id")


def caption(claims: Collection[Claim], ledger: pd.DataFrame) -> str:
    """What the numbers of the table are, with caveats."""
    trained = ledger["comparison"] != ""
    minutes = ledger[trained].drop_duplicates("comparison")["core_minutes"].sum()
    minutes += ledger.loc[~trained, "core_minutes"].sum()
    notes = [
        "Means over n seeds, or readings of the clock, with 95% confidence intervals (Student's t)",
        "then what the claim says of the mean, and the p-value adjusted by Holm's method over the "
        f"{ledger['p_holm'].notna().sum()} tests of this ledger; exact: the largest of n values, "
        "computed without sampling error, no test",
        "a claim holds if all of its measurements do, and does not hold here if one does not",
        f"{minutes:.1f} core-minutes in all, which claims that read the same comparison share",
    ]
    if lacking := len(claims) - ledger["claim"].nunique():
        notes.append(
            f"{lacking} of {len(claims)} claims are not in this ledger: with their tests, p-values "
            "are adjusted more, and less may be settled"
        )
    if (trained & (ledger["registered"] == "")).any():
        notes.append(
            "claims that are not registered read comparisons of other seeds or lengths or have "
            "changed since they were run; without Git's history, none is registered"
        )
    text = "; ".join(notes) + "."
    fast = (ledger["length"] == "fast").any()
    return f"FAST: shorter runs of fewer seeds. {text}" if fast else text


def markdown(claims: Collection[Claim], ledger: pd.DataFrame) -> str:
    """The ledger as a page: the table, and the quotes and reasons of each claim that is in it."""
    table = claims_table(claims, ledger).replace({r"\n": "<br>", r"\|": r"\\|"}, regex=True)
    parts = [TITLE, table.to_markdown(disable_numparse=True), caption(claims, ledger)]
    for claim in (one.claim for one in by_claim(claims, ledger)):
        parts.append(f"## {claim.id}. {claim.statement}")
        parts += [
            f"> {quote.words}\n>\n> {quote.document}" + f", {quote.section}" * bool(quote.section)
            for quote in claim.quotes
        ]
        rules = [f"- {m.what}: {rule_text(m.rule)}; {m.reason}." for m in claim.measurements]
        parts += [claim.reading, "\n".join(rules)]
        parts += [f"Looked into: {claim.looked_into}"] * bool(claim.looked_into)
    documents = [f"- {name}: {title}" for name, title in DOCUMENTS.items()]
    return "\n\n".join([*parts, "## Documents", "\n".join(documents)]) + "\n"


def rule_text(rule: Rule) -> str:
    """A rule in words, as in "above 0.5"."""
    if math.isinf(rule.high):
        return f"above {rule.low:.3g}"
    if math.isinf(rule.low):
        return f"below {rule.high:.3g}"
    return f"between {rule.low:.3g} and {rule.high:.3g}"


def read_ledger(path: Path, claims: Mapping[str, Claim]) -> pd.DataFrame:
    """Reads a ledger of these claims from a file.

    Raises:
      RecordsError: it cannot be read, or has other measurements of a claim.
    """
    ledger = read_rows(path)
    known = {one.id: [m.what for m in one.measurements] for one in claims.values()}
    for claim, measured in ledger.groupby("claim", sort=False)["measurement"]:
        if list(measured) != known.get(str(claim)):
            raise RecordsError(
                f"{path} has other measurements of {claim} than there are; run scripts.claims again"
            )
    return ledger


def read_rows(path: Path) -> pd.DataFrame:
    """Reads a ledger from a file, of whatever claims.

    Raises:
      RecordsError: it cannot be read.
    """
    try:
        ledger = pd.read_csv(path, dtype=str, keep_default_na=False)
        if "records" not in ledger:  # of an earlier version
            ledger.insert(COLUMNS.index("records"), "records", ledger["comparison"])
        if list(ledger.columns) != list(COLUMNS) or ledger.empty:
            raise ValueError
        ledger[list(_NUMBERS)] = ledger[list(_NUMBERS)].replace("", "nan").astype(float)
        ledger["n"] = ledger["n"].astype(int)
        ledger["values"].str.split().explode().astype(float)
    except (OSError, ValueError, LookupError) as error:
        raise RecordsError(f"{path} is not a ledger of claims") from error
    return ledger
