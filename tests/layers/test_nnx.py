"""The NNX layers: flax.nnx's where that is right, and Linen's of this package to the last bit."""

import inspect
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import bnrepro
from bnrepro import renorm_schedules
from bnrepro.nnx import BatchNorm, BatchRenorm
from tests.layers import reference
from tests.layers.running import (
    ROUNDING,
    assert_same,
    normal,
    seen,
    statistics_of,
)

both_layers = pytest.mark.parametrize("layer_type", [BatchNorm, BatchRenorm])
both_frameworks = pytest.mark.parametrize(
    ("linen_type", "nnx_type"),
    [(bnrepro.BatchNorm, BatchNorm), (bnrepro.BatchRenorm, BatchRenorm)],
    ids=["BatchNorm", "BatchRenorm"],
)


def made(layer_type, num_features=3, **fields):
    """A layer with nothing at 0 or 1 that a mistake could hide behind."""
    layer = layer_type(num_features, rngs=nnx.Rngs(0), **fields)
    rng = np.random.default_rng(0)
    for name in ("scale", "bias", "mean", "var", "std"):
        variable = getattr(layer, name, None)
        if variable is not None:
            numbers = rng.uniform(0.5, 2.0, num_features)
            variable[...] = jnp.asarray(numbers, variable[...].dtype)
    return layer


# --- flax.nnx ---


