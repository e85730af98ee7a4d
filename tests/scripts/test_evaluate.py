"""Checkpoints are evaluated as their run did, or with the statistics that are asked for."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnrepro.comparison import restored as restored_module
from bnrepro.comparison import run as run_module
from bnrepro.comparison.keys import ConfigError
from bnrepro.comparison.program import make_data, make_model
from bnrepro.comparison.reevaluation import reevaluate, with_population_statistics
from bnrepro.data.datasets import load_dataset
from bnrepro.records import read_run
from bnrepro.training.checkpoints import checksums
from scripts import evaluate
from tests.commands import code_of, refusal
from tests.scripts.conftest import add_divergence, edit, files, restore
from tests.small_dataset import small_dataset

# Of tables: accuracy in percent, with two decimals, and loss with four.
ROUNDING = {"accuracy": 0.00501, "loss": 0.0000501}


@pytest.fixture(autouse=True)
def folders(monkeypatch):
    """The folders that the data set was looked for in."""
    asked = []

    def load(name, data_dir, image_size, stream):
        asked.append(data_dir)
        return small_dataset()

    monkeypatch.setattr(run_module, "load_dataset", load)
    return asked


def output(capsys, *arguments):
    """The table, {variant: cells}, and what is on stdout and stderr."""
    evaluate.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    rows = [line.strip("│").split("│") for line in captured.out.splitlines() if line[0] == "│"]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}, *captured


def recorded(workdir, variant, step, split="test"):
    """What the run measured: {metric: a value a seed}."""
    rows = read_run(workdir).metrics.query("variant == @variant & step == @step & split == @split")
    return {metric: rows[rows["metric"] == metric]["value"].to_numpy() for metric in ROUNDING}


def assert_row_shows(cells, step, values):
    """Of two seeds: mean, minimum and maximum."""
    assert cells[0] == str(step)
    assert cells[3] == "2"
    for cell, (metric, rounding), scale in zip(cells[1:3], ROUNDING.items(), (100, 1), strict=True):
        shown = [float(number) for number in re.findall(r"[\d.]+", cell)]
        first, second = sorted(scale * np.asarray(values[metric], float))
        assert shown == pytest.approx([(first + second) / 2, first, second], abs=rounding)


def test_the_table_has_a_row_a_variant_with_mean_and_interval(finished, capsys, folders):
    before = files(finished)
    table, out, err = output(capsys, finished)
    assert err == ""
    assert list(table) == ["batch_norm", "renorm cnn"]
    for variant, cells in table.items():
        assert_row_shows(cells, 20, recorded(finished, variant, 20))
    assert "Test set of small/1.0.0 with the stored moving averages: " in out
    assert files(finished) == before
    output(capsys, finished, "--variants=batch_norm", "--data_dir=there")
    assert folders == [None, "there"]  # and not where the config says


def test_a_step_is_taken_where_it_is_named_and_only_the_variants_that_are(finished, capsys):
    table, *_ = output(capsys, finished, "--checkpoint=10", "--variants=renorm cnn")
    assert list(table) == ["renorm cnn"]
    assert_row_shows(table["renorm cnn"], 10, recorded(finished, "renorm cnn", 10))


def test_best_is_the_checkpoint_with_the_best_mean_test_accuracy(copied):
    first = copied / "checkpoints" / "batch_norm" / "10"
    edit(first / "notes" / "metadata", lambda notes: notes.update(score=1.5))
    first.with_suffix(".json").write_text(json.dumps({"files": checksums(first)}))
    assert restore(copied, "best")[0].step == 10


@pytest.mark.parametrize("minibatches", [5, 0])
def test_statistics_of_minibatches_are_those_of_the_run(copied, capsys, minibatches):
    """Which recorded them on 5 minibatches of 12, as many as the test set of 60 holds."""
    edit(
        copied / "config.json", lambda config: config["evaluation"].update(minibatches=minibatches)
    )
    table, out, _ = output(
        capsys, copied, "--statistics=minibatch", "--variants=batch_norm,renorm cnn"
    )
    for variant in ("batch_norm", "renorm cnn"):
        expected = recorded(copied, variant, 20, "test_minibatches")
        assert_row_shows(table[variant], 20, expected)
        assert abs(expected["loss"] - recorded(copied, variant, 20)["loss"]).min() > 0.001
    assert "each microbatch's own statistics" in " ".join(out.split())


def test_as_many_minibatches_as_cover_the_test_set_may_be_smaller_than_those_of_training(finished):
    """With half of their labels, and so of their 12 images, ten are needed."""
    restored, config = restore(finished)
    config["sampler"] |= {"name": "labels", "labels_per_batch": 2, "examples_per_label": 6}

    def values(minibatches):
        sizes = {"labels_per_batch": 1, "minibatches": minibatches}
        own = config | {"evaluation": config["evaluation"] | sizes}
        return reevaluate(restored, own, small_dataset(), "minibatch")

    np.testing.assert_equal(values(0), values(10))


def seed_of(variables, seed):
    return jax.tree.map(lambda x: np.asarray(x[seed], np.float64), variables)


def pixels(images):
    return (images > 127).reshape(len(images), 16).astype(np.float64)


def numpy_batch_norm(variables):
    """Loss and accuracy of batch_norm on the test set, in float64."""
    params, stats = variables["params"], variables["batch_stats"]
    data = small_dataset()
    x = pixels(data.test_images)
    for i in range(2):
        mean, var = stats[f"norm_{i}"]["mean"], stats[f"norm_{i}"]["var"]
        x = (x @ params[f"dense_{i}"]["kernel"] - mean) / np.sqrt(var + 1e-5)
        x = 1 / (1 + np.exp(-x * params[f"norm_{i}"]["scale"] - params[f"norm_{i}"]["bias"]))
    logits = x @ params["logits"]["kernel"] + params["logits"]["bias"]
    right = logits[np.arange(len(x)), data.test_labels]
    return {
        "loss": np.mean(np.log(np.exp(logits).sum(1)) - right),
        "accuracy": np.mean(logits.argmax(1) == data.test_labels),
    }


def population(variables, config, dataset):
    data, model = make_data(config, dataset), make_model(config, 2)
    return with_population_statistics(variables, config, data, model)


# Of the second number of images, one is left over that is alone in its microbatch.
@pytest.mark.parametrize(("count", "precision"), [(115, 1e-5), (113, 0.05)])
def test_population_statistics_see_each_image_once_in_minibatches_of_all_kinds(
    finished, count, precision
):
    restored, config = restore(finished)
    config |= {"batch_size": 28, "microbatch_size": 14}
    dataset = small_dataset()
    images = dataset.train_images[:count]
    images[:50], images[50:] = 0, 255  # as if sorted
    short = dataclasses.replace(
        dataset, train_images=images, train_labels=dataset.train_labels[:count]
    )
    variables = population(restored.variables, config, short)
    for seed in range(2):
        one = seed_of(variables, seed)
        x = pixels(images) @ one["params"]["dense_0"]["kernel"]
        found = one["batch_stats"]["norm_0"]
        np.testing.assert_allclose(found["mean"], x.mean(0), atol=precision)
        np.testing.assert_allclose(found["var"], x.var(0), rtol=0.2)


def test_the_table_is_that_of_population_statistics(finished, capsys):
    restored, config = restore(finished)
    variables = population(restored.variables, config, small_dataset())
    table, out, _ = output(capsys, finished, "--statistics=population")
    one, other = (numpy_batch_norm(seed_of(variables, seed)) for seed in range(2))
    expected = {metric: [one[metric], other[metric]] for metric in ROUNDING}
    assert_row_shows(table["batch_norm"], 20, expected)
    assert abs(expected["loss"] - recorded(finished, "batch_norm", 20)["loss"]).min() > 0.001
    assert table["renorm cnn"][3] == "2"
    shown = " ".join(out.split())
    assert "[BN] Algorithm 2" in shown
    assert "Batch Renorm's are taken over each layer's inputs" in shown


def test_without_moving_averages_population_statistics_change_nothing(finished):
    variables = {"params": {"kernel": jnp.ones(2)}, "batch_stats": {}}
    assert population(variables, restore(finished)[1], small_dataset()) is variables


def test_population_statistics_of_another_normalizer_with_averages_are_refused(finished):
    restored, config = restore(finished)
    config["normalizer"] |= {"name": "moving_average_norm"}
    with pytest.raises(ConfigError, match="not for moving_average_norm"):
        population(restored.variables, config, small_dataset())


def test_test_minibatches_in_which_batch_norm_has_one_image_are_refused(finished):
    restored, config = restore(finished)
    sampler = {"name": "labels", "labels_per_batch": 2, "examples_per_label": 1}
    config["sampler"] |= sampler
    config |= {"microbatch_size": 2, "evaluation": config["evaluation"] | {"labels_per_batch": 1}}
    with pytest.raises(ConfigError, match="cannot normalize a microbatch of one image"):
        reevaluate(restored, config, small_dataset(), "minibatch")


def test_damaged_checkpoints_are_named_and_never_used(copied, capsys):
    checkpoints = copied / "checkpoints" / "batch_norm"
    (checkpoints / "20" / "notes" / "metadata").write_text("{}")
    table, _, err = output(capsys, copied, "--variants=batch_norm")
    wrong = "notes/metadata is not what was written"
    assert err == f"{checkpoints}/20 is damaged and is not used: {wrong}.\n"
    assert_row_shows(table["batch_norm"], 10, recorded(copied, "batch_norm", 10))

    (checkpoints / "10.json").unlink()
    table, _, err = output(capsys, copied)
    assert table["batch_norm"] == ["no intact checkpoint", "–", "–", "–"]
    assert table["renorm cnn"][0] == "20"
    assert f"{checkpoints}/10 is damaged and is not used: it has no checksums.\n" in err
    assert {path.name for path in checkpoints.iterdir()} == {"10", "20", "20.json"}
    assert code_of(evaluate.main, str(copied), "--variants=batch_norm") == 2
    assert capsys.readouterr().err.endswith("error: run: no intact checkpoint\n")
    for seed in (3, 4):
        add_divergence(copied, seed, step=5)
    table, *_ = output(capsys, copied)
    assert table["batch_norm"] == ["all seeds diverged before a checkpoint", "–", "–", "–"]


def test_seeds_that_had_diverged_are_at_chance(copied, capsys):
    add_divergence(copied, seed=4, step=15)
    table, *_ = output(capsys, copied, "--variants=batch_norm")
    accuracy = 100 * recorded(copied, "batch_norm", 20)["accuracy"][0]
    assert table["batch_norm"][1].startswith(f"{(accuracy + 50) / 2:.2f} (")
    assert table["batch_norm"][3] == "2 (1 diverged)"
    assert restore(copied, "10")[0].diverged == set()


def test_seeds_that_diverged_after_the_last_evaluation_are_left_out_too(finished, monkeypatch):
    def restore_diverged(*arguments):
        states, notes = original(*arguments)
        return states | {"diverged_at": jnp.array([-1, 13])}, notes

    original = restored_module.restore
    with monkeypatch.context() as patch:
        patch.setattr(restored_module, "restore", restore_diverged)
        diverged, config = restore(finished)
    assert diverged.diverged == {4}
    assert np.isnan(reevaluate(diverged, config, small_dataset(), "moving")["accuracy"][1])
    whole, _ = restore(finished)
    variables = jax.tree.map(lambda x: x.at[0].set(jnp.inf), whole.variables)
    values = reevaluate(whole._replace(variables=variables), config, small_dataset(), "population")
    assert np.isnan(values["accuracy"]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "--variants=batch_norm,bach_norm"],
            "run has no variant 'bach_norm'; did you mean batch_norm?\n",
        ),
        (["run", "--variants=x"], "run has no variant 'x'; it has batch_norm, renorm cnn\n"),
        (["run", "--variants="], "run has no variant ''; it has batch_norm, renorm cnn\n"),
        (["run", '--variants="x,y"'], "run has no variant 'x,y'; it has batch_norm, renorm cnn\n"),
        (
            ["run", "--checkpoint=15"],
            "run has no intact checkpoint of batch_norm at step 15: it has 10, 20\n",
        ),
        (
            ["run", "--checkpoint=newest"],
            "a checkpoint must be last, best or a step, got 'newest'\n",
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(copied, capsys, arguments, message):
    assert refusal(capsys, evaluate.main, *arguments) == message


def foreign(key):
    return lambda config: config.update({key: 1})


CODE = "__import__('pathlib').Path('ran').touch()"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (foreign("wings"), "cannot use run/config.json: wings is not a config key"),
        (foreign("sweep"), "run is a sweep, which keeps no checkpoints: train its best trial by"),
        (lambda config: config["normalizer"].update(name=CODE), "normalizer.name is unknown: "),
        (lambda config: config.update(dataset=CODE), "is not the name of a data set: "),
        # A run of other seeds, and one of another normalizer.
        (foreign("seeds"), "norm_0/mean is float32(2, 6) there and float32(1, 6) here\n"),
        (
            lambda config: config["variants"]["batch_norm"]["normalizer"].update(
                name="batch_renorm"
            ),
            "batch_stats/norm_0/count is missing there and int32(2,) here\n",
        ),
    ],
)
def test_workdirs_of_other_versions_or_strangers_are_one_sentence(
    copied, capsys, monkeypatch, change, message
):
    edit(copied / "config.json", change)
    if "data set" in message:
        monkeypatch.setattr(run_module, "load_dataset", load_dataset)
    before = files(copied)
    assert message in refusal(capsys, evaluate.main, "run", "--variants=batch_norm")
    assert files(copied) == before
    assert [path.name for path in copied.absolute().parent.iterdir()] == ["run"]


def test_data_that_is_not_there_or_is_other_data_is_one_sentence(copied, capsys, monkeypatch):
    def load_other(**changes):
        other = dataclasses.replace(small_dataset(), **changes)
        monkeypatch.setattr(run_module, "load_dataset", lambda *_, **__: other)

    load_other(name="digits", stand_in=True)
    assert "holds results on small/1.0.0, but the data found is digits: " in refusal(
        capsys, evaluate.main, copied
    )
    load_other(sha256="0")
    message = refusal(capsys, evaluate.main, copied)
    assert "but the data found is small/1.0.0 with other content: " in message
    edit(copied / "provenance.json", lambda provenance: provenance.pop("image_shape"))
    larger = {split: np.zeros((60, 8, 8, 1), np.uint8) for split in ("train_images", "test_images")}
    load_other(**larger, train_labels=small_dataset().test_labels)
    message = refusal(capsys, evaluate.main, copied, "--variants=batch_norm")
    assert "float32(2, 16, 6) there and float32(2, 64, 6) here\n" in message
    few = small_dataset()
    load_other(test_images=few.test_images[:8], test_labels=few.test_labels[:8])
    assert "cannot be evaluated on small/1.0.0: batch_size must be in [1, 8]" in refusal(
        capsys, evaluate.main, copied, "--statistics=minibatch"
    )
    edit(copied / "config.json", lambda config: config.update(dataset="no_such_set"))
    monkeypatch.setattr(run_module, "load_dataset", load_dataset)
    assert "'no_such_set' is not in here: " in refusal(
        capsys, evaluate.main, copied, "--data_dir=here"
    )
