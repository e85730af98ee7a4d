"""Sources: minibatches and sets to evaluate on, of single images and of several side by side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bnrepro.data.samplers import make_sampler, with_replacement
from bnrepro.data.sources import fixed_examples, make_draw, take_images
from tests.data.test_samplers import KEY, draw

# Images of 2 x 3 pixels that tell which they are, of three labels.
LABELS = np.repeat(np.arange(3), [5, 4, 6])[np.random.default_rng(0).permutation(15)]
IMAGES = (np.arange(15)[:, None, None, None] * 10 + np.arange(6).reshape(2, 3, 1)).astype(np.uint8)


def taken(drawn, digits=1):
    arrays = jnp.asarray(IMAGES), jnp.asarray(LABELS)
    return jax.tree.map(np.asarray, take_images(arrays, drawn, classes=3, digits=digits))


def test_a_picture_shows_its_images_from_left_to_right_and_its_label_reads_like_a_number():
    index = np.array([[[7, 2, 11], [0, 0, 14]]])
    pictures = taken({"index": index}, digits=3)
    assert pictures["images"].shape == (1, 2, 2, 9, 1)
    for picture, of in zip(pictures["images"][0], index[0], strict=True):
        np.testing.assert_array_equal(picture, np.concatenate(IMAGES[of], axis=1))
    a, b, c = LABELS[[7, 2, 11]]
    assert pictures["labels"][0, 0] == 9 * a + 3 * b + c


def test_half_of_the_training_images_are_mirrored_others_at_each_step():
    sampler = with_replacement(15, 200)
    flipped = make_draw(sampler, flip=True, crop=False)
    drawn = [flipped(KEY, jnp.int32(step)) for step in (4, 5)]
    np.testing.assert_array_equal(drawn[0]["index"], sampler(KEY, jnp.int32(4)))
    images, originals = taken(drawn[0])["images"], IMAGES[np.asarray(drawn[0]["index"])]
    mirrored = (images == originals[:, :, ::-1]).all((1, 2, 3))
    assert ((images == originals).all((1, 2, 3)) != mirrored).all()
    assert stats.binomtest(int(mirrored.sum()), 200).pvalue > 1e-4
    assert (np.asarray(drawn[1]["flip"]) != mirrored).any()


def test_cropped_images_are_shifted_by_up_to_an_eighth_each_way_alike_often():
    images = np.random.default_rng(0).integers(1, 256, (4, 16, 24, 1)).astype(np.uint8)
    index = np.asarray(with_replacement(4, 3_000)(KEY, jnp.int32(6)))
    drawn = make_draw(with_replacement(4, 3_000), flip=False, crop=True)(KEY, jnp.int32(6))
    arrays = jnp.asarray(images), jnp.zeros(4, jnp.int32)
    cropped = np.asarray(take_images(arrays, drawn, classes=1, digits=1)["images"])
    padded = np.pad(images, [(0, 0), (2, 2), (3, 3), (0, 0)])
    shifts = {
        (i, y, x): padded[i, y : y + 16, x : x + 24].tobytes()
        for i in range(4)
        for y in range(5)
        for x in range(7)
    }
    which = {pixels: shift for shift, pixels in shifts.items()}
    seen = np.array([which[image.tobytes()] for image in cropped])
    np.testing.assert_array_equal(seen[:, 0], index)
    counts = np.bincount(seen[:, 1] * 7 + seen[:, 2], minlength=35)
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("repeat_labels", [True, False])
def test_pictures_of_few_labels_come_in_groups_that_share_theirs(repeat_labels):
    sizes = {"labels_per_batch": 4, "examples_per_label": 3, "digits": 2}
    sampler = make_sampler("labels", LABELS, 24, repeat_labels=repeat_labels, **sizes)
    index = draw(sampler, 100)
    assert index.shape == (100, 24, 2)
    # Steps, groups, one picture of each label after the other, labels.
    labels = taken({"index": index}, digits=2)["labels"].reshape(100, 2, 3, 4)
    assert (labels == labels[:, :, :1]).all()
    distinct = np.array([len(set(group)) for group in labels[:, :, 0].reshape(-1, 4).tolist()])
    assert (distinct.min() < 4) == repeat_labels
    assert stats.chisquare(np.bincount(labels[:, :, 0].ravel(), minlength=9)).pvalue > 1e-4
    # On either side, no image twice among the pictures of a label.
    images = np.sort(index.reshape(100, 2, 3, 4, 2), axis=2)
    assert (images[:, :, 1:] != images[:, :, :-1]).all()


def test_labels_of_pictures_drawn_with_replacement_are_equally_frequent():
    settings = {"labels_per_batch": 1, "examples_per_label": 1, "repeat_labels": False}
    sampler = make_sampler("with_replacement", LABELS, 50, **settings, digits=2)
    index = draw(sampler, 100)
    labels = taken({"index": index}, digits=2)["labels"].ravel()
    assert stats.chisquare(np.bincount(labels, minlength=9)).pvalue > 1e-4


def test_a_fixed_set_of_pictures_has_each_label_in_turn_and_is_always_the_same():
    examples = fixed_examples(IMAGES, LABELS, 20, 2)
    np.testing.assert_array_equal(taken(examples.drawn, 2)["labels"], np.arange(20) % 9)
    again = fixed_examples(IMAGES, LABELS, 20, 2)
    np.testing.assert_array_equal(examples.drawn["index"], again.drawn["index"])
    assert len(np.unique(fixed_examples(IMAGES, LABELS, 200, 2).drawn["index"])) == 15


def test_fewer_fixed_pictures_than_labels_are_of_different_ones_from_the_whole_range():
    labels = taken(fixed_examples(IMAGES, LABELS, 6, 2).drawn, 2)["labels"]
    assert len(np.unique(labels)) == 6
    assert set(labels // 3) == set(labels % 3) == {0, 1, 2}


def test_a_fixed_set_of_single_images_is_the_first_ones():
    examples = fixed_examples(IMAGES, LABELS, 4, 1)
    np.testing.assert_array_equal(examples.arrays[0], IMAGES[:4])
    np.testing.assert_array_equal(examples.drawn["index"], np.arange(4))
