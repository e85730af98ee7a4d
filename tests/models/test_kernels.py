"""What is done to kernels, and to which."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnrepro.models.kernels import centred, standardized
from tests.layers.running import assert_output_and_gradients, normal
from tests.models.test_models import named

SHAPES = pytest.mark.parametrize("shape", [(7, 3), (2, 3, 2, 3)], ids=["dense", "convolution"])


def without_mean(kernel):
    return kernel - kernel.reshape(-1, 3).mean(0)


@SHAPES
def test_standardized_weights_have_mean_0_and_variance_1_and_their_gradient(shape):
    def weight_standardization(dw, kernel):
        """Qiao et al. 2019, equation 10."""
        std = np.sqrt(kernel.reshape(-1, 3).var(0) + 1e-5)
        w = without_mean(kernel) / std
        return w, (without_mean(dw) - w * (dw * w).reshape(-1, 3).mean(0)) / std

    kernel = normal(*shape, mean=0.5, std=0.1, dtype=np.float64)
    assert_output_and_gradients(standardized, weight_standardization, kernel)


@SHAPES
def test_centred_weights_and_their_gradient_have_mean_0(shape):
    def centred_weights(dw, kernel):
        """Yan et al. 2020, section 4."""
        return without_mean(kernel), without_mean(dw)

    kernel = normal(*shape, mean=0.5, dtype=np.float64)
    assert_output_and_gradients(centred, centred_weights, kernel)


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