def signature(function):
    return {
        name: (parameter.kind, parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
    }


def test_it_is_constructed_and_called_as_flax_batch_norm_is():
    """The default of promote_dtype included: with another one parameters would be rounded."""
    assert signature(BatchNorm.__init__) == signature(nnx.BatchNorm.__init__)
    for layer_type in (BatchNorm, BatchRenorm):
        assert signature(layer_type.__call__) == signature(nnx.BatchNorm.__call__)


def test_it_holds_the_variables_and_draws_the_parameters_that_flax_batch_norm_does():
    fields = {
        "scale_init": nnx.initializers.normal(1.0),
        "bias_init": nnx.initializers.uniform(1.0),
        "param_dtype": jnp.float16,
    }
    ours, theirs = (
        nnx.state(layer_type(3, rngs=nnx.Rngs(0), **fields))
        for layer_type in (BatchNorm, nnx.BatchNorm)
    )
    assert_same(ours, theirs, 0)


@both_layers
def test_metadata_of_scale_and_bias_is_kept(layer_type):
    layer = layer_type(
        3, rngs=nnx.Rngs(0), scale_metadata={"decay": False}, bias_metadata={"note": "beta"}
    )
    assert layer.scale.get_metadata()["decay"] is False
    assert layer.bias.get_metadata()["note"] == "beta"


def everything_seen(layer, x, dy, mask):
    """As `seen` of Linen's layer: evaluation, and a training step with its gradients."""
    evaluated = layer(x, use_running_average=True)

    def loss(layer, x):
        y = layer(x, use_running_average=False, mask=mask)
        return jnp.sum(jnp.real(dy * y)), y

    state = nnx.DiffState(0, nnx.Param)
    (_, y), (gradients, dx) = nnx.value_and_grad(loss, argnums=(state, 1), has_aux=True)(layer, x)
    return evaluated, (y, statistics_of(layer), nnx.to_pure_dict(gradients), dx)


@pytest.mark.parametrize(
    ("fields", "shape", "dtype", "computed_in"),
    [
        ({"axis": 1, "use_bias": False}, (4, 3, 5), "float32", "float32"),
        ({"axis": 0, "use_scale": False, "use_fast_variance": False}, (3, 7), "float32", "float32"),
        ({"use_bias": False, "use_scale": False}, (4, 2, 3), "float32", "float32"),
        ({"momentum": 0.5, "epsilon": 0.1}, (6, 3), "float16", "float32"),
        ({"dtype": jnp.float32}, (6, 3), "bfloat16", "float32"),
        ({"param_dtype": jnp.bfloat16}, (6, 3), "bfloat16", "float32"),
        ({"dtype": jnp.bfloat16}, (6, 3), "float32", "bfloat16"),
        ({"axis_name": "batch", "masked": True}, (4, 6, 3), "float32", "float32"),
    ],
    ids=str,
)
def test_it_agrees_with_flax(fields, shape, dtype, computed_in):
    """To the rounding of each result, or of what flax computes in."""
    fields = dict(fields)
    x, dy = (jnp.asarray(normal(*shape, mean=1, std=2, seed=k)).astype(dtype) for k in range(2))
    # The same number counts in each share: flax takes a mean of means.
    mask = (jnp.arange(shape[-2]) < 4)[:, None] if fields.pop("masked", False) else None

    def all_of(layer_type):
        def of_share(x, dy):
            return everything_seen(made(layer_type, **fields), x, dy, mask)

        mapped = jax.vmap(of_share, axis_name="batch") if "axis_name" in fields else of_share
        return jax.jit(mapped)(x, dy)

    ours, theirs = all_of(BatchNorm), all_of(nnx.BatchNorm)
    tolerances = {name: max(own, ROUNDING[computed_in]) for name, own in ROUNDING.items()}
    assert_same(ours, theirs, tolerances)


@both_layers
def test_a_promotion_of_ones_own_is_called_and_does_not_touch_the_statistics(layer_type):
    calls = []

    def promote(values, dtype=None):
        calls.append((len(values), dtype))
        return tuple(None if value is None else value.astype(jnp.bfloat16) for value in values)

    x = jnp.asarray(normal(64, 3, mean=100.3))
    fields = {"dtype": jnp.float16, "momentum": 0.0}
    layer = layer_type(3, promote_dtype=promote, rngs=nnx.Rngs(0), **fields)
    layer(x)
    assert calls == [(5, jnp.float16)]
    mean, var, _ = reference.minibatch(x)
    np.testing.assert_allclose(layer.mean[...], mean[0], rtol=1e-6)
    deviation = {"var": var[0], "std": np.sqrt(var[0] + 1e-5)}
    name = "var" if layer_type is BatchNorm else "std"
    np.testing.assert_allclose(statistics_of(layer)[name], deviation[name], rtol=1e-5)

    y = layer(x, use_running_average=True)
    rounded = np.asarray(x.astype(jnp.bfloat16), np.float64)  # the input is promoted: rounded
    right = (rounded - mean) / np.sqrt(var + 1e-5)
    assert y.dtype == jnp.float16
    np.testing.assert_allclose(np.asarray(y, np.float64), right, rtol=2e-3, atol=2e-3)


# --- modes ---


@both_layers
def test_modes_are_set_as_flax_sets_them(layer_type):
    """The last word of train, eval and set_attributes; a view has its own; the call goes first."""
    x = jnp.asarray(normal(6, 3, mean=5))

    def trains(layer, **arguments):
        before = statistics_of(layer)
        layer(x, **arguments)
        return not all(jax.tree.leaves(jax.tree.map(np.array_equal, before, statistics_of(layer))))

    def story(layer):
        yield trains(layer)  # the default of flax.nnx
        layer.eval()
        yield trains(layer)
        yield trains(layer, use_running_average=False)
        view = nnx.view(layer, use_running_average=False)
        yield trains(view)  # the view shares the averages
        yield trains(layer)
        layer.train()
        yield trains(layer)
        layer.set_attributes(use_running_average=True)
        yield trains(layer)
        yield trains(nnx.view(layer))
        layer.train()
        yield trains(layer, use_running_average=True)

    ours, theirs = (list(story(made(each))) for each in (layer_type, nnx.BatchNorm))
    assert ours == theirs == [True, False, True, True, False, True, False, False, False]


# --- Linen ---


@pytest.mark.numbers
@both_frameworks
def test_it_trains_and_evaluates_as_linens_to_the_last_bit(linen_type, nnx_type):
    limits = dict(zip(("r_max", "d_max"), renorm_schedules(30), strict=True))
    limits = limits if nnx_type is BatchRenorm else {}
    theirs, ours = linen_type(**limits), made(nnx_type, **limits)
    params, stats = nnx.to_pure_dict(nnx.state(ours, nnx.Param)), statistics_of(ours)
    step = nnx.jit(everything_seen)
    for k in range(30):
        x, dy = normal(7, 3, mean=2, std=3, seed=k), normal(7, 3, seed=1000 + k)
        found = step(ours, jnp.asarray(x), jnp.asarray(dy), None)
        right = seen(theirs, {"params": params, "batch_stats": stats}, x, dy)
        jax.tree.map(np.testing.assert_array_equal, found, right)
        _, (_, stats, _, _) = right


@both_frameworks
def test_averages_of_complex_inputs_are_complex_as_linens(linen_type, nnx_type):
    x = normal(16, 3, mean=3) + 1j * normal(16, 3, mean=7, seed=1).astype(np.complex64)
    theirs, ours = linen_type(momentum=0.5), nnx_type(3, momentum=0.5, rngs=nnx.Rngs(0))
    variables = theirs.init(jax.random.key(0), x, use_running_average=True)
    for _ in range(2):
        y, updates = theirs.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
        variables |= updates
        assert_same(ours(x), y, 1e-5)
    assert_same(statistics_of(ours), variables["batch_stats"], 1e-5)


# --- NNX's ways ---


@both_layers
def test_averages_may_be_references_that_a_differentiated_function_writes(layer_type):
    """Which hold no value that is differentiated; flax.nnx's layer does not get this far."""
    x = jnp.asarray(normal(6, 3, mean=5))

    def gradient(layer, x):
        return jax.grad(lambda x: jnp.sum(layer(x) ** 3))(x)

    right_layer = made(layer_type)
    right = nnx.grad(lambda layer, x: jnp.sum(layer(x) ** 3), argnums=1)(right_layer, x)
    with nnx.var_defaults(ref=True):
        layer = made(layer_type)
        found = jax.jit(gradient)(layer, x)
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(layer.mean[...], right_layer.mean[...], rtol=1e-6)


@both_layers
def test_a_single_value_per_feature_is_a_warning(layer_type, caplog):
    """Not an error: flax.nnx's models are tried out on one example, which normalizes to zero."""
    layer = made(layer_type)
    with caplog.at_level(logging.WARNING):
        layer(jnp.ones((2, 3)))
        assert not caplog.records
        layer(jnp.ones((1, 3)), use_running_average=True)
        assert not caplog.records
        layer(jnp.ones((1, 3)))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"{layer_type.__name__}: an input of shape (1, 3)" in record.getMessage()
    assert "single value per feature" in record.getMessage()


# --- mistakes, which Linen's layers share: test_normalization has more of each ---


@pytest.mark.parametrize(
    ("layer_type", "fields", "num_features", "message"),
    [
        (BatchNorm, {"momentum": 1.5}, 3, r"momentum must be in \[0, 1\], got 1.5\.$"),
        (BatchRenorm, {"epsilon": -1}, 3, r"epsilon must be at least 0, got -1\.$"),
        (BatchRenorm, {"r_max": 0.5}, 3, r"r_max must be at least 1, got 0.5\.$"),
        (BatchNorm, {}, 5, r"the stored mean has shape \(5,\)"),
        (BatchRenorm, {}, 5, r"the stored mean has shape \(5,\)"),
        (BatchNorm, {"use_running_average": None}, 3, "use_running_average is given"),
        (BatchRenorm, {"use_running_average": None}, 3, "use_running_average is given"),
    ],
)
def test_a_mistake_is_named_with_its_layer(layer_type, fields, num_features, message):
    with pytest.raises(ValueError, match=f"^{layer_type.__name__}: {message}"):
        made(layer_type, num_features, **fields)(jnp.ones((6, 3)))
