"""A few steps of Inception-v3 on real images, as configs/inception.py:smoke has them."""

import dataclasses
from contextlib import suppress

import numpy as np
import pytest

from bnrepro.comparison import run as run_module
from bnrepro.data.datasets import DatasetError, load_dataset
from bnrepro.models import inception as model
from configs import inception as inception_config
from experiments import cli, inception


@pytest.fixture
def photographs(monkeypatch):
    """Comparisons get forty photographs of each split, at 16 x 16."""
    for name in ("tiny_imagenet/100", "tiny_imagenet/200"):
        with suppress(DatasetError):
            # Decoding all would take ten seconds.
            dataset = load_dataset(name, stream=True)
            break
    else:
        pytest.skip("no Tiny ImageNet is prepared")
    few = {}
    for split in ("train", "test"):
        images, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
        few[f"{split}_images"] = np.stack([images.image(i).reduce(4) for i in range(40)])
        few[f"{split}_labels"] = labels[:40]
    small = dataclasses.replace(dataset, **few)
    monkeypatch.setattr(run_module, "load_dataset", lambda *_, **__: small)


@pytest.mark.parametrize(
    "blocks",
    [
        pytest.param(("mixed_3",), id="one block"),
        # Compiling takes minutes on two cores.
        pytest.param(tuple(model.BLOCKS), id="all blocks", marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("photographs")
def test_inception_trains_on_photographs_and_stands_beside_the_paper(
    tmp_path, monkeypatch, capsys, blocks
):
    monkeypatch.setattr(model, "BLOCKS", {name: model.BLOCKS[name] for name in blocks})
    config = inception_config.get_config("smoke").to_dict()
    config |= {"steps": 2, "eval_every": 2, "batch_size": 8, "microbatch_size": 4}
    config["model"]["width"] = 1 / 16
    config["evaluation"]["minibatches"] = 1
    # A program over several devices takes twice as long to compile.
    config["devices"]["strategy"] = "single"
    run = cli.train(config, tmp_path / "w")
    cli.show(run, inception.report(run))
    assert run.finished("4 batch_renorm")
    assert set(run.metrics["split"]) == {"train", "test", "test_minibatches"}
    assert "76.5" in capsys.readouterr().out  # of the paper's table
