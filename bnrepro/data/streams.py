"""Streams: minibatches of images that are read from their shards when a step needs them.

What a stream draws is what a resident source draws, on the host. An image depends on its number
and, if it is augmented, on the run's seed, the step and its place there. So a stream has no
position, and a resumed run reads the same minibatches without replaying any.
"""

from collections.abc import Callable, Sequence
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key, UInt8
from PIL import Image

from bnrepro.data.augment import central, inception
from bnrepro.data.shards import Shards
from bnrepro.data.sources import STEPS_AT_ONCE, Batch, Draw, Drawn, Source

# Bytes of images that one dispatch takes. The next are read meanwhile: the host holds twice that.
_BYTES_AT_ONCE = 2**28


def stream(
    images: Shards,
    labels: Int[np.ndarray, "n"],
    draw: Draw,
    take: Callable[[Any, Drawn], Batch],
    *,
    run_key: Callable[[Int[Array, ""]], Key[Array, ""]],
    runs: int,
    image_size: int,
    distorted: bool,
    workers: int,
) -> Source:
    """A source of images that are left in their shards.

    Args:
      images: of the training set.
      labels: of the training set.
      draw: draws a minibatch's examples, as for a resident source.
      take: as `take_images`, which gets the images and labels themselves.
      run_key: the key that `draw` gets in the run with a seed.
      runs: how many there are, at most.
      image_size: height and width to crop and resize images to; 0 to leave them as stored.
      distorted: crop and mirror training images at random and distort their colours (`inception`);
        otherwise, and in evaluation, they are cropped centrally.
      workers: threads that read; 0 to read in the calling thread.
    """
    cpu = jax.local_devices(backend="cpu")[0]

    @jax.jit
    def draw_steps(seeds: Int[Array, "runs"], steps: Int[Array, "steps"]) -> Any:
        keys = jax.vmap(run_key)(seeds)
        return jax.vmap(lambda key: jax.vmap(lambda step: draw(key, step))(steps))(keys)

    with jax.default_device(cpu):
        drawn = jax.eval_shape(draw_steps, jnp.zeros(runs, jnp.int32), jnp.zeros(1, jnp.int32))
    step_bytes = drawn["index"].size * int(np.prod(_shape(images, image_size)))
    steps_at_once = int(np.clip(_BYTES_AT_ONCE // step_bytes, 1, STEPS_AT_ONCE))

    def feed(
        seeds: Sequence[int], first: int, count: int, here: Bool[np.ndarray, "runs batch"]
    ) -> Drawn:
        with jax.default_device(cpu):
            drawn = draw_steps(np.array(seeds), first + np.arange(steps_at_once))
        drawn = {key: np.asarray(value)[:, :count] for key, value in drawn.items()}
        index = drawn.pop("index")

        def distort(image: Image.Image, place: tuple[int, ...]) -> np.ndarray:
            run, step, *rest = place
            rng = np.random.default_rng([seeds[run], first + step, *rest])
            return inception(image, image_size, rng)

        pixels = _read(images, index, here[:, None], distort if distorted else centre)
        return {**drawn, "images": pixels, "labels": labels[index]}

    def read(arrays: Any, drawn: Drawn, here: Bool[np.ndarray, "*drawn"]) -> Drawn:
        (shards, labels), index = arrays, np.asarray(drawn["index"])
        return {"images": _read(shards, index, here, centre), "labels": labels[index]}

    def centre(image: Image.Image, place: tuple[int, ...]) -> np.ndarray:
        return central(image, image_size)

    def _read(
        shards: Shards,
        index: Int[np.ndarray, "*places"],
        here: Bool[np.ndarray, "..."],
        prepare: Callable[[Image.Image, tuple[int, ...]], np.ndarray],
    ) -> UInt8[np.ndarray, "*places height width channels"]:
        pixels = np.zeros((*index.shape, *_shape(shards, image_size)), np.uint8)
        # A picture of several images is wanted as a whole.
        here = here.reshape(*here.shape, *[1] * (index.ndim - here.ndim))
        wanted = np.argwhere(np.broadcast_to(here, index.shape))
        places = [tuple(place) for place in wanted.tolist()]
        examples = grain.MapDataset.source(places).map(
            lambda place: prepare(shards.image(int(index[place])), place)
        )
        options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=2 * workers)
        for place, image in zip(places, examples.to_iter_dataset(options), strict=True):
            pixels[place] = image
        return pixels

    return Source((), None, take, feed, steps_at_once, read)


def _shape(images: Shards, image_size: int) -> tuple[Any, ...]:
    return (image_size, image_size, images.shape[2]) if image_size else images.shape
