"""Sources: the minibatch of a step, taken from images on the devices or fed by a stream.

A sampler draws, or a stream feeds, arrays whose first axes are the batch. They are small (indices
and flips) if the images live on the devices; a stream feeds the images themselves.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from bnrepro.data.samplers import Sampler

# Arrays that say which examples a minibatch has, by name; their first axis is the batch.
Drawn = Mapping[str, Any]
# The same with the images themselves: `images` and `labels`.
Batch = Mapping[str, Array]

# Distinct from the step numbers, from which the samplers' keys are made.
_FLIPS = 2**32 - 2
# Steps per dispatch: enough to make its overhead negligible, few enough to react to a signal.
_STEPS_AT_ONCE = 50


class Source(NamedTuple):
    """The minibatches of a run, each a pure function of the run and the step.

    Attributes:
      arrays: live on the devices; nothing for a stream.
      draw: for a resident source: draws a minibatch's examples from the run's key and the step.
      take: makes the minibatch that was drawn from the arrays, or fed.
      feed: for a stream: called on the host with the runs' seeds, the first step and a number of
        steps; returns arrays (runs, steps, batch, ...).
      steps_at_once: the most steps that one dispatch takes.
    """

    arrays: Any
    draw: Callable[[Key[Array, ""], Int[Array, ""]], Drawn] | None
    take: Callable[[Any, Drawn], Batch]
    feed: Callable[[Sequence[int], int, int], Drawn] | None = None
    steps_at_once: int = _STEPS_AT_ONCE


class Examples(NamedTuple):
    """A fixed set of examples to evaluate on.

    Attributes:
      arrays: live on the devices.
      drawn: which examples the set consists of.
    """

    arrays: Any
    drawn: Drawn


def resident(
    images: np.ndarray,
    labels: np.ndarray,
    sampler: Sampler,
    take: Callable[[Any, Drawn], Batch],
    *,
    flip: bool,
    steps_at_once: int = _STEPS_AT_ONCE,
) -> Source:
    """A source of images that live on the devices.

    Args:
      images: (examples, height, width, channels).
      labels: (examples,).
      sampler: draws indices.
      take: see `take_images`.
      flip: mirror half of the drawn images, left to right.
      steps_at_once: see `Source`.
    """

    def draw(key: Key[Array, ""], step: Int[Array, ""]) -> Drawn:
        drawn = {"index": sampler(key, step)}
        if flip:
            flip_key = jax.random.fold_in(jax.random.fold_in(key, _FLIPS), step)
            drawn["flip"] = jax.random.bernoulli(flip_key, shape=drawn["index"].shape[:1])
        return drawn

    return Source((images, labels), draw, take, steps_at_once=steps_at_once)


def fixed_examples(images: np.ndarray, labels: np.ndarray, count: int, digits: int) -> Examples:
    """The first `count` examples, or all; with several images side by side, `count` pictures.

    The pictures go through all labels in turn; their images are drawn once and then fixed.
    """
    if digits == 1:
        first = images[:count], labels[:count]
        return Examples(first, {"index": np.arange(len(first[1]))})
    classes, sizes = np.unique(labels, return_counts=True)
    order, firsts = np.argsort(labels, kind="stable"), np.cumsum(sizes) - sizes
    of_position = np.arange(count)[:, None] // len(classes) ** np.arange(digits)[::-1]
    of_position %= len(classes)
    places = np.random.default_rng(0).integers(sizes[of_position])
    return Examples((images, labels), {"index": order[firsts[of_position] + places]})


def take_images(
    arrays: tuple[Array, Array], drawn: Drawn, *, classes: int, digits: int
) -> dict[str, Array]:
    """Images and labels by their indices, with several side by side if the index has a digit axis.

    Args:
      arrays: images (examples, height, width, channels) and labels (examples,).
      drawn: `index`, (*batch) or (*batch, digits); `flip`, (*batch), if images are mirrored.
      classes: number of labels of a single image.
      digits: number of images side by side. A picture's label is the number, to the base
        `classes`, whose digits are its images' labels.

    Returns:
      `images` (*batch, height, digits * width, channels) and `labels` (*batch).
    """
    index = drawn["index"]
    images, labels = arrays[0][index], arrays[1][index]
    if digits > 1:
        images = jnp.moveaxis(images, -4, -3)
        images = images.reshape(*images.shape[:-3], -1, images.shape[-1])
        labels = labels @ jnp.array([classes**i for i in reversed(range(digits))])
    if "flip" in drawn:
        mirrored = drawn["flip"][..., None, None, None]
        images = jnp.where(mirrored, images[..., ::-1, :], images)
    return {"images": images, "labels": labels}
