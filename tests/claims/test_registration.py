"""What is registered is what is measured."""

import csv
import dataclasses

import pytest

from bnrepro.claims import CLAIMS, readings
from bnrepro.claims.ledger import Evidence, markdown, read_ledger
from bnrepro.claims.registration import fingerprint
from bnrepro.comparison.config import DEFAULTS, variant_configs
from bnrepro.comparison.provenance import git
from bnrepro.records import differences, read_run
from bnrepro.report.statistics import Rule, Verdict, estimate
from scripts import claims as commands
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
    for changes in ({"seeds": 11}, {"measure_every": 1_000}):
        found.append(digits(B1, {"sigmoid": configs["sigmoid"] | changes}))
    assert len({digits(B1, configs), *found}) == 5


def test_a_fingerprint_changes_with_a_constant_of_what_a_measure_calls(monkeypatch):
    configs = comparisons([CLAIMS["B3"]], "full")
    before = digits(CLAIMS["B3"], configs)
    monkeypatch.setattr(readings, "TRAINS", 0.8)
    assert digits(CLAIMS["B3"], configs) != before


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


@pytest.mark.skipif(
    git("rev-parse", "--is-shallow-repository") != "false", reason="needs Git's whole history"
)
def test_each_claim_was_registered_before_it_was_run():
    def first(registered, run):
        return commands._came_first(registered, [Evidence(estimate([]), 0.0, run, "", "")])

    for row in rows_of(LEDGER):
        assert first(row["registered"], row["commit"])
    assert not first(row["commit"], git("rev-parse", f"{row['registered']}~1"))


def test_the_ledger_is_what_its_records_give():
    runs, rows = {}, [row for row in rows_of(LEDGER) if row["comparison"]]
    assert rows
    for row in rows:
        name = row["comparison"]
        runs[name] = runs.get(name) or read_run(REGISTERED.with_name(name))
        (measurement,) = (
            one for one in CLAIMS[row["claim"]].measurements if one.what == row["measurement"]
        )
        found = measurement.measure(runs[name])
        assert (found.mean, found.n) == (pytest.approx(float(row["mean"])), int(row["n"]))
        assert runs[name].provenance["commit"] == row["commit"]
        assert commands._diverged(runs[name], measurement) == row["diverged"]
    diverged = {row["measurement"]: row["diverged"] for row in rows if row["diverged"]}
    # Of 13 rates up to 512, with and without Batch Norm, ten seeds (results/claims/sensitivity).
    assert diverged == {
        "log2 of the largest rate that trains, batch_norm to plain, relu": "116 of 260 runs of "
        "sensitivity"
    }


def test_a_claim_reads_the_committed_records_as_those_of_its_config():
    for name, config in comparisons(list(CLAIMS.values()), "full").items():
        assert not differences(read_run(REGISTERED.with_name(name)).config, config, DEFAULTS)


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
            for term in one.reads
        }
        # Of a kind, all variants are read.
        kinds = {term for one in config["variants"] for term in read if one.startswith(f"{term} ")}
        assert read <= {*config["variants"], *kinds}


def test_the_pages_are_those_that_claims_read():
    names = {path.stem for path in (ROOT / "configs" / "claims").glob("*.py")}
    assert names - {"__init__", "common"} == set(comparisons(list(CLAIMS.values()), "full"))
