"""What README and the page of results say is so."""

import dataclasses
import re

import jax
import pandas as pd
import pytest
from scipy import stats

from bnrepro.claims.ledger import combined
from bnrepro.records import read_run
from bnrepro.report.report import write
from configs import small_batch_cnn
from configs.claims import placement
from configs.small_batch_normalizers import COMMON_RATES, OWN_RATES
from scripts.report import report_of
from tests.commands import ROOT
from tests.pages import run_code

README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "docs" / "results.md").read_text()
SEEDS_OF_INCEPTION = ("inception_narrow", "inception_narrow_second_seed")


def test_the_code_in_the_readme_runs():
    scope = run_code(ROOT / "README.md")
    assert scope["y"].shape == (32, 64)
    assert int(jax.tree.leaves(scope["updates"])[0]) == 1  # the count of updates


@pytest.mark.parametrize("page", [README, RESULTS], ids=["README", "results"])
def test_every_row_of_a_table_is_one_of_a_result(page):
    # Tables that were written by hand have no colons in their rules.
    tables = re.findall(r"^\|.*\n\|:.*\n((?:\|.*\n)+)", page, re.MULTILINE)
    results = [path.read_text().splitlines() for path in ROOT.glob("results/*/summary.md")]
    assert len(tables) >= 4
    for row in "".join(tables).splitlines():
        assert any(row in lines for lines in results), row


def test_the_accuracies_in_the_readme_are_those_of_the_results():
    def means(result, variant):
        rows = last_accuracies(read_run(ROOT / "results" / result))
        return 100 * rows[rows["variant"] == variant].groupby("split")["value"].mean()

    text, few = " ".join(README.split()), means("non_iid", "2x32 batch_norm")
    assert f"gets {few['test_minibatches']:.0f}% on those made alike" in text
    assert f"and {few['test']:.0f}% with moving averages" in text
    common = means("small_batch_normalizers_mlp_common", "batch_norm 2")
    assert f"Batch Norm gets {common['test']:.2f}% at 2)" in text


def test_inceptions_two_seeds_in_the_readme_are_those_of_the_results():
    runs = [last_accuracies(read_run(ROOT / "results" / name)) for name in SEEDS_OF_INCEPTION]
    finals = [rows[rows["split"] == "test"].set_index("variant")["value"] for rows in runs]
    kinds = {"i.i.d. minibatches of 32": "iid", "microbatches of 4": "4",
             "minibatches of 4 labels x 8 images": "4x8"}  # fmt: skip
    for title, kind in kinds.items():
        pairs = [
            ", ".join(f"{100 * of[name]:.2f}" for of in finals if name in of)
            for name in (f"{kind} batch_norm", f"{kind} batch_renorm")
        ]
        assert f"| {title} | {' | '.join(pairs)} |".replace("|  |", "| |") in README


def test_the_score_in_the_readme_is_that_of_the_ledger():
    ledger = pd.read_csv(ROOT / "results" / "claims" / "ledger.csv")
    verdicts = ledger.groupby("claim")["verdict"].agg(combined)
    counts = verdicts.value_counts()
    score = (
        f"**{counts['holds']} of {len(verdicts)} statements hold, {counts['not settled']} are not "
        f"settled, and {counts['does not hold here']} do not hold here.**"
    )
    assert score in README
    section = README[README.index(score) : README.index("## Use the layers")]
    for claim in verdicts[verdicts != "holds"].index:
        assert f"({claim}" in section or f"| {claim} |" in section, claim


RECORDS = sorted(path.parent for path in ROOT.glob("results/*/metrics.csv"))


# Of the results on the page, their captions are told in short.
SHORT = ("inception_narrow", "labels_and_depth_small")


@pytest.mark.parametrize("result", RECORDS, ids=lambda path: path.name)
def test_a_table_on_the_page_of_results_has_its_caption(result):
    summary = (result / "summary.md").read_text().strip()
    assert result.name in SHORT or (summary.split("\n\n")[0] in RESULTS) == (summary in RESULTS)


@pytest.mark.parametrize("result", RECORDS, ids=lambda path: path.name)
def test_the_table_of_a_result_is_what_its_driver_makes_of_its_records(tmp_path, result):
    run = read_run(result)
    made = report_of(run)._replace(pictures=())
    write(dataclasses.replace(run, workdir=tmp_path), made)
    assert (tmp_path / "summary.md").read_text() == (result / "summary.md").read_text()


