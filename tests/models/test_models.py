"""The networks and the normalizers a config can name."""

from functools import partial
from itertools import product

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnrepro.comparison.keys import NORMALIZERS, PLACEMENTS
from bnrepro.layers import BatchNorm, BatchRenorm
from bnrepro.models import make_network, make_normalizer
from bnrepro.models.convolution import convolution
from bnrepro.models.dropout import Dropout
from bnrepro.training.step import outputs

X = jax.random.normal(jax.random.key(0), (6, 4, 5, 1))
SETTINGS = {"steps": 100, "momentum": 0.99, "epsilon": 1e-5, "r_max": 3.0, "d_max": 5.0}
SETTINGS |= {"warmup": 5 / 130, "r_max_end": 40 / 130, "d_max_end": 25 / 130, "num_groups": 10}


def named(name, **changes):
    """A network by its name, of two layers and without a normalizer unless `changes` say so."""
    settings = {"hidden": (20, 10), "channels": (20, 10), "activation": "relu", "init": "normal"}
    settings |= {"init_std": 0.5, "dropout": 0.0, "num_classes": 3, "normalizer": None}
    return make_network(name, **settings | changes)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_every_normalizer_trains_and_evaluates_and_takes_the_bias_of_the_linear_layer(name):
    model = named("mlp", normalizer=make_normalizer(name, **SETTINGS))

    def traced():
        variables = model.init(jax.random.key(1), X[:1], train=True)
        logits, _ = model.apply(variables, X, train=True, mutable=["batch_stats"])
        return variables["params"], logits, model.apply(variables, X, train=False)

    params, *logits = jax.eval_shape(traced)
    assert [x.shape for x in logits] == [(6, 3), (6, 3)]
    for layer in ("dense_0", "dense_1"):
        assert ("bias" in params[layer]) == (name == "none")
    assert ("norm_1" in params) == (name != "none")


