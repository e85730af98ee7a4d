"""Statistics of a whole training set, to evaluate with in place of the moving averages."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from bnrepro.layers.shared import collecting

# The most passes over the data. As many as there are layers settle all statistics, unless a layer
# feeds itself.
_MOST_PASSES = 1_000


def population_statistics(
    apply: Callable[..., Any], variables: Mapping[str, Any], batches: Iterable[Any]
) -> dict[str, Any]:
    """Statistics of the whole training set, to evaluate with instead of the moving averages.

    `BatchNorm`: one pass in training mode, each layer normalizing with the minibatch's own
    statistics, which are averaged ([BN] Algorithm 2, lines 8-11)::

        E[x] = mean over minibatches of mu_B,   Var[x] = m / (m - 1) * mean of var_B

    Minibatches of unequal size m count by their sizes, var_B with m and the result over m - 1.

    `BatchRenorm`: mean and sqrt(var + epsilon) of each layer's inputs over the whole set, in the
    network that evaluates with them. In each pass, every layer normalizes with the statistics of
    the pass before. After one pass per layer in sequence, and one that changes nothing, the
    statistics are those of the network that uses them.

    Sums are kept in float64.

    Example::

        batch_stats = population_statistics(functools.partial(model.apply, train=True),
                                            variables, batches)
        logits = model.apply({**variables, "batch_stats": batch_stats}, images, train=False)

    Args:
      apply: the model with these layers in training mode and all else, such as dropout, as in
        evaluation, called as `apply(variables, batch, mutable=[...])`; any linen model.
      variables: collections `params` and `batch_stats`; not changed.
      batches: minibatches, each what `apply` takes. With `BatchRenorm` in the model, each pass
        needs the same examples, in any order; an iterator is kept as a list.

    Returns:
      A `batch_stats` collection of the same structure, with these statistics in it.

    Raises:
      ValueError: no `batch_stats`, no minibatches, a layer that did not run in training mode, or
        one whose statistics do not settle: it feeds itself, or passes have other examples.
    """

    @jax.jit
    def moments_of(variables: Any, batch: Any) -> Any:
        token = collecting.set(True)
        try:
            _, updates = apply(variables, batch, mutable=["batch_stats", "batch_moments"])
        finally:
            collecting.reset(token)
        return updates.get("batch_moments", {})

    if not variables.get("batch_stats"):
        raise ValueError("population_statistics: the variables have no batch_stats.")
    stored = flatten_dict(variables["batch_stats"])
    if not any(path[-1] == "std" for path in stored):
        return unflatten_dict(_collected(moments_of, variables, stored, batches))
    batches = list(batches) if iter(batches) is batches else batches
    for _ in range(_MOST_PASSES):
        before = stored
        current = {**variables, "batch_stats": unflatten_dict(before)}
        stored = _collected(moments_of, current, before, batches)
        if _settled(before, stored):
            return unflatten_dict(stored)
    raise ValueError(
        f"population_statistics: the statistics did not settle in {_MOST_PASSES} passes; either "
        "each pass had other examples, or a BatchRenorm layer feeds itself."
    )


def _settled(
    before: Mapping[tuple[str, ...], jax.Array], after: Mapping[tuple[str, ...], jax.Array]
) -> bool:
    """Whether a pass left the statistics of Batch Renorm as they were, except for rounding."""
    for path in (path[:-1] for path in after if path[-1] == "std"):
        for name in ("mean", "std"):
            old, new = (np.asarray(values[(*path, name)]) for values in (before, after))
            # A mean near zero is rounded like the values that it is of.
            scale = np.abs(new) + np.asarray(after[(*path, "std")])
            same = np.abs(new - old) <= 64 * float(jnp.finfo(new.dtype).eps) * scale
            # A seed that diverged has NaNs, which never settle.
            if np.any(~same & np.isfinite(new)):
                return False
    return True


def _collected(
    moments_of: Callable[[Any, Any], Any],
    variables: Mapping[str, Any],
    stored: Mapping[tuple[str, ...], jax.Array],
    batches: Iterable[Any],
) -> dict[tuple[str, ...], jax.Array]:
    """The statistics after one pass over the minibatches."""
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
    layers = {path[:-1] for path in stored if path[-1] in ("var", "std")}
    for path in layers - set(totals):
        raise ValueError(
            f"population_statistics: {'/'.join(path)} took no minibatch statistics; it must be a "
            "layer of bnrepro and run in training mode."
        )
    return {
        path: jnp.asarray(totals[path[:-1]].statistic(path[-1], value), value.dtype)
        if path[:-1] in totals
        else value
        for path, value in stored.items()
    }


class _Total:
    """Sums over minibatches for one layer with statistics of a shape."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape
        self.size: Any = 0.0
        self.freedom: Any = 0.0
        self.sum: Any = 0.0
        self.within: Any = 0.0  # squared deviations from the minibatch's mean
        self.square: Any = 0.0  # squared deviations from `centre`
        self.centre: Any = None
        self.epsilon: Any = 0.0

    def add(self, *moments: Any) -> None:
        """Adds mean, variance, number of values and epsilon, each of `shape`.

        Additional leading axes, such as a map over microbatches, are further minibatches.
        """
        mean, var, size, epsilon = (
            np.asarray(value, np.promote_types(value.dtype, np.float64)).reshape(-1, *self.shape)
            for value in moments
        )
        if self.centre is None:
            self.centre = mean[0]
        self.size = self.size + size.sum(0)
        self.freedom = self.freedom + np.maximum(size - 1, 0).sum(0)
        self.sum = self.sum + (size * mean).sum(0)
        self.within = self.within + (size * var).sum(0)
        self.square = self.square + (size * (var + np.abs(mean - self.centre) ** 2)).sum(0)
        self.epsilon = epsilon[0]

    def statistic(self, name: str, value: Any) -> Any:
        """The population's `mean`, `var` or `std`; anything else is kept as it is.

        A feature whose values are all masked is kept, too, as in training; a variance needs two
        values in a minibatch.
        """
        mean = self.sum / np.maximum(self.size, 1)
        if name == "mean":
            return np.where(self.size > 0, mean, value)
        if name == "var":
            var = self.within / np.maximum(self.freedom, 1)
            return np.where(self.freedom > 0, var, value)
        if name == "std":
            var = self.square / np.maximum(self.size, 1) - np.abs(mean - self.centre) ** 2
            std = np.sqrt(np.maximum(var, 0) + self.epsilon)
            return np.where(self.size > 0, std, value)
        return value
