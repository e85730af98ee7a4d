"""scripts/benchmark.py as a user runs it, with sizes that take seconds."""

import re

import jax
import numpy as np
import pytest

from bnrepro.comparison import run as run_module
from bnrepro.comparison.config import variant_configs, with_settings
from bnrepro.comparison.program import make_program
from bnrepro.comparison.run import make_job
from configs import small_batch_cnn
from scripts import (
    benchmark,
    benchmark_depth,
    benchmark_inception,
    benchmark_layers,
    benchmark_sweep,
    benchmark_train,
)
from tests.commands import code_of, refusal
from tests.small_dataset import small_dataset


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Runs a benchmark with readings of few calls; returns its page and the cells of its tables."""
    monkeypatch.setattr(benchmark_layers, "_SECONDS", 1e-4)

    def run(name, *options):
        output = tmp_path / f"{name}.md"
        benchmark.main([name, f"--output={output}", *options])
        text = output.read_text()
        lines = [line for line in text.splitlines() if line.startswith("|")]
        return text, [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]

    return run


@pytest.mark.slow
def test_the_table_of_sweeps_has_each_way_and_the_machine(measured, monkeypatch):
    few = benchmark_sweep.SETTINGS | {"steps": 20, "eval_every": 20}
    monkeypatch.setattr(benchmark_sweep, "SETTINGS", few)
    for name, number in (("LAUNCHED", 1), ("ALONE", 2), ("REPEATS", 2)):
        monkeypatch.setattr(benchmark_sweep, name, number)
    text, table = measured("sweep", "--trials=3")
    ways = {name: cells for name, *cells in table[2:]}
    assert {name: cells[0] for name, cells in ways.items()} == {
        "each launched by itself": "1",
        "one by one": "2",
        "grouped": "3",
    }
    for _, median, repeats in ways.values():
        low, high = sorted(float(rate) for rate in repeats.split(", "))
        assert 0 < low <= float(median) <= high
    assert "20 steps of 64 images" in text
    assert "cores;\npython 3" in text


@pytest.mark.slow
def test_the_table_of_layers_has_each_shape_and_the_machine(measured, monkeypatch):
    monkeypatch.setattr(benchmark_layers, "SHAPES", ((6, 4), (4, 3, 3, 8)))
    networks = (("dense", (6, 4)), ("3x3 convolution", (4, 3, 3, 8)), ("multiplication", (6, 4)))
    networks = [(operation, 2, shape) for operation, shape in networks]
    monkeypatch.setattr(benchmark_layers, "NETWORKS", networks)
    text, lines = measured("layers", "--rounds=3")
    header, _, *rows = lines[:-5]
    assert header == ["", "6x4", "4x3x3x8"]
    assert [line[0] for line in lines[-3:]] == [
        "2 x dense, 6x4",
        "2 x 3x3 convolution, 4x3x3x8",
        "2 x multiplication, 6x4",
    ]
    assert all(float(cell) > 0 for line in lines[-3:] for cell in line[1:])
    cells = {name: [float(cell.rstrip("%")) for cell in row] for name, *row in rows}
    for name in ("flax.linen", "BatchNorm, with y", "BatchRenorm, in a loop", "eight traversals"):
        assert min(cells[name]) > 0
    assert "cores;\npython 3" in text


@pytest.mark.slow
def test_the_table_of_training_has_shares_of_the_matrix_products(measured, monkeypatch):
    monkeypatch.setattr(benchmark_train, "SEEDS", (1,))
    _, (header, _, *rows) = measured("train", "--rounds=3")
    assert header == ["", "seeds: 1"]
    names = ["plain", "batch_norm", "batch_renorm", "flax.linen, a scan"]
    shares = {name: float(cell.replace(",", "")) for name, cell in rows}
    # They also sample and normalize, which takes longer than the readings are apart.
    assert all(0 < shares[name] < 1.5 for name in names)


@pytest.mark.slow
def test_the_table_of_depth_has_a_row_per_depth_and_a_line_per_normalizer(
    measured, tmp_path, monkeypatch
):
    config = benchmark_depth.config_of(1, "batch_norm")
    few = {"seeds": 1, "evaluation.minibatches": 1, "evaluation.train_examples": 0}

    def config_of(depth, normalizer):
        return with_settings(
            config, few | {"model.hidden": (8,) * depth, "normalizer.name": normalizer}
        )

    monkeypatch.setattr(benchmark_depth, "config_of", config_of)
    monkeypatch.setattr(benchmark_depth, "DEPTHS", (1, 2, 3))
    text, lines = measured("depth", "--rounds=2")
    assert [line[0] for line in lines] == [
        "hidden layers", ":----------------", "1", "2", "3",
        "", ":-------------", "batch_norm", "batch_renorm",
    ]  # fmt: skip
    for _, *times, compiling, _ in lines[2:5]:
        for cell in times[:2]:
            median, low, high = map(float, re.findall(r"[\d.]+", cell))
            assert 0 < low <= median <= high
        assert float(compiling) > 0
    assert "![" in text and "](depth.png)" in text
    assert {path.name for path in tmp_path.iterdir()} == {"depth.md", "depth.png", "depth.svg"}


@pytest.mark.slow
@pytest.mark.usefixtures("untyped")
def test_the_table_of_inception_compares_both_layers(measured, monkeypatch):
    """With a smaller network and digits, which take seconds."""
    small = {"model.name": "cnn", "model.stem_stride": 0, "batch_size": 8, "microbatch_size": 8}
    config = benchmark_inception.config_of("inception", "float32")
    config = with_settings(config, small | {"image_size": 0})
    monkeypatch.setattr(benchmark_inception, "config_of", lambda network, dtype: config)
    arms = {name: benchmark_inception.ARMS[name] for name in ("batch_norm", "batch_renorm")}
    monkeypatch.setattr(benchmark_inception, "ARMS", arms)
    monkeypatch.setattr(benchmark_inception, "SMOKE", {})
    monkeypatch.setattr(run_module, "load_dataset", lambda *_, **__: small_dataset())
    monkeypatch.setattr(benchmark_inception, "_length", lambda: 64)
    _, (_, _, *rows) = measured("inception", "--rounds=3")
    cells = {name: [float(cell.replace(",", "")) for cell in row] for name, *row in rows}
    assert cells.keys() == {"batch_norm", "batch_renorm", benchmark_inception.OUTSIDE}
    assert min(cells["batch_norm"]) >= 0 and cells["batch_norm"][1] == 1
    assert cells["batch_renorm"][0] > 0


@pytest.mark.usefixtures("untyped")
def test_a_step_is_taken_out_of_the_loop():
    config = variant_configs(small_batch_cnn.get_config().to_dict())["batch_norm 16"]
    settings = {"seeds": 1, "model.channels": (2, 2), "batch_size": 16}
    config = with_settings(config, settings)
    program = make_program(*make_job("batch_norm 16", config, small_dataset()))
    states = jax.eval_shape(program.init, np.arange(1), {})

    def entry(train_steps):
        text = train_steps.lower(states, program.arrays, (), 0, 1).compile().as_text()
        return text[text.index("\nENTRY") :]

    # Otherwise, CPUs get products.
    with benchmark_inception._compilers_convolutions():
        assert "convolution(" not in entry(program.train_steps)
        assert "convolution(" in entry(benchmark_inception._single(program.train_steps))


def test_without_its_data_set_inception_is_not_timed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    said = refusal(capsys, benchmark.main, "inception", f"--output={tmp_path / 'inception.md'}")
    assert said.startswith("The data set 'tiny_imagenet/100' is not in")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "message"), [("--trials=0", "at least 1"), ("--trials=many", "got 'many'")]
)
def test_a_size_that_cannot_be_is_refused(option, message, tmp_path, capsys):
    assert code_of(benchmark.main, "sweep", f"--output={tmp_path / 'sweep.md'}", option) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
