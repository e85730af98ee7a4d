"""ResNet-50 has the shapes of the paper's table 1, and its blocks are their formula."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnrepro.comparison.keys import NORMALIZERS
from bnrepro.layers import BatchNorm
from bnrepro.models import make_normalizer
from bnrepro.models.resnet import Bottleneck, ResNet
from bnrepro.training.evaluation import measure_once
from bnrepro.training.measures import make_measure
from bnrepro.training.step import Task, outputs
from tests.models import test_models
from tests.models.test_models import SETTINGS, abstract

IMAGES = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
NETWORK = partial(ResNet, 10, nn.relu, BatchNorm, nn.initializers.normal(0.3))
SMALL = partial(NETWORK, width=1 / 16, stem_stride=1)


def named(**changes):
    settings = {"init": "lecun_normal", "num_classes": 1000, "normalizer": BatchNorm}
    return test_models.named("resnet", **settings | changes)


def initialized(model, x=IMAGES):
    return jax.jit(partial(model.init, train=True))(jax.random.key(1), x)


def test_every_stage_has_its_shape_and_all_have_the_published_number_of_parameters():
    variables, out = abstract(named(), 2, 224, 224, 3)
    # Table 1; conv1 includes the pooling.
    sizes = {"conv1": (56, 64), "conv2_3": (56, 256), "conv3_4": (28, 512)}
    sizes |= {"conv4_6": (14, 1024), "conv5_3": (7, 2048)}
    # Version 1.5: the second convolution has the stride.
    sizes |= {"conv3_1/conv_1": (56, 128), "conv3_1/conv_2": (28, 128)}
    for name, (size, channels) in sizes.items():
        assert out[name].shape == (2, size, size, channels)
    assert out["logits"].shape == (2, 1000)
    assert sum(name.startswith("conv") for name in variables["params"]) == 1 + 16
    # As torchvision's documentation has it.
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == 25_557_032


def test_the_stem_for_small_images_keeps_their_size(shallow):
    variables, out = abstract(NETWORK(stem_stride=1), 2, 32, 32, 3)
    assert variables["params"]["conv1"]["conv_1"]["kernel"].shape == (3, 3, 3, 64)
    assert out["conv1"].shape == (2, 32, 32, 64)


@pytest.mark.parametrize(("width", "channels"), [(0.25, 16), (1.5, 96), (0.001, 1)])
def test_the_width_multiplies_all_channels(width, channels, shallow):
    _, out = abstract(named(width=width), 2, 32, 32, 3)
    assert out["conv1"].shape[-1] == channels
    assert out["conv2_1"].shape[-1] == 4 * channels


def convolved(x, kernel, stride):
    """With zeros around `x`."""
    size, (_, height, width, _) = len(kernel), x.shape
    x = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    return sum(
        x[:, i : i + height : stride, j : j + width : stride] @ kernel[i, j]
        for i in range(size)
        for j in range(size)
    )


@pytest.mark.parametrize(("stride", "inputs"), [(2, 3), (1, 3), (1, 8)])
def test_a_bottleneck_is_the_formula(stride, inputs):
    normalizer = partial(BatchNorm, use_running_average=True, epsilon=1e-3)
    model = Bottleneck(2, stride, partial(nn.Conv, use_bias=False), normalizer, nn.relu)
    images = jax.random.normal(jax.random.key(0), (2, 6, 8, inputs))
    variables = jax.jit(model.init)(jax.random.key(1), images)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda v: v + rng.uniform(0, 0.5, v.shape), variables)
    params, stats = (jax.tree.map(np.float64, variables[c]) for c in ("params", "batch_stats"))

    def normalized(x, layer, stride=1):
        x, norm = convolved(x, params[f"conv_{layer}"]["kernel"], stride), f"norm_{layer}"
        x_hat = (x - stats[norm]["mean"]) / np.sqrt(stats[norm]["var"] + 1e-3)
        return x_hat * params[norm]["scale"] + params[norm]["bias"]

    x = np.float64(images)
    y = np.maximum(normalized(x, "1"), 0)
    y = np.maximum(normalized(y, "2", stride), 0)
    shortcut = x if inputs == 8 else normalized(x, "shortcut", stride)
    expected = np.maximum(normalized(y, "3") + shortcut, 0)
    found = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(NORMALIZERS) - {"none"}))
def test_the_last_scale_of_a_block_may_start_at_zero_with_every_normalizer(name):
    normalizer = make_normalizer(name, **SETTINGS | {"num_groups": 2})
    normalizer = partial(normalizer, use_running_average=False)
    model = Bottleneck(2, 1, partial(nn.Conv, use_bias=False), normalizer, nn.relu, True)
    x = IMAGES.repeat(3, -1)[..., :8]
    y, variables = jax.jit(model.init_with_output)(jax.random.key(1), x)
    scales = {layer: p["scale"] for layer, p in variables["params"].items() if "scale" in p}
    assert {layer: np.unique(scale) for layer, scale in scales.items()} == {
        "norm_1": 1, "norm_2": 1, "norm_3": 0,
    }  # fmt: skip
    # It passes on its input.
    np.testing.assert_array_equal(y, nn.relu(x))


def test_of_a_network_the_last_scale_of_each_block_starts_at_zero(shallow):
    params = initialized(named(width=1 / 16, zero_last_scale=True))["params"]
    at_zero = {
        f"{block}/{layer}"
        for block in ("conv1", "conv2_1")
        for layer, p in params[block].items()
        if "scale" in p and not p["scale"].any()
    }
    assert at_zero == {"conv2_1/norm_3"}


def test_recomputed_activations_change_neither_names_nor_gradients(shallow):
    variables = initialized(SMALL())

    def gradient(epsilon, remat):
        # A traced setting of the normalizer, as in a comparison.
        model = SMALL(remat=remat).clone(normalizer=partial(BatchNorm, epsilon=epsilon))

        def loss(params):
            given = {**variables, "params": params}
            logits, _ = model.apply(given, IMAGES, train=True, mutable=["batch_stats"])
            return jnp.square(logits).sum()

        return jax.grad(loss)(variables["params"])

    traced = [jax.jit(gradient, static_argnums=1).trace(1e-3, remat) for remat in (False, True)]
    # The normalizers recompute, too; conv1 and conv2_1 as a whole come on top.
    counts = [str(each.jaxpr).count("= remat") for each in traced]
    assert counts[1] == counts[0] + 2
    # Also the names are equal.
    expected, found = (each.lower().compile()(1e-3) for each in traced)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), found, expected)


def test_without_a_normalizer_the_convolutions_have_biases(shallow):
    variables, _ = abstract(named(normalizer=None), 2, 32, 32, 3)
    assert variables["params"]["conv2_1"]["conv_3"]["bias"].shape == (256,)
    assert named(normalizer=None).nonlinearity_inputs()[:3] == (
        "conv1/conv_1", "conv2_1/conv_1", "conv2_1/conv_2",
    )  # fmt: skip


def test_the_inputs_of_all_nonlinearities_are_measured(shallow):
    model = SMALL()
    variables, batch = initialized(model), {"images": IMAGES}
    measure = make_measure(("near_linear",), Task(model, None))

    @jax.jit
    def both(variables):
        options = {"mutable": ["intermediates"], "capture_intermediates": True}
        _, every = model.apply(variables, IMAGES, train=False, **options)
        return measure_once(variables, batch, model=model, measure=measure), outputs(every)

    measured, out = both(variables)
    inputs = ("conv1/norm_1", "conv2_1/norm_1", "conv2_1/norm_2", "conv2_1/sum")
    assert model.nonlinearity_inputs() == inputs
    np.testing.assert_array_equal(out["conv2_1"], nn.relu(out["conv2_1/sum"]))
    for name in inputs:
        share = np.mean(abs(out[name]) <= 1)
        np.testing.assert_allclose(measured[f"near_linear/{name}"], share, rtol=1e-4)