@pytest.mark.parametrize(("name", "groups"), [("group_norm", 2), ("layer_norm", 1)])
def test_a_mean_far_above_the_deviation_does_not_harm_the_normalizers_of_flax(name, groups):
    x = np.random.default_rng(0).normal(1_000, 1, (6, 20)).astype(np.float32)
    layer = make_normalizer(name, **SETTINGS | {"num_groups": groups})(use_running_average=False)
    y, _ = layer.init_with_output(jax.random.key(0), x)
    parts = x.astype(np.float64).reshape(6, groups, -1)
    expected = (parts - parts.mean(2, keepdims=True)) / np.sqrt(parts.var(2, keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, expected.reshape(6, 20), atol=2e-3)


def test_the_plain_network_is_the_formula():
    model = named("mlp", activation="sigmoid")
    params = model.init(jax.random.key(1), X, train=True)["params"]
    params = jax.tree.map(lambda p: p + 0.1, params)  # biases start at zero
    x = np.asarray(X, np.float64).reshape(6, 20)
    for layer in ("dense_0", "dense_1"):
        z = x @ np.asarray(params[layer]["kernel"], np.float64) + np.asarray(params[layer]["bias"])
        x = 1 / (1 + np.exp(-z))
    expected = x @ np.asarray(params["logits"]["kernel"]) + np.asarray(params["logits"]["bias"])
    np.testing.assert_allclose(model.apply({"params": params}, X, train=False), expected, rtol=1e-4)


def every_call(module, method):
    """Whether to capture what a method returns: all but the network's own output."""
    return method == "__call__" and module.path


def initialized(model, x):
    """Variables and the outputs of all modules in training."""
    options = {"train": True, "mutable": True, "capture_intermediates": every_call}
    variables = model.init(jax.random.key(1), x, **options)
    return variables, outputs({"intermediates": variables.pop("intermediates")})


def abstract(model, *shape):
    """The same as shapes and types."""
    return jax.eval_shape(partial(initialized, model), jnp.zeros(shape))


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_the_normalizer_stands_where_it_was_placed(kind, placement):
    """Each linear layer's input is what the one before put out, through what stands between."""
    normalizer = make_normalizer("batch_norm", **SETTINGS)
    model = named(kind, normalizer=normalizer, norm_placement=placement)
    images = jax.random.normal(jax.random.key(2), (6, 8, 8, 1))
    variables, out = jax.tree.map(np.asarray, jax.jit(partial(initialized, model))(images))
    linear = {"mlp": "dense", "cnn": "conv"}[kind]
    first = model.nonlinearity_inputs()[0]
    assert first == ("norm_0" if placement != "after" else f"{linear}_0")

    def standardized(x):
        axes = tuple(range(x.ndim - 1))
        return (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5)

    before = standardized(out[f"{linear}_0"]) if placement != "after" else out[f"{linear}_0"]
    np.testing.assert_allclose(out[first], before, rtol=1e-3, atol=1e-4)
    passed_on = np.maximum(out[first], 0)
    assert ("norm_after_0" in out) == (placement == "both")
    if placement != "before":
        last = out["norm_0" if placement == "after" else "norm_after_0"]
        np.testing.assert_allclose(last, standardized(passed_on), rtol=1e-3, atol=1e-4)
        passed_on = last
    if kind == "mlp":
        kernel = np.asarray(variables["params"]["dense_1"]["kernel"])
        np.testing.assert_allclose(out["dense_1"], passed_on @ kernel, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *product(
            ("mlp", "cnn"),
            (
                "batch_renorm", "evonorm_s0", "filter_response_norm", "group_norm",
                "moving_average_batch_norm", "moving_average_norm", "none",
            ),
        ),
        ("inception", "batch_renorm"),
        ("resnet", "batch_renorm"),
    ],
)  # fmt: skip
def test_of_half_precision_are_activations_alone(kind, name, shallow):
    normalizer = make_normalizer(name, dtype=jnp.bfloat16, **SETTINGS)
    settings = {"stem_stride": 2, "auxiliary": True} if kind == "inception" else {}
    model = named(kind, normalizer=normalizer, dtype="bfloat16", **settings)
    variables, out = abstract(model, 6, 16, 16, 1)
    assert {x.dtype.name for x in jax.tree.leaves(variables)} <= {"float32", "int32"}
    train = partial(model.apply, train=True, mutable=["batch_stats"])
    _, updates = jax.eval_shape(train, variables, jnp.zeros((6, 16, 16, 1)))
    assert updates.get("batch_stats") == variables.get("batch_stats")
    logits = {"logits", "auxiliary/logits", "auxiliary_logits", "auxiliary"}
    for module, x in out.items():
        assert x.dtype == (jnp.float32 if module in logits else jnp.bfloat16)


def test_the_two_batch_normalizers_share_their_common_settings():
    settings = SETTINGS | {"momentum": 0.7, "epsilon": 1e-3, "steps": 1300}
    norm = make_normalizer("batch_norm", **settings)()
    renorm = make_normalizer("batch_renorm", **settings)()
    assert isinstance(norm, BatchNorm)
    assert isinstance(renorm, BatchRenorm)
    assert (norm.momentum, norm.epsilon) == (renorm.momentum, renorm.epsilon) == (0.7, 1e-3)
    # The paper's ramp, a hundred times shorter: 50, 250 and 400 steps of 1,300.
    assert [float(renorm.r_max(step)) for step in (50, 225, 400)] == pytest.approx([1, 2, 3])
    assert [float(renorm.d_max(step)) for step in (50, 150, 250)] == pytest.approx([0, 2.5, 5])


