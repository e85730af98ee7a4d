"""Population statistics are those of [BN] Algorithm 2, for any model that contains the layers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnrepro import BatchNorm, BatchRenorm, population_statistics
from tests.layers import reference
from tests.layers.running import both_layers, normal, some_variables

# The last one is smaller.
BATCHES = [normal(size, 4, mean=mean, std=2, seed=size) for size, mean in ((6, 0), (5, 3), (2, -1))]


def population(minibatches):
    """Algorithm 2, lines 8 to 11, with minibatches counted by their sizes."""
    statistics = [reference.minibatch(x) for x in minibatches]
    m = np.array([len(x) for x in minibatches])[:, None]
    mean = sum(s.mean[0] * len(x) for s, x in zip(statistics, minibatches, strict=True)) / m.sum()
    var = np.stack([s.var[0] for s in statistics])
    var = (m * var).sum(0) / (m - 1).sum()
    return {"mean": mean, "var": var, "std": np.sqrt(var + 1e-5)}


def assert_close(statistics, right):
    names = statistics.keys() & right.keys()
    assert len(names) == 2
    for name in names:
        np.testing.assert_allclose(statistics[name], right[name], rtol=2e-5, atol=1e-5)


class Residual(nn.Module):
    """Blocks around which their input goes; what a layer sees depends on those before it."""

    layer_type: type
    depth: int

    @nn.compact
    def __call__(self, x, train):
        for i in range(self.depth):
            y = nn.Dense(4, name=f"dense_{i}")(x)
            norm = self.layer_type(epsilon=0.1, use_running_average=not train, name=f"norm_{i}")
            x = x + nn.relu(norm(y))
        return x


def variables_and_statistics(model):
    """The variables of a model, which are left alone, and the statistics, which are as many."""
    variables = some_variables(model, BATCHES[0], (True,))
    before = jax.tree.map(np.array, variables)
    found = population_statistics(
        functools.partial(model.apply, train=True), variables, iter(BATCHES)
    )
    jax.tree.map(np.testing.assert_array_equal, variables, before)
    assert jax.tree.structure(found) == jax.tree.structure(variables["batch_stats"])
    return variables, found


def in_float64(variables, i):
    """The parameters of the i-th block: kernel, bias, gamma and beta."""
    dense, norm = (variables["params"][f"{name}_{i}"] for name in ("dense", "norm"))
    values = (dense["kernel"], dense["bias"], norm["scale"], norm["bias"])
    return [np.asarray(value, np.float64) for value in values]


def test_they_are_algorithm_2_layer_by_layer():
    """Claim A2, with each layer normalizing by the minibatch while it is done."""
    variables, found = variables_and_statistics(Residual(BatchNorm, 2))
    batches = BATCHES
    for i in range(2):
        kernel, bias, gamma, beta = in_float64(variables, i)
        inputs = [x @ kernel + bias for x in batches]
        assert_close(found[f"norm_{i}"], population(inputs))
        outputs = (reference.batch_norm(y, gamma, beta, epsilon=0.1) for y in inputs)
        batches = [x + np.maximum(y, 0) for x, y in zip(batches, outputs, strict=True)]


def test_of_batch_renorm_they_are_those_of_the_network_that_evaluates_with_them():
    """Of each layer's own inputs over the whole set: other averages would make other inputs."""
    model = Residual(BatchRenorm, 6)
    variables, found = variables_and_statistics(model)
    assert all(found[f"norm_{i}"]["count"] == 0 for i in range(6))

    x = np.concatenate(BATCHES).astype(np.float64)
    for i in range(6):
        kernel, bias, gamma, beta = in_float64(variables, i)
        y = x @ kernel + bias
        std = np.sqrt(y.var(0) + 0.1)
        assert_close(found[f"norm_{i}"], {"mean": y.mean(0), "std": std})
        x = x + np.maximum((y - y.mean(0)) / std * gamma + beta, 0)
    evaluated = model.apply({**variables, "batch_stats": found}, np.concatenate(BATCHES), False)
    np.testing.assert_allclose(evaluated, x, rtol=1e-4, atol=1e-4)


def test_of_batch_renorm_they_settle_from_any_averages_and_with_examples_in_any_order():
    model = Residual(BatchRenorm, 3)
    variables, found = variables_and_statistics(model)
    lost = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), variables["batch_stats"])
    rng = np.random.default_rng(0)

    class Shuffled:
        def __iter__(self):
            examples = rng.permutation(np.concatenate(BATCHES))
            return iter(np.split(examples, [4, 8]))

    again = population_statistics(
        functools.partial(model.apply, train=True), {**variables, "batch_stats": lost}, Shuffled()
    )
    for name, statistics in again.items():
        assert_close(statistics, {key: found[name][key] for key in ("mean", "std")})


def test_only_values_that_count_do():
    layer = BatchNorm(use_running_average=False)
    masks = [np.arange(len(x)) < 2 + k for k, x in enumerate(BATCHES)]

    def apply(variables, batch, mutable):
        x, mask = batch
        return layer.apply(variables, x, mask=mask[:, None], mutable=mutable)

    batches = list(zip(BATCHES, masks, strict=True))
    found = population_statistics(apply, some_variables(BatchNorm(), BATCHES[0]), batches)
    assert_close(found, population([x[mask] for x, mask in batches]))


@both_layers
def test_a_feature_that_a_mask_leaves_no_value_of_keeps_its_averages(layer_type):
    layer = layer_type(use_running_average=False)
    mask = np.array([True, True, True, False])
    x = BATCHES[0]
    variables = some_variables(layer_type(), x)
    found = population_statistics(functools.partial(layer.apply, mask=mask), variables, [x])
    kept = variables["batch_stats"]
    for name in found.keys() & {"mean", "var", "std"}:
        assert found[name][3] == kept[name][3]
        assert np.all(found[name][:3] != kept[name][:3])


