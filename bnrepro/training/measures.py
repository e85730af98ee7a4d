"""What can be measured besides loss and accuracy, by the names that `config.measures` takes.

A measure is called as `measure(state, grads, captured, batch, task)` with the state before the
update (at evaluations, only the `params` and `batch_stats` evaluated), the gradients of the loss
(at evaluations, None), by name the outputs of normalizers and of modules that a nonlinearity
follows, shaped (microbatches, size, ...), the batch, and the model and optimizer. It returns named
numbers.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float

from bnrepro.training.step import Task, loss_and_gradients

Numbers = dict[str, Float[Array, ""]]

_PERCENTILES = (15, 50, 85)
# Where |x| is at most this, the sigmoid is within 0.02 of its tangent at 0, 1/2 + x/4.
_NEAR_LINEAR = 1.0
# Multiples of the optimizer's step.
_DISTANCES = (0.5, 1, 2, 4)


def gradient_norms(state: Any, grads: Any, captured: Any, batch: Any, task: Task) -> Numbers:
    """`grad_norm/LAYER`: of the gradient of all parameters of each layer."""
    layers = defaultdict[str, list[Array]](list)
    for path, value in flatten_dict(grads).items():
        layers["/".join(path[:-1])].append(value)
    return {f"grad_norm/{name}": optax.tree.norm(layer) for name, layer in layers.items()}


def parameter_norms(state: Any, grads: Any, captured: Any, batch: Any, task: Task) -> Numbers:
    """`param_norm/LAYER/NAME`: of each parameter."""
    return {
        f"param_norm/{'/'.join(path)}": optax.tree.norm(value)
        for path, value in flatten_dict(state.params).items()
    }


def normalizer_outputs(state: Any, grads: Any, captured: Any, batch: Any, task: Task) -> Numbers:
    """`output/NORM/p15`, `p50`, `p85`: percentiles of a normalizer's output over all its units."""
    return {
        f"output/{name}/p{p}": jnp.percentile(y, p)
        for name, y in captured.items()
        if _is_normalizer(name)
        for p in _PERCENTILES
    }


def near_linear(state: Any, grads: Any, captured: Any, batch: Any, task: Task) -> Numbers:
    """`near_linear/LAYER`: share of a nonlinearity's inputs within 1 of 0.

    If they come from a normalizer with an affine map, `near_linear/LAYER/standardized` is the
    share before that map.
    """
    numbers, params = {}, flatten_dict(state.params, sep="/")
    for name in task.model.nonlinearity_inputs():
        y, (bias, scale) = captured[name], (params.get(f"{name}/{p}") for p in ("bias", "scale"))
        numbers[f"near_linear/{name}"] = jnp.mean(abs(y) <= _NEAR_LINEAR)
        if bias is not None and scale is not None:
            axes = tuple(range(y.ndim - 1))
            x_hat = (y - jnp.expand_dims(bias, axes)) / jnp.expand_dims(scale, axes)
            numbers[f"near_linear/{name}/standardized"] = jnp.mean(abs(x_hat) <= _NEAR_LINEAR)
    return numbers


def sigmoid_input(state: Any, grads: Any, captured: Any, batch: Any, task: Task) -> Numbers:
    """`sigmoid_input/p15`, `p50`, `p85`: of the last nonlinearity's first input ([BN] figure 1).

    After a convolution, that is the first channel at all positions.
    """
    unit = captured[task.model.nonlinearity_inputs()[-1]][..., 0]
    return {f"sigmoid_input/p{p}": jnp.percentile(unit, p) for p in _PERCENTILES}


def sigmoid_inputs(state: Any, grads: Any, captured: Any, batch: Any, task: Task) -> Numbers:
    """`sigmoid_inputs/UNIT/p15`, `p50`, `p85`: the same of each unit (or channel) of that layer."""
    y = captured[task.model.nonlinearity_inputs()[-1]]
    found = jnp.percentile(y.reshape(-1, y.shape[-1]), jnp.array(_PERCENTILES), axis=0)
    return {
        f"sigmoid_inputs/{unit}/p{p}": found[i, unit]
        for unit in range(y.shape[-1])
        for i, p in enumerate(_PERCENTILES)
    }


def along_gradient(state: Any, grads: Any, captured: Any, batch: Any, task: Task) -> Numbers:
    """How loss and gradient change along the gradient, on the same batch.

    `along_gradient/loss_K` and `along_gradient/gradient_K`: the change of the loss, and the norm of
    the change of the gradient, after K times the length of the optimizer's own step.
    """
    updates, _ = task.optimizer.update(grads, state.opt_state, state.params)
    norm = optax.tree.norm(grads)
    unit = optax.tree.norm(updates) / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)

    def at(distance: float) -> tuple[Array, Any]:
        params = jax.tree.map(lambda p, g: p - distance * unit * g, state.params, grads)
        metrics, gradients, _, _ = loss_and_gradients(params, state, batch, task)
        return metrics["loss"], gradients

    numbers, (loss, _) = {}, at(0.0)
    for distance in _DISTANCES:
        there, gradients = at(distance)
        numbers[f"along_gradient/loss_{distance:g}"] = there - loss
        change = jax.tree.map(jnp.subtract, gradients, grads)
        numbers[f"along_gradient/gradient_{distance:g}"] = optax.tree.norm(change)
    return numbers


def _is_normalizer(name: str) -> bool:
    return name.rpartition("/")[2].startswith("norm")


class Measure(NamedTuple):
    """Some named measures, combined.

    Attributes:
      captures: the modules whose outputs they need (flax's `capture_intermediates`).
      in_training: the measures of a training step, as one.
      at_evaluation: the measures of an evaluation, as one.
    """

    captures: Any
    in_training: Callable[[Any, Any, Any, Any], Numbers] | None
    at_evaluation: Callable[[Any, Any, Any, Any], Numbers] | None


# The measures that can be taken in a training step, and at an evaluation.
_IN_TRAINING = (along_gradient, gradient_norms, near_linear, normalizer_outputs, parameter_norms)
_AT_EVALUATION = (near_linear, normalizer_outputs, sigmoid_input, sigmoid_inputs)
# Those that use no outputs of modules.
_CAPTURING_NOTHING = {"along_gradient", "gradient_norms", "parameter_norms"}
MEASURES = tuple(sorted({measure.__name__ for measure in (*_IN_TRAINING, *_AT_EVALUATION)}))


def make_measure(names: Sequence[str], task: Task) -> Measure:
    """The measures of these names for a task.

    Args:
      names: some of `MEASURES`.
      task: what is measured; its model gives the names of its nonlinearities' inputs.
    """
    inputs = task.model.nonlinearity_inputs()

    def together(known: Sequence[Callable[..., Numbers]]) -> Any:
        chosen = [measure for measure in known if measure.__name__ in names]
        if not chosen:
            return None
        return lambda *arguments: {k: v for m in chosen for k, v in m(*arguments, task).items()}

    def captures(module: Any, method: str) -> bool:
        name = "/".join(module.path)
        return method == "__call__" and (name in inputs or _is_normalizer(name))

    wanted = set(names) - _CAPTURING_NOTHING
    return Measure(captures if wanted else False, together(_IN_TRAINING), together(_AT_EVALUATION))
