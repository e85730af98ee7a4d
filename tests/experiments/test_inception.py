"""A few steps of Inception-v3 on real images, as configs/inception.py:smoke has them."""

import dataclasses

import pytest

from bnrepro.comparison import run as run_module
from bnrepro.data.datasets import DatasetError, load_dataset
from bnrepro.records import read_run
from configs import inception as inception_config
from experiments import cli, inception


# Compiling takes minutes on two cores.
@pytest.mark.slow
def test_inception_trains_on_photographs_and_stands_beside_the_paper(tmp_path, monkeypatch, capsys):
    config = inception_config.get_config("smoke").to_dict()
    try:
        dataset = load_dataset(config["dataset"], image_size=config["image_size"])
    except DatasetError as error:
        pytest.skip(str(error))
    few = {key: getattr(dataset, key)[:100] for key in ("test_images", "test_labels")}
    small = dataclasses.replace(dataset, **few)
    monkeypatch.setattr(run_module, "load_dataset", lambda *_, **__: small)
    config |= {"steps": 2, "eval_every": 2, "baseline": "4 batch_renorm"}
    config["variants"] = {"4 batch_renorm": config["variants"]["4 batch_renorm"]}
    config["model"]["width"] = 1 / 16
    config["evaluation"]["minibatches"] = 1
    cli.run(config, tmp_path / "w", False, (), report=inception.report)
    run = read_run(tmp_path / "w")
    assert run.finished("4 batch_renorm")
    assert set(run.metrics["split"]) == {"train", "test", "test_minibatches"}
    assert "76.5" in capsys.readouterr().out  # of the paper's table
