"""The command line of the claims: a ledger from records, and mistakes in one sentence."""

import csv
import shutil
from functools import partial
from pathlib import Path

import pytest

from bnrepro.claims import CLAIMS, readings
from bnrepro.claims.claim import Measurement
from bnrepro.comparison import run as run_module
from bnrepro.data import datasets
from bnrepro.records import Run, lock_workdir, metric_rows, read_run, write_run
from bnrepro.report.statistics import Rule
from configs.claims import cost, counterexamples
from scripts import claims
from tests.claims.test_registration import rows_of
from tests.commands import refusal
from tests.programs import made_once
from tests.records_fixtures import small_run
from tests.small_dataset import small_dataset


@pytest.fixture(scope="module")
def make_program():
    return made_once(run_module.make_program)


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch, make_program):
    """Comparisons of a few steps of a small network, on a set that trains in a second."""
    monkeypatch.chdir(tmp_path)
    for module in (run_module, datasets):
        monkeypatch.setattr(module, "load_dataset", lambda *_, **__: small_dataset())
    monkeypatch.setattr(run_module, "make_program", make_program)
    for page in (cost, counterexamples):
        monkeypatch.setattr(page, "get_config", shortened(page.get_config))


def shortened(get_config):
    def get(length="full"):
        config = get_config(length)
        config.seeds, config.steps, config.eval_every = 3, 4, 2
        config.batch_size = config.microbatch_size = 12
        config.measure_every = 1
        config.devices.strategy = "single"  # which compiles in half the time
        for name in config.variants:
            config.variants[name].model = {"hidden": (4, 4)}
        return config

    return get


def ledger(folder):
    return rows_of(folder / "ledger.csv")


