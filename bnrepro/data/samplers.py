"""Which examples a step sees: pure functions of (key, step), so that nothing has to be stored.

A sampler returns int32 indices of shape (batch_size,) or, for pictures that consist of several
images side by side, (batch_size, digits). The same key and step always give the same indices,
also when a run is split or resumed.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, Key, UInt32

Sampler = Callable[[Key[Array, ""], Int[Array, ""]], Int[Array, "batch *digits"]]

_ROUNDS = 8


def epochs(num_examples: int, batch_size: int) -> Sampler:
    """i.i.d. in epochs: each example at most once per epoch, in a new order each epoch.

    The examples left over after the last whole minibatch differ from epoch to epoch.

    Raises:
      ValueError: fewer examples than in a minibatch.
    """
    if not 1 <= batch_size <= num_examples:
        raise ValueError(
            f"batch_size must be in [1, {num_examples}], the number of examples to draw from "
            f"without replacement, got {batch_size}."
        )
    steps_per_epoch = num_examples // batch_size

    def sample(key: Key[Array, ""], step: Int[Array, ""]) -> Int[Array, "batch"]:
        first = step % steps_per_epoch * batch_size
        epoch_key = jax.random.fold_in(key, step // steps_per_epoch)
        return shuffled_index(epoch_key, first + jnp.arange(batch_size), num_examples)

    return sample


def with_replacement(num_examples: int, batch_size: int) -> Sampler:
    """i.i.d., every example drawn independently."""

    def sample(key: Key[Array, ""], step: Int[Array, ""]) -> Int[Array, "batch"]:
        return jax.random.randint(jax.random.fold_in(key, step), (batch_size,), 0, num_examples)

    return sample


def by_label(
    labels: Int[np.ndarray, "n"],
    labels_per_batch: int,
    examples_per_label: int,
    *,
    repeat_labels: bool,
    digits: int = 1,
) -> Sampler:
    """Minibatches of few labels ([BRN] 4.3): some labels, and different images of each.

    The order is one image of each label, then another of each, and so on. If a minibatch is split
    into microbatches, images of one label go to different ones (the paper's half-minibatches).

    Args:
      labels: of all examples.
      labels_per_batch: labels drawn for a minibatch.
      examples_per_label: images drawn of each, no image twice.
      repeat_labels: draw labels with replacement, as the paper does; a label that comes up twice
        has twice the images.
      digits: images side by side in a picture, whose label combines theirs; so there are as many
        labels as numbers with this many digits.

    Raises:
      ValueError: without replacement, more labels than exist; a label with too few images.
    """
    classes, counts = np.unique(labels, return_counts=True)
    num_labels = len(classes) ** digits
    if not repeat_labels and labels_per_batch > num_labels:
        raise ValueError(
            f"labels_per_batch must be at most {num_labels}, the number of labels, unless they "
            f"are repeated, got {labels_per_batch}."
        )
    if counts.min() < examples_per_label:
        raise ValueError(
            f"examples_per_label must be at most {counts.min()}, the number of images of label "
            f"{classes[counts.argmin()]}, got {examples_per_label}."
        )
    # Examples sorted by label, so that each label's are consecutive.
    order = jnp.asarray(np.argsort(labels, kind="stable"), jnp.int32)
    firsts, sizes = jnp.asarray(np.cumsum(counts) - counts), jnp.asarray(counts)
    capacity = int(counts.max())
    powers = jnp.asarray(len(classes) ** np.arange(digits)[None, ::-1], jnp.int32)

    def sample(key: Key[Array, ""], step: Int[Array, ""]) -> Int[Array, "batch *digits"]:
        label_key, image_key = jax.random.split(jax.random.fold_in(key, step))
        drawn = jax.random.choice(label_key, num_labels, (labels_per_batch,), replace=repeat_labels)

        def images(key: Key[Array, ""], label: Int[Array, ""]) -> Int[Array, "images"]:
            places = jnp.arange(examples_per_label)
            return firsts[label] + shuffled_index(key, places, sizes[label], capacity)

        keys = jax.random.split(image_key, labels_per_batch)
        if digits == 1:
            return order[jax.vmap(images)(keys, drawn).T.ravel()]
        keys = jax.vmap(partial(jax.random.split, num=digits))(keys)
        of_position = drawn[:, None] // powers % len(classes)
        index = jax.vmap(jax.vmap(images))(keys, of_position)
        return order[jnp.moveaxis(index, -1, 0).reshape(-1, digits)]

    return sample


def _repeated(sampler: Sampler, times: int) -> Sampler:
    """Several consecutive minibatches of a sampler, as one."""
    if times == 1:
        return sampler

    def sample(key: Key[Array, ""], step: Int[Array, ""]) -> Int[Array, "batch *digits"]:
        keys = jax.random.split(jax.random.fold_in(key, step), times)
        drawn = jax.vmap(sampler, in_axes=(0, None))(keys, step)
        return drawn.reshape(-1, *drawn.shape[2:])

    return sample


def make_sampler(
    name: str,
    labels: Int[np.ndarray, "n"],
    batch_size: int,
    *,
    labels_per_batch: int,
    examples_per_label: int,
    repeat_labels: bool,
    digits: int = 1,
) -> Sampler:
    """The sampler of that name.

    Args:
      name: `epochs`, `with_replacement` or `labels`, which are explained above.
      labels: of all images.
      batch_size: examples of a minibatch.
      labels_per_batch: for `labels`, as are the next two. A batch that is larger than labels
        times examples consists of several such minibatches.
      examples_per_label: see `by_label`.
      repeat_labels: see `by_label`.
      digits: images side by side in a picture. Labels of such pictures are equally frequent.

    Raises:
      ValueError: invalid sizes, or epochs with several images per picture, which are drawn one by
        one.
    """
    if name == "epochs":
        if digits > 1:
            raise ValueError(
                f"sampler epochs goes through images one by one, but digits is {digits}: use "
                "with_replacement or labels."
            )
        return epochs(len(labels), batch_size)
    if name == "with_replacement":
        if digits > 1:
            return by_label(labels, batch_size, 1, repeat_labels=True, digits=digits)
        return with_replacement(len(labels), batch_size)
    assert name == "labels", name
    if batch_size % (labels_per_batch * examples_per_label):
        raise ValueError(
            f"labels_per_batch times examples_per_label must divide batch_size, got "
            f"{labels_per_batch} x {examples_per_label} and {batch_size}."
        )
    sampler = by_label(
        labels, labels_per_batch, examples_per_label, repeat_labels=repeat_labels, digits=digits
    )
    return _repeated(sampler, batch_size // (labels_per_batch * examples_per_label))


def shuffled_index(
    key: Key[Array, ""],
    index: Int[Array, "n"],
    size: int | Int[Array, ""],
    capacity: int | None = None,
) -> Int[Array, "n"]:
    """Where a random permutation of range(size) takes `index`, without making the permutation.

    Sorting 60,000 numbers takes as long as many training steps of a small network, and a step needs
    only 60 of them. A Feistel network keyed by `key` permutes a power of four that is at least
    `size`; values outside are permuted again until they fall inside (Black & Rogaway, Ciphers with
    arbitrary finite domains, 2002), as in the index_shuffle of TensorFlow and Grain.

    Args:
      key: names the permutation.
      index: in [0, size).
      size: how many are permuted.
      capacity: an upper bound of `size` if it is traced.
    """
    half_bits = max(1, math.ceil(math.log2(capacity or int(size)) / 2))
    half_mask = jnp.uint32((1 << half_bits) - 1)
    round_keys = jax.random.bits(key, (_ROUNDS,), jnp.uint32)

    def permute(value: UInt32[Array, "n"]) -> UInt32[Array, "n"]:
        left, right = value >> half_bits, value & half_mask
        for i in range(_ROUNDS):
            left, right = right, left ^ (_mix(right ^ round_keys[i]) & half_mask)
        return left << half_bits | right

    def outside(value: UInt32[Array, "n"]) -> Array:
        return jnp.any(value >= size)

    def walk(value: UInt32[Array, "n"]) -> UInt32[Array, "n"]:
        return jnp.where(value >= size, permute(value), value)

    return lax.while_loop(outside, walk, permute(index.astype(jnp.uint32))).astype(jnp.int32)


def _mix(bits: UInt32[Array, "n"]) -> UInt32[Array, "n"]:
    """The finalizer of MurmurHash3: every input bit changes each output bit half of the time."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)
