"""Weights survive a file, and say the same in flax.linen's layer as in ours."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze
from safetensors.numpy import load_file, save

from bnrepro import (
    BatchNorm,
    BatchRenorm,
    load_variables,
    save_variables,
    to_batch_norm,
    to_batch_renorm,
)
from tests.layers.running import evaluate, normal, some_variables

EPSILON = 0.03  # as large as can be mistaken for nothing
X = normal(16, 4, mean=1, std=2)


class Block(nn.Module):
    normalizer: Any

    @nn.compact
    def __call__(self, x, train):
        x = self.normalizer(use_running_average=not train)(nn.Dense(5)(x))
        return self.normalizer(use_running_average=not train, use_scale=False)(nn.relu(x))


class Network(nn.Module):
    """Layers with names that Flax makes, and one with a name of its own."""

    normalizer: Any

    @nn.compact
    def __call__(self, x, train):
        x = Block(self.normalizer)(x, train)
        x = self.normalizer(use_running_average=not train, name="norm")(nn.Dense(3)(x))
        return nn.Dense(2)(x)


def network(layer_type, **fields):
    return Network(functools.partial(layer_type, epsilon=EPSILON, momentum=0.7, **fields))


FLAX, OURS, RENORM = network(nn.BatchNorm), network(BatchNorm), network(BatchRenorm)


@functools.cache
def trained(model):
    """Variables after three updates of the averages."""
    variables = some_variables(model, X)
    step = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    for _ in range(3):
        variables = {**variables, **step(variables, X)[1]}
    return variables


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def assert_trees_equal(left, right):
    assert shapes(left) == shapes(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


# --- between layers ---


@pytest.mark.parametrize("other", [FLAX, OURS])
@pytest.mark.parametrize("to_renorm", [False, True])
def test_a_network_infers_the_same_with_the_other_layer(other, to_renorm):
    source, target = (other, RENORM) if to_renorm else (RENORM, other)
    move = functools.partial(to_batch_renorm, count=7) if to_renorm else to_batch_norm
    variables = trained(source)
    before = jax.tree.map(np.array, variables)
    moved = move(variables, epsilon=EPSILON)
    assert shapes(moved) == shapes(trained(target))
    y, right = (
        jax.jit(functools.partial(model.apply, train=False))(given, X)
        for model, given in ((target, moved), (source, variables))
    )
    np.testing.assert_allclose(y, right, rtol=2e-5, atol=2e-5)
    assert not to_renorm or moved["batch_stats"]["norm"]["count"] == 7
    assert_trees_equal(variables, before)


def test_a_deviation_below_that_of_epsilon_becomes_variance_0():
    std = np.float32([0.1, 0.3])
    statistics = {"mean": np.zeros(2, np.float32), "std": std, "count": np.int32(1)}
    moved = to_batch_norm({"batch_stats": statistics}, epsilon=0.04)
    np.testing.assert_allclose(moved["batch_stats"]["var"], [0, 0.05], rtol=1e-6)
    x = np.float32([[0.2, 0.3]])
    plain = nn.BatchNorm(epsilon=0.04, use_scale=False, use_bias=False)
    # The first is divided by sqrt(0.04) and not by 0.1.
    np.testing.assert_allclose(evaluate(plain, moved, x), [[1, 1]], rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_statistics_keep_their_precision(dtype):
    statistics = {"mean": jnp.ones(2, dtype), "var": jnp.array([3, 8], dtype)}
    moved = to_batch_renorm({"batch_stats": statistics}, epsilon=1, count=0)["batch_stats"]
    np.testing.assert_allclose(moved["std"].astype(float), [2, 3], rtol=1e-6)
    assert moved["std"].dtype == dtype
    back = to_batch_norm({"batch_stats": moved}, epsilon=1)["batch_stats"]
    assert_trees_equal(back, statistics)


def test_all_but_the_layers_stays_as_it_is():
    mean, var = jnp.ones(2), jnp.full(2, 3.0)

    def with_layers(name, statistics):
        return {
            # Parameters and modules may have the names of statistics.
            "params": {
                "prior": {"mean": mean, "var": var},
                "heads": {"mean": {name: {"scale": var}}},
                "BatchNorm_12": {},
            },
            "batch_stats": {
                "heads": {
                    "mean": {name: statistics, "BatchNorm_0_first": statistics},
                    "var": {"LastBatchNorm_0": statistics},
                },
                "other": {"mean": mean, "var": var, "skew": mean},
            },
            "cache": {},
        }

    old = with_layers("BatchNorm_1", {"mean": mean, "var": var})
    new = {"mean": mean, "std": jnp.full(2, 2.0), "count": jnp.int32(5)}
    new = with_layers("BatchRenorm_1", new)
    assert_trees_equal(to_batch_renorm(old, epsilon=1, count=5), new)
    assert_trees_equal(to_batch_renorm(freeze(old), epsilon=1, count=5), new)
    assert_trees_equal(to_batch_norm(new, epsilon=1), old)


def test_lifted_layers_take_the_names_that_flax_makes_for_the_new_ones():
    def model(layer_type):
        class Model(nn.Module):
            @nn.compact
            def __call__(self, x):
                x = nn.remat(layer_type)(use_running_average=True)(x)
                x = nn.jit(nn.remat(layer_type))(use_running_average=True)(x)
                vmapped = nn.vmap(layer_type, variable_axes={True: 0}, split_rngs={"params": True})
                return vmapped(use_running_average=True)(x[None])

        return Model()

    variables = model(nn.BatchNorm).init(jax.random.key(0), X)
    moved = to_batch_renorm(variables, epsilon=1e-5, count=0)
    right = model(BatchRenorm).init(jax.random.key(0), X)
    for collection in ("params", "batch_stats"):
        assert moved[collection].keys() == right[collection].keys()


def test_variables_without_the_layer_are_an_error():
    with pytest.raises(ValueError, match="no BatchRenorm in batch_stats"):
        to_batch_norm(trained(FLAX), epsilon=EPSILON)
    with pytest.raises(ValueError, match="no BatchNorm in batch_stats"):
        to_batch_renorm(trained(FLAX)["batch_stats"], epsilon=EPSILON, count=0)


def test_a_name_that_is_taken_is_an_error():
    statistics = {"mean": jnp.ones(2), "var": jnp.ones(2)}
    others = {"mean": jnp.ones(2), "std": jnp.ones(2), "count": jnp.int32(0)}
    stats = {"block": {"BatchNorm_0": statistics, "BatchRenorm_0": others}}
    with pytest.raises(ValueError, match="block/BatchRenorm_0 is taken"):
        to_batch_renorm({"batch_stats": stats}, epsilon=1e-5, count=0)


def test_numbers_out_of_range_are_errors():
    with pytest.raises(ValueError, match="epsilon must be at least 0"):
        to_batch_norm(trained(RENORM), epsilon=-0.1)
    with pytest.raises(ValueError, match="epsilon must be at least 0"):
        to_batch_renorm(trained(FLAX), epsilon=float("nan"), count=0)
    with pytest.raises(ValueError, match="count must be at least 0, got -1"):
        to_batch_renorm(trained(FLAX), epsilon=1e-5, count=-1)
    with pytest.raises(TypeError, match="float"):
        to_batch_renorm(trained(FLAX), epsilon=1e-5, count=1.5)


# --- files ---


def saved(folder, variables):
    path = folder / "model.safetensors"
    save_variables(path, variables)
    return path


def test_a_file_gives_back_what_went_in_and_other_programs_read_it_by_the_names_of_modules(
    tmp_path,
):
    variables = trained(RENORM)
    for given in (variables, freeze(variables)):
        path = saved(tmp_path, given)
        loaded = load_variables(path)
        assert_trees_equal(loaded, variables)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))
    read = load_file(path)
    assert "params/Block_0/Dense_0/kernel" in read
    assert read["batch_stats/norm/count"] == 3


@pytest.mark.parametrize(
    "array",
    [
        *(np.arange(6).reshape(2, 3).astype(t) for t in ("float16", "int8", "uint32", "bool")),
        jnp.arange(6, dtype=jnp.bfloat16),
        jnp.array([1 + 2j, 3 - 4j], jnp.complex64),
        np.int32(7),
        np.zeros((0, 3), np.float32),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.arange(12, dtype=np.float32).reshape(3, 4)[::2, 1::2],
        jnp.array([np.nan, np.inf, -0.0]),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_arrays_keep_values_shapes_and_types(array, tmp_path):
    loaded = load_variables(saved(tmp_path, {"params": {"a": array}}))
    assert_trees_equal(loaded, {"params": {"a": array}})


def test_64_bits_are_not_cut_to_32(tmp_path):
    array = np.array([2**40 + 1])
    path = saved(tmp_path, {"params": {"a": array}})
    with pytest.raises(ValueError, match=re.escape(f"{path}: params/a, int64, needs")):
        load_variables(path)
    with jax.enable_x64(True):
        assert_trees_equal(load_variables(path), {"params": {"a": array}})


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"params": {"a/b": np.ones(1)}},
            "('params', 'a/b') must be a collection and names without '/'.",
        ),
        ({"params": {0: np.ones(1)}}, "('params', 0) must be a collection and names without '/'."),
        ({"mean": np.ones(1)}, "('mean',) must be a collection and names without '/'."),
        ({"params": {"a": True}}, "params/a cannot be of <class 'bool'>."),
        ({"params": {"a": np.ones(1, np.complex128)}}, "params/a cannot be of complex128."),
        ({"params": {"a": jax.random.key(0)}}, "params/a cannot be of key<fry>."),
    ],
)
def test_what_cannot_be_saved_is_an_error_and_leaves_the_file_alone(variables, message, tmp_path):
    path = saved(tmp_path, {"params": {"a": np.ones(1, np.float32)}})
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"^cannot save {re.escape(str(path))}: ") as error:
        save_variables(path, variables)
    assert str(error.value).endswith(message)
    assert path.read_bytes() == before


def test_a_file_is_complete_or_absent(tmp_path, monkeypatch):
    write_bytes = Path.write_bytes

    def full_disk(path, data):
        write_bytes(path, data[: len(data) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        saved(tmp_path, trained(FLAX))
    assert not list(tmp_path.iterdir())


def test_others_may_read_it_as_they_may_read_any_new_file(tmp_path):
    path = saved(tmp_path, trained(FLAX))
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    assert {p.name for p in tmp_path.iterdir()} == {path.name, "other"}


def safetensors(dtype, size):
    header = json.dumps({"a/b": {"dtype": dtype, "shape": [4], "data_offsets": [0, size]}})
    return len(header).to_bytes(8, "little") + header.encode() + bytes(size)


ONES = np.ones(2, np.float32)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"no weights, a text", ""),
        (safetensors("F32", 16)[:-1], ""),
        (safetensors("F8_E4M3", 4), ""),
        (save({"layer.weight": ONES}), "layer.weight is not a variable of a model."),
        (save({"p/a": ONES, "p/a/b": ONES}), "p/a/b is not a variable of a model."),
    ],
    ids=["text", "cut", "type without NumPy's", "PyTorch's", "no tree"],
)
def test_a_foreign_file_is_an_error_that_names_it_and_the_entry(content, problem, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^cannot load {re.escape(str(path))}: {problem}[^\n]*$"):
        load_variables(path)
