"""Renames and transposes variables of networks to those of other libraries, and back."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from bnrepro.models import resnet
from bnrepro.models.inception import Inception

# Of a normalizer's variables, what torch.nn's modules call them.
_TORCH_NORM = {
    "params/{}/scale": "weight",
    "params/{}/bias": "bias",
    "batch_stats/{}/mean": "running_mean",
    "batch_stats/{}/var": "running_var",
}
# What the networks are called in messages.
_RESNET, _INCEPTION = "a ResNet-50 with Batch Norm", "an Inception-v3 with Batch Norm and no scale"


def to_torchvision(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The variables of a `ResNet` with Batch Norm, as `torchvision.models.resnet50` has them.

    Both compute the same if its activation is ReLU, its kernels are plain, and its epsilon is
    torchvision's, 1e-5; `to_batch_renorm` and `to_batch_norm` change an epsilon.

    Args:
      variables: `params` and `batch_stats`, for images of 3 channels, of width 1 and stem_stride 4.
        Normalizers without a scale get one of 1.

    Returns:
      Arrays by their names in torchvision, such as layer1.0.conv1.weight; kernels are (outputs,
      inputs, height, width). PyTorch's num_batches_tracked is not among them: it is 0 unless given.

    Raises:
      ValueError: these are not the variables of such a network.
    """
    flat = {path: np.asarray(value) for path, value in flatten_dict(variables, sep="/").items()}
    for path in [path for path in flat if path.endswith("/mean")]:
        scale = path.replace("batch_stats/", "params/").removesuffix("mean") + "scale"
        flat.setdefault(scale, np.ones_like(flat[path]))
    arrays = _renamed(_RESNET, flat, _resnet_names())
    first = "params/conv1/conv_1/kernel"
    if (shape := flat[first].shape) != (7, 7, 3, 64):
        raise ValueError(f"{first} must be (7, 7, 3, 64), got {shape}")
    # Kernels alone have more than one axis.
    return {
        name: np.moveaxis(array, (-1, -2), (0, 1)) if array.ndim > 1 else array
        for name, array in arrays.items()
    }


def from_torchvision(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `to_torchvision`: nested dicts of JAX arrays, for a `ResNet` with Batch Norm.

    Args:
      arrays: those of a `torchvision.models.resnet50`, by name; num_batches_tracked is ignored.

    Raises:
      ValueError: arrays are missing, or there are others.
    """
    # PyTorch's tensors, too, which moveaxis would not take.
    given = {
        name: jnp.asarray(array)
        for name, array in arrays.items()
        if not name.endswith(".num_batches_tracked")
    }
    names = {theirs: ours for ours, theirs in _resnet_names().items()}
    flat = {
        path: jnp.moveaxis(array, (0, 1), (-1, -2)) if array.ndim > 1 else array
        for path, array in _renamed(_RESNET, given, names).items()
    }
    return unflatten_dict(flat, "/")


def to_keras(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The variables of an `Inception` with Batch Norm, as Keras' `InceptionV3` has them.

    Both compute the same if its activation is ReLU, its kernels are plain, its normalizers come
    before nonlinearities, and its epsilon is Keras', 1e-3; `to_batch_renorm` and `to_batch_norm`
    change an epsilon.

    Args:
      variables: `params` and `batch_stats`, for images of 3 channels, of width 1, stem_stride 8 and
        normalizers without a scale, which Keras' have not. Those of an auxiliary head are left out.

    Returns:
      Arrays by layer and variable, such as conv2d_3/kernel; layers are called as in the first
      network of a session.

    Raises:
      ValueError: these are not the variables of such a network.
    """
    flat = {
        path: np.asarray(value)
        for path, value in flatten_dict(variables, sep="/").items()
        if not path.startswith(("params/auxiliary/", "batch_stats/auxiliary/"))
    }
    arrays = _renamed(_INCEPTION, flat, _inception_names())
    # Of another width, the first may have as many channels.
    shapes = {"stem/conv_stem_0": (3, 3, 3, 32), "mixed_10/conv_1x1_0": (1, 1, 2048, 320)}
    for layer, wanted in shapes.items():
        if (shape := flat[f"params/{layer}/kernel"].shape) != wanted:
            raise ValueError(f"params/{layer}/kernel must be {wanted}, got {shape}")
    return arrays


def from_keras(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `to_keras`: nested dicts of JAX arrays, for an `Inception` with Batch Norm.

    Args:
      arrays: those of a `keras.applications.InceptionV3`, by layer and variable.

    Raises:
      ValueError: arrays are missing, or there are others.
    """
    given = {name: jnp.asarray(array) for name, array in arrays.items()}
    names = {theirs: ours for ours, theirs in _inception_names().items()}
    return unflatten_dict(_renamed(_INCEPTION, given, names), "/")


def _renamed(network: str, arrays: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The arrays of a network, which have these names, by the names that belong to them."""
    for name in sorted(arrays.keys() ^ names.keys()):
        problem = "is missing" if name in names else "does not belong"
        raise ValueError(f"not the variables of {network}: {name} {problem}")
    return {new: arrays[old] for old, new in names.items()}


def _inception_names() -> dict[str, str]:
    """Paths of our variables -> names in Keras, which numbers layers from the first to the last."""
    network = Inception(1, nn.relu, nn.BatchNorm, nn.initializers.zeros)
    names = {f"params/logits/{name}": f"predictions/{name}" for name in ("kernel", "bias")}
    for i, norm in enumerate(network.nonlinearity_inputs()):
        number = f"_{i}" if i else ""
        names[f"params/{norm.replace('/norm_', '/conv_')}/kernel"] = f"conv2d{number}/kernel"
        for ours, theirs in {
            f"params/{norm}/bias": "beta",
            f"batch_stats/{norm}/mean": "moving_mean",
            f"batch_stats/{norm}/var": "moving_variance",
        }.items():
            names[ours] = f"batch_normalization{number}/{theirs}"
    return names


def _resnet_names() -> dict[str, str]:
    """Paths of our variables -> names in torchvision."""
    # Our block and the layer in it; their convolution and its normalizer.
    layers = [("conv1", "1", "conv1", "bn1")]
    for stage, blocks in enumerate(resnet.BLOCKS):
        for i in range(blocks):
            ours, theirs = f"conv{stage + 2}_{i + 1}", f"layer{stage + 1}.{i}"
            layers += [(ours, str(j), f"{theirs}.conv{j}", f"{theirs}.bn{j}") for j in (1, 2, 3)]
            if i == 0:
                shortcut = f"{theirs}.downsample"
                layers.append((ours, "shortcut", f"{shortcut}.0", f"{shortcut}.1"))
    names = {"params/logits/kernel": "fc.weight", "params/logits/bias": "fc.bias"}
    for block, layer, conv, norm in layers:
        names[f"params/{block}/conv_{layer}/kernel"] = f"{conv}.weight"
        for ours, theirs in _TORCH_NORM.items():
            names[ours.format(f"{block}/norm_{layer}")] = f"{norm}.{theirs}"
    return names
