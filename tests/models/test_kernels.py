"""What is done to kernels, and to which."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from bnrepro.models.kernels import centred, standardized
from tests.layers.running import normal
from tests.models.test_models import named


@pytest.mark.parametrize("shape", [(7, 3), (2, 3, 2, 3)], ids=["dense", "convolution"])
def test_standardized_weights_have_mean_0_and_variance_1_and_their_gradient(shape):
    kernel = normal(*shape, mean=0.5, std=0.1, dtype=np.float64)
    flat = kernel.reshape(-1, 3)
    right = ((flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)).reshape(shape)
    with jax.enable_x64(True):
        np.testing.assert_allclose(standardized(jnp.asarray(kernel)), right)
        check_grads(jax.jit(standardized), (kernel,), order=1)


def test_centred_weights_and_their_gradient_have_mean_0():
    kernel, cotangent = normal(2, 3, 2, 3, mean=0.5), normal(2, 3, 2, 3, seed=1)
    treated, vjp = jax.vjp(centred, jnp.asarray(kernel))
    for found, given in ((treated, kernel), (vjp(cotangent)[0], cotangent)):
        np.testing.assert_allclose(found, given - given.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("kernel", ["centred", "plain", "standardized"])
def test_kernels_of_hidden_layers_are_treated_and_that_of_the_logits_is_not(name, kernel):
    settings = {"hidden": (5,), "channels": (5,), "activation": "tanh", "kernel": kernel}
    model = named(name, **settings)
    images = jnp.asarray(normal(6, 4, 4, 1))
    params = jax.jit(partial(model.init, train=True))(jax.random.key(1), images)["params"]
    evaluate = jax.jit(partial(model.apply, train=False))

    def changed_by_a_shift_of(layer):
        shifted = params | {layer: params[layer] | {"kernel": params[layer]["kernel"] + 1}}
        logits = [evaluate({"params": p}, images) for p in (params, shifted)]
        return not np.allclose(*logits, atol=1e-3)

    (hidden,) = set(params) - {"logits"}
    assert changed_by_a_shift_of(hidden) == (kernel == "plain")
    assert changed_by_a_shift_of("logits")
