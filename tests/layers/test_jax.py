"""What the layers' numbers rely on in JAX itself."""

import jax
import jax.numpy as jnp
import numpy as np


def test_a_mapped_matrix_product_has_a_right_last_row():
    """jax-ml/jax#39103: with jaxlib 0.10.2 the last of 32,769 rows comes out wrong under jit."""
    rows = np.zeros((32_769, 3), np.float32)
    rows[:, 0] = np.arange(32_769)
    squares = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(rows)
    assert squares[-1] == 32_768**2
