"""Samplers: pure functions of (key, step), uniform, and without replacement where they say so."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bnrepro.data.samplers import by_label, epochs, make_sampler, shuffled_index, with_replacement

KEY = jax.random.key(3)


def draw(sampler, steps, key=KEY):
    return np.asarray(jax.jit(jax.vmap(partial(sampler, key)))(jnp.arange(steps)))


@pytest.mark.parametrize("size", [1, 2, 3, 10, 64, 65, 1437, 60_000])
def test_shuffled_index_is_a_permutation(size):
    shuffled = np.asarray(jax.jit(shuffled_index, static_argnums=2)(KEY, jnp.arange(size), size))
    np.testing.assert_array_equal(np.sort(shuffled), np.arange(size))


def test_every_order_of_four_comes_up_equally_often():
    keys = jax.random.split(KEY, 12_000)
    orders = np.asarray(jax.jit(jax.vmap(lambda key: shuffled_index(key, jnp.arange(4), 4)))(keys))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    # A fair shuffle falls below this once in 10,000 keys; the key is fixed.
    assert stats.chisquare(counts).pvalue > 1e-4


def test_where_an_index_goes_is_uniform_and_independent_of_where_its_neighbour_goes():
    keys = jax.random.split(KEY, 20_000)
    places = np.asarray(
        jax.jit(jax.vmap(lambda key: shuffled_index(key, jnp.arange(2), 60_000)))(keys)
    )
    bins = places * 10 // 60_000
    pairs = np.histogram2d(bins[:, 0], bins[:, 1], bins=10)[0]
    assert stats.chisquare(pairs.ravel()).pvalue > 1e-4


def test_an_epoch_shows_each_example_once_and_the_next_in_another_order():
    batches = draw(epochs(60, 6), 20)
    first, second = batches[:10].ravel(), batches[10:].ravel()
    np.testing.assert_array_equal(np.sort(first), np.arange(60))
    np.testing.assert_array_equal(np.sort(second), np.arange(60))
    assert (first != second).any()


def test_what_an_epoch_leaves_over_differs_from_epoch_to_epoch():
    batches = draw(epochs(7, 3), 60).reshape(30, 6)
    left_over = {(set(range(7)) - set(epoch.tolist())).pop() for epoch in batches}
    assert len(left_over) > 1
    assert all(len(set(epoch.tolist())) == 6 for epoch in batches)


@pytest.mark.parametrize(
    "sampler",
    [
        epochs(100, 10),
        with_replacement(100, 10),
        by_label(np.arange(100) % 10, 5, 2, repeat_labels=True),
    ],
    ids=["epochs", "with replacement", "labels"],
)
def test_the_same_key_and_step_give_the_same_indices_alone_and_in_a_batch_of_steps(sampler):
    together, alone = draw(sampler, 25), jax.jit(sampler)
    for step in (0, 9, 10, 24):
        np.testing.assert_array_equal(alone(KEY, jnp.int32(step)), together[step])
    assert (draw(sampler, 25, jax.random.key(4)) != together).any()


def test_with_replacement_draws_all_examples_equally_often_and_repeats_some_within_a_batch():
    batches = draw(with_replacement(50, 50), 400)
    counts = np.bincount(batches.ravel(), minlength=50)
    assert stats.chisquare(counts).pvalue > 1e-4
    assert len(np.unique(batches[0])) < 50


LABELS = np.repeat(np.arange(10), [5, 9, 4, 6, 4, 8, 12, 4, 7, 5])[
    np.random.default_rng(0).permutation(64)
]


def drawn_labels(sampler, steps):
    """(steps, batch) indices, and the labels they have."""
    indices = draw(sampler, steps)
    return indices, LABELS[indices]


@pytest.mark.parametrize(("count", "images"), [(2, 3), (1, 4), (10, 2)])
def test_a_minibatch_holds_so_many_labels_and_so_many_different_images_of_each(count, images):
    indices, labels = drawn_labels(by_label(LABELS, count, images, repeat_labels=False), 50)
    for batch, of_batch in zip(indices, labels, strict=True):
        _, counts = np.unique(of_batch, return_counts=True)
        assert counts.tolist() == [images] * count
        assert len(set(batch.tolist())) == count * images


def test_microbatches_of_one_image_a_label_hold_each_label_once():
    _, labels = drawn_labels(by_label(LABELS, 4, 2, repeat_labels=False), 50)
    for batch in labels.reshape(50, 2, 4):
        assert set(batch[0]) == set(batch[1])
        assert len(set(batch[0])) == 4


def test_labels_drawn_with_replacement_come_up_again_and_may_be_more_than_there_are():
    _, repeated = drawn_labels(by_label(LABELS, 12, 2, repeat_labels=True), 100)
    distinct = np.array([len(np.unique(batch)) for batch in repeated])
    # Of 12 draws of 10 labels, 10 (1 - 0.9^12) = 7.18 differ on average.
    assert abs(distinct.mean() - 7.18) < 0.4
    assert (repeated[:, :12] == repeated[:, 12:]).all()


@pytest.mark.parametrize("repeat_labels", [True, False])
def test_all_labels_and_all_images_of_a_label_come_up_equally_often(repeat_labels):
    indices, labels = drawn_labels(by_label(LABELS, 2, 2, repeat_labels=repeat_labels), 4000)
    first_labels = labels[:, 0]
    assert stats.chisquare(np.bincount(first_labels, minlength=10)).pvalue > 1e-4
    sixes = indices[:, 0][first_labels == 6]
    counts = np.array([(sixes == i).sum() for i in np.flatnonzero(LABELS == 6)])
    assert stats.chisquare(counts).pvalue > 1e-4


SIZES = {"labels_per_batch": 2, "examples_per_label": 3, "repeat_labels": False}


@pytest.mark.parametrize(
    ("name", "batch_size", "changes", "message"),
    [
        ("labels", 7, {}, "got 2 x 3 and 7"),
        ("labels", 33, {"labels_per_batch": 11}, "at most 10, the number of labels.*got 11"),
        ("labels", 10, {"examples_per_label": 5}, "at most 4, .* of label 2, got 5"),
        ("labels", 303, {"labels_per_batch": 101, "digits": 2}, "at most 100, .*got 101"),
        ("epochs", 65, {}, r"\[1, 64\].*got 65"),
        ("epochs", 5, {"digits": 2}, "digits is 2"),
    ],
)
def test_sizes_that_cannot_be_are_refused_with_the_numbers(name, batch_size, changes, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(name, LABELS, batch_size, **SIZES | changes)
