"""A small convolutional network, whose normalizers have one mean and variance per channel."""

from collections.abc import Sequence

from jaxtyping import Array, Float

from bnrepro.models.network import Network


class CNN(Network, kw_only=True):
    """3 x 3 convolutions with stride 2, the mean over positions, dropout, and a linear layer.

    Layer i is `activation(norm(conv(x)))`, of `conv_i` and, where there is a normalizer, `norm_i`,
    as in Inception ([BRN] 4).

    Attributes:
      channels: of each convolution.
    """

    channels: Sequence[int]

    def nonlinearity_inputs(self) -> tuple[str, ...]:
        """Names of the modules whose outputs the nonlinearities take, first to last."""
        return tuple(f"{self.before_nonlinearity('conv')}_{i}" for i in range(len(self.channels)))

    def features(
        self, x: Float[Array, "batch height width channels"], *, train: bool, deterministic: bool
    ) -> Float[Array, "batch features"]:
        """The mean over positions of the last layer."""
        activated = self.activated(train=train)
        for i, channels in enumerate(self.channels):
            x = activated(self.conv(channels, (3, 3), 2, name=f"conv_{i}")(x), layer=str(i))
        return self.dropped(x.mean((1, 2)), "dropout", deterministic=deterministic)
