"""Any config: without its variants, or with some of them."""

from dataclasses import replace

from bnrepro.comparison import run as run_module
from bnrepro.comparison.config import with_settings
from configs import mnist_sigmoid, small_batch
from experiments import cli, train
from tests.records_fixtures import small_run
from tests.small_dataset import small_dataset


def test_a_config_is_trained_alone_with_its_common_settings(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_module, "load_dataset", lambda *_, **__: small_dataset())
    config = small_batch.get_config().to_dict()
    config |= {"seeds": 2, "steps": 20, "eval_every": 10, "batch_size": 12, "microbatch_size": 6}
    settings = {"model.hidden": (4,), "normalizer.name": "batch_renorm"}
    config = with_settings(config, settings | {"devices.strategy": "single"})
    run = cli.train(train.alone(config), tmp_path)
    cli.show(run, train.report(run))
    assert run.variants == ["single"]
    assert run.settings("single")["normalizer.name"] == "batch_renorm"
    assert (tmp_path / "figures" / "accuracy.png").exists()
    shown = capsys.readouterr().out
    assert "final, %" in shown
    assert "final − single" not in shown


def test_a_run_that_has_only_begun_has_no_curves(tmp_path):
    """On a page of unfinished runs they would be axes of thousandths of steps, without a line."""
    run = small_run(tmp_path, {("plain", 0): (0.1,), ("batch_norm", 0): (0.2,)})
    begun = replace(run, metrics=run.metrics[run.metrics["step"] == 0])
    assert "accuracy" not in [picture.name for picture in train.report(begun).pictures]


def test_some_variants_are_trained_alone_and_the_first_takes_the_place_of_a_baseline_left_out():
    config = mnist_sigmoid.get_config().to_dict()
    chosen = cli.only(config, ["batch_renorm", "batch_norm"])
    assert set(chosen["variants"]) == {"batch_norm", "batch_renorm"}
    assert chosen["baseline"] == "batch_renorm"
    assert cli.only(config, ["batch_norm", "plain"])["baseline"] == "plain"