@pytest.mark.parametrize(
    ("strides", "padding"),
    [((1, 1), "VALID"), ((3, 1), "SAME"), ((2, 1), [(1, 0), (2, 3)])],
)
def test_a_convolution_and_its_gradients_are_those_of_xla(strides, padding):
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel = jax.random.normal(keys[0], (4, 9, 8, 3)), jax.random.normal(keys[1], (3, 2, 3, 5))

    layout = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}

    def xla(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **layout)

    def ours(x, kernel):
        return convolution(x, kernel, strides, padding, **layout)

    expected, expected_vjp = jax.vjp(xla, x, kernel)
    y, vjp = jax.vjp(ours, x, kernel)
    cotangent = jax.random.normal(keys[2], expected.shape)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    for found, right in zip(vjp(cotangent), expected_vjp(cotangent), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere XLA has its own")
def test_the_gradient_of_a_convolutions_input_is_computed_once_for_all_that_read_it():
    layout = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    x, kernel = jnp.ones((8, 16, 16, 8)), jnp.ones((3, 3, 8, 8))
    scale = jnp.ones((1, 1, 1, 8))

    def loss(x, scale, bias):
        y = convolution(jnp.tanh(x) * scale + bias, kernel, (2, 2), "SAME", **layout)
        return jnp.sum(y**2)

    def traffic(*of):
        compiled = jax.jit(jax.grad(loss, of)).lower(x, scale, scale).compile()
        return compiled.cost_analysis()["bytes accessed"]

    # Reading it is cheap; it is a sum over nine products.
    assert traffic(0, 1, 2) < 1.5 * traffic(0)


def test_a_convolutional_network_halves_the_image_and_has_one_statistic_a_channel():
    model = named("cnn", channels=(10, 20), normalizer=make_normalizer("batch_norm", **SETTINGS))
    variables, out = jax.jit(partial(initialized, model))(X)
    # Images of 4 x 5.
    assert [out[f"conv_{i}"].shape for i in (0, 1)] == [(6, 2, 3, 10), (6, 1, 2, 20)]
    assert variables["batch_stats"]["norm_1"]["mean"].shape == (20,)
    np.testing.assert_allclose(out["norm_1"].mean((0, 1, 2)), 0, atol=1e-5)


@pytest.mark.parametrize(("init", "std"), [("normal", 0.02), ("lecun_normal", 1 / np.sqrt(400))])
def test_initializations_are_made_by_name(init, std):
    model = named("mlp", hidden=(500,), init=init, init_std=0.02)
    variables = model.init(jax.random.key(1), jnp.zeros((1, 400)), train=True)
    kernel = variables["params"]["dense_0"]["kernel"]
    np.testing.assert_allclose(np.std(kernel), std, rtol=0.01)
    assert np.abs(np.mean(kernel)) < std / 100


def test_dropout_drops_its_share_and_keeps_the_mean_unless_it_is_deterministic():
    x = jnp.ones((100, 100))
    y = Dropout(0.3).apply({}, x, False, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_allclose(np.mean(y == 0), 0.3, atol=0.02)
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.7], rtol=1e-6)
    np.testing.assert_array_equal(Dropout(0.3).apply({}, x, True), x)
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x, False), x)


def test_training_with_dropout_but_no_random_numbers_is_an_error_as_in_flax():
    model = named("mlp", dropout=0.5)
    variables = model.init(jax.random.key(1), X, train=False)
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        model.apply(variables, X, train=True)
    evaluated = model.apply(variables, X, train=False)
    np.testing.assert_array_equal(
        model.apply(variables, X, train=True, deterministic=True), evaluated
    )


@pytest.mark.parametrize("name", ["mlp", "cnn", "inception", "resnet"])
def test_networks_drop_hidden_units_or_features_and_nothing_at_a_rate_of_zero(name, shallow):
    def dropouts(rate):
        _, out = abstract(named(name, dropout=rate), 2, 75, 75, 1)
        return [module for module in out if module.startswith("dropout")]

    assert dropouts(0.5) == (["dropout_0", "dropout_1"] if name == "mlp" else ["dropout"])
    assert dropouts(0.0) == []
