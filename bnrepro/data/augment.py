"""What is done to single images on the host, between decoding and the devices."""

import math
import operator

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

# Of the random crop (Szegedy et al., Going deeper with convolutions, 2015).
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_ATTEMPTS = 10
# Of the colour distortion: that of Inception's training in TensorFlow's models.
_BRIGHTNESS = 32 / 255
_CONTRAST = _SATURATION = (0.5, 1.5)
_HUE = 0.2
# The share of height and width that evaluation sees.
_CENTRE = 0.875

# Channels come first, where NumPy is several times faster.
_Pixels = Float[np.ndarray, "3 height width"]


def central(image: Image.Image, size: int) -> UInt8[np.ndarray, "size size channels"]:
    """The central 87.5% of height and width, resized to a square; the whole if `size` is 0."""
    if not size:
        return as_array(image)
    height, width = _CENTRE * image.height, _CENTRE * image.width
    left, top = (image.width - width) / 2, (image.height - height) / 2
    return _resized(image, size, (left, top, left + width, top + height))


def inception(
    image: Image.Image, size: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "size size 3"]:
    """A random part of an RGB image, resized to a square, mirrored or not, its colours distorted.

    Sources: the crop is that of Szegedy et al. (2015); distorted colours come from Howard (Some
    improvements on deep convolutional neural network based image classification, 2013).
    """
    pixels = _resized(image, size, crop_box(image.height, image.width, rng))
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    colours = np.ascontiguousarray(np.moveaxis(pixels, -1, 0), np.float32) / 255
    return np.moveaxis(np.rint(255 * distort(colours, rng)).astype(np.uint8), 0, -1)


def crop_box(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A random box of 8% to 100% of an image's area and an aspect ratio of 3/4 to 4/3.

    The area is uniform and the aspect ratio's logarithm, too, among boxes that fit in the image.

    Returns:
      Left, top, right and bottom, in pixels; the whole image if ten boxes in turn do not fit.
    """
    for _ in range(_ATTEMPTS):
        area = height * width * rng.uniform(*_AREA)
        aspect = math.exp(rng.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 1 <= w <= width and 1 <= h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    return 0, 0, width, height


def distort(pixels: _Pixels, rng: np.random.Generator) -> _Pixels:
    """Changes brightness, contrast, saturation and hue by random amounts, in random order.

    Args:
      pixels: RGB in [0, 1].
      rng: draws the amounts: up to 32/255 are added to the brightness, contrast and saturation are
        multiplied by 0.5 to 1.5, and the hue is turned by up to 0.2 of a circle either way.

    Returns:
      RGB in [0, 1].
    """
    changes = [
        (operator.add, rng.uniform(-_BRIGHTNESS, _BRIGHTNESS)),
        (change_contrast, rng.uniform(*_CONTRAST)),
        (change_saturation, rng.uniform(*_SATURATION)),
        (change_hue, rng.uniform(-_HUE, _HUE)),
    ]
    for i in rng.permutation(len(changes)):
        change, amount = changes[i]
        # Hue and saturation have no meaning outside.
        pixels = np.clip(change(pixels, np.float32(amount)), 0, 1)
    return pixels


def change_contrast(pixels: _Pixels, factor: np.float32) -> _Pixels:
    """Multiplies the differences from each channel's mean."""
    mean = pixels.mean((1, 2), keepdims=True)
    return (pixels - mean) * factor + mean


def change_saturation(pixels: _Pixels, factor: np.float32) -> _Pixels:
    """Multiplies the S of HSV, up to 1, for pixels in [0, 1]."""
    value = pixels.max(0)
    chroma = value - pixels.min(0)
    # S is chroma / value. At the same H and V, the differences from V are proportional to it.
    most = np.divide(value, chroma, out=np.ones_like(value), where=chroma > 0)
    return value - (value - pixels) * np.minimum(factor, most)


def change_hue(pixels: _Pixels, turn: np.float32) -> _Pixels:
    """Adds a part of a circle to the H of HSV, for pixels in [0, 1]."""
    red, green, blue = pixels
    value = pixels.max(0)
    chroma = value - pixels.min(0)
    # In sixths of a circle from the brightest channel's hue.
    sixths = np.select(
        [value == red, value == green],
        [green - blue, blue - red + 2 * chroma],
        red - green + 4 * chroma,
    )
    hue = np.divide(sixths, chroma, out=np.zeros_like(chroma), where=chroma > 0)
    hue = (hue + 6 * turn) % 6
    full = np.stack([np.abs(hue - 3) - 1, 2 - np.abs(hue - 2), 2 - np.abs(hue - 4)])
    return value - chroma * (1 - np.clip(full, 0, 1))


def _resized(
    image: Image.Image, size: int, box: tuple[float, float, float, float]
) -> UInt8[np.ndarray, "size size channels"]:
    return as_array(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


def as_array(image: Image.Image) -> UInt8[np.ndarray, "height width channels"]:
    """An image in grey or RGB as an array."""
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels
