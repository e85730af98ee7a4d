"""The two comparisons of the Batch Renorm paper, on a set small enough to train in a second."""

import re

import pytest
from matplotlib.figure import Figure

from bnrepro.comparison import run as run_module
from bnrepro.comparison.keys import ConfigError
from bnrepro.records import read_run
from bnrepro.report import figures
from configs import labels_and_depth as labels_and_depth_config
from configs import non_iid as non_iid_config
from configs import small_batch as small_batch_config
from experiments import cli, labels_and_depth, non_iid, small_batch
from tests.small_dataset import small_dataset


@pytest.fixture(autouse=True)
def dataset(monkeypatch):
    monkeypatch.setattr(run_module, "load_dataset", lambda *_, **__: small_dataset())


def run(experiment, config, workdir):
    cli.run(config, workdir, False, (), report=experiment.report)


def shrunk(module, names):
    config = module.get_config().to_dict()
    config |= {"seeds": 2, "steps": 4, "eval_every": 2}
    config["model"]["hidden"] = (6,)
    config["variants"] = {name: config["variants"][name] for name in names}
    return config


def test_small_batch_shows_each_normalizer_at_each_size_and_the_lead_of_batch_renorm(
    tmp_path, capsys
):
    names = ["batch_norm 64", "batch_norm 4", "batch_renorm 4", "none"]
    run(small_batch, shrunk(small_batch_config, names), tmp_path / "w")
    lines = (tmp_path / "w" / "summary.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:5]]
    assert lines[0].split("|")[1].strip() == "microbatch size"
    assert [row[0] for row in cells] == ["64", "4", "1"]
    header = [title.strip() for title in lines[0].split("|")[1:-1]]
    by_size = {row[0]: dict(zip(header, row, strict=True)) for row in cells}
    assert by_size["1"]["batch_norm"] == by_size["1"]["batch_renorm"] == "refused"
    # Not among these variants.
    assert by_size["64"]["batch_renorm"] == ""
    # Trained once, without microbatches.
    assert by_size["1"]["none"] == by_size["4"]["none"] == by_size["64"]["none"] != "refused"
    assert by_size["4"]["ImageNet, [BRN]"] == "74.2, 76.5"
    finals = read_run(tmp_path / "w").metrics
    finals = finals[(finals["step"] == 4) & (finals["split"] == "test")]
    finals = finals[finals["metric"] == "accuracy"].groupby("variant")["value"].mean()
    lead = 100 * (finals["batch_renorm 4"] - finals["batch_norm 4"])
    assert by_size["4"]["batch_renorm − batch_norm"].startswith(f"{lead:+.2f} (")
    assert {path.name for path in (tmp_path / "w" / "figures").glob("*.png")} == {
        "accuracy_against.png",
        "curves_at_4.png",
    }
    assert "Inception-v3" in capsys.readouterr().out


def test_small_batch_draws_no_curves_where_nothing_was_trained_at_that_size(tmp_path):
    run(small_batch, shrunk(small_batch_config, ["batch_norm 64"]), tmp_path / "w")
    pictures = {path.name for path in (tmp_path / "w" / "figures").glob("*.png")}
    assert pictures == {"accuracy_against.png"}


def test_small_batch_refuses_two_variants_in_one_place_of_its_table(tmp_path):
    config = shrunk(small_batch_config, ["batch_norm 64", "none"])
    config["variants"]["another"] = config["variants"]["none"] | {"ema_decay": 0.9}
    with pytest.raises(ConfigError, match="none and another both have none at a microbatch size"):
        cli.run(
            config,
            tmp_path / "w",
            False,
            (),
            report=small_batch.report,
            check=small_batch.check,
        )
    assert not (tmp_path / "w").exists()


def test_non_iid_draws_whatever_a_config_compares(tmp_path, monkeypatch):
    drawn, picture = [], figures.Picture("accuracy", "", Figure)
    monkeypatch.setattr(
        figures,
        "accuracy_figure",
        lambda run, names, splits: drawn.append((names, list(splits))) or picture,
    )
    config = shrunk(small_batch_config, ["batch_norm 64", "none"])
    run(non_iid, config, tmp_path / "w")
    assert drawn == [(["batch_norm 64", "none"], ["test"])]


def test_non_iid_shows_training_accuracy_and_accuracy_with_own_statistics(tmp_path):
    sizes = {"iid batch_norm": 16, "2x32 batch_norm": 16, "2x32 batch_norm halves": 8}
    config = shrunk(non_iid_config, sizes)
    for name, microbatch_size in sizes.items():
        variant = config["variants"][name]
        variant |= {"batch_size": 16, "microbatch_size": microbatch_size}
        if "sampler" in variant:
            variant["sampler"]["examples_per_label"] = 8
    config["evaluation"] = {"train_examples": 50, "minibatches": 3}
    run(non_iid, config, tmp_path / "w")
    metrics = read_run(tmp_path / "w").metrics
    assert set(metrics["split"]) == {"test", "test_minibatches", "train", "train_set"}
    header = (tmp_path / "w" / "summary.md").read_text().splitlines()[0]
    for title in ("final, %", "training set, %", "own statistics, %", "ImageNet, [BRN]"):
        assert title in header


def test_non_iid_shows_no_difference_to_a_variant_that_was_left_out(tmp_path):
    names = ["2x32 batch_renorm", "iid batch_norm", "iid batch_renorm"]
    config = shrunk(non_iid_config, names) | {"baseline": names[0]}
    config["evaluation"] = {"train_examples": 0, "minibatches": 0}
    for variant in config["variants"].values():
        variant |= {"batch_size": 16, "microbatch_size": 16}
    config["variants"][names[0]]["sampler"]["examples_per_label"] = 8
    run(non_iid, config, tmp_path / "w")
    table = (tmp_path / "w" / "summary.md").read_text().splitlines()
    header, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[:5]]
    shown = {row[0]: row[header.index("final − batch_norm")] for row in rows[1:]}
    assert (shown["2x32 batch_renorm"], shown["iid batch_norm"]) == ("", "0")
    assert re.fullmatch(r"\S+ \(\S+ to \S+\)", shown["iid batch_renorm"])


def test_labels_and_depth_compares_each_variant_with_batch_norm_on_the_same_minibatches(tmp_path):
    names = ["18 16x2 batch_norm", "18 16x2 batch_norm halves", "18 iid batch_renorm",
             "3 16x2 batch_norm"]  # fmt: skip
    config = shrunk(labels_and_depth_config, names)
    config["baseline"] = names[0]
    for name, variant in config["variants"].items():
        variant["model"]["hidden"] = (4,) * (2 if name.startswith("18") else 1)
        variant["digits"] = 2
    renamed = {
        name.replace("18", "2").replace("3 ", "1 "): v for name, v in config["variants"].items()
    }
    config |= {"variants": renamed, "baseline": "2 16x2 batch_norm"}
    config["evaluation"] = {"train_examples": 0, "minibatches": 0}
    run(labels_and_depth, config, tmp_path / "w")
    table = (tmp_path / "w" / "summary.md").read_text().splitlines()
    header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[:6]]
    assert [row[0] for row in rows] == list(renamed)
    against = [row[header.index("final − batch_norm")] for row in rows]
    assert (against[0], against[2], against[3]) == ("0", "", "0")
    metrics = read_run(tmp_path / "w").metrics
    finals = metrics[(metrics["step"] == 4) & (metrics["metric"] == "accuracy")]
    finals = finals[finals["split"] == "test"].groupby("variant")["value"].mean()
    difference = finals["2 16x2 batch_norm halves"] - finals["2 16x2 batch_norm"]
    assert against[1].startswith(f"{100 * difference:+.2f} (")
    assert rows[1][header.index("ImageNet, [BRN]")] == "77.4"
    pictures = {path.name for path in (tmp_path / "w" / "figures").glob("*.png")}
    assert pictures == {"accuracy.png", "accuracy_against.png"}
