"""A comparison on a set that is streamed, from config to records, against the same in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnrepro.comparison.config import common_config
from bnrepro.comparison.program import make_data, make_model
from bnrepro.comparison.provenance import begin
from bnrepro.comparison.reevaluation import with_population_statistics
from bnrepro.comparison.run import run_comparison
from bnrepro.comparison.variant import Feed
from bnrepro.data import streams
from bnrepro.data.datasets import load_dataset
from bnrepro.data.shards import Shards
from tests.small_dataset import small_config
from tests.small_shards import write_set


@pytest.fixture(scope="module", autouse=True)
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streamed")
    write_set(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield folder / "data"


def config(data_dir, **changes):
    result = small_config(dataset="squares", data_dir=str(data_dir), binary_input=False)
    result |= {"steps": 6, "eval_every": 6, "batch_size": 6, "microbatch_size": 3}
    result["evaluation"] |= {"train_examples": 20, "minibatches": 1, "holdout": 3}
    result["sampler"] |= {"name": "labels", "labels_per_batch": 3, "examples_per_label": 2}
    result["variants"] = {"batch_norm": {"normalizer": {"name": "batch_norm"}}}
    result["baseline"] = "batch_norm"
    return result | {"augment": "crop", "random_flip": True} | changes


@pytest.mark.parametrize("stream", [False, True])
def test_the_shape_of_an_image_is_recorded_streamed_or_not(data_dir, stream):
    dataset = load_dataset("squares", data_dir, stream=stream)
    assert begin({}, dataset)["image_shape"] == [16, 16, 3]


@pytest.mark.parametrize(
    "devices",
    [
        pytest.param({"strategy": "jit"}, marks=pytest.mark.slow),
        {"strategy": "jit", "data": 3},  # of two microbatches, the first is there twice
        pytest.param({"strategy": "jit", "synchronized": True}, marks=pytest.mark.slow),
        pytest.param({"strategy": "pmap"}, marks=pytest.mark.slow),
    ],
)
def test_a_streamed_run_reads_each_step_once_and_records_what_a_resident_one_does(
    data_dir, tmp_path, monkeypatch, devices
):
    def spied(feed, seeds, first, count):
        fed.append((first, count))
        return read(feed, seeds, first, count)

    fed, read = [], Feed._read
    monkeypatch.setattr(Feed, "_read", spied)
    monkeypatch.setattr(streams, "STEPS_AT_ONCE", 4)
    changes = {"devices": config(data_dir)["devices"] | devices}
    resident, streamed = (
        run_comparison(config(data_dir, stream=stream, **changes), tmp_path / str(stream)).metrics
        for stream in (False, True)
    )
    assert fed == [(0, 4), (4, 2)]  # whatever was read ahead
    assert set(resident["split"]) == {"train", "test", "holdout", "train_set", "test_minibatches"}
    keys = ["variant", "seed", "step", "split", "metric"]
    assert streamed[keys].equals(resident[keys])
    np.testing.assert_allclose(streamed["value"], resident["value"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "passes"), [("batch_norm", 1), ("batch_renorm", 3)])
def test_population_statistics_are_those_of_the_whole_streamed_training_set(
    data_dir, monkeypatch, name, passes
):
    """Its images are read in each pass: one for each of two layers, and one to check."""

    def spied(shards, index):
        read.append(index)
        return image(shards, index)

    image = Shards.image
    monkeypatch.setattr(Shards, "image", spied)
    statistics = []
    for stream in (False, True):
        dataset = load_dataset("squares", data_dir, stream=stream)
        common = common_config(config(data_dir, stream=stream))
        common["normalizer"]["name"] = name
        data, model = make_data(common, dataset), make_model(common, 3)
        variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=True)
        variables = jax.tree.map(lambda x: x[None], dict(variables))  # of one seed
        read = []
        found = with_population_statistics(variables, common, data, model)
        statistics.append(found["batch_stats"])
    assert sorted(read) == sorted(passes * list(range(21)))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), *statistics)
