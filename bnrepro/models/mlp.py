"""The fully connected network of the MNIST experiments ([BN] 4.1)."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from bnrepro.models.dropout import Dropout
from bnrepro.models.normalizers import Normalizer


class MLP(nn.Module):
    """Hidden layers of `dropout(activation(norm(dense(x))))`, then a linear layer to the classes.

    Hidden layer i consists of `dense_i` and, where there is a normalizer, `norm_i`; the latter's
    bias takes the place of the former's ([BN] 3.2). The output layer is `logits`.

    Attributes:
      hidden: units of each hidden layer.
      num_classes: number of logits.
      activation: elementwise, after the normalization.
      normalizer: makes a layer that is called as `layer(x)`, or None for none.
      kernel_init: draws all weights.
      dropout: rate of `Dropout`, in [0, 1); None for none.
    """

    hidden: Sequence[int]
    num_classes: int
    activation: Callable[[jax.Array], jax.Array]
    normalizer: Normalizer | None
    kernel_init: nn.initializers.Initializer
    dropout: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *features"], *, train: bool, deterministic: bool | None = None
    ) -> Float[Array, "batch classes"]:
        """Logits of a minibatch; inputs of any shape are flattened.

        Args:
          x: the minibatch.
          train: whether normalizers take the minibatch's own statistics.
          deterministic: drop nothing out; as a rule, that is in evaluation.
        """
        if deterministic is None:
            deterministic = not train
        x = x.reshape(x.shape[0], -1)
        for i, units in enumerate(self.hidden):
            x = nn.Dense(
                units,
                use_bias=self.normalizer is None,
                kernel_init=self.kernel_init,
                name=f"dense_{i}",
            )(x)
            if self.normalizer is not None:
                x = self.normalizer(use_running_average=not train, name=f"norm_{i}")(x)
            x = self.activation(x)
            if self.dropout is not None:
                x = Dropout(self.dropout, name=f"dropout_{i}")(x, deterministic)
        return nn.Dense(self.num_classes, kernel_init=self.kernel_init, name="logits")(x)
