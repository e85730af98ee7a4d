"""What several tests of training share."""

import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (40, 4, 4, 1)), jnp.uint8)
    return images, jnp.asarray(rng.integers(0, 3, 40), jnp.int32)
