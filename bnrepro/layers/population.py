"""Population statistics over a data set: the inference of [BN] Algorithm 2."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict


def population_statistics(
    apply: Callable[..., Any], variables: Mapping[str, Any], batches: Iterable[Any]
) -> dict[str, Any]:
    """Statistics of the whole training set, to evaluate with instead of the moving averages.

    Runs the network in training mode over minibatches, each layer normalizing with the minibatch's
    own statistics, and averages those ([BN] Algorithm 2, lines 8-11)::

        E[x] = mean over minibatches of mu_B,   Var[x] = m / (m - 1) * mean of var_B

    Minibatches of unequal size m count by their sizes, var_B with m and the result over m - 1.
    For `BatchRenorm` sigma is sqrt(Var[x] + epsilon). Sums are kept in float64.

    Example::

        batch_stats = population_statistics(functools.partial(model.apply, train=True),
                                            variables, batches)
        logits = model.apply({**variables, "batch_stats": batch_stats}, images, train=False)

    Args:
      apply: the model in training mode, called as `apply(variables, batch, mutable=[...])`;
        any linen model that contains the layers.
      variables: collections `params` and `batch_stats`; not changed.
      batches: minibatches, each what `apply` takes.

    Returns:
      A `batch_stats` collection of the same structure, with these statistics in it.

    Raises:
      ValueError: no minibatches, or a layer in `batch_stats` that did not run in training mode.
    """

    @jax.jit
    def moments_of(variables: Any, batch: Any) -> Any:
        _, updates = apply(variables, batch, mutable=["batch_stats", "batch_moments"])
        return updates.get("batch_moments", {})

    stored = flatten_dict(variables["batch_stats"])
    totals: dict[tuple[str, ...], _Total] = {}
    for batch in batches:
        # A layer that runs several times in one pass has several moments under its path.
        for path, calls in flatten_dict(moments_of(variables, batch)).items():
            total = totals.setdefault(path[:-1], _Total(stored[(*path[:-1], "mean")].shape))
            for moments in calls:
                total.add(*moments)
    if not totals:
        raise ValueError(
            "population_statistics: no minibatch statistics seen; give at least one minibatch and "
            "an `apply` that runs bnrepro's BatchNorm or BatchRenorm in training mode (within "
            "nn.vmap or nn.scan: with the collection batch_moments among its variable_axes)."
        )

    for path in {path[:-1] for path in stored} - set(totals):
        raise ValueError(
            f"population_statistics: {'/'.join(path)} took no minibatch statistics; it must be a "
            "layer of bnrepro and run in training mode."
        )
    return unflatten_dict(
        {
            path: jnp.asarray(totals[path[:-1]].statistic(path[-1], value), value.dtype)
            for path, value in stored.items()
        }
    )


class _Total:
    """Sums over minibatches for one layer with statistics of a shape."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape
        self.mean: Any = 0.0
        self.var: Any = 0.0
        self.size: Any = 0.0
        self.freedom: Any = 0.0
        self.epsilon: Any = 0.0

    def add(self, *moments: Any) -> None:
        """Adds mean, variance, number of values and epsilon, each of `shape`.

        Further axes in front, of a map over microbatches say, are further minibatches.
        """
        mean, var, size, epsilon = (
            np.asarray(value, np.promote_types(value.dtype, np.float64)).reshape(-1, *self.shape)
            for value in moments
        )
        self.mean = self.mean + (size * mean).sum(0)
        self.var = self.var + (size * var).sum(0)
        self.size = self.size + size.sum(0)
        self.freedom = self.freedom + np.maximum(size - 1, 0).sum(0)
        self.epsilon = epsilon[0]

    def statistic(self, name: str, value: Any) -> Any:
        """The population's `mean`, `var` or `std`; anything else is kept as it is."""
        var = self.var / self.freedom
        return {"mean": self.mean / self.size, "var": var, "std": np.sqrt(var + self.epsilon)}.get(
            name, value
        )
