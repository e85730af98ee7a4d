r"""Measures the thirty statements of the documents, and prints the ledger of what holds.

    python -m scripts.claims --workdir=runs/claims
    python -m scripts.claims --only=A1,A2,B7 --fast

Runs the comparisons in configs/claims/ that the workdir lacks, then reads their records; the same
command resumes after an interruption. `--records` reads what another command trained. The ledger is
shown, and written to `ledger.csv`, a row for each measurement, and `ledger.md`, with the documents'
own words. Thresholds are registered before a run: `--register` writes
results/claims/registered.csv, to be committed.

Exit codes: 0 done, whatever the verdicts; 2 a usage error, reported in one sentence; 75 asked to
stop (SIGTERM) and 130 interrupted (Ctrl-C), both with finished work saved.
"""

import argparse
import dataclasses
import importlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from bnrepro import records
from bnrepro.claims import CLAIMS, ledger
from bnrepro.claims.claim import Claim, Measurement
from bnrepro.claims.ledger import Evidence
from bnrepro.claims.registration import fingerprint
from bnrepro.comparison.config import DEFAULTS, variant_configs
from bnrepro.comparison.program import make_program
from bnrepro.comparison.provenance import begin, git, here_and_now
from bnrepro.comparison.run import make_job
from bnrepro.data import datasets
from bnrepro.data.datasets import Dataset, DatasetError
from bnrepro.errors import UserError, exit_codes, nearest
from bnrepro.records import Run
from bnrepro.report.statistics import estimate
from bnrepro.report.summary import failure_counts
from bnrepro.report.tables import print_table
from experiments import cli
from scripts import make_parser
from scripts.benchmark_layers import measure
from scripts.benchmark_train import training_call

REGISTERED = Path(__file__).parents[1] / "results" / "claims" / "registered.csv"
# The comparison whose records are readings of the clock.
_TIMED = "cost"
# Settings that records may have otherwise than the comparison that they are read for.
_MAY_DIFFER = {
    "seeds", "first_seed", "eval_every", "evaluation.train_examples", "evaluation.minibatches",
}  # fmt: skip


@exit_codes(resumes=True)
def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what the command line names; see the module's docstring for exit codes."""
    parser = make_parser("claims", __doc__)
    add = parser.add_argument
    add("--only", metavar="ID,..", help="only these claims, as in B3,B4")
    add("--fast", action="store_true", help="shorter runs with fewer seeds, in minutes")
    text = "folder of records and ledger (default: runs/claims or, with --fast, runs/claims_fast)"
    add("--workdir", type=Path, help=text)
    text = "read these records instead of training a comparison; its claims count as unregistered"
    add("--records", metavar="COMPARISON=WORKDIR", action="append", default=[], help=text)
    add("--register", action="store_true", help="record what will be measured; measure nothing")
    options = parser.parse_args(arguments)

    cli.quiet_logging()
    if not options.register:
        _measure(options)
        return
    if options.only or options.fast or options.workdir or options.records:
        raise UserError("--register is of all claims, and takes no other option")
    lines = [f"{name},{digits}" for name, digits in fingerprints(list(CLAIMS.values())).items()]
    with records.complete_file(REGISTERED) as path:
        path.write_text("\n".join(["claim,fingerprint", *lines, ""]))
    print(f"The fingerprints of {len(lines)} claims are in {REGISTERED}.")


def _measure(options: argparse.Namespace) -> None:
    claims, length = _chosen(options.only), "fast" if options.fast else "full"
    configs = comparisons(claims, length)
    workdir = options.workdir or Path("runs", "claims_fast" if options.fast else "claims")
    every = list(CLAIMS.values())
    current = fingerprints(every)
    older = _still_valid(workdir, length, current)
    dataset = datasets.load_dataset("mnist")
    if dataset.stand_in:
        raise DatasetError(
            "the claims are about MNIST, which is not here and could not be downloaded: set "
            "TFDS_DATA_DIR, or run python -m scripts.prepare_data mnist"
        )
    given = _given(options.records, configs)
    own = {name: config for name, config in configs.items() if name not in given}
    runs = {**given, **_finished(workdir, own)}
    for run in runs.values():
        if run.provenance.get("stand_in"):
            raise UserError(
                f"{run.workdir} is of the stand-in digits, and the claims are about MNIST"
            )
    here = _commit(here_and_now())
    measured = cache(
        partial(_evidence, runs=runs, given=given, dataset=dataset, here=here, workdir=workdir)
    )
    for claim in claims:
        for one in claim.measurements:
            if one.comparison in given:
                measured(one)  # now, since these records may lack it, and training takes long
    records.check_writable(workdir)

    missing = [name for name in configs if name not in runs]
    for i, name in enumerate(missing):
        left = "" if options.fast else _took(missing[i:])
        print(f"comparison {i + 1} of {len(missing)}: {name}{left}", file=sys.stderr)
        try:
            if name == _TIMED:
                runs[name] = _timed(configs[name], workdir / name, dataset)
            elif trained := cli.train(configs[name], workdir / name):  # always, in one process
                runs[name] = trained
        except DatasetError as error:  # a data set other than MNIST
            print(f"comparison {name} is left out: {error}", file=sys.stderr)
    rows = [row for row in older if CLAIMS[row["claim"]] not in claims]
    for claim in claims:
        evidence = [measured(one) for one in claim.measurements]
        other = given.keys() & set(claim.comparisons) or (options.fast and claim.comparisons)
        commit = "" if other else _registered(claim.id, current[claim.id])
        registered = commit if commit and _came_first(commit, evidence) else ""
        rows += ledger.rows_of(claim, evidence, current[claim.id], registered, length)
    order = list(CLAIMS)
    table = ledger.judged(sorted(rows, key=lambda row: order.index(row["claim"])))
    with records.complete_file(workdir / ledger.LEDGER) as path:
        table.to_csv(path, index=False)
    with records.complete_file(workdir / ledger.LEDGER_MD) as path:
        path.write_text(ledger.markdown(every, table), encoding="utf-8")
    print_table(ledger.claims_table(claims, table), ledger.caption(every, table), width=200)
    print(f"The ledger is in {workdir}: {ledger.LEDGER}, {ledger.LEDGER_MD}.")