def last_accuracies(run):
    """The rows of the metrics that are about accuracy after the last step."""
    rows = run.metrics[run.metrics["step"] == run.config["steps"]]
    return rows[rows["metric"] == "accuracy"]


def best_rates(name):
    """By what stands before it in a variant's name; of equally good ones, the smallest."""
    rows = last_accuracies(read_run(ROOT / "results" / name))
    means = rows[rows["split"] == "holdout"].groupby("variant")["value"].mean().round(6)
    found = {}
    for variant, mean in means.items():
        kind, _, rate = variant.rpartition("rate ")
        found.setdefault(kind.strip(), []).append((mean, -float(rate.replace("_", "."))))
    return {kind: -max(pairs)[1] for kind, pairs in found.items()}


def test_chosen_rates_are_those_with_the_highest_accuracy_on_the_holdout():
    assert best_rates("small_batch_normalizers_rates_mlp") == OWN_RATES["mlp"]
    assert best_rates("small_batch_normalizers_rates_cnn") == OWN_RATES["cnn"]
    assert best_rates("small_batch_normalizers_rates_tiny") == OWN_RATES["tiny"]
    assert best_rates("filter_response_norm_rates") == {"filter_response_norm": COMMON_RATES["mlp"]}
    placements = {" ".join(network): rate for network, rate in placement.RATES.items()}
    assert best_rates("placement_rates") == placements
    (rate,) = best_rates("small_batch_cnn_rates").values()
    assert rate == small_batch_cnn.get_config().optimizer.learning_rate


def final_accuracy(name):
    """Percent after the last step: one row a setting and seed, with those of the normalizer."""
    run = read_run(ROOT / "results" / name)
    rows = last_accuracies(run)
    rows = rows[rows["split"] == "test"]
    settings = pd.DataFrame({name: run.settings(name) for name in run.variants}).T
    keys = ["normalizer.name", "normalizer.r_max", "normalizer.d_max", "optimizer.learning_rate"]
    rows = rows.merge(settings[keys], left_on="variant", right_index=True)
    return rows.assign(value=100 * rows["value"]).set_axis(
        [*rows.columns[: -len(keys)], "normalizer", "r_max", "d_max", "rate"], axis=1
    )


def difference(ours, theirs):
    """Of means by seed, with half of its 95% interval."""
    ours, theirs = (rows.groupby("seed")["value"].mean() for rows in (ours, theirs))
    mean, high = (ours - theirs).mean(), stats.ttest_rel(ours, theirs).confidence_interval().high
    return f"{mean:.2f} ± {high - mean:.2f}"


@pytest.mark.parametrize("rate", [0.01, 3])
def test_leads_at_a_learning_rate_are_those_of_the_results(rate):
    rows = final_accuracy("learning_rates")
    rows = rows[rows["rate"] == rate]
    by_name = dict(list(rows.groupby("normalizer")))
    assert difference(by_name["batch_norm"], by_name["none"]) in RESULTS


def test_what_r_and_d_do_alone_is_that_of_the_results():
    rows = final_accuracy("renorm_limits")
    with_r, with_d = rows["r_max"] > 1, rows["d_max"] > 0
    d, r = rows[with_d & ~with_r], rows[with_r & ~with_d]
    assert f"+{difference(d, r)} points" in RESULTS
    for part in (d, r, rows[with_r & with_d], rows[~with_r & ~with_d]):
        assert f"{part['value'].mean():.2f}%" in RESULTS


def test_what_epsilon_does_to_filter_response_norm_is_that_of_the_results():
    others = final_accuracy("small_batch_normalizers_mlp")
    others = others[others["normalizer"] == "filter_response_norm"]
    lead = difference(others, final_accuracy("filter_response_norm"))
    assert f"is {lead} points lower" in " ".join(RESULTS.split())


def test_what_own_statistics_of_larger_minibatches_give_is_that_of_the_results():
    rows = last_accuracies(read_run(ROOT / "results" / "labels_and_depth_statistics"))
    means = 100 * rows.groupby("split")["value"].mean()
    text = f"{means['test_minibatches']:.2f}% against {means['test']:.2f}%"
    assert text in " ".join(RESULTS.split())
