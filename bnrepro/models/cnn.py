"""A small convolutional network, whose normalizers have one mean and variance per channel."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bnrepro.models.convolution import convolution
from bnrepro.models.dropout import Dropout
from bnrepro.models.kernels import KERNELS, Treatment, promoted
from bnrepro.models.normalizers import Normalizer, activate


class CNN(nn.Module):
    """3 x 3 convolutions with stride 2, the mean over positions, dropout, and a linear layer.

    Layer i is `activation(norm(conv(x)))`, of `conv_i` and, where there is a normalizer, `norm_i`,
    as in Inception ([BRN] 4). The output layer is `logits`.

    Attributes:
      channels: of each convolution.
      num_classes: number of logits.
      activation: elementwise.
      normalizer: makes a layer that is called as `layer(x)`, or None for none.
      kernel_init: draws all weights.
      dropout: rate of `Dropout`, in [0, 1); None for none.
      norm_placement: one of `PLACEMENTS`.
      treatment: of the kernels of the hidden layers, one of `KERNELS`.
      dtype: of activations except the logits (default: that of input and parameters).
    """

    channels: Sequence[int]
    num_classes: int
    activation: Callable[[jax.Array], jax.Array]
    normalizer: Normalizer | None
    kernel_init: nn.initializers.Initializer
    dropout: Any = None
    norm_placement: str = "before"
    treatment: Treatment = KERNELS["plain"]
    dtype: Any = None

    def nonlinearity_inputs(self) -> tuple[str, ...]:
        """Names of the modules whose outputs the nonlinearities take, first to last."""
        direct = self.normalizer is None or self.norm_placement == "after"
        return tuple(f"{'conv' if direct else 'norm'}_{i}" for i in range(len(self.channels)))

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
          deterministic: drop nothing out (default: in evaluation).
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
                dtype=self.dtype,
                promote_dtype=promoted(self.treatment),
                conv_general_dilated=convolution,
                name=f"conv_{i}",
            )(x)
            x = activate(
                x, self.activation, self.normalizer, self.norm_placement, str(i), train=train
            )
        x = x.mean((1, 2))
        if self.dropout is not None:
            x = Dropout(self.dropout, name="dropout")(x, deterministic)
        logits = nn.Dense(self.num_classes, kernel_init=self.kernel_init, name="logits")
        return logits(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
