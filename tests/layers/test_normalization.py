"""What the two layers share: drop-in for flax.linen's, one mode at a time, and mistakes named."""

import dataclasses
import functools
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnrepro import BatchNorm, BatchRenorm
from tests.layers.running import (
    both_layers,
    evaluate,
    normal,
    some_variables,
    train,
    train_and_differentiate,
)


@both_layers
def test_it_has_the_fields_and_the_arguments_of_flax_batch_norm_with_their_defaults(layer_type):
    def fields_and_arguments(of):
        own = {"parent", "name", "r_max", "d_max"}
        fields = {f.name: f.default for f in dataclasses.fields(of) if f.name not in own}
        arguments = inspect.signature(of.__call__).parameters.values()
        return fields, [(each.name, each.kind, each.default) for each in arguments]

    assert fields_and_arguments(layer_type) == fields_and_arguments(nn.BatchNorm)


@both_layers
def test_a_model_may_be_tabulated_with_its_costs(layer_type):
    """nn.tabulate runs and differentiates each layer, and shows one row for it."""
    model = nn.Sequential([nn.Dense(4), layer_type(use_running_average=False)])
    table = model.tabulate(
        jax.random.key(0),
        normal(6, 3),
        compute_flops=True,
        compute_vjp_flops=True,
        console_kwargs={"width": 200, "no_color": True},
    )
    (row,) = (line for line in table.splitlines() if layer_type.__name__ in line)
    flops, vjp_flops = (int(cell) for cell in row.split("│")[5:7])
    assert 0 < flops < vjp_flops


@both_layers
def test_the_output_is_its_only_intermediate(layer_type):
    """Of all methods: Flax captures what each of a module returns if it is asked to."""
    x = normal(6, 3)
    layer = layer_type(use_running_average=False)
    _, updates = layer.apply(
        some_variables(layer, x, ()),
        x,
        capture_intermediates=lambda module, method: True,
        mutable=["batch_stats", "intermediates"],
    )
    assert updates.keys() == {"batch_stats", "intermediates"}
    assert updates["intermediates"].keys() == {"__call__"}


# --- evaluation and training (jax-ml/jax#139) ---


@both_layers
def test_evaluation_leaves_the_averages_alone_even_if_they_are_mutable(layer_type):
    """jax#139: evaluation must not change the batch statistics, bit for bit."""
    x = normal(6, 3, mean=7)
    layer = layer_type(use_running_average=True)
    variables = some_variables(layer_type(), x)
    y, updates = layer.apply(variables, x, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])
    np.testing.assert_array_equal(y, layer.apply(variables, x))


@both_layers
def test_the_mode_has_to_be_given_once(layer_type):
    """jax#139: which statistics are used is never a guess."""
    x = normal(6, 3)
    variables = some_variables(layer_type(), x)
    with pytest.raises(ValueError, match="use_running_average"):
        layer_type().apply(variables, x)
    with pytest.raises(ValueError, match="use_running_average"):
        layer_type(use_running_average=True).apply(variables, x, use_running_average=True)


def test_initializing_batch_renorm_does_not_move_its_averages():
    """Batch Norm's are compared with Flax's in test_batch_norm."""
    layer = BatchRenorm(use_running_average=False)
    stats = layer.init(jax.random.key(0), normal(6, 3, mean=5))["batch_stats"]
    found = {name: set(np.ravel(value)) for name, value in stats.items()}
    assert found == {"mean": {0.0}, "std": {1.0}, "count": {0}}


# --- numbers ---


@pytest.mark.numbers
@both_layers
@pytest.mark.parametrize("batch_size", [2, 3, 7, 100, 1000, 4001])
def test_a_constant_channel_comes_out_as_exactly_its_bias(layer_type, batch_size):
    """pytorch#5410. (flax.linen.BatchNorm misses it for five of these six batch sizes.)"""
    x = np.full((batch_size, 4), [1e7, 1.2345e10, 0.1, 0], np.float32)
    x[:, 3] = normal(batch_size)
    # Batch Renorm's d is another shift, towards the moving mean; without it there is the bias.
    layer = layer_type() if layer_type is BatchNorm else layer_type(r_max=1.0, d_max=0.0)
    variables = some_variables(layer, x)
    bias = np.asarray(variables["params"]["bias"])[:3]
    y, _ = train(layer, variables, x)
    np.testing.assert_array_equal(y[:, :3], np.tile(bias, (batch_size, 1)))
    if batch_size == 1000:  # outside jit as well
        y, _ = layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
        np.testing.assert_array_equal(y[:, :3], np.tile(bias, (batch_size, 1)))


