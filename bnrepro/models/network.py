"""What all networks have in common."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bnrepro.models.convolution import convolution
from bnrepro.models.dropout import Dropout
from bnrepro.models.kernels import KERNELS, Treatment, promoted
from bnrepro.models.normalizers import Normalizer


class Network(nn.Module):
    """Hidden layers, whose outputs are normalized, and a linear layer `logits` to the classes.

    Where there is a normalizer, its bias replaces that of the layer before it ([BN] 3.2), also if
    it comes after the nonlinearity, the first of which then has no bias.

    Attributes:
      num_classes: number of logits.
      activation: elementwise.
      normalizer: makes a layer that is called as `layer(x)`, or None for none.
      kernel_init: draws all weights.
      dropout: rate of `Dropout`, in [0, 1); None for none.
      norm_placement: after, before or both.
      treatment: of the kernels of the hidden layers, one of `KERNELS`.
      dtype: of activations except the logits (default: that of input and parameters).
    """

    num_classes: int
    activation: Callable[[jax.Array], jax.Array]
    normalizer: Normalizer | None
    kernel_init: nn.initializers.Initializer
    dropout: Any = None
    norm_placement: str = "before"
    treatment: Treatment = KERNELS["plain"]
    dtype: Any = None

    @property
    def linear(self) -> dict[str, Any]:
        """Fields of the hidden layers."""
        return {
            "use_bias": self.normalizer is None,
            "kernel_init": self.kernel_init,
            "dtype": self.dtype,
            "promote_dtype": promoted(self.treatment),
        }

    @property
    def conv(self) -> Callable[..., nn.Module]:
        """Makes a convolution, called with its channels, kernel, strides, padding and `name`."""
        return partial(nn.Conv, conv_general_dilated=convolution, **self.linear)

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *shape"], *, train: bool, deterministic: bool | None = None
    ) -> Float[Array, "batch classes"]:
        """Logits of a minibatch.

        Args:
          x: the minibatch; images (height, width, channels), or for an MLP anything.
          train: whether normalizers take the minibatch's own statistics.
          deterministic: drop nothing out (default: in evaluation).
        """
        deterministic = not train if deterministic is None else deterministic
        return self.classify(self.features(x, train=train, deterministic=deterministic))

    def features(
        self, x: Array, *, train: bool, deterministic: bool
    ) -> Float[Array, "batch features"]:
        """What the logits are computed from, dropped out; called within `__call__`."""
        raise NotImplementedError

    def activated(self, *, train: bool) -> Callable[..., Array]:
        """A hidden layer's nonlinearity with its normalizers; for use within a compact module.

        It is called with the layer's output and its name as `layer`, and makes `norm_{layer}` and,
        with placement both, `norm_after_{layer}`.

        Args:
          train: whether normalizers take the minibatch's own statistics.
        """
        activation, placement = self.activation, self.norm_placement
        normalizer = self.normalizer and partial(self.normalizer, use_running_average=not train)

        def apply(x: Array, layer: str) -> Array:
            if normalizer is None:
                return activation(x)
            first = normalizer(name=f"norm_{layer}")
            if placement == "after":
                return first(activation(x))
            x = activation(first(x))
            return normalizer(name=f"norm_after_{layer}")(x) if placement == "both" else x

        return apply

    def before_nonlinearity(self, layer: str) -> str:
        """Which of a hidden layer and its normalizer the nonlinearity takes: layer or `norm`."""
        return layer if self.normalizer is None or self.norm_placement == "after" else "norm"

    def dropped(self, x: Array, name: str, *, deterministic: bool) -> Array:
        """Drops out unless `deterministic`; to be called within a compact module."""
        if self.dropout is None:
            return x
        return Dropout(self.dropout, name=name)(x, deterministic)

    @property
    def classify(self) -> Callable[[Array], Array]:
        """A linear layer `logits`, in float32 at least; for use within a compact module."""
        classes, init = self.num_classes, self.kernel_init

        # Not a method: the module that calls it gets the layer.
        def logits(x: Float[Array, "batch features"]) -> Float[Array, "batch classes"]:
            layer = nn.Dense(classes, kernel_init=init, name="logits")
            return layer(x.astype(jnp.promote_types(x.dtype, jnp.float32)))

        return logits
