"""ResNet-50 and Inception-v3 compute what torchvision's and Keras' do, and share their arrays."""

import importlib
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from bnrepro.interchange import save_arrays
from bnrepro.layers import BatchNorm
from bnrepro.layouts import from_keras, from_torchvision, to_keras, to_torchvision
from bnrepro.models.inception import Inception
from bnrepro.models.resnet import ResNet
from scripts import export
from tests.small_dataset import small_config

CONFIG = small_config()
MODEL = ResNet(10, nn.relu, BatchNorm, nn.initializers.lecun_normal())
INCEPTION = Inception(
    10,
    nn.relu,
    partial(BatchNorm, use_scale=False, epsilon=1e-3),
    nn.initializers.lecun_normal(),
)


def torchvision_shapes():
    """Of the arrays of a resnet50 of 10 classes, by a rule."""
    shapes = {"fc.weight": (10, 2048), "fc.bias": (10,)}

    def add(conv, norm, outputs, inputs, size):
        shapes[f"{conv}.weight"] = (outputs, inputs, size, size)
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{name}"] = (outputs,)

    add("conv1", "bn1", 64, 3, 7)
    inputs = 64
    for layer, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], start=1):
        for block in range(blocks):
            at = f"layer{layer}.{block}"
            add(f"{at}.conv1", f"{at}.bn1", width, inputs, 1)
            add(f"{at}.conv2", f"{at}.bn2", width, width, 3)
            add(f"{at}.conv3", f"{at}.bn3", 4 * width, width, 1)
            if block == 0:
                add(f"{at}.downsample.0", f"{at}.downsample.1", 4 * width, inputs, 1)
            inputs = 4 * width
    return shapes


def keras_shapes():
    """Of the arrays of an InceptionV3 of 10 classes, in the order of Keras' code."""
    inputs, shapes = 3, {"predictions/kernel": (2048, 10), "predictions/bias": (10,)}
    number = 0

    def chain(inputs, *layers):
        """Layers of outputs, height and width; returns the outputs of the last."""
        nonlocal number
        for outputs, height, width in layers:
            suffix = f"_{number}" if number else ""
            shapes[f"conv2d{suffix}/kernel"] = (height, width, inputs, outputs)
            for name in ("beta", "moving_mean", "moving_variance"):
                shapes[f"batch_normalization{suffix}/{name}"] = (outputs,)
            inputs, number = outputs, number + 1
        return inputs

    def one(outputs):
        return outputs, 1, 1

    inputs = chain(3, (32, 3, 3), (32, 3, 3), (64, 3, 3), one(80), (192, 3, 3))
    for pool in (32, 64, 64):
        chain(inputs, one(64))
        chain(inputs, one(48), (64, 5, 5))
        chain(inputs, one(64), (96, 3, 3), (96, 3, 3))
        chain(inputs, one(pool))
        inputs = 64 + 64 + 96 + pool
    chain(inputs, (384, 3, 3))
    chain(inputs, one(64), (96, 3, 3), (96, 3, 3))
    inputs += 384 + 96
    for n in (128, 160, 160, 192):
        chain(inputs, one(192))
        chain(inputs, one(n), (n, 1, 7), (192, 7, 1))
        chain(inputs, one(n), (n, 7, 1), (n, 1, 7), (n, 7, 1), (192, 1, 7))
        chain(inputs, one(192))
        inputs = 4 * 192
    chain(inputs, one(192), (320, 3, 3))
    chain(inputs, one(192), (192, 1, 7), (192, 7, 1), (192, 3, 3))
    inputs += 320 + 192
    for _ in range(2):
        chain(inputs, one(320))
        for layers in ([one(384)], [one(448), (384, 3, 3)]):
            forked = chain(inputs, *layers)
            chain(forked, (384, 1, 3))
            chain(forked, (384, 3, 1))
        chain(inputs, one(192))
        inputs = 320 + 4 * 384 + 192
    assert inputs == 2048
    return shapes