@pytest.mark.numbers
def test_a_constant_channel_does_so_across_a_mapped_axis_too():
    x = np.full((7, 5, 1), 1e7, np.float32)
    mask = np.random.default_rng(0).random((7, 5, 1)) < 0.5
    layer = BatchNorm(axis_name="batch")
    variables = some_variables(layer, x[0])
    y, _ = jax.vmap(lambda x, mask: train(layer, variables, x, mask), axis_name="batch")(x, mask)
    assert np.all(y == variables["params"]["bias"][0])


@both_layers
def test_a_feature_of_which_no_value_counts_keeps_its_averages(layer_type):
    x = normal(6, 3)
    layer, variables = layer_type(), some_variables(layer_type(), x)
    y, stats = train(layer, variables, x, np.array([[False, True, False]]))
    assert np.all(np.isfinite(y))
    for name in stats.keys() & {"mean", "var", "std"}:
        kept = stats[name] == variables["batch_stats"][name]
        np.testing.assert_array_equal(kept, [True, False, True])


@both_layers
@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3), (4, 0)])
def test_an_empty_batch_leaves_the_averages_alone_and_all_finite(layer_type, shape):
    """Also where the empty axis is not the first, and where there is no feature."""
    x = np.zeros(shape, np.float32)
    layer = layer_type()
    variables = some_variables(layer, x)
    y, stats, params, dx = train_and_differentiate(layer, variables, x, x)
    assert y.shape == dx.shape == shape
    for name in stats.keys() & {"mean", "var", "std"}:
        np.testing.assert_array_equal(stats[name], variables["batch_stats"][name])
    for gradient in params.values():
        np.testing.assert_array_equal(gradient, np.zeros(shape[-1]))


HALF = {"param_dtype": jnp.bfloat16, "force_float32_reductions": False}


@both_layers
@pytest.mark.parametrize(
    ("dtype", "given"),
    [
        *((dtype, {}) for dtype in (np.float16, np.float32, np.complex64, np.int32)),
        *((dtype, HALF) for dtype in (np.float16, jnp.bfloat16, np.complex64)),
        (np.float16, HALF | {"param_dtype": jnp.float16, "axis_name": "batch"}),
        (jnp.bfloat16, {"momentum": jnp.float32(0.9)}),
        (np.float32, {"dtype": jnp.bfloat16}),
    ],
    ids=str,
)
def test_averages_keep_their_type_through_a_scan(layer_type, dtype, given):
    x = normal(4, 6, 3, std=5).astype(dtype)
    mask = np.arange(6)[:, None] < 5
    layer = layer_type(use_running_average=False, **given)
    variables = jax.eval_shape(layer.init, jax.random.key(0), x[0])

    @functools.partial(jax.vmap, in_axes=(None, 0), axis_name="batch")
    def updates(given, x):
        return layer.apply(given, x, mask=mask, mutable=["batch_stats"])[1]["batch_stats"]

    def steps(params, stats):
        def step(stats, x):
            updated = updates({"params": params, "batch_stats": stats}, x[None])
            return jax.tree.map(lambda value: value[0], updated), None

        return jax.lax.scan(step, stats, x)[0]

    # A scan refuses a carry that changes its type.
    stats = jax.eval_shape(steps, variables["params"], variables["batch_stats"])
    assert stats == variables["batch_stats"]


# --- mistakes ---


