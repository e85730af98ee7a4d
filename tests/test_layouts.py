"""ResNet-50 and Inception-v3 compute what torchvision's and Keras' do, and share their arrays."""

import hashlib
import importlib
import json
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


# Of the names and shapes of torchvision's resnet50 and of Keras' InceptionV3, of 10 classes.
DIGESTS = {to_torchvision: "1818a8fc7e97d3f3", to_keras: "3853529465f297e0"}


def digest(arrays):
    shapes = sorted((name, tuple(array.shape)) for name, array in arrays.items())
    return hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:16]


@cache
def our_shapes(model=MODEL):
    images = jnp.zeros((1, 75, 75, 3))
    return jax.eval_shape(partial(model.init, train=True), jax.random.key(0), images)


def random_variables(model):
    """Kernels that keep the size of what passes, and statistics that nothing hides behind."""
    rng = np.random.default_rng(0)

    def array(path, like):
        if (name := path[-1].key) == "kernel":
            return rng.normal(0, np.prod(like.shape[:-1]) ** -0.5, like.shape)
        return rng.uniform(*((-0.5, 0.5) if name in ("bias", "mean") else (0.5, 1.0)), like.shape)

    drawn = jax.tree_util.tree_map_with_path(array, our_shapes(model))
    return jax.tree.map(np.float32, drawn)


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
    variables = random_variables(MODEL)
    arrays = to_torchvision(variables)
    assert shapes == {name: x.shape for name, x in arrays.items()}
    save_arrays(tmp_path / "x", arrays)
    images, logits = images_and_logits(MODEL, variables, 64)
    snippet = export._layout_snippet("torchvision", CONFIG, 10, images.shape, tmp_path / "x")
    names = {"images": torch.from_numpy(images.transpose(0, 3, 1, 2).copy())}
    exec(snippet, names)
    np.testing.assert_allclose(logits, names["logits"].detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("convert", "model"),
    [
        (to_torchvision, MODEL),
        (to_keras, INCEPTION),
        (to_keras, INCEPTION.clone(auxiliary=True)),  # whose head is left out
    ],
)
def test_names_and_shapes_are_theirs(convert, model):
    assert digest(convert(zeros(our_shapes(model)))) == DIGESTS[convert]


def test_values_go_where_they_belong_and_kernels_are_transposed():
    variables = random_variables(MODEL)
    flat, arrays = flatten_dict(variables, sep="/"), to_torchvision(variables)
    for ours, theirs in {
        "params/conv3_1/conv_2/kernel": "layer2.0.conv2.weight",
        "params/conv5_1/conv_shortcut/kernel": "layer4.0.downsample.0.weight",
    }.items():
        np.testing.assert_array_equal(flat[ours].transpose(3, 2, 0, 1), arrays[theirs])
    for ours, theirs in {
        "params/conv4_6/norm_3/scale": "layer3.5.bn3.weight",
        "params/conv2_1/norm_shortcut/bias": "layer1.0.downsample.1.bias",
        "batch_stats/conv1/norm_1/mean": "bn1.running_mean",
        "batch_stats/conv2_3/norm_1/var": "layer1.2.bn1.running_var",
    }.items():
        np.testing.assert_array_equal(flat[ours], arrays[theirs])
    np.testing.assert_array_equal(flat["params/logits/kernel"].T, arrays["fc.weight"])


def test_what_was_converted_may_be_converted_back():
    for model, there, back in (
        (MODEL, to_torchvision, from_torchvision),
        (INCEPTION, to_keras, from_keras),
    ):
        variables = random_variables(model)
        # PyTorch's tensors are no NumPy arrays either.
        views = {name: memoryview(np.ascontiguousarray(x)) for name, x in there(variables).items()}
        counters = {"bn1.num_batches_tracked": np.int64(3)} if model is MODEL else {}
        jax.tree.map(np.testing.assert_array_equal, back(views | counters), variables)


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
    assert digest(arrays) == DIGESTS[to_torchvision]
    np.testing.assert_array_equal(arrays["layer4.0.bn3.weight"], np.ones(2048))


@pytest.mark.parametrize(
    ("model", "name", "shape", "message"),
    [
        (MODEL, "batch_stats/conv1/norm_1/mean", None, "norm_1/mean is missing"),
        # As with stem_stride 1, and with width 1.01.
        (MODEL, "params/conv1/conv_1/kernel", (3, 3, 3, 64), r"be \(7, 7, 3, 64\), got \(3, 3, 3"),
        (INCEPTION, "params/mixed_10/conv_1x1_0/kernel", (1, 1, 2069, 323), r"be \(1, 1, 2048, "),
        (INCEPTION, "params/mixed_0/norm_1x1_0/scale", (64,), "no scale: .*/scale does not belong"),
    ],
)
def test_other_networks_are_refused_in_one_sentence(model, name, shape, message):
    convert = to_torchvision if model is MODEL else to_keras
    with pytest.raises(ValueError, match=message):
        convert(zeros(our_shapes(model), **{name: shape}))


def test_keras_has_the_logits_of_ours_and_the_exported_file(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    keras.utils.clear_session()
    theirs = keras.applications.InceptionV3(weights=None, classes=10, input_shape=(75, 75, 3))
    shapes = {"/".join(x.path.split("/")[-2:]): x.shape for x in theirs.weights}
    variables = random_variables(INCEPTION)
    arrays = to_keras(variables)
    assert shapes == {name: x.shape for name, x in arrays.items()}
    save_arrays(tmp_path / "x", arrays)
    images, logits = images_and_logits(INCEPTION, variables, 75)
    snippet = export._layout_snippet("keras", CONFIG, 10, images.shape, tmp_path / "x")
    names = {"images": images}
    with jax.numpy_rank_promotion("allow"):  # Keras relies on it
        exec(snippet, names)
    np.testing.assert_allclose(logits, names["logits"], rtol=1e-4, atol=1e-4)


def test_other_files_are_refused_in_one_sentence():
    arrays = to_torchvision(zeros(our_shapes()))
    with pytest.raises(ValueError, match="50 with Batch Norm: extra does not belong"):
        from_torchvision(arrays | {"extra": np.float32(0)})