def random_arrays(shapes, fan_in):
    """Kernels that keep the size of what passes, and statistics that nothing hides behind."""
    rng = np.random.default_rng(0)

    def array(name, shape):
        if len(shape) > 1:
            return rng.normal(0, np.prod(shape[fan_in]) ** -0.5, shape)
        if name.endswith(("bias", "beta", "mean")):
            return rng.uniform(-0.5, 0.5, shape)
        return rng.uniform(0.5, 1.0, shape)

    return {n: array(n, shape).astype(np.float32) for n, shape in shapes.items()}


def torchvision_arrays():
    return random_arrays(torchvision_shapes(), slice(1, None))


@cache
def our_shapes(model=MODEL, size=32):
    images = jnp.zeros((1, size, size, 3))
    return jax.eval_shape(partial(model.init, train=True), jax.random.key(0), images)


def images_and_logits(model, variables, size):
    """Two images, and what our network says of them."""
    images = np.random.default_rng(1).normal(size=(2, size, size, 3)).astype(np.float32)
    apply = jax.jit(partial(model.apply, train=False))
    logits = apply(variables, jnp.asarray(images))
    assert np.ptp(logits) > 1
    return images, logits


def import_torchvision():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError:
        pytest.skip("torchvision is not installed")
    except RuntimeError:
        # PyPI's is built for CUDA. Beside a PyTorch that is not, it lacks two operators, for
        # detection, to be imported.
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
        return importlib.import_module("torchvision")


def test_torchvision_has_the_logits_of_ours_and_the_exported_file(tmp_path):
    torchvision = import_torchvision()
    import torch

    theirs = torchvision.models.resnet50(num_classes=10).state_dict()
    shapes = {name: tuple(x.shape) for name, x in theirs.items() if "num_batches" not in name}
    assert shapes == torchvision_shapes()

    variables = from_torchvision(torchvision_arrays())
    save_arrays(tmp_path / "x", to_torchvision(variables))
    images, logits = images_and_logits(MODEL, variables, 64)
    snippet = export._layout_snippet("torchvision", CONFIG, 10, images.shape, tmp_path / "x")
    names = {"images": torch.from_numpy(images.transpose(0, 3, 1, 2).copy())}
    exec(snippet, names)
    np.testing.assert_allclose(logits, names["logits"].detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("load", "convert", "model", "theirs"),
    [
        (from_torchvision, to_torchvision, MODEL, torchvision_shapes()),
        (from_keras, to_keras, INCEPTION, keras_shapes()),
    ],
    ids=["torchvision", "keras"],
)
def test_names_and_shapes_are_those_of_our_network_and_of_theirs(load, convert, model, theirs):
    variables = load({name: np.broadcast_to(np.float32(0), s) for name, s in theirs.items()})
    shapes = jax.tree.map(lambda x: x.shape, our_shapes(model, 75))
    assert jax.tree.map(lambda x: x.shape, variables) == shapes
    assert {name: x.shape for name, x in convert(variables).items()} == theirs


def test_what_others_lack_is_left_out():
    counters = {"bn1.num_batches_tracked": np.int64(3)}
    counted = from_torchvision(torchvision_arrays() | counters)
    assert jax.tree.structure(counted) == jax.tree.structure(our_shapes())
    with_head = zeros(our_shapes(INCEPTION.clone(auxiliary=True), 75))
    assert to_keras(with_head).keys() == keras_shapes().keys()


