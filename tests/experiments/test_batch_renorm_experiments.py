"""The comparisons of the Batch Renorm paper: tables and figures, of runs made by hand."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

from configs import few_labels_tiny as few_labels_tiny_config
from configs import labels_and_depth as labels_and_depth_config
from configs import non_iid as non_iid_config
from configs import small_batch as small_batch_config
from experiments import labels_and_depth, non_iid, small_batch
from tests.records_fixtures import small_run


def measured(workdir, module, finals, splits=("test",)):
    """A run of some variants of a config, with the final accuracy of each of two seeds."""
    config = module.get_config().to_dict()
    variants = {name: config["variants"][name] for name in finals}
    config |= {"seeds": 2, "steps": 4, "variants": variants, "baseline": next(iter(finals))}
    rows = [
        (name, seed, step, split, "accuracy", accuracy * step / 4)
        for name, seeds in finals.items()
        for seed, accuracy in enumerate(seeds)
        for step in (2, 4)
        for split in splits
    ]
    return small_run(workdir, {}, rows, **config)


def drawn(report):
    """The names of the figures, each of which was drawn."""
    for picture in report.pictures:
        picture.draw().draw_without_rendering()
    return [picture.name for picture in report.pictures]


def test_small_batch_shows_each_normalizer_at_each_size_and_the_lead_of_batch_renorm(tmp_path):
    finals = {
        "batch_norm 64": (0.9, 0.9),
        "batch_norm 4": (0.70, 0.72),
        "batch_renorm 4": (0.80, 0.84),
        "none": (0.85, 0.85),
    }
    report = small_batch.report(measured(tmp_path, small_batch_config, finals))
    table = report.table
    assert table.index.name == "microbatch size"
    assert list(table.index) == ["64", "4", "1"]
    assert list(table.loc["1", ["batch_norm", "batch_renorm"]]) == ["refused", "refused"]
    assert table.loc["4", "batch_norm"] == "71.00 (70.00 to 72.00)"
    # Not among these variants.
    assert table.loc["64", "batch_renorm"] == ""
    # Trained once, without microbatches.
    assert set(table["none"]) == {"85.00 (85.00 to 85.00)"}
    # Paired by seed: 10 and 12 points.
    lead = table["batch_renorm − batch_norm"]
    assert dict(lead) == {"64": "", "4": "+11.00 (+10.00 to +12.00)", "1": ""}
    assert lead["4"].seeds == "+10.00, +12.00"
    assert table.loc["4", "ImageNet, [BRN]"] == "74.2, 76.5"
    assert "Inception-v3" in report.caption
    assert drawn(report) == ["accuracy_against", "curves_at_4"]


def test_small_batch_draws_no_curves_where_nothing_was_trained_at_that_size(tmp_path):
    run = measured(tmp_path, small_batch_config, {"batch_norm 64": (0.9, 0.9)})
    assert drawn(small_batch.report(run)) == ["accuracy_against"]


@pytest.mark.parametrize("baseline", ["batch_norm", "batch_norm 64"])
def test_small_batch_shows_two_variants_of_one_name_and_size_apart(tmp_path, baseline):
    run = measured(tmp_path, small_batch_config, {"batch_norm 64": (0.9, 0.9)})
    variants = {**run.config["variants"], "batch_norm": {"normalizer": {"name": "batch_norm"}}}
    run = replace(run, config={**run.config, "variants": variants, "baseline": baseline})
    assert small_batch.variants_by_size(run) == {
        "batch_norm": {64: "batch_norm"},
        "batch_norm 64": {64: "batch_norm 64"},
    }


@pytest.mark.parametrize(
    ("module", "names", "shown"),
    [
        (small_batch_config, ["batch_norm 64", "none"], slice(None)),
        (few_labels_tiny_config, ["iid batch_norm", "4x8 batch_norm"], slice(None)),
        # Of MNIST's, those that show the effect.
        (non_iid_config, ["iid batch_norm", "2x32 batch_norm", "1x64 batch_norm"], slice(2)),
    ],
)
def test_non_iid_draws_what_a_config_compares(tmp_path, module, names, shown):
    run = measured(tmp_path, module, dict.fromkeys(names, (0.9, 0.9)))
    (picture,) = non_iid.report(run).pictures
    (legend,) = picture.draw().legends
    assert [text.get_text() for text in legend.get_texts()] == names[shown]


def test_non_iid_draws_a_panel_for_each_kind_of_accuracy(tmp_path):
    run = measured(tmp_path, non_iid_config, {"2x32 batch_norm": (0.9, 0.8)}, non_iid.SPLITS)
    (picture,) = non_iid.report(run).pictures
    assert [axes.get_title() for axes in picture.draw().axes] == list(non_iid.SPLITS.values())


def test_non_iid_shows_no_difference_to_a_variant_that_was_left_out(tmp_path):
    finals = {
        "2x32 batch_renorm": (0.9, 0.9),
        "iid batch_norm": (0.8, 0.8),
        "iid batch_renorm": (0.82, 0.84),
    }
    table = non_iid.report(measured(tmp_path, non_iid_config, finals)).table
    assert dict(table["final − batch_norm"]) == {
        "2x32 batch_renorm": "",
        "iid batch_norm": "0",
        "iid batch_renorm": "+3.00 (+2.00 to +4.00)",
    }


def test_labels_and_depth_draws_accuracy_against_depth(tmp_path):
    finals = dict.fromkeys(("3 16x2 batch_norm", "18 16x2 batch_norm"), (0.9, 0.9))
    report = labels_and_depth.report(measured(tmp_path, labels_and_depth_config, finals))
    assert drawn(report) == ["accuracy", "accuracy_against"]


def test_labels_and_depth_draws_accuracy_against_the_number_of_labels_where_it_varies(tmp_path):
    names = [
        f"{depth} {labels} labels iid batch_norm" for depth in (18, 24) for labels in (10, 100)
    ]
    module = SimpleNamespace(get_config=partial(labels_and_depth_config.get_config, "labels"))
    report = labels_and_depth.report(measured(tmp_path, module, dict.fromkeys(names, (0.9, 0.9))))
    axes, *_ = report.pictures[-1].draw().axes
    handles, titles = axes.get_legend_handles_labels()
    assert titles == ["18 iid batch_norm", "24 iid batch_norm"]
    assert handles[0].get_xdata() == pytest.approx([10, 100], rel=0.05)
