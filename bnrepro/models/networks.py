"""The networks a config can name."""

from collections.abc import Sequence

import flax.linen as nn

from bnrepro.models.cnn import CNN
from bnrepro.models.mlp import MLP
from bnrepro.models.normalizers import Normalizer

ACTIVATIONS = {"relu": nn.relu, "sigmoid": nn.sigmoid, "tanh": nn.tanh}
NETWORKS = ("cnn", "mlp")


def make_network(
    name: str,
    *,
    hidden: Sequence[int],
    channels: Sequence[int],
    activation: str,
    init_std: float,
    num_classes: int,
    normalizer: Normalizer | None,
) -> nn.Module:
    """The network of that name, called with a minibatch of images and `train`.

    Args:
      name: one of `NETWORKS`.
      hidden: units of the layers of an mlp.
      channels: of the convolutions of a cnn.
      activation: one of `ACTIVATIONS`.
      init_std: standard deviation of the Gaussian that all weights are drawn from.
      num_classes: number of logits.
      normalizer: makes a layer that is called as `layer(x)`, or None for none.

    Raises:
      ValueError: an unknown name.
    """
    common = {
        "num_classes": num_classes,
        "activation": ACTIVATIONS[activation],
        "normalizer": normalizer,
        "init_std": init_std,
    }
    if name == "mlp":
        return MLP(hidden=tuple(hidden), **common)
    if name == "cnn":
        return CNN(channels=tuple(channels), **common)
    raise ValueError(f"unknown network {name!r}; known are {', '.join(NETWORKS)}")
