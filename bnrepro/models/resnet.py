"""ResNet-50 (He et al. 2016, arXiv:1512.03385), version 1.5."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from bnrepro.models.network import Network

# Bottlenecks of conv2_x to conv5_x (table 1 of the paper).
BLOCKS = (3, 4, 6, 3)


class Sum(nn.Module):
    """`x + y`, as a module because measures capture the outputs of modules."""

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"], y: Float[Array, "*shape"]) -> Array:
        """Adds."""
        return x + y


class Block(nn.Module):
    """What the first convolution and the bottlenecks share.

    Attributes:
      channels: of its first convolution.
      stride: of the block as a whole.
      conv: makes a convolution, called with channels, size, stride and `name`.
      normalizer: makes a normalization layer, called with `name` and perhaps `scale_init`, or None.
      activation: elementwise.
    """

    channels: int
    stride: int
    conv: Callable[..., nn.Module]
    normalizer: Callable[..., nn.Module] | None
    activation: Callable[[jax.Array], jax.Array]

    def normalized(
        self, x: Array, channels: int, size: int, stride: int, layer: str, **fields: Any
    ) -> Array:
        """`conv_{layer}` and `norm_{layer}`, if there is a normalizer, which takes the `fields`."""
        # Not padding SAME, which pads even sizes at the end alone if the stride is 2.
        x = self.conv(channels, (size, size), stride, padding=size // 2, name=f"conv_{layer}")(x)
        return x if self.normalizer is None else self.normalizer(name=f"norm_{layer}", **fields)(x)


class Stem(Block):
    """`conv1`: 7 x 7 with stride 2 and max pooling (stride 4), or 3 x 3 (stride 1)."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 c2"]:
        """Applies the stem."""
        if self.stride == 1:
            return self.activation(self.normalized(x, self.channels, 3, 1, "1"))
        x = self.activation(self.normalized(x, self.channels, 7, 2, "1"))
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


class Bottleneck(Block):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1, added to the input (figure 5).

    The last has 4 times the channels. Where the shape changes, the input is projected, by
    `conv_shortcut` and `norm_shortcut`.

    Attributes:
      zero_last_scale: start with 0 as the scale of `norm_3`.
    """

    zero_last_scale: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 c2"]:
        """Applies the block."""
        last = {"scale_init": nn.initializers.zeros} if self.zero_last_scale else {}
        y = self.activation(self.normalized(x, self.channels, 1, 1, "1"))
        y = self.activation(self.normalized(y, self.channels, 3, self.stride, "2"))
        y = self.normalized(y, 4 * self.channels, 1, 1, "3", **last)
        if x.shape != y.shape:
            x = self.normalized(x, 4 * self.channels, 1, self.stride, "shortcut")
        return self.activation(Sum(name="sum")(x, y))


class ResNet(Network, kw_only=True):
    """ResNet-50: `conv1`, bottlenecks `conv2_1` to `conv5_3`, mean over positions, linear `logits`.

    Where a bottleneck has stride 2, it is that of its 3 x 3 convolution: version 1.5, of
    torchvision, as opposed to the paper's. With Batch Norm, 1,000 classes and 3 input channels it
    has 25,557,032 parameters.

    Attributes:
      width: multiplier of the channels, above 0.
      zero_last_scale: start with 0 as the last scale of each bottleneck, which then passes on its
        input (Goyal et al. 2017, arXiv:1706.02677, section 5.1); needs a normalizer with a scale.
      stem_stride: of `conv1`, 4 as in the paper (7 x 7 and max pooling), or 1 for small images
        (3 x 3, section 4.2).
      remat: recompute the activations within each block in the backward pass.
    """

    width: float = 1.0
    zero_last_scale: bool = False
    stem_stride: int = 4
    remat: bool = False

    def nonlinearity_inputs(self) -> tuple[str, ...]:
        """Names of the modules whose outputs the nonlinearities take, first to last."""
        layer = self.before_nonlinearity("conv")
        inputs = (f"{layer}_1", f"{layer}_2", "sum")
        blocks = [name for name, _, _ in _bottlenecks(self.width)]
        return f"conv1/{layer}_1", *(f"{block}/{name}" for block in blocks for name in inputs)

    def features(
        self, x: Float[Array, "batch height width channels"], *, train: bool, deterministic: bool
    ) -> Float[Array, "batch features"]:
        """The mean over positions of the last bottleneck."""
        shared: dict[str, Any] = {
            "conv": self.conv,
            "normalizer": self.normalizer
            and partial(self.normalizer, use_running_average=not train),
            "activation": self.activation,
        }
        stem, bottleneck = map(nn.remat, (Stem, Bottleneck)) if self.remat else (Stem, Bottleneck)
        bottlenecks = _bottlenecks(self.width)
        x = stem(bottlenecks[0][1], self.stem_stride, name="conv1", **shared)(x)
        for name, channels, stride in bottlenecks:
            x = bottleneck(
                channels, stride, zero_last_scale=self.zero_last_scale, name=name, **shared
            )(x)
        return self.dropped(x.mean((1, 2)), "dropout", deterministic=deterministic)


def _bottlenecks(width: float) -> list[tuple[str, int, int]]:
    """Name, channels and stride of each, first to last."""
    return [
        (
            f"conv{stage + 2}_{i + 1}",
            max(1, round(64 * width)) * 2**stage,
            2 if stage and not i else 1,
        )
        for stage, blocks in enumerate(BLOCKS)
        for i in range(blocks)
    ]
