"""What is known of a network from its checkpoint."""

from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnrepro.comparison.restored import Restored, network_sizes
from bnrepro.models import Inception, make_network, resnet


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("layers", [0, 1, 11])
def test_sizes_of_input_and_output_are_those_of_the_outer_layers(name, layers):
    # Names sort dense_10 before dense_2.
    sizes = {"hidden": range(20, 20 + layers), "channels": range(20, 20 + layers)}
    model = make_network(
        *(name,),
        **sizes,
        activation="relu",
        init="lecun_normal",
        init_std=None,
        dropout=0,
        num_classes=4,
        normalizer=None,
    )
    variables = model.init(jax.random.key(0), jnp.zeros((1, 1, 1, 7)), train=False)
    restored = Restored(Path("1"), 1, np.arange(1), frozenset(), variables, 0.0)
    assert network_sizes(restored) == (7, 4)


def test_the_outer_layers_of_networks_of_blocks_are_found():
    fields = (4, nn.relu, None, nn.initializers.lecun_normal())
    for model, size in ((resnet.ResNet(*fields), 1), (Inception(*fields, stem_stride=2), 13)):
        images = jnp.zeros((1, size, size, 7))
        variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
        restored = Restored(Path("1"), 1, np.arange(1), frozenset(), variables, 0.0)
        assert network_sizes(restored) == (7, 4)
