"""Samplers: pure functions of (key, step), uniform, and without replacement where they say so."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bnrepro.data.samplers import epochs, shuffled_index, with_replacement

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


@pytest.mark.parametrize("make", [epochs, with_replacement])
def test_the_same_key_and_step_give_the_same_indices_alone_and_in_a_batch_of_steps(make):
    sampler = make(100, 10)
    together = draw(sampler, 25)
    for step in (0, 9, 10, 24):
        np.testing.assert_array_equal(sampler(KEY, jnp.int32(step)), together[step])
    assert (draw(sampler, 25, jax.random.key(4)) != together).any()


def test_with_replacement_draws_all_examples_equally_often_and_repeats_some_within_a_batch():
    batches = draw(with_replacement(50, 50), 400)
    counts = np.bincount(batches.ravel(), minlength=50)
    assert stats.chisquare(counts).pvalue > 1e-4
    assert len(np.unique(batches[0])) < 50


@pytest.mark.parametrize("batch_size", [0, 11])
def test_a_minibatch_larger_than_the_set_is_refused_with_both_numbers(batch_size):
    with pytest.raises(ValueError, match=rf"\[1, 10\].*got {batch_size}"):
        epochs(10, batch_size)