def test_what_is_missing_is_run_once_and_every_measurement_has_a_value(tmp_path, capsys):
    claims.main(["--only=B7,B8,A3", "--fast"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("A3", "B7", "B8", "core-minutes in all"))
    folder = tmp_path / "runs" / "claims_fast"
    rows = ledger(folder)
    assert [row["claim"] for row in rows] == ["A3"] + ["B7"] * 3 + ["B8"] * 2
    assert all(row["n"] == "3" for row in rows if row["comparison"])
    assert "b will grow indefinitely" in (folder / "ledger.md").read_text()

    before = (folder / "counterexamples" / "metrics.csv").stat().st_mtime_ns
    run = read_run(folder / "counterexamples")
    claims.main(["--only=B8", "--fast"])
    assert (folder / "counterexamples" / "metrics.csv").stat().st_mtime_ns == before
    assert len(run.metrics)
    # The others stay in the ledger, and count for all p-values.
    again = ledger(folder)
    assert [row["p_holm"] for row in again] == [row["p_holm"] for row in rows]
    assert [row["claim"] for row in again] == [row["claim"] for row in rows]
    assert "27 of 30 claims are not in this ledger" in (folder / "ledger.md").read_text()

    # Of another version, some of whose claims were others, and which did not say what was read.
    rows = [{key: row[key] for key in row if key != "records"} for row in rows]
    other, *same = rows
    other |= {"measurement": "something else", "fingerprint": "0" * 12}
    with (folder / "ledger.csv").open("w") as file:
        writer = csv.DictWriter(file, other)
        writer.writeheader()
        writer.writerows([other, *same])
    claims.main(["--only=B8", "--fast"])
    assert [row["claim"] for row in ledger(folder)] == [row["claim"] for row in same]

    # Without its rows, its page is still ours.
    (folder / "ledger.csv").unlink()
    claims.main(["--only=B8", "--fast"])
    assert [row["claim"] for row in ledger(folder)] == ["B8"] * 2

    # Nor does a ledger of longer runs take its place.
    capsys.readouterr()
    said = refusal(capsys, claims.main, "--only=A3", f"--workdir={folder}")
    assert "holds the ledger of a run with --fast" in said


def test_where_all_runs_diverged_at_once_there_is_no_value_and_still_a_ledger():
    (explosion,) = CLAIMS["B5"].measurements[1:]
    config = claims.comparisons([CLAIMS["B5"]], "full")["depth"]
    keys = [(name, seed) for name in config["variants"] for seed in range(config["seeds"])]
    run = small_run(Path(), {}, diverged=keys, **config)
    run.provenance.update(seconds={}, commit="abc", uncommitted_changes=False)
    found = claims._evidence(explosion, {"depth": run}, {}, small_dataset(), "", Path())
    assert found.estimate.n == 0
    assert found.diverged == "relu 20 batch_norm 5 of 5, relu 20 none 5 of 5"


def test_where_some_seeds_diverged_the_others_are_no_evidence_without_a_value_for_them():
    one = Measurement(
        "norm",
        Rule(low=0),
        "a reason",
        partial(readings.contrast, terms=((1, "plain", "train/norm"),)),
        "some",
    )
    norms = [("plain", seed, 20, "train", "norm", 1.0) for seed in range(2)]

    def found(**changes):
        run = small_run(Path("there"), extra=norms, **changes)
        run.provenance.update(seconds={}, commit="abc", uncommitted_changes=False)
        run.provenance["resumed"] = [{"commit": "def", "uncommitted_changes": True}]
        return claims._evidence(one, {"some": run}, {}, small_dataset(), "", Path())

    assert found().estimate.n == 2
    failed = found(diverged=[("plain", 2)])
    assert (failed.estimate.n, failed.diverged) == (0, "plain 1 of 3")
    assert (failed.commit, failed.records) == ("abc, def, uncommitted changes", "there")


def test_records_may_have_other_seeds_but_not_other_training_images():
    config = claims.comparisons([CLAIMS["B10"]], "full")["regularization"]
    own = {"holdout": 0, "train_examples": 100, "minibatches": 7}
    other = config | {"seeds": 3, "eval_every": 500, "evaluation": config["evaluation"] | own}
    found = claims._differences(Run(Path(), other, metric_rows([]), {}), config)
    assert found == ["evaluation.holdout: 0 there, 58000 here"]


def test_without_git_no_claim_is_registered(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert claims._registered("A3", "0" * 12) == ""


def test_a_comparison_whose_set_is_not_here_is_left_out(tmp_path, capsys, monkeypatch):
    def load(name, *_, **__):
        if name != "mnist":
            raise datasets.DatasetError(f"{name} is not here")
        return small_dataset()

    monkeypatch.setattr(run_module, "load_dataset", load)
    config = counterexamples.get_config()
    config.dataset = "tiny"
    monkeypatch.setattr(counterexamples, "get_config", lambda length: config)
    claims.main(["--only=A3,B8", "--fast"])
    assert "comparison counterexamples is left out: tiny is not here" in capsys.readouterr().err
    rows = ledger(tmp_path / "runs" / "claims_fast")
    assert [(row["n"], row["verdict"]) for row in rows[1:]] == [("0", "not settled")] * 2


def test_named_records_are_read_in_place_of_a_comparison_and_are_not_registered(tmp_path, capsys):
    claims.main(["--only=B8", "--workdir=there"])
    values = [(row["n"], row["values"]) for row in ledger(tmp_path / "there")]
    claims.main(["--only=A3,B8", "--records=counterexamples=there/counterexamples"])
    folder = tmp_path / "runs" / "claims"
    exact, *rows = ledger(folder)
    assert [(row["n"], row["values"]) for row in rows] == values
    assert [row["registered"] for row in rows] == ["", ""] and exact["registered"]
    assert not (folder / "counterexamples").exists()
    assert "not registered read comparisons of other" in (folder / "ledger.md").read_text()
    # By the clock of the ledger in results/: results/claims/counterexamples/provenance.json.
    left = "comparison 1 of 1: counterexamples; with those after it, 3 core-minutes in"
    assert left in capsys.readouterr().err

    again = [claims.main, "--only=B8", "--workdir=again"]
    said = refusal(capsys, *again, "--records=other=there")
    assert said == "--records names 'other', which is not read; these are: counterexamples\n"
    assert "takes COMPARISON=WORKDIR, got 'some'" in refusal(capsys, *again, "--records=some")
    said = refusal(capsys, *again, "--records=counterexamples=there")
    assert said == "there is not a workdir: it has no config.json\n"
    # Of something else that has the same names, and of nothing that is read.
    other = small_run(tmp_path / "other")
    other.provenance.update(seconds={}, commit="abc", uncommitted_changes=False)
    write_run(other)
    said = refusal(capsys, claims.main, "--only=B1", "--records=sigmoid=other")
    assert said.startswith("other has another config than configs/claims/sigmoid.py: binary_input")
    # That is said before B8's comparison is trained.
    said = refusal(capsys, *again, "--only=B8,C3", "--records=microbatches=other")
    assert said.startswith("other lacks what is read for: ")
    assert not (tmp_path / "again").exists()
    # Of the stand-in, whether named or trained there by another command.
    trained = read_run(tmp_path / "there" / "counterexamples")
    trained.provenance["stand_in"] = True
    write_run(trained)
    named = "--records=counterexamples=there/counterexamples"
    for chosen in (["--only=B8", named], ["--only=B8", "--workdir=there"]):
        said = refusal(capsys, claims.main, *chosen)
        assert said.endswith(" is of the stand-in digits, and the claims are about MNIST\n")
    assert not (tmp_path / "again" / "ledger.csv").exists()


def test_a_mistake_is_one_sentence_and_leaves_nothing(tmp_path, capsys):
    said = refusal(capsys, claims.main, "--only=B77")
    assert said.startswith("--only names an unknown claim: 'B77'; did you mean B7")
    assert not list(tmp_path.iterdir())
    for name in ("ledger.csv", "ledger.md"):
        mine = tmp_path / "mine" / name
        mine.parent.mkdir()
        mine.write_text("comparison,amount")
        said = refusal(capsys, claims.main, "--only=A3", "--workdir=mine")
        assert said.startswith(f"mine/{name} is not a ledger of claims, and would be replaced")
        assert mine.read_text() == "comparison,amount"
        shutil.rmtree(mine.parent)
    write_run(small_run(tmp_path / "run"))
    said = refusal(capsys, claims.main, "--only=A3", "--workdir=run")
    assert said == "run holds a run or a sweep, not a ledger; choose another --workdir\n"
    assert not (tmp_path / "run" / "ledger.csv").exists()
    (tmp_path / "file").write_text("mine")
    said = refusal(capsys, claims.main, "--only=A3", "--workdir=file")
    assert said.startswith("cannot write to file")
    assert (tmp_path / "file").read_text() == "mine"
    folder = tmp_path / "work" / "counterexamples"
    write_run(small_run(folder))
    said = refusal(capsys, claims.main, "--only=B8", "--workdir=work")
    assert "another config" in said
    with lock_workdir(folder):
        said = refusal(capsys, claims.main, "--only=B8", "--workdir=work")
    assert "is in use by another process" in said
    assert not (tmp_path / "work" / "ledger.csv").exists()
