"""BatchNorm is the paper's, and flax.linen's wherever that is right."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from bnrepro import BatchNorm
from tests.layers import reference
from tests.layers.running import (
    ROUNDING,
    assert_same,
    assert_step,
    broadcastable,
    normal,
    seen,
    some_variables,
    train_and_differentiate,
)

pytestmark = pytest.mark.numbers

# --- the paper ---

SHAPES_AND_AXES = [((6, 3), -1), ((4, 3, 5), 1), ((4, 3, 2, 5), (1, -1)), ((3, 5), 0)]
# So many values that they are summed in slices: odd, prime and divisible lengths, at each place
# that the longest or only axis may have.
LONG_SHAPES_AND_AXES = [
    ((8193, 3), -1),
    ((8209, 2), -1),
    ((3, 8200), 0),
    ((40, 3, 16, 15), 1),
    ((2, 3, 19, 300), 1),
    ((2, 3, 4, 1100), 1),
    ((3, 3200, 5, 2), (0, -1)),
]


@pytest.mark.parametrize(("shape", "axis"), SHAPES_AND_AXES + LONG_SHAPES_AND_AXES)
def test_a_training_step_is_algorithm_1_with_the_papers_gradients(shape, axis):
    """Claim A1; gradients pass through the minibatch's mean and biased variance (section 3)."""
    x, dy = normal(*shape, mean=2, std=3), normal(*shape, seed=1)
    layer = BatchNorm(axis=axis, momentum=0.9)
    variables = some_variables(layer, x)
    gamma, beta, mu, var = broadcastable(variables, x, axis)
    mu_b, var_b, _ = reference.minibatch(x, axis)
    assert_step(
        train_and_differentiate(layer, variables, x, dy),
        reference.batch_norm(x, gamma, beta, axis=axis),
        {"mean": reference.moved(mu, mu_b, 0.9), "var": reference.moved(var, var_b, 0.9)},
        reference.batch_renorm_gradients(x, dy, 1, 0, gamma, axis=axis),
    )


# --- flax.linen ---


@pytest.mark.parametrize(
    ("fields", "shape", "dtype", "tolerance"),
    [
        ({"axis": 1, "use_bias": False}, (4, 3, 5), "float32", 1e-5),
        ({"axis": (1, -1), "use_scale": False}, (4, 3, 2, 5), "float32", 1e-5),
        ({"axis": (-1, 0), "use_fast_variance": False}, (4, 3, 2), "float32", 1e-5),
        (
            {"momentum": 0.5, "epsilon": 0.1, "use_bias": False, "use_scale": False},
            (6, 3),
            "float16",
            ROUNDING["float16"],
        ),
        ({}, (6, 3), "complex64", 1e-5),
        ({}, (6, 3), "int32", 1e-5),
        ({"dtype": jnp.bfloat16}, (6, 3), "float32", ROUNDING["bfloat16"]),
        ({"param_dtype": jnp.bfloat16}, (6, 3), "bfloat16", ROUNDING["bfloat16"]),
        ({"force_float32_reductions": False}, (6, 3), "float16", 4 * ROUNDING["float16"]),
        (
            {"force_float32_reductions": False, "param_dtype": jnp.bfloat16},
            (6, 3),
            "bfloat16",
            4 * ROUNDING["bfloat16"],
        ),
    ],
    ids=str,
)
def test_it_agrees_with_flax_and_takes_its_variables(fields, shape, dtype, tolerance):
    ours, theirs = BatchNorm(**fields), nn.BatchNorm(**fields)
    x, dy = normal(*shape, mean=1, std=2).astype(dtype), normal(*shape, seed=1)
    if dtype == "complex64":
        x = x + 1j * normal(*shape, seed=2)
    variables = some_variables(theirs, x)
    assert_same(seen(ours, variables, x, dy), seen(theirs, variables, x, dy), tolerance)


def test_it_initializes_as_flax_does():
    x = normal(6, 3)
    fields = {
        "scale_init": nn.initializers.normal(1.0),
        "bias_init": nn.initializers.uniform(1.0),
        "param_dtype": jnp.float16,
    }
    ours, theirs = (
        jax.jit(layer_type(use_running_average=False, **fields).init)(jax.random.key(0), x)
        for layer_type in (BatchNorm, nn.BatchNorm)
    )
    assert_same(ours, theirs, 0)


@pytest.mark.parametrize(
    ("transform", "groups"),
    [(jax.vmap, None), (jax.pmap, ((0, 2), (1, 3), (4, 7), (5, 6)))],
)
def test_across_a_mapped_axis_it_agrees_with_flax(transform, groups):
    x, dy = normal(8, 4, 3), normal(8, 4, 3, seed=1)
    variables = some_variables(nn.BatchNorm(), x)
    ours, theirs = (
        transform(
            functools.partial(seen, layer_type(axis_name="devices", axis_index_groups=groups)),
            axis_name="devices",
            in_axes=(None, 0, 0),
        )(variables, x, dy)
        for layer_type in (BatchNorm, nn.BatchNorm)
    )
    assert_same(ours, theirs, 1e-5)
