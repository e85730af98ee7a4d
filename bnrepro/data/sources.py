"""Sources: the minibatch of a step, taken from images on the devices or fed by a stream.

A sampler draws, or a stream feeds, arrays whose first axes are the batch. They are small (indices,
flips, offsets) if the images live on the devices; a stream feeds the images themselves.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, Key

from bnrepro.data.samplers import Sampler

# Arrays that say which examples a minibatch has, by name; their first axis is the batch.
Drawn = Mapping[str, Any]
Draw = Callable[[Key[Array, ""], Int[Array, ""]], Drawn]
# The same with the images themselves: `images` and `labels`.
Batch = Mapping[str, Array]

# Distinct from the step numbers, from which the samplers' keys are made.
_FLIPS, _CROPS = 2**32 - 2, 2**32 - 3
# Steps per dispatch: enough to make its overhead negligible, few enough to react to a signal.
STEPS_AT_ONCE = 50


class Source(NamedTuple):
    """The minibatches of a run, each a pure function of the run and the step.

    Attributes:
      arrays: live on the devices; nothing for a stream.
      draw: for a resident source: draws a minibatch's examples from the run's key and the step.
      take: makes the minibatch that was drawn from the arrays, or fed.
      feed: for a stream: called on the host with the runs' seeds, the first step, a number of steps
        and which examples, (runs, batch), this process needs; returns arrays (runs, steps, batch,
        ...), which may hold anything for other examples.
      steps_at_once: the most steps that one dispatch takes.
      read: for a stream: called on the host with the arrays of `Examples`, what was drawn of them
        and which of it this process needs; returns what `take` makes the examples from.
    """

    arrays: Any
    draw: Draw | None
    take: Callable[[Any, Drawn], Batch]
    feed: Callable[[Sequence[int], int, int, Bool[np.ndarray, "runs batch"]], Drawn] | None = None
    steps_at_once: int = STEPS_AT_ONCE
    read: Callable[[Any, Drawn, Bool[np.ndarray, "*drawn"]], Drawn] | None = None


class Examples(NamedTuple):
    """A fixed set of examples to evaluate on.

    Attributes:
      arrays: live on the devices, except for a stream's.
      drawn: which examples the set consists of.
    """

    arrays: Any
    drawn: Drawn


def make_draw(sampler: Sampler, *, flip: bool, crop: bool) -> Draw:
    """Draws what `take_images` makes a minibatch from.

    Args:
      sampler: draws indices.
      flip: mirror half of the drawn images, left to right.
      crop: shift each image by up to an eighth of its height and width; what comes in is 0.
    """

    def draw(key: Key[Array, ""], step: Int[Array, ""]) -> Drawn:
        drawn = {"index": sampler(key, step)}
        if flip:
            flip_key = jax.random.fold_in(jax.random.fold_in(key, _FLIPS), step)
            drawn["flip"] = jax.random.bernoulli(flip_key, shape=drawn["index"].shape[:1])
        if crop:
            crop_key = jax.random.fold_in(jax.random.fold_in(key, _CROPS), step)
            drawn["crop"] = jax.random.uniform(crop_key, (*drawn["index"].shape[:1], 2))
        return drawn

    return draw


def fixed_examples(images: Any, labels: np.ndarray, count: int, digits: int) -> Examples:
    """The first `count` examples, or all; with several images side by side, `count` pictures.

    The pictures go through all labels in turn, or through some of them, drawn without replacement,
    if there are fewer pictures than labels; their images are drawn once and then fixed.
    """
    if digits == 1:
        first = images[:count], labels[:count]
        return Examples(first, {"index": np.arange(len(first[1]))})
    classes, sizes = np.unique(labels, return_counts=True)
    order, firsts = np.argsort(labels, kind="stable"), np.cumsum(sizes) - sizes
    number, all_labels = np.arange(count), len(classes) ** digits
    if count < all_labels:
        number = np.random.default_rng(1).permutation(all_labels)[:count]
    of_position = number[:, None] // len(classes) ** np.arange(digits)[::-1] % len(classes)
    places = np.random.default_rng(0).integers(sizes[of_position])
    return Examples((images, labels), {"index": order[firsts[of_position] + places]})


def take_images(
    arrays: tuple[Array, Array] | tuple[()], drawn: Drawn, *, classes: int, digits: int
) -> dict[str, Array]:
    """Images and labels by their indices, with several side by side if the index has a digit axis.

    Args:
      arrays: images (examples, height, width, channels) and labels (examples,); none for a stream.
      drawn: `index`, (*batch) or (*batch, digits), or a stream's `images` and `labels` themselves;
        `flip`, (*batch), if images are mirrored; `crop`, (*batch, 2) in [0, 1), if they are
        shifted: from one extreme to the other, in height and width.
      classes: number of labels of a single image.
      digits: number of images side by side. A picture's label is the number, to the base
        `classes`, whose digits are its images' labels.

    Returns:
      `images` (*batch, height, digits * width, channels) and `labels` (*batch).
    """
    if "images" in drawn:
        images, labels = drawn["images"], drawn["labels"]
    else:
        images, labels = (array[drawn["index"]] for array in arrays)
    if digits > 1:
        images = jnp.moveaxis(images, -4, -3)
        images = images.reshape(*images.shape[:-3], -1, images.shape[-1])
        labels = labels @ jnp.array([classes**i for i in reversed(range(digits))])
    if "flip" in drawn:
        mirrored = drawn["flip"][..., None, None, None]
        images = jnp.where(mirrored, images[..., ::-1, :], images)
    if "crop" in drawn:
        images = _shifted(images, drawn["crop"])
    return {"images": images, "labels": labels}


def _shifted(images: Array, crop: Array) -> Array:
    shape = images.shape[-3:]
    most = np.array(shape[:2]) // 8

    def one(image: Array, crop: Array) -> Array:
        top, left = jnp.floor(crop * (2 * most + 1)).astype(jnp.int32)
        padded = jnp.pad(image, [*((n, n) for n in most), (0, 0)])
        return lax.dynamic_slice(padded, (top, left, 0), shape)

    flat = jax.vmap(one)(images.reshape(-1, *shape), crop.reshape(-1, 2))
    return flat.reshape(images.shape)
