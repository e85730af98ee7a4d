"""Measures are what NumPy or JAX makes of the same batch, taken in the steps they are due."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bnrepro.training.evaluation import measure_once
from bnrepro.training.measures import MEASURES, Measure, gradient_norms, make_measure
from bnrepro.training.step import train_step
from tests.training.test_loop import DATA, MICROBATCH, SEEDS, STEPS, made, of_run, take


def one_step(normalizer, *names):
    """What is measured in a first step, and the parts to compute it anew: state, batch, task."""
    task, init, _ = made(normalizer)
    state = of_run(0, init(SEEDS))
    rng = np.random.default_rng(0)
    # No parameter at 0 or 1 that a mistake could hide behind.
    params = jax.tree.map(lambda p: p + rng.uniform(0.1, 0.5, p.shape), state.params)
    state = state.__class__(**(vars(state) | {"params": params}))
    batch = take(DATA, {"index": np.arange(2 * MICROBATCH).reshape(2, MICROBATCH)})
    measure = make_measure(names, task)
    task = task._replace(captures=measure.captures)
    _, metrics = jax.jit(partial(train_step, task=task, measure=measure.in_training))(state, batch)
    return metrics, state, batch, task


def loss_and_gradients(state, batch, task):
    """As a function of the parameters."""

    def loss(params):
        def one(images, labels):
            logits, _ = task.model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jnp.mean(jax.vmap(one)(batch["images"], batch["labels"]))

    return jax.jit(jax.value_and_grad(loss))


def normalized(state, batch, task):
    """The first normalizer's output in each microbatch, in float64."""
    params = jax.tree.map(partial(np.asarray, dtype=np.float64), state.params)
    x = np.asarray(batch["images"], np.float64).reshape(2, MICROBATCH, -1)
    x = x @ params["dense_0"]["kernel"]
    x_hat = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    return x_hat * params["norm_0"]["scale"] + params["norm_0"]["bias"], x_hat


def test_norms_of_gradients_and_parameters():
    metrics, state, batch, task = one_step("batch_norm", "gradient_norms", "parameter_norms")
    _, grads = loss_and_gradients(state, batch, task)(state.params)
    for layer, inner in grads.items():
        flat = np.concatenate([np.ravel(x) for x in inner.values()])
        np.testing.assert_allclose(metrics[f"grad_norm/{layer}"], np.linalg.norm(flat), rtol=1e-4)
        for name, value in state.params[layer].items():
            right = np.linalg.norm(value)
            np.testing.assert_allclose(metrics[f"param_norm/{layer}/{name}"], right, rtol=1e-4)


@pytest.mark.usefixtures("untyped")
def test_norms_of_gradients_are_of_each_layer_within_a_block():
    grads = {"block": {"conv": {"kernel": jnp.array([3.0, 4.0])},
                       "norm": {"scale": jnp.array([12.0]), "bias": jnp.array([5.0])}}}  # fmt: skip
    norms = gradient_norms(None, grads, None, None, None)
    assert norms == {"grad_norm/block/conv": 5, "grad_norm/block/norm": 13}


def test_percentiles_of_normalizers_and_shares_near_zero():
    metrics, state, batch, task = one_step("batch_norm", "normalizer_outputs", "near_linear")
    y, x_hat = normalized(state, batch, task)
    for p in (15, 50, 85):
        np.testing.assert_allclose(
            metrics[f"output/norm_0/p{p}"], np.percentile(y, p), rtol=1e-3, atol=1e-4
        )
    assert metrics["near_linear/norm_0"] == pytest.approx(np.mean(abs(y) <= 1))
    share = np.mean(abs(x_hat) <= 1)
    assert metrics["near_linear/norm_0/standardized"] == pytest.approx(share)


def test_changes_along_the_gradient():
    """Of plain gradient descent, K times the step is K times the learning rate."""
    metrics, state, batch, task = one_step("batch_norm", "along_gradient")
    at = loss_and_gradients(state, batch, task)
    loss, grads = at(state.params)
    for k in (0.5, 1, 2, 4):
        params = jax.tree.map(lambda p, g, k=k: p - k * 0.5 * g, state.params, grads)
        there, there_grads = at(params)
        change = optax.tree.norm(jax.tree.map(jnp.subtract, there_grads, grads))
        np.testing.assert_allclose(
            metrics[f"along_gradient/loss_{k:g}"], there - loss, rtol=1e-2, atol=1e-5
        )
        np.testing.assert_allclose(
            metrics[f"along_gradient/gradient_{k:g}"], change, rtol=1e-2, atol=1e-5
        )


def test_at_evaluations_captured_outputs_are_measured_alone():
    """Figure 1's percentiles among them: of the last nonlinearity's inputs, and of the first."""
    task, init, _ = made("none")
    state = of_run(0, init(SEEDS))
    batch = take(DATA, {"index": np.arange(len(DATA[0]))})
    measure = make_measure(MEASURES, task)
    found = measure_once(state.evaluated, batch, model=task.model, measure=measure)
    x = np.asarray(DATA[0], np.float64).reshape(len(DATA[0]), -1) / 255
    params = jax.tree.map(partial(np.asarray, dtype=np.float64), state.params)
    hidden = 1 / (1 + np.exp(-(x @ params["dense_0"]["kernel"] + params["dense_0"]["bias"])))
    y = hidden @ params["dense_1"]["kernel"] + params["dense_1"]["bias"]
    for p in (15, 50, 85):
        right = np.percentile(y, p, axis=0)
        names = [f"sigmoid_inputs/{unit}/p{p}" for unit in range(y.shape[1])]
        shown = [found[name] for name in (f"sigmoid_input/p{p}", *names)]
        np.testing.assert_allclose(shown, [right[0], *right], rtol=1e-3, atol=1e-5)
    prefixes = {name.partition("/")[0] for name in found}
    assert prefixes == {"sigmoid_input", "sigmoid_inputs", "near_linear"}


def test_at_evaluations_a_measure_sees_the_moving_averages_too():
    task, init, _ = made("batch_norm")
    variables = of_run(0, init(SEEDS)).evaluated
    batch = take(DATA, {"index": np.arange(2)})
    measure = Measure(False, None, lambda state, *_: {"var": state.batch_stats["norm_0"]["var"][0]})
    assert measure_once(variables, batch, model=task.model, measure=measure) == {"var": 1}


def test_measures_change_no_step_and_are_taken_when_due():
    _, init, train_steps = made("batch_norm")
    plain, without = train_steps(init(SEEDS), DATA, (), 0, STEPS)
    _, _, measuring = made("batch_norm", ("gradient_norms",), 2)
    measured, metrics = measuring(init(SEEDS), DATA, (), 0, STEPS)
    np.testing.assert_allclose(metrics["loss"], without["loss"], rtol=1e-5)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), measured.params, plain.params
    )
    norms = metrics["grad_norm/dense_0"][:, :STEPS]
    np.testing.assert_array_equal(norms > 0, [[True, False] * (STEPS // 2)] * len(SEEDS))
    # Counted from the first step of all, not from the first of this call.
    _, later = measuring(init(SEEDS), DATA, (), 1, 2)
    np.testing.assert_array_equal(later["grad_norm/dense_0"][:, :2] > 0, [[False, True]] * 2)


def test_what_is_not_named_is_not_compiled():
    def program(*measures):
        _, init, train_steps = made("batch_norm", measures)
        return str(jax.make_jaxpr(train_steps)(init(SEEDS), DATA, (), 0, STEPS))

    assert program() == program("sigmoid_input")  # of evaluations alone
    assert program() != program("gradient_norms")
