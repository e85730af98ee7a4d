"""A small convolutional network, whose normalizers have one mean and variance a channel."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from bnrepro.models.convolution import convolution
from bnrepro.models.dropout import Dropout
from bnrepro.models.normalizers import Normalizer


class CNN(nn.Module):
    """Convolutions of 3 x 3 with stride 2, the mean over places, dropout, and a linear layer.

    Layer i is `activation(norm(conv(x)))`, of `conv_i` and, where there is a normalizer, `norm_i`,
    as in Inception ([BRN] 4). The output layer is `logits`.

    Attributes:
      channels: of each convolution.
      num_classes: number of logits.
      activation: elementwise, after the normalization.
      normalizer: makes a layer that is called as `layer(x)`, or None for none.
      kernel_init: draws all weights.
      dropout: rate of `Dropout`, in [0, 1); None for none.
    """

    channels: Sequence[int]
    num_classes: int
    activation: Callable[[jax.Array], jax.Array]
    normalizer: Normalizer | None
    kernel_init: nn.initializers.Initializer
    dropout: Any = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        *,
        train: bool,
        deterministic: bool | None = None,
    ) -> Float[Array, "batch classes"]:
        """Logits of a minibatch.

        Args:
          x: the minibatch.
          train: whether normalizers take the minibatch's own statistics.
          deterministic: drop nothing out; as a rule, that is in evaluation.
        """
        if deterministic is None:
            deterministic = not train
        for i, channels in enumerate(self.channels):
            x = nn.Conv(
                channels,
                kernel_size=(3, 3),
                strides=2,
                use_bias=self.normalizer is None,
                kernel_init=self.kernel_init,
                conv_general_dilated=convolution,
                name=f"conv_{i}",
            )(x)
            if self.normalizer is not None:
                x = self.normalizer(use_running_average=not train, name=f"norm_{i}")(x)
            x = self.activation(x)
        x = x.mean((1, 2))
        if self.dropout is not None:
            x = Dropout(self.dropout, name="dropout")(x, deterministic)
        return nn.Dense(self.num_classes, kernel_init=self.kernel_init, name="logits")(x)
