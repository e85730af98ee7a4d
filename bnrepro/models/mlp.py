"""The fully connected network of the MNIST experiments ([BN] 4.1)."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bnrepro.models.dropout import Dropout
from bnrepro.models.kernels import KERNELS, Treatment, promoted
from bnrepro.models.normalizers import Normalizer, activate


class MLP(nn.Module):
    """Hidden layers of `dropout(activation(norm(dense(x))))`, then a linear layer to the classes.

    Hidden layer i consists of `dense_i` and, if there is a normalizer, `norm_i`, whose bias
    replaces that of `dense_i` ([BN] 3.2). Other placements: see `activate`. The output
    layer is `logits`.

    Attributes:
      hidden: units of each hidden layer.
      num_classes: number of logits.
      activation: elementwise.
      normalizer: makes a layer that is called as `layer(x)`, or None for none.
      kernel_init: draws all weights.
      dropout: rate of `Dropout`, in [0, 1); None for none.
      norm_placement: one of `PLACEMENTS`.
      treatment: of the kernels of the hidden layers, one of `KERNELS`.
      dtype: of activations except the logits (default: that of input and parameters).
    """

    hidden: Sequence[int]
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
        return tuple(f"{'dense' if direct else 'norm'}_{i}" for i in range(len(self.hidden)))

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *features"], *, train: bool, deterministic: bool | None = None
    ) -> Float[Array, "batch classes"]:
        """Logits of a minibatch; inputs of any shape are flattened.

        Args:
          x: the minibatch.
          train: whether normalizers take the minibatch's own statistics.
          deterministic: drop nothing out (default: in evaluation).
        """
        if deterministic is None:
            deterministic = not train
        x = x.reshape(x.shape[0], -1)
        for i, units in enumerate(self.hidden):
            x = nn.Dense(
                units,
                use_bias=self.normalizer is None,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                promote_dtype=promoted(self.treatment),
                name=f"dense_{i}",
            )(x)
            x = activate(
                x, self.activation, self.normalizer, self.norm_placement, str(i), train=train
            )
            if self.dropout is not None:
                x = Dropout(self.dropout, name=f"dropout_{i}")(x, deterministic)
        logits = nn.Dense(self.num_classes, kernel_init=self.kernel_init, name="logits")
        return logits(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