def _chosen(only: str | None) -> list[Claim]:
    names = list(CLAIMS) if only is None else only.upper().split(",")
    for name in names:
        if name not in CLAIMS:
            hint = nearest(name, CLAIMS)
            known = ", ".join(CLAIMS)
            raise UserError(f"--only names an unknown claim: {name!r}{hint}; choose from {known}")
    return [claim for name, claim in CLAIMS.items() if name in names]


def _given(texts: Sequence[str], configs: Mapping[str, Any]) -> dict[str, Run]:
    """The records that `--records` names each time, by comparison."""
    runs: dict[str, Run] = {}
    for text in texts:
        name, _, workdir = text.partition("=")
        if not workdir:
            raise UserError(f"--records takes COMPARISON=WORKDIR, got {text!r}")
        if name not in configs:
            known = ", ".join(configs) or "none"
            raise UserError(f"--records names {name!r}, which is not read; these are: {known}")
        run = runs[name] = records.read_run(Path(workdir))
        if not all(map(run.finished, run.variants)):
            raise UserError(f"{workdir} has not finished")
        if differing := _differences(run, configs[name]):
            raise UserError(
                f"{workdir} has another config than configs/claims/{name}.py: "
                f"{'; '.join(differing[:3])}"
            )
    return runs


def _differences(run: Run, config: dict[str, Any]) -> list[str]:
    """The settings in which variants differ from those of a comparison.

    Seeds may differ, and how often and on how many images besides the test set it was evaluated.
    """
    claimed, found = dataclasses.replace(run, config=config), dict[str, None]()
    for name in config["variants"]:
        if name in run.config["variants"]:
            there, here = (
                {k: value for k, value in one.settings(name).items() if k not in _MAY_DIFFER}
                for one in (run, claimed)
            )
            found |= dict.fromkeys(records.differences(there, here, DEFAULTS))
    return list(found)


def comparisons(claims: Sequence[Claim], length: str) -> dict[str, dict[str, Any]]:
    """The configs that these claims read, by name, as plain dicts; `length` is "full" or "fast"."""
    names = dict.fromkeys(name for claim in claims for name in claim.comparisons)
    return {
        name: importlib.import_module(f"configs.claims.{name}").get_config(length).to_dict()
        for name in names
    }


def fingerprints(claims: Sequence[Claim]) -> dict[str, str]:
    """The fingerprint of each claim as it stands, by id."""
    configs = comparisons(claims, "full")
    return {claim.id: fingerprint(claim, configs, DEFAULTS) for claim in claims}


def _registered(claim: str, digits: str) -> str:
    """The commit that first held a claim's fingerprint; "" if it is not committed."""
    arguments = ("--reverse", "--format=%H", f"-S{claim},{digits}", "--", str(REGISTERED))
    return git("log", *arguments).partition("\n")[0]


def _came_first(registered: str, evidence: Sequence[Evidence]) -> bool:
    """Whether the commit that registered a claim is part of the history of its runs."""
    commits = {text for one in evidence for text in one.commit.split(", ")}
    commits -= {"", "uncommitted changes"}
    return all(git("rev-list", "--count", f"{run}..{registered}") == "0" for run in commits)