def test_values_go_where_they_belong_and_kernels_are_transposed():
    arrays = torchvision_arrays()
    # PyTorch's tensors are no NumPy arrays either.
    views = {name: memoryview(array) for name, array in arrays.items()}
    flat = flatten_dict(from_torchvision(views), sep="/")
    np.testing.assert_array_equal(
        flat["params/conv3_1/conv_2/kernel"][0, 2, 5, 7],
        arrays["layer2.0.conv2.weight"][7, 5, 0, 2],
    )
    np.testing.assert_array_equal(
        flat["params/conv5_1/conv_shortcut/kernel"][0, 0, 5, 7],
        arrays["layer4.0.downsample.0.weight"][7, 5, 0, 0],
    )
    for ours, theirs in {
        "params/conv4_6/norm_3/scale": "layer3.5.bn3.weight",
        "params/conv2_1/norm_shortcut/bias": "layer1.0.downsample.1.bias",
        "batch_stats/conv1/norm_1/mean": "bn1.running_mean",
        "batch_stats/conv2_3/norm_1/var": "layer1.2.bn1.running_var",
    }.items():
        np.testing.assert_array_equal(flat[ours], arrays[theirs])
    np.testing.assert_array_equal(flat["params/logits/kernel"], arrays["fc.weight"].T)
    back = to_torchvision(from_torchvision(arrays))
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)


def zeros(shapes, **changes):
    """Variables of these shapes, but for those that are given, or None, by their whole names."""
    flat = flatten_dict(jax.tree.map(lambda x: x.shape, shapes), sep="/")
    changed = {name: shape for name, shape in (flat | changes).items() if shape is not None}
    arrays = {name: np.broadcast_to(np.float32(0), shape) for name, shape in changed.items()}
    return unflatten_dict(arrays, sep="/")


def test_a_fixed_scale_becomes_one():
    names = flatten_dict(our_shapes(), sep="/")
    scales = {name: None for name in names if name.endswith("/scale")}
    arrays = to_torchvision(zeros(our_shapes(), **scales))
    assert {name: x.shape for name, x in arrays.items()} == torchvision_shapes()
    np.testing.assert_array_equal(arrays["layer4.0.bn3.weight"], np.ones(2048))


@pytest.mark.parametrize(
    ("convert", "model", "name", "shape", "message"),
    [
        (to_torchvision, MODEL, "batch_stats/conv1/norm_1/mean", None, "norm_1/mean is missing"),
        (
            to_torchvision,
            MODEL,
            "params/conv1/conv_1/kernel",  # as with stem_stride 1
            (3, 3, 3, 64),
            r"conv_1/kernel must be \(7, 7, 3, 64\), got \(3, 3, 3, 64\)",
        ),
        (
            to_keras,
            INCEPTION,
            "params/mixed_10/conv_1x1_0/kernel",  # as with width 1.01
            (1, 1, 2069, 323),
            r"conv_1x1_0/kernel must be \(1, 1, 2048, 320\), got \(1, 1, 2069, 323\)",
        ),
        (
            to_keras,
            INCEPTION,
            "params/mixed_0/norm_1x1_0/scale",
            (64,),
            "no scale: params/mixed_0/norm_1x1_0/scale does not belong",
        ),
    ],
)
def test_other_networks_are_refused_in_one_sentence(convert, model, name, shape, message):
    with pytest.raises(ValueError, match=message):
        convert(zeros(our_shapes(model, 75), **{name: shape}))


def test_keras_has_the_logits_of_ours_and_the_exported_file(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    keras.utils.clear_session()
    theirs = keras.applications.InceptionV3(weights=None, classes=10, input_shape=(75, 75, 3))
    shapes = {"/".join(x.path.split("/")[-2:]): x.shape for x in theirs.weights}
    assert shapes == keras_shapes()

    variables = from_keras(random_arrays(keras_shapes(), slice(None, -1)))
    save_arrays(tmp_path / "x", to_keras(variables))
    images, logits = images_and_logits(INCEPTION, variables, 75)
    snippet = export._layout_snippet("keras", CONFIG, 10, images.shape, tmp_path / "x")
    names = {"images": images}
    with jax.numpy_rank_promotion("allow"):  # Keras relies on it
        exec(snippet, names)
    np.testing.assert_allclose(logits, names["logits"], rtol=1e-4, atol=1e-4)


def test_other_files_are_refused_in_one_sentence():
    arrays = {name: np.float32(0) for name in torchvision_shapes()}
    with pytest.raises(ValueError, match="50 with Batch Norm: extra does not belong"):
        from_torchvision(arrays | {"extra": np.float32(0)})