@pytest.mark.parametrize(
    ("layer_type", "field", "value", "shown"),
    [
        (BatchNorm, "momentum", -0.1, "momentum must be in [0, 1], got -0.1"),
        (BatchNorm, "momentum", jnp.float32(2), "momentum must be in [0, 1], got 2"),
        (BatchNorm, "momentum", "0.9", "momentum must be a number, got '0.9'"),
        (BatchNorm, "epsilon", float("nan"), "epsilon must be at least 0, got nan"),
        (BatchNorm, "epsilon", np.array([1.0, -1.0]), "epsilon must be at least 0, got -1"),
        (BatchRenorm, "momentum", None, "momentum must be a number, got None"),
        (BatchRenorm, "d_max", -1, "d_max must be at least 0, got -1"),
        (BatchRenorm, "r_max", float("inf"), "r_max must be at least 1 and finite, got inf"),
    ],
)
def test_a_field_out_of_its_range_is_named_with_its_value(layer_type, field, value, shown):
    with pytest.raises((ValueError, TypeError)) as error:
        layer_type(**{field: value})
    assert str(error.value) == f"{layer_type.__name__}: {shown}."


@both_layers
@pytest.mark.parametrize("axis", [3, -4, (0, 3)])
def test_an_axis_that_the_input_lacks_is_named_with_the_shape(layer_type, axis):
    with pytest.raises(ValueError) as error:
        layer_type(axis=axis).init(jax.random.key(0), np.zeros((2, 3, 4)), True)
    assert f"axis={axis} is out of range for an input of shape (2, 3, 4)" in str(error.value)
    assert "[-3, 2]" in str(error.value)


@both_layers
def test_stored_statistics_of_another_shape_are_named(layer_type):
    layer = layer_type(use_scale=False, use_bias=False)
    variables = some_variables(layer, normal(6, 3))
    with pytest.raises(ValueError) as error:
        layer.apply(variables, normal(6, 5), True)
    assert str(error.value) == (
        f"{layer_type.__name__}: the stored mean has shape (3,), but an input of shape (6, 5) "
        "with axis=-1 needs (5,)."
    )


@both_layers
@pytest.mark.parametrize("shape", [(5, 1), (6,), (2, 6, 3)])
def test_a_mask_that_cannot_be_broadcast_is_named(layer_type, shape):
    x = normal(6, 3)
    variables = some_variables(layer_type(), x)
    with pytest.raises(ValueError) as error:
        train(layer_type(), variables, x, np.ones(shape, bool))
    assert str(error.value) == (
        f"{layer_type.__name__}: a mask of shape {shape} cannot be broadcast to an input of "
        "shape (6, 3)."
    )


@both_layers
@pytest.mark.parametrize("shape", [(1, 3), (1, 1, 1, 3), (3,)])
def test_training_on_a_single_value_per_feature_is_refused_with_a_way_out(layer_type, shape):
    layer, x = layer_type(), np.ones(shape, np.float32)
    jax.eval_shape(lambda: layer.init(jax.random.key(0), x, False))  # a batch of one is usual here
    variables = some_variables(layer, x)
    jax.eval_shape(lambda: evaluate(layer, variables, x))  # and fine here
    with pytest.raises(ValueError) as error:
        train(layer, variables, x)
    for part in (f"shape {shape}", "single value per feature", "axis_name", "GroupNorm"):
        assert part in str(error.value)


@both_layers
def test_a_mapped_axis_of_one_example_is_refused_and_of_two_is_not(layer_type):
    x = normal(2, 3)
    layer = layer_type(axis_name="batch")
    variables = some_variables(layer, x)
    mapped = jax.vmap(lambda x: train(layer, variables, x), axis_name="batch")
    jax.eval_shape(mapped, x)
    with pytest.raises(ValueError, match="single value per feature"):
        mapped(x[:1])


@both_layers
@pytest.mark.parametrize("field", ["momentum", "epsilon"])
def test_momentum_and_epsilon_may_differ_between_features(layer_type, field):
    """As with flax's layer: each feature is that of a layer with its number."""
    x, numbers = normal(6, 3, mean=2), np.float32([0.5, 0.25, 1.0])
    variables = some_variables(layer_type(), x)
    y, stats = train.__wrapped__(layer_type(**{field: numbers}), variables, x)
    for i, number in enumerate(numbers):
        one_y, one_stats = train(layer_type(**{field: float(number)}), variables, x)
        np.testing.assert_allclose(y[:, i], one_y[:, i], rtol=1e-5, atol=1e-6)
        for name in set(stats) - {"count"}:
            np.testing.assert_allclose(stats[name][i], one_stats[name][i], rtol=1e-5)
