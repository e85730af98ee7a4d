"""The networks a config can name."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from bnrepro.models.cnn import CNN
from bnrepro.models.inception import Inception
from bnrepro.models.kernels import KERNELS
from bnrepro.models.mlp import MLP
from bnrepro.models.network import Network
from bnrepro.models.normalizers import Normalizer
from bnrepro.models.per_example import ThresholdedLinearUnit
from bnrepro.models.resnet import ResNet

# To be called within a compact module, in which tlu makes a module of its own for each layer.
ACTIVATIONS = {
    "identity": lambda x: x,
    "relu": nn.relu,
    "sigmoid": nn.sigmoid,
    "tanh": nn.tanh,
    "tlu": lambda x: ThresholdedLinearUnit()(x),
}
# None is that of the images, float32.
DTYPES = {"bfloat16": jnp.bfloat16, "float32": None}


def make_network(
    name: str,
    *,
    hidden: Sequence[int],
    channels: Sequence[int],
    activation: str,
    init: str,
    init_std: Any,
    dropout: Any,
    num_classes: int,
    normalizer: Normalizer | None,
    norm_placement: str = "before",
    kernel: str = "plain",
    dtype: str = "float32",
    width: float = 1.0,
    stem_stride: int = 0,
    auxiliary: bool = False,
    remat: bool = False,
    zero_last_scale: bool = False,
) -> Network:
    """The network of that name, called with a minibatch of images and `train`.

    Args:
      name: cnn, inception, mlp or resnet.
      hidden: units of the layers of an mlp.
      channels: of the convolutions of a cnn.
      activation: one of `ACTIVATIONS`.
      init: initializer of all weights, lecun_normal or normal (of `jax.nn.initializers`).
      init_std: standard deviation of `normal`; may be traced.
      dropout: rate in [0, 1), of the hidden units of an mlp, of the features of the others;
        may be traced. A known zero costs nothing.
      num_classes: number of logits.
      normalizer: makes a layer that is called as `layer(x)`, or None for none.
      norm_placement: after, before or both; a resnet takes only before.
      kernel: transformation of the kernels of the hidden layers, one of `KERNELS`.
      dtype: of activations, one of `DTYPES`; parameters and logits are float32.
      width: multiplier of the channels of inception and resnet.
      stem_stride: of inception and resnet; 0 for the paper's.
      auxiliary: give inception an auxiliary head.
      remat: recompute activations of inception and resnet in the backward pass.
      zero_last_scale: start with 0 as the last scale of each block of a resnet.
    """
    initializers = {
        "lecun_normal": nn.initializers.lecun_normal(),
        "normal": nn.initializers.normal(init_std),
    }
    common: Any = {
        "num_classes": num_classes,
        "activation": ACTIVATIONS[activation],
        "normalizer": normalizer,
        "kernel_init": initializers[init],
        "dropout": None if isinstance(dropout, int | float) and dropout == 0 else dropout,
        "norm_placement": norm_placement,
        "treatment": KERNELS[kernel],
        "dtype": DTYPES[dtype],
    }
    if name == "mlp":
        return MLP(hidden=tuple(hidden), **common)
    if name == "cnn":
        return CNN(channels=tuple(channels), **common)
    common |= {"width": width, "remat": remat}
    if name == "inception":
        return Inception(stem_stride=stem_stride or 8, auxiliary=auxiliary, **common)
    assert name == "resnet", name
    return ResNet(stem_stride=stem_stride or 4, zero_last_scale=zero_last_scale, **common)