def test_a_layer_that_runs_twice_counts_both():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = BatchNorm(use_running_average=False, use_scale=False, use_bias=False)
            layer(x)
            return layer(2 * x + 1)

    variables = some_variables(Twice(), BATCHES[0], ())
    found = population_statistics(Twice().apply, variables, BATCHES)
    assert_close(found["BatchNorm_0"], population(BATCHES + [2 * x + 1 for x in BATCHES]))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return BatchNorm(use_running_average=False, use_scale=False, use_bias=False)(x)


@pytest.mark.parametrize("transform", [lambda block: block, nn.remat, nn.jit])
def test_layers_may_be_nested_in_modules_and_transforms(transform):
    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return transform(Block)(name="inner")(transform(Block)(name="outer")(x) + 1)

    variables = some_variables(Outer(), BATCHES[0], ())
    found = population_statistics(Outer().apply, variables, BATCHES)
    assert_close(found["outer"]["BatchNorm_0"], population(BATCHES))
    shifted = [reference.batch_norm(x) + 1 for x in BATCHES]
    assert_close(found["inner"]["BatchNorm_0"], population(shifted))


class Carried(nn.Module):
    layer_type: type = BatchNorm

    @nn.compact
    def __call__(self, x, _):
        layer = self.layer_type(use_running_average=False, use_scale=False, use_bias=False)
        return layer(x) + 1, None


def statistics_of_scan(*collections):
    """Of two blocks, one after the other, as a scan; their statistics are stacked."""
    model = nn.scan(Carried, variable_axes=dict.fromkeys(collections, 0), length=2)()
    return population_statistics(
        lambda variables, x, mutable: model.apply(variables, x, None, mutable=mutable),
        some_variables(model, BATCHES[0], (None,)),
        BATCHES,
    )


def test_layers_may_be_stacked_by_a_scan_that_lists_the_collection():
    found = statistics_of_scan("batch_stats", "batch_moments")["BatchNorm_0"]
    first = population(BATCHES)
    second = population([reference.batch_norm(x) + 1 for x in BATCHES])
    assert_close(found, {name: np.stack([first[name], second[name]]) for name in first})


def test_a_scan_that_lists_it_trains_with_all_collections_mutable():
    model = nn.scan(Carried, variable_axes={"batch_stats": 0, "batch_moments": 0}, length=2)(
        BatchRenorm
    )
    variables = some_variables(model, BATCHES[0], (None,))
    _, updates = model.apply(variables, BATCHES[0], None, mutable=True)
    count = variables["batch_stats"]["BatchRenorm_0"]["count"]
    np.testing.assert_array_equal(updates["batch_stats"]["BatchRenorm_0"]["count"], count + 1)
    assert set(updates) == {"batch_stats"}


def test_a_scan_that_does_not_list_it_is_told_to():
    with pytest.raises(ValueError, match="batch_moments among its variable_axes"):
        statistics_of_scan("batch_stats")


def test_a_model_mapped_over_microbatches_has_as_many_minibatches():
    layer = BatchNorm(use_running_average=False)

    def mapped(variables, microbatches, mutable):
        return jax.vmap(lambda x: layer.apply(variables, x, mutable=mutable))(microbatches)

    batches = [normal(3, 5, 4, mean=1), normal(2, 5, 4, seed=1)]
    found = population_statistics(mapped, some_variables(BatchNorm(), batches[0][0]), batches)
    assert_close(found, population([microbatch for batch in batches for microbatch in batch]))


# --- mistakes ---


@pytest.mark.parametrize(
    ("train", "batches"), [(True, []), (False, BATCHES)], ids=["no batches", "evaluation mode"]
)
def test_no_minibatch_statistics_is_an_error_that_says_what_to_do(train, batches):
    layer = BatchNorm(use_running_average=not train)
    with pytest.raises(ValueError, match="at least one minibatch and an `apply` that runs"):
        population_statistics(layer.apply, some_variables(BatchNorm(), BATCHES[0]), batches)


def test_a_layer_that_takes_no_part_is_named():
    class Mixed(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = BatchNorm(use_running_average=False)(x)
            return nn.BatchNorm(use_running_average=False, name="foreign")(x)

    with pytest.raises(ValueError, match="foreign took no minibatch statistics"):
        population_statistics(Mixed().apply, some_variables(Mixed(), BATCHES[0], ()), BATCHES)


@both_layers
def test_what_other_modules_keep_in_the_collection_stays(layer_type):
    class Mixed(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.variable("batch_stats", "largest", lambda: jnp.int32(7))
            return layer_type(use_running_average=False)(x)

    variables = some_variables(Mixed(), BATCHES[0], ())
    found = population_statistics(Mixed().apply, variables, BATCHES)
    assert found["largest"] == variables["batch_stats"]["largest"]


def test_variables_without_statistics_are_an_error():
    with pytest.raises(ValueError, match="the variables have no batch_stats"):
        population_statistics(BatchNorm().apply, {"params": {}}, BATCHES)


def test_averages_of_half_precision_come_back_in_it():
    layer = BatchNorm(
        use_running_average=False, param_dtype=jnp.bfloat16, force_float32_reductions=False
    )
    x = BATCHES[0].astype(jnp.bfloat16)
    found = population_statistics(layer.apply, layer.init(jax.random.key(0), x), [x])
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.bfloat16)}
    right = population([x.astype(np.float64)])
    np.testing.assert_allclose(found["var"].astype(float), right["var"], rtol=0.05)