def _still_valid(workdir: Path, length: str, current: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows of a workdir's ledger of claims as they are; none if there is no ledger.

    Raises:
      UserError: they are of another length, or the file is not a ledger, or the workdir is a run's.
    """
    if (workdir / records.CONFIG).exists():
        raise UserError(f"{workdir} holds a run or a sweep, not a ledger; choose another --workdir")
    rows, page = (workdir / name for name in (ledger.LEDGER, ledger.LEDGER_MD))
    ours = page.is_file() and page.read_text("utf-8", "replace").startswith(ledger.TITLE)
    held = [rows] * rows.exists() + [page] * (page.exists() and not ours)
    if not held:
        return []
    try:
        older: Any = ledger.read_rows(rows).to_dict("records")
    except records.RecordsError as error:
        raise UserError(
            f"{held[0]} is not a ledger of claims, and would be replaced: move it away, or choose "
            "another --workdir"
        ) from error
    if older[0]["length"] != length:
        raise UserError(
            f"{workdir} holds the ledger of a run with{'out' * (length == 'fast')} --fast; choose "
            "another --workdir"
        )
    return [row for row in older if row["fingerprint"] == current.get(row["claim"])]


def _finished(workdir: Path, configs: Mapping[str, Any]) -> dict[str, Run]:
    """The records of the comparisons that the workdir holds whole; all of it is checked first."""
    runs = {}
    for name, config in configs.items():
        if (workdir / name / records.CONFIG).exists():
            with records.lock_workdir(workdir / name):  # its config may get further variants
                runs[name] = records.open_workdir(workdir / name, config, defaults=DEFAULTS)
    return {name: run for name, run in runs.items() if all(map(run.finished, run.variants))}


def _took(names: Sequence[str]) -> str:
    """In words, how long these comparisons took for the ledger in results/."""
    kept = [REGISTERED.parent / name / records.PROVENANCE for name in names]
    taken = [json.loads(path.read_text())["seconds"] for path in kept if path.exists()]
    minutes = sum(sum(seconds.values()) for seconds in taken) / 60
    return f"; with those after it, {minutes:.0f} core-minutes in results/claims"


def _timed(config: dict[str, Any], workdir: Path, dataset: Dataset) -> Run:
    """Times all variants in turn; each reading of the clock stands for a seed."""
    with records.lock_workdir(workdir):
        run = records.open_workdir(workdir, config, defaults=DEFAULTS)
        started, steps = time.perf_counter(), config["steps"]
        calls = []
        for name, variant in variant_configs(config).items():
            job = make_job(name, {**variant, "seeds": 1}, dataset)
            calls.append((name, training_call(make_program(*job), steps)))
        timings = measure(calls, config["seeds"])
        rows = [
            (name, config["first_seed"] + i, steps, "train", "milliseconds", milliseconds / steps)
            for name, _ in calls
            for i, milliseconds in enumerate(timings[name])
        ]
        seconds = {"all": round(time.perf_counter() - started, 1)}
        provenance = begin({}, dataset) | {"seconds": seconds}
        run = dataclasses.replace(run, metrics=records.metric_rows(rows), provenance=provenance)
        records.write_run(run)
    return run


def _evidence(
    measurement: Measurement,
    runs: Mapping[str, Run],
    given: Mapping[str, Run],
    dataset: Dataset,
    here: str,
    workdir: Path,
) -> Evidence:
    """The evidence of a measurement, from records or, if it reads none, from the data set.

    If it has no value for runs that diverged, those of the others are none of the whole.

    Raises:
      UserError: records that were given, which may be of anything, lack what it reads.
    """
    cli.end_if_told()  # some take seconds
    comparison = measurement.comparison
    if not comparison:
        started = time.process_time()
        found = measurement.measure(dataset)
        return Evidence(found, round((time.process_time() - started) / 60, 2), here, "", "")
    if comparison not in runs:
        return Evidence(estimate([]), 0.0, "", "", comparison)
    run, diverged = runs[comparison], ""
    try:
        seconds, commit = sum(run.provenance["seconds"].values()), _commit(run.provenance)
        diverged = _diverged(run, measurement)
        found = measurement.measure(run)
        if comparison in given and not found.n:
            raise KeyError(comparison)
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        if comparison in given or not diverged:
            what = measurement.what
            raise UserError(f"{run.workdir} lacks what is read for: {what}") from error
        found = estimate([])  # if all runs diverged at once, nothing can be read
    if diverged and found.n < run.config["seeds"]:
        found = estimate([])
    where = Path(os.path.relpath(run.workdir, workdir)).as_posix()
    return Evidence(found, round(seconds / 60, 2), commit, diverged, where)


def _commit(provenance: Mapping[str, Any]) -> str:
    """All commits that it was run at, as in "abc, def, uncommitted changes"."""
    parts = records.parts_of(provenance)
    commits = dict.fromkeys(str(part["commit"]) for part in parts)
    changed = any(part["uncommitted_changes"] for part in parts)
    return ", ".join([*commits, *["uncommitted changes"] * changed])


def _diverged(run: Run, measurement: Measurement) -> str:
    """The runs that it reads and that did, by variant; only their number if of more than three."""
    read, seeds = measurement.variants(run.variants), run.config["seeds"]
    counts = {name: count for name, count in failure_counts(run).items() if name in read}
    if len(counts) > 3:
        return f"{sum(counts.values())} of {seeds * len(read)} runs of {run.workdir.name}"
    return ", ".join(f"{name} {count} of {seeds}" for name, count in counts.items())


if __name__ == "__main__":
    cli.heed_sigterm()
    main()
