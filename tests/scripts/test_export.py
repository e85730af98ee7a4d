"""Exported variables say in other Flax models what they said in the run's."""

import dataclasses
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from bnrepro import load_variables, to_batch_renorm
from bnrepro.comparison import restored
from bnrepro.comparison import run as run_module
from bnrepro.comparison.program import make_model
from bnrepro.comparison.run import run_comparison
from bnrepro.errors import UserError
from bnrepro.layers import BatchNorm
from bnrepro.layouts import from_torchvision
from bnrepro.models import resnet
from bnrepro.records import read_run
from scripts import export
from tests import commands
from tests.commands import refusal
from tests.scripts.conftest import add_divergence, edit, files, restore
from tests.small_dataset import small_config, small_dataset

IMAGES = jnp.asarray(small_dataset().test_images > 127, jnp.float32)


output = partial(commands.output, main=export.main)


def mistake(capsys, *arguments):
    """The sentence on stderr of a call that ends with code 2 and leaves no file."""
    before = files(Path())
    said = refusal(capsys, export.main, *arguments)
    assert files(Path()) == before
    return said


class Plain(nn.Module):
    """The network of batch_norm as anyone would write it, of flax.linen alone."""

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        for i, units in enumerate((6, 5)):
            x = nn.Dense(units, use_bias=False, name=f"dense_{i}")(x)
            x = nn.BatchNorm(use_running_average=True, epsilon=1e-5, name=f"norm_{i}")(x)
            x = nn.sigmoid(x)
        return nn.Dense(2, name="logits")(x)


def trained(variant, index):
    """The config of a variant, and the variables of a seed from the last checkpoint."""
    checkpoint, config = restore(Path("run"), variant=variant)
    return config, jax.tree.map(lambda x: x[index], checkpoint.variables)


def logits_of(model, variables, images=IMAGES):
    # Compiled in one piece, which takes less time than one operation after another.
    return jax.jit(partial(model.apply, train=False))(variables, images)


def our_logits(variant, index):
    config, variables = trained(variant, index)
    return logits_of(make_model(config, 2), variables)


@pytest.mark.parametrize(("seed", "step"), [(3, 20), (4, 20), (4, 10)])
def test_a_plain_flax_model_has_the_logits_and_the_accuracy_of_ours(copied, capsys, seed, step):
    arguments = [f"--seed={seed}", f"--checkpoint={step}"]
    said = output(capsys, "run", "batch_norm", "--output=x.safetensors", *arguments)
    assert said.startswith(f"Seed {seed} of batch_norm at step {step} is in x.safetensors.")
    logits = Plain().apply(load_variables("x.safetensors"), IMAGES)
    same = np.allclose(logits, our_logits("batch_norm", seed - 3), rtol=1e-5, atol=1e-6)
    assert same == (step == 20) and np.ptp(logits) > 0.1
    rows = read_run(Path("run")).metrics.set_index(["variant", "seed", "step", "split", "metric"])
    recorded = rows["value"]["batch_norm", seed, step, "test", "accuracy"]
    accuracy = np.mean(np.argmax(logits, -1) == small_dataset().test_labels)
    assert accuracy == pytest.approx(recorded, rel=1e-6)


@pytest.mark.parametrize("linen", [[], ["--linen"]])
@pytest.mark.parametrize("variant", ["batch_norm", "renorm cnn"])
def test_what_it_says_to_write_works(copied, capsys, variant, linen):
    said = output(capsys, "run", variant, "--output=it's x.safetensors", "--seed=4", *linen)
    heading, snippet = said.split("\n\n")
    assert heading == f"Seed 4 of {variant} at step 20 is in it's x.safetensors. To use it:"
    names = {"images": IMAGES}
    exec(snippet, names)
    np.testing.assert_allclose(names["logits"], our_logits(variant, 1), rtol=1e-4, atol=1e-5)
    assert ("nn.BatchNorm" in snippet) == bool(linen)
    shape = ", ".join(map(str, IMAGES.shape[1:]))
    assert f"float32 (batch, {shape}), pixels 1 where above 127, else 0" in snippet
    statistics = {
        name for name in load_file("it's x.safetensors") if name.startswith("batch_stats")
    }
    renorm = variant == "renorm cnn" and not linen
    kinds = ("mean", "std", "count") if renorm else ("mean", "var")
    assert statistics == {f"batch_stats/norm_{i}/{kind}" for i in range(2) for kind in kinds}


def test_of_seeds_that_diverged_none_is_exported(copied, capsys):
    add_divergence(copied, seed=3, step=20)
    assert "Seed 4 of batch_norm" in output(capsys, "run", "batch_norm", "--output=x")
    arguments = ["run", "batch_norm", "--output=y"]
    assert mistake(capsys, *arguments, "--seed=3") == (
        "seed 3 of batch_norm had diverged: choose from 4\n"
    )
    add_divergence(copied, seed=4, step=7)
    assert mistake(capsys, *arguments) == "all seeds of batch_norm had diverged by step 20\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "bach_norm"], "run has no variant 'bach_norm'; did you mean batch_norm?\n"),
        (
            ["run", "batch_norm", "--seed=1"],
            "seed 1 of batch_norm was not trained: choose from 3, 4\n",
        ),
        (
            ["run", "batch_norm", "--layout=torchvision"],
            "--layout=torchvision needs model.name resnet, got mlp\n",
        ),
        (["run", "batch_norm", "--output="], "cannot write .: Is a directory\n"),
        (["run", "batch_norm", "--output=no/x"], "cannot write no/x: No such file or directory\n"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(copied, capsys, arguments, message):
    assert mistake(capsys, "--output=x", *arguments).endswith(message)


def test_linen_has_no_layer_for_another_normalizer(copied, capsys):
    layer_norm = {"batch_norm": {"normalizer": {"name": "layer_norm"}}}
    edit(copied / "config.json", lambda config: config["variants"].update(layer_norm))
    said = mistake(capsys, "run", "batch_norm", "--output=x", "--linen")
    assert said == "--linen needs normalizer.name batch_norm or batch_renorm, got layer_norm\n"


def test_a_variant_without_a_whole_checkpoint_is_refused(copied, capsys):
    (copied / "checkpoints" / "batch_norm").rename("elsewhere")
    message = mistake(capsys, "run", "batch_norm", "--output=x")
    assert message == "batch_norm of run: no intact checkpoint\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": {"bias": jnp.zeros((2, 3))}, "average": {}}, "/20 has another network, "),
        ({"wings": 1}, "/20 was written by another version: it holds average, batch_stats, "),
    ],
)
def test_checkpoints_of_strangers_are_one_sentence(copied, capsys, monkeypatch, change, message):
    def changed(*arguments):
        states, notes = original(*arguments)
        return states | change, notes

    original = restored.restore
    monkeypatch.setattr(restored, "restore", changed)
    assert message in mistake(capsys, "run", "batch_norm", "--output=x")


@pytest.fixture(scope="module")
def resnets(tmp_path_factory):
    """The folder of a `run` of ResNets with a single bottleneck, on images in colour."""
    settings = {"seeds": 1, "steps": 2, "eval_every": 2, "batch_size": 8, "microbatch_size": 8}
    settings |= {"model.name": "resnet", "model.activation": "relu", "image_size": 4}
    settings |= {"normalizer.name": "batch_norm", "normalizer.epsilon": 0.03, "measures": ()}
    variants = {"batch_norm": {}, "small epsilon": {"normalizer": {"epsilon": 1e-6}}}
    config = small_config(**settings, variants=variants, baseline="batch_norm")
    grey = small_dataset()
    dataset = dataclasses.replace(
        grey,
        train_images=grey.train_images.repeat(3, -1),
        test_images=grey.test_images.repeat(3, -1),
    )
    folder = tmp_path_factory.mktemp("resnets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "BLOCKS", (1,))
        patch.setattr(run_module, "load_dataset", lambda *_, **__: dataset)
        run_comparison(config, folder / "run")
        patch.chdir(folder)
        yield


def test_in_torchvisions_layout_a_network_says_the_same_with_torchvisions_epsilon(resnets, capsys):
    said = output(capsys, "run", "batch_norm", "--output=x", "--layout=torchvision")
    assert "(batch, 3, height, width), averaged down to 4 x 4, pixels 1 where above 127" in said
    arrays = load_file("x")
    assert arrays["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)
    images = IMAGES.repeat(3, -1)
    config, variables = trained("batch_norm", 0)
    model = make_model(config, 2)
    expected = logits_of(model, variables, images)
    model = model.clone(normalizer=partial(BatchNorm, epsilon=1e-5))
    logits = logits_of(model, from_torchvision(arrays), images)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    # Batch Renorm with the same statistics.
    renorm = to_batch_renorm(variables, epsilon=0.03, count=1)
    config["normalizer"]["name"] = "batch_renorm"
    in_layout = export._in_layout("torchvision", config, renorm)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), in_layout, arrays)


def test_an_epsilon_below_that_of_torchvision_is_refused(resnets, capsys):
    said = mistake(capsys, "run", "small epsilon", "--output=y", "--layout=torchvision")
    assert said == (
        "--layout=torchvision needs normalizer.epsilon of at least 1e-05, which its Batch "
        "Norm adds, got 1e-06\n"
    )


@pytest.mark.parametrize(
    ("layout", "network", "placement", "message"),
    [
        ("torchvision", "resnet", "before", "^cannot use --layout=torchvision: not the"),
        ("keras", "inception", "after", "needs model.norm_placement before, got after"),
    ],
)
def test_another_network_than_the_librarys_is_refused(layout, network, placement, message):
    model = {"model.name": network, "model.activation": "relu", "model.norm_placement": placement}
    config = small_config(**model, **{"normalizer.name": "batch_norm", "normalizer.epsilon": 1e-3})
    variables = {"batch_stats": {"norm": {"mean": jnp.zeros(1), "var": jnp.ones(1)}}}
    with pytest.raises(UserError, match=message):
        export._in_layout(layout, config, variables)
