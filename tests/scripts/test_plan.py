"""scripts/plan.py as a user runs it."""

import re
from functools import partial

import pandas as pd
import pytest

from bnrepro.comparison import footprint
from bnrepro.comparison.config import variant_configs, with_settings
from bnrepro.data.descriptions import describe_dataset
from bnrepro.errors import UserError
from bnrepro.models import inception as inception_model
from configs import inception, small_batch
from scripts import plan
from tests import commands
from tests.commands import refusal

NAME = "batch_norm 4"
CONFIG = "--config=configs/small_batch.py"


def planned(topology, **settings):
    config = variant_configs(small_batch.get_config().to_dict())[NAME]
    settings = {"seeds": 2, "model.hidden": [20], **settings}
    return plan.plan(with_settings(config, settings), describe_dataset("mnist"), NAME, topology)


def test_a_step_is_timed_on_this_machine_and_each_setting_has_a_row(tmp_path):
    output = tmp_path / "plan.csv"
    vary = ("--vary=image_size=28,7", "--vary=normalizer.momentum=0.9")
    settings = ("--variant=none", "--config.model.hidden=(20,)", *vary)
    result = commands.run("scripts.plan", CONFIG, *settings, f"--output={output}", COLUMNS="120")
    assert result.returncode == 0, result.stderr
    assert "image_size" in result.stdout
    records = pd.read_csv(output)
    assert set(records["topology"]) == {"this machine"} and set(records["variant"]) == {"none"}
    assert records["seconds"].between(0, 10, inclusive="neither").all()
    table, caption = plan.report(records)
    assert table.index.names == ["image_size"]
    # Mostly bytes of images.
    assert (records["arguments"] // 60_000 - [28**2, 7**2]).between(0, 10).all()
    memory = [f"{bytes_ / 1e6:,.1f}" for bytes_ in records["memory"]]
    assert [cell.split("; ")[1] for cell in table.loc[["28", "7"], plan.LOCAL]] == memory
    assert "'--config.model.hidden=(20,)' --config.normalizer.momentum=0.9: µs measured" in caption
    # Of one, all numbers.
    assert "hours to 6,000 steps" in plan.report(records[:1])[0].index


def test_a_step_is_compiled_for_chips_that_are_not_there(untyped):
    pytest.importorskip("libtpu", reason="needs libtpu: pip install bnrepro[tpu]")
    row = planned("v5e:2x2")
    assert (row["chips"], row["seeds"], row["data"]) == (4, 2, 2)
    assert row["parameters"] == 4 * (784 * 20 + 20 * 10 + 2 * 20 + 10)
    # Outputs and gradients of weights of both layers, and of inputs of the second.
    products = 32 * 2 * (2 * 784 * 20 + 3 * 20 * 10)
    assert products < row["flops"] < 1.5 * products
    assert row["collectives"].startswith("1 all-reduce")
    with pytest.raises(UserError, match="v5e:3x3 cannot be described"):
        planned("v5e:3x3")
    with pytest.raises(UserError, match="over 3 of the 4 chips of v5e:2x2, but"):
        planned("v5e:2x2", seeds=3, **{"devices.data": 1})


def test_a_step_of_inception_is_compiled_for_chips_that_are_not_there(untyped, monkeypatch):
    """With two of its blocks: all take minutes."""
    pytest.importorskip("libtpu", reason="needs libtpu: pip install bnrepro[tpu]")
    blocks = {name: inception_model.BLOCKS[name] for name in ("mixed_3", "mixed_8")}
    monkeypatch.setattr(inception_model, "BLOCKS", blocks)
    compile_step, steps = footprint.compile_step, []

    def keep(job):
        steps.append(compile_step(job))
        return steps[-1]

    monkeypatch.setattr(footprint, "compile_step", keep)
    config = variant_configs(inception.get_config("narrow").to_dict())["4 batch_renorm"]
    settings = {"stream": True, "model.width": 1 / 16, "model.dtype": "bfloat16"}
    dataset = describe_dataset("imagenette", image_size=32)  # which need not be there
    row = plan.plan(with_settings(config, settings), dataset, "4 batch_renorm", "v5e:2x2")
    assert (row["chips"], row["seeds"], row["data"], row["changes"]) == (4, 1, 4, "")
    # Gradients and statistics are averaged together.
    assert row["collectives"].startswith("1 all-reduce")
    # On CPU it would be a product, and without the setting in float32.
    assert re.search(r"= bf16\[16,32,32,2\].* convolution\(.*size=3x3", steps[0].compiled.as_text())


@pytest.mark.parametrize(("data", "fixed"), [(1, ""), (3, " --config.devices.data=3")])
def test_settings_are_lowered_until_a_step_fits(untyped, monkeypatch, data, fixed):
    compile_step, asked = footprint.compile_step, []

    def compile_on_a_small_device(job):
        asked.append((job.config["seeds"], job.config["accumulation_steps"]))
        if job.config["accumulation_steps"] < 4:
            raise footprint.DoesNotFitError("too large")
        return compile_step(job)

    monkeypatch.setattr(footprint, "compile_step", compile_on_a_small_device)
    row = planned(plan.LOCAL, **{"devices.seeds": 1, "devices.data": data})
    assert asked == [(2, 1), (1, 1), (1, 2), (1, 4)]
    assert row["changes"] == f"--config.seeds=1 --config.accumulation_steps=4{fixed}"
    table, _ = plan.report(pd.DataFrame([{"config": "c", "overrides": "", "variant": NAME} | row]))
    assert table.loc["does not fit without", plan.LOCAL] == row["changes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology=v9:2x2"], "--topology is CHIP:SIZE with one of v5e, v5p, v6e, got 'v9:2x2'"),
        (["--variant=batchnorm"], "--variant is unknown: 'batchnorm'"),
        (["--config.variants={4: {}}"], "'batch_norm 64'; the config has 4"),
        ([f"--variant={NAME}", "--config.microbatch_size=8"], "would change nothing"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, launch_here, arguments, message):
    assert message in refusal(capsys, partial(launch_here, plan.main), CONFIG, *arguments)


