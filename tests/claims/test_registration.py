"""What is registered is what is measured."""

import csv
import dataclasses

import pytest

from bnrepro.claims import CLAIMS
from bnrepro.claims.ledger import markdown, read_ledger
from bnrepro.claims.registration import fingerprint
from bnrepro.comparison.config import DEFAULTS, variant_configs
from bnrepro.records import read_run
from bnrepro.report.statistics import Rule, Verdict
from scripts.claims import REGISTERED, comparisons, fingerprints
from tests.commands import ROOT

B1 = CLAIMS["B1"]
LEDGER = REGISTERED.with_name("ledger.csv")


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def current():
    return fingerprints(list(CLAIMS.values()))


def digits(claim, configs):
    return fingerprint(claim, configs, DEFAULTS)


def test_a_fingerprint_changes_with_a_threshold_a_measure_and_a_setting():
    configs = comparisons([B1], "full")
    first, *others = B1.measurements
    changed = [
        dataclasses.replace(first, rule=Rule(high=-1)),
        dataclasses.replace(first, measure=others[0].measure),
    ]
    found = [
        digits(dataclasses.replace(B1, measurements=(one, *others)), configs) for one in changed
    ]
    found.append(digits(B1, {"sigmoid": configs["sigmoid"] | {"seeds": 11}}))
    assert len({digits(B1, configs), *found}) == 4


def test_a_fingerprint_does_not_change_with_words_nor_with_a_new_key_at_its_default():
    configs = comparisons([B1], "full")
    older = {key: value for key, value in configs["sigmoid"].items() if key != "random_flip"}
    assert digits(B1, {"sigmoid": older}) == digits(B1, configs)
    assert digits(dataclasses.replace(B1, statement="It helps."), configs) == digits(B1, configs)


def test_every_claim_is_registered_as_it_stands(current):
    assert {row["claim"]: row["fingerprint"] for row in rows_of(REGISTERED)} == current


def test_no_threshold_was_changed_after_the_run_that_the_ledger_shows(current):
    for row in rows_of(LEDGER):
        assert row["fingerprint"] == current[row["claim"]], f"{row['claim']} needs a new run"


def test_the_ledger_is_what_its_records_give():
    runs, rows = {}, [row for row in rows_of(LEDGER) if row["comparison"]]
    assert len(rows) == 47
    for row in rows:
        name = row["comparison"]
        runs[name] = runs.get(name) or read_run(REGISTERED.with_name(name))
        (measurement,) = (
            one for one in CLAIMS[row["claim"]].measurements if one.what == row["measurement"]
        )
        found = measurement.measure(runs[name])
        assert (found.mean, found.n) == (pytest.approx(float(row["mean"])), int(row["n"]))
        assert runs[name].provenance["commit"] == row["commit"]
    diverged = {row["comparison"]: row["diverged"] for row in rows if row["diverged"]}
    # 660 runs at rates up to 512 (results/claims/sensitivity).
    assert diverged == {"sensitivity": "106 of 660 runs of sensitivity"}


def test_the_page_of_the_ledger_is_what_its_rows_give():
    shown = markdown(list(CLAIMS.values()), read_ledger(LEDGER, CLAIMS))
    assert LEDGER.with_suffix(".md").read_text() == shown


def test_what_does_not_hold_was_looked_into():
    failed = {row["claim"] for row in rows_of(LEDGER) if row["verdict"] == Verdict.DOES_NOT_HOLD}
    assert failed and all(CLAIMS[claim].looked_into for claim in failed)


@pytest.mark.parametrize("length", ["full", "fast"])
def test_every_comparison_can_be_run_and_has_all_variants_that_are_read(length):
    for name, config in comparisons(list(CLAIMS.values()), length).items():
        variant_configs(config)
        read = {
            term
            for claim in CLAIMS.values()
            for one in claim.measurements
            if one.comparison == name
            for term in _variants(one.measure.keywords)
        }
        kinds = {"sensitivity": ("batch_norm", "none", "rate")}.get(name, ())
        missing = {term for term in read - set(config["variants"]) if not term.endswith(kinds)}
        assert not missing if kinds == () else all(term.endswith(kinds) for term in missing)


def _variants(keywords):
    found = [keywords[key] for key in ("ours", "theirs", "variant") if key in keywords]
    for _, variant, *_ in keywords.get("terms", ()):
        found += [variant] if isinstance(variant, str) else variant
    return found


def test_the_pages_are_those_that_claims_read():
    names = {path.stem for path in (ROOT / "configs" / "claims").glob("*.py")}
    assert names - {"__init__", "common"} == set(comparisons(list(CLAIMS.values()), "full"))
