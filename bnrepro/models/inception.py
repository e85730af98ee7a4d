"""Inception-v3 (Szegedy et al. 2016, arXiv:1512.00567, table 1), the network of [BRN] 4.

Blocks are numbered as in Keras, where `mixed_0` is `mixed0`; in TF-Slim `mixed_0` to `mixed_10` are
`Mixed_5b` to `Mixed_7c`. The paper names no blocks, only the figures that show them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from bnrepro.models.network import Network


class Conv(NamedTuple):
    """A convolution, whose output is normalized, and its nonlinearity.

    Attributes:
      channels: at width 1.
      kernel: height and width.
      stride: in both directions.
      padding: `SAME` or `VALID`.
    """

    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"


class Pool(NamedTuple):
    """The average or maximum of 3 x 3 positions."""

    function: Callable[..., Array]
    stride: int
    padding: str


# What a branch consists of, in order. A dict is a fork, whose branches get the same input.
Branch = Sequence[Conv | Pool | Mapping[str, Conv]]

# An average of what is inside the image, not of the padding.
AVERAGE = Pool(partial(nn.avg_pool, count_include_pad=False), 1, "SAME")
MAXIMUM = Pool(nn.max_pool, 2, "VALID")

# By stride. The first is the paper's; the others are for images of about 64 x 64 and 32 x 32.
STEMS: dict[int, Branch] = {
    8: (
        Conv(32, (3, 3), 2, "VALID"),
        Conv(32, (3, 3), 1, "VALID"),
        Conv(64, (3, 3)),
        MAXIMUM,
        Conv(80, (1, 1)),
        Conv(192, (3, 3), 1, "VALID"),
        MAXIMUM,
    ),
    **{
        stride: (
            Conv(32, (3, 3), stride // 2),
            Conv(32, (3, 3)),
            Conv(64, (3, 3)),
            Conv(80, (1, 1)),
            Conv(192, (3, 3)),
            MAXIMUM._replace(padding="SAME"),
        )
        for stride in (4, 2)
    },
}


def _figure_5(pool: int) -> dict[str, Branch]:
    """At 35 x 35: 256 channels, or 288 with a pool of 64."""
    return {
        "1x1": [Conv(64)],
        "5x5": [Conv(48), Conv(64, (5, 5))],
        "double_3x3": [Conv(64), Conv(96, (3, 3)), Conv(96, (3, 3))],
        "pool": [AVERAGE, Conv(pool)],
    }


def _figure_6(channels: int) -> dict[str, Branch]:
    """At 17 x 17, with 7 x 7 convolutions as 1 x 7 and 7 x 1: 768 channels."""
    high, wide = Conv(channels, (7, 1)), Conv(channels, (1, 7))
    return {
        "1x1": [Conv(192)],
        "7x7": [Conv(channels), wide, Conv(192, (7, 1))],
        "double_7x7": [Conv(channels), high, wide, high, Conv(192, (1, 7))],
        "pool": [AVERAGE, Conv(192)],
    }


def _figure_7() -> dict[str, Branch]:
    """At 8 x 8: 2,048 channels."""
    fork = {"1x3": Conv(384, (1, 3)), "3x1": Conv(384, (3, 1))}
    return {
        "1x1": [Conv(320)],
        "3x3": [Conv(384), fork],
        "double_3x3": [Conv(448), Conv(384, (3, 3)), fork],
        "pool": [AVERAGE, Conv(192)],
    }


# Grid sizes are those of a 299 x 299 image.
BLOCKS: dict[str, Mapping[str, Branch]] = {
    "mixed_0": _figure_5(32),  # 35 x 35 x 256
    "mixed_1": _figure_5(64),  # 35 x 35 x 288
    "mixed_2": _figure_5(64),
    "mixed_3": {  # 17 x 17 x 768
        "3x3": [Conv(384, (3, 3), 2, "VALID")],
        "double_3x3": [Conv(64), Conv(96, (3, 3)), Conv(96, (3, 3), 2, "VALID")],
        "pool": [MAXIMUM],
    },
    "mixed_4": _figure_6(128),  # 17 x 17 x 768
    "mixed_5": _figure_6(160),
    "mixed_6": _figure_6(160),
    "mixed_7": _figure_6(192),
    "mixed_8": {  # 8 x 8 x 1,280
        "3x3": [Conv(192), Conv(320, (3, 3), 2, "VALID")],
        "7x7_3x3": [
            Conv(192),
            Conv(192, (1, 7)),
            Conv(192, (7, 1)),
            Conv(192, (3, 3), 2, "VALID"),
        ],
        "pool": [MAXIMUM],
    },
    "mixed_9": _figure_7(),  # 8 x 8 x 2,048
    "mixed_10": _figure_7(),
}
# The auxiliary head takes its output (the paper's figure 8).
_BEFORE_HEAD = "mixed_7"


def _names(branch: str, layers: Branch) -> list[str]:
    """Names of a branch's convolutions, in order."""
    names = []
    for i, layer in enumerate(layers):
        if not isinstance(layer, Pool):
            ends = [""] if isinstance(layer, Conv) else [f"_{end}" for end in layer]
            names += [f"{branch}_{i}{end}" for end in ends]
    return names


