"""The fully connected network of the MNIST experiments ([BN] 4.1)."""

from collections.abc import Sequence

import flax.linen as nn
from jaxtyping import Array, Float

from bnrepro.models.network import Network


class MLP(Network, kw_only=True):
    """Hidden layers of `dropout(activation(norm(dense(x))))`, then a linear layer to the classes.

    Hidden layer i consists of `dense_i` and, if there is a normalizer, `norm_i`. Other placements:
    see `Network.activated`.

    Attributes:
      hidden: units of each hidden layer.
    """

    hidden: Sequence[int]

    def nonlinearity_inputs(self) -> tuple[str, ...]:
        """Names of the modules whose outputs the nonlinearities take, first to last."""
        return tuple(f"{self.before_nonlinearity('dense')}_{i}" for i in range(len(self.hidden)))

    def features(
        self, x: Float[Array, "batch *shape"], *, train: bool, deterministic: bool
    ) -> Float[Array, "batch features"]:
        """The last hidden layer; inputs of any shape are flattened."""
        activated = self.activated(train=train)
        x = x.reshape(x.shape[0], -1)
        for i, units in enumerate(self.hidden):
            x = activated(nn.Dense(units, **self.linear, name=f"dense_{i}")(x), layer=str(i))
            x = self.dropped(x, f"dropout_{i}", deterministic=deterministic)
        return x
