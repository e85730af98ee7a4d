"""What is done to single images on the host, against closed forms and the standard library."""

import colorsys

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from bnrepro.data import augment


def colours(count=200):
    """A picture of random colours, and of grey, black and white."""
    grey = [[0.5] * 3, [0.0] * 3, [1.0] * 3]
    pixels = np.concatenate([np.random.default_rng(0).random((count - 3, 3)), grey])
    return np.moveaxis(pixels.reshape(-1, 10, 3), -1, 0).astype(np.float32)


def in_hsv(pixels, change):
    changed = [
        colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*colour)))
        for colour in pixels.reshape(3, -1).T
    ]
    return np.array(changed).T.reshape(pixels.shape)


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_saturation_is_multiplied_in_hsv(factor):
    expected = in_hsv(colours(), lambda h, s, v: (h, min(1, s * factor), v))
    np.testing.assert_allclose(
        augment.change_saturation(colours(), np.float32(factor)), expected, atol=1e-6
    )


@pytest.mark.parametrize("turn", [-0.2, 0.2])
def test_hue_is_turned_in_hsv(turn):
    expected = in_hsv(colours(), lambda h, s, v: ((h + turn) % 1, s, v))
    np.testing.assert_allclose(augment.change_hue(colours(), np.float32(turn)), expected, atol=1e-5)


def test_contrast_multiplies_the_deviation_of_each_channel_and_keeps_its_mean():
    before = colours().astype(np.float64)
    after = augment.change_contrast(colours(), np.float32(1.3)).astype(np.float64)
    np.testing.assert_allclose(after.mean((1, 2)), before.mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(after.std((1, 2)), 1.3 * before.std((1, 2)), atol=1e-6)


def test_distorted_colours_depend_on_the_generator_alone_and_stay_in_range():
    distorted = [augment.distort(colours(), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(distorted[0], distorted[1])
    assert np.abs(distorted[0] - distorted[2]).max() > 0.05
    assert min(map(np.min, distorted)) >= 0 and max(map(np.max, distorted)) <= 1


def test_the_area_of_a_random_crop_is_uniform_and_its_aspect_ratio_uniform_in_the_logarithm():
    """Every box of at most 3/4 of a square's area fits, so none of these was drawn again."""
    rng, side = np.random.default_rng(0), 10_000
    boxes = np.array([augment.crop_box(side, side, rng) for _ in range(4_000)])
    left, top, right, bottom = boxes.T
    assert boxes.min() >= 0 and boxes.max() <= side
    area = (right - left) * (bottom - top) / side**2
    aspect = np.log((right - left) / (bottom - top)) / np.log(4 / 3)
    fits = area < 0.75
    assert stats.kstest(area[fits], stats.uniform(0.08, 0.67).cdf).pvalue > 1e-3
    assert stats.kstest(aspect[fits], stats.uniform(-1, 2).cdf).pvalue > 1e-3
    # Where it lies is uniform, too.
    assert stats.kstest((left / np.maximum(1, side - right + left))[fits], "uniform").pvalue > 1e-3


def test_an_image_too_narrow_for_any_crop_is_taken_whole():
    assert augment.crop_box(1_000, 2, np.random.default_rng(0)) == (0, 0, 2, 1_000)


def test_half_of_the_images_are_mirrored():
    # Left red, right blue, so that no hue of the distortion makes one the other.
    image = Image.new("RGB", (64, 64), (200, 0, 0))
    image.paste((0, 0, 200), (32, 0, 64, 64))
    seen = [augment.inception(image, 8, np.random.default_rng(n)).astype(int) for n in range(400)]
    difference = np.array([np.abs(x[:, 0] - x[:, -1]).max() for x in seen])
    seen = [x for x, d in zip(seen, difference, strict=True) if d > 60]  # both colours are in it
    mirrored = sum(
        int((x[:, 0, 2] - x[:, 0, 0]).mean() > (x[:, -1, 2] - x[:, -1, 0]).mean()) for x in seen
    )
    assert len(seen) > 200
    assert stats.binomtest(mirrored, len(seen)).pvalue > 1e-3


def test_evaluation_sees_the_central_seven_eighths_of_an_image():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    image = Image.fromarray(pixels)
    np.testing.assert_array_equal(augment.central(image, 28), pixels[2:30, 2:30])
    np.testing.assert_array_equal(augment.central(image, 0), pixels)
    assert augment.central(Image.fromarray(pixels[..., 0]), 8).shape == (8, 8, 1)