class Block(nn.Module):
    """Branches side by side, concatenated along the channels.

    Attributes:
      branches: by name; the modules of a branch's i-th layer are `conv_NAME_i` and `norm_NAME_i`.
      unit: applies a `Conv` of some name: `conv_NAME`, `norm_NAME` and the nonlinearity.
    """

    branches: Mapping[str, Branch]
    unit: Callable[[Array, Conv, str], Array]

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch rows columns features"]:
        """Applies all branches to `x`."""
        ends = [self._branch(x, name, layers) for name, layers in self.branches.items()]
        return jnp.concatenate(ends, axis=-1)

    def _branch(self, x: Array, branch: str, layers: Branch) -> Array:
        for i, layer in enumerate(layers):
            if isinstance(layer, Pool):
                x = layer.function(x, (3, 3), (layer.stride, layer.stride), layer.padding)
            elif isinstance(layer, Conv):
                x = self.unit(x, layer, f"{branch}_{i}")
            else:
                ends = [self.unit(x, conv, f"{branch}_{i}_{end}") for end, conv in layer.items()]
                x = jnp.concatenate(ends, axis=-1)
        return x


class Inception(Network, kw_only=True):
    """Inception-v3: a stem, eleven blocks, the mean over positions, dropout, and a linear layer.

    Each convolution is `activation(norm(conv(x)))`, as in [BRN] 4. In training, the logits of the
    auxiliary head are sown as `intermediates/auxiliary_logits`.

    Attributes:
      width: multiplier of all channels, above 0.
      stem_stride: of the stem, a key of `STEMS`.
      auxiliary: have an auxiliary head.
      remat: compute the activations within blocks again in the backward pass, to save memory.
    """

    width: float = 1.0
    stem_stride: int = 8
    auxiliary: bool = False
    remat: bool = False

    def nonlinearity_inputs(self) -> tuple[str, ...]:
        """Names of the modules whose outputs the nonlinearities take, block by block."""
        stem = {"stem": {"stem": STEMS[self.stem_stride]}}
        return tuple(
            f"{block}/{self.before_nonlinearity('conv')}_{layer}"
            for block, branches in (stem | BLOCKS).items()
            for branch, layers in branches.items()
            for layer in _names(branch, layers)
        )

    def features(
        self, x: Float[Array, "batch height width channels"], *, train: bool, deterministic: bool
    ) -> Float[Array, "batch features"]:
        """The mean over positions of the last block."""
        make, width, activated = self.conv, self.width, self.activated(train=train)

        # Not a method: the block that calls it gets the layers.
        def unit(x: Array, conv: Conv, name: str) -> Array:
            channels = max(1, round(width * conv.channels))
            layer = make(channels, conv.kernel, conv.stride, conv.padding, name=f"conv_{name}")
            return activated(layer(x), layer=name)

        block = nn.remat(Block) if self.remat else Block
        x = block({"stem": STEMS[self.stem_stride]}, unit, name="stem")(x)
        for name, branches in BLOCKS.items():
            x = block(branches, unit, name=name)(x)
            if self.auxiliary and train and name == _BEFORE_HEAD:
                head = AuxiliaryHead(unit, self.classify, name="auxiliary")
                self.sow("intermediates", "auxiliary_logits", head(x))
        return self.dropped(x.mean((1, 2)), "dropout", deterministic=deterministic)


class AuxiliaryHead(nn.Module):
    """The auxiliary classifier (Szegedy et al. 2016, figure 8).

    Attributes:
      unit: applies a `Conv` of some name.
      classify: applies the linear layer.
    """

    unit: Callable[[Array, Conv, str], Array]
    classify: Callable[[Array], Array]

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch classes"]:
        """Logits from what the head branches off; on small grids, windows are cut to the grid."""
        rows, columns = (min(5, size) for size in x.shape[1:3])
        x = nn.avg_pool(x, (rows, columns), (3, 3), "VALID")
        x = self.unit(x, Conv(128), "0")
        rows, columns = (min(5, size) for size in x.shape[1:3])
        x = self.unit(x, Conv(768, (rows, columns), 1, "VALID"), "1")
        return self.classify(x.mean((1, 2)))