@pytest.mark.parametrize(
    ("varied", "message"),
    [
        (["model.dtype = float16"], "model.dtype is unknown: 'float16'"),
        (["model.width=log(0.1,1)"], "--vary takes the values of model.width one by one"),
        (["steps=100"], "--vary and --config both give steps"),
        (["microbatch_size=4,7"], "batch_size must be a multiple of microbatch_size"),
    ],
)
def test_values_that_cannot_be_planned_with_are_refused(varied, message):
    config = variant_configs(small_batch.get_config().to_dict())[NAME]
    with pytest.raises(UserError, match=re.escape(message)):
        plan._points(config, varied, {"steps": 6_000})


@pytest.mark.parametrize(
    ("topology", "shown"),
    [
        ("v5e", "v5e:4x4, of at most 16x16 chips"),
        ("v5e:2x32", "v5e:4x4, of at most 16x16 chips"),
        ("v5p:2x2", "v5p:4x4x4, of at most 16x16x24 chips"),
        ("v5p:16x24x24", "v5p:4x4x4, of at most 16x16x24 chips"),
    ],
)
def test_a_slice_that_no_one_can_have_is_refused_with_one_that_exists(topology, shown):
    with pytest.raises(UserError, match=f"is a slice such as {shown}, got '{topology}'"):
        plan._check(topology)


@pytest.mark.parametrize("topology", ["v5e:16x16", "v6e:8x4", "v5p:24x16x16"])
def test_slices_up_to_the_largest_are_planned(topology, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: "a compiler")
    plan._check(topology)


def test_a_topology_needs_the_compiler_for_tpus(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "\.\[tpu\]"'):
        plan._check("v5e:2x2")
