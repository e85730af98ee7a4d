"""Times the layers, forward and backward, beside those of Flax and PyTorch: `benchmark layers`."""

import argparse
import statistics
import timeit
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pandas as pd

import bnrepro
from scripts import signed_page

WITH_TORCH = ("jax", "jaxlib", "flax", "torch")
SHAPES = ((64, 100), (256, 64), (1024, 512), (32, 32, 32, 64), (64, 16, 16, 256), (32, 8, 8, 1280))
# Whether the output is kept, as in a network, or only used within the compiled program.
KEPT = {"": False, ", with y": True}
_LOOP = ", in a loop"
_ITERATIONS = 20
Call = Callable[[int], None]  # computes that often, and waits for the last


# Blocks of an operation of `_model`, a normalization and a ReLU: how many, and the input's shape.
NETWORKS = (
    ("dense", 18, (64, 100)),
    ("dense", 18, (512, 100)),
    ("dense", 6, (1024, 256)),
    ("3x3 convolution", 3, (32, 16, 16, 16)),
    ("3x3 convolution", 3, (32, 32, 32, 64)),
    ("multiplication", 18, (64, 100)),
    ("multiplication", 18, (512, 100)),
    ("multiplication", 18, (32, 16, 16, 16)),
)
_BASELINE = "flax.linen"
_SECONDS = 0.02  # of calls between two readings of the clock


def measure(calls: Sequence[tuple[Any, Call]], rounds: int) -> pd.DataFrame:
    """Milliseconds of each call, in a column, and in each round, in a row; calls take turns."""
    number = {}
    for name, call in calls:
        call(1)  # compiles
        number[name] = max(1, round(_SECONDS / max(_seconds(call, 3) / 3, 1e-7)))
    readings: dict[Any, list[float]] = {name: [] for name, _ in calls}
    for _ in range(rounds):
        for name, call in calls:
            readings[name].append(1e3 * _seconds(call, number[name]) / number[name])
    return pd.DataFrame(readings)


def ratio(timings: pd.DataFrame, name: str, to: str) -> float:
    """Median over rounds of the quotient of two calls' readings."""
    return float((timings[name] / timings[to]).median())


def joined(shape: tuple[int, ...]) -> str:
    """As in 64x100."""
    return "x".join(map(str, shape))


def _seconds(call: Call, number: int) -> float:
    return timeit.timeit(partial(call, number), number=1)


def layer_operands(shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Input, scale, bias and the gradient with respect to the output."""
    rng, features = np.random.default_rng(0), shape[-1]
    operands = (
        rng.normal(1, 2, shape),
        rng.normal(1, 0.1, features),
        rng.normal(0, 0.1, features),
        rng.normal(0, 1, shape),
    )
    return tuple(operand.astype(np.float32) for operand in operands)


def layer_calls(shape: tuple[int, ...]) -> list[tuple[str, Call]]:
    """By name: forward and backward through each library's layer, and a copy."""
    x, scale, bias, dy = (jax.device_put(operand) for operand in layer_operands(shape))
    params = {"scale": scale, "bias": bias}
    calls: list[tuple[str, Call]] = []
    for name, layer in _layers().items():
        operands = (params, layer.init(jax.random.key(0), x)["batch_stats"], x, dy)
        for suffix, kept in KEPT.items():
            step = jax.jit(partial(training_step, layer, kept))
            calls.append((name + suffix, partial(repeat, step, operands)))
        loop = jax.jit(partial(_loop, layer))
        calls.append((name + _LOOP, partial(repeat, loop, operands)))
    copy = partial(repeat, jax.jit(lambda x: x + 1), (x,))
    return [*calls, ("copy", copy), *_torch_calls(shape)]


def network_calls(operation: str, depth: int, shape: tuple[int, ...]) -> list[tuple[str, Call]]:
    """By layer: forward and backward through the network, its output kept."""
    rng = np.random.default_rng(0)
    x, dy = (jax.device_put(rng.normal(size=shape).astype(np.float32)) for _ in range(2))
    calls: list[tuple[str, Call]] = []
    for name, layer in _layers().items():
        model = _model(operation, depth, shape[-1], layer)
        variables = model.init(jax.random.key(0), x)
        step = jax.jit(partial(training_step, model, True))
        operands = (variables["params"], variables["batch_stats"], x, dy)
        calls.append((name, partial(repeat, step, operands)))
    return calls


def _model(operation: str, depth: int, features: int, layer: Any) -> Any:
    operations: dict[str, Callable[[], Callable[[Any], Any]]] = {
        "dense": lambda: nn.Dense(features),
        "3x3 convolution": lambda: nn.Conv(features, (3, 3)),
        "multiplication": lambda: lambda x: 1.01 * x,
    }
    blocks = ((operations[operation](), layer.clone(), nn.relu) for _ in range(depth))
    return nn.Sequential([part for block in blocks for part in block])


def _layers() -> dict[str, Any]:
    types = {
        _BASELINE: nn.BatchNorm,
        "BatchNorm": bnrepro.BatchNorm,
        "BatchRenorm": bnrepro.BatchRenorm,
    }
    return {name: layer(use_running_average=False) for name, layer in types.items()}


def training_step(
    model: Any, kept: bool, params: Any, batch_stats: Any, x: Any, dy: Any
) -> tuple[Any, Any]:
    """Gradients of sum(y * dy), the new statistics, and y if it is kept."""

    def loss(params: Any, x: Any) -> tuple[Any, Any]:
        variables = {"params": params, "batch_stats": batch_stats}
        y, updates = model.apply(variables, x, mutable=["batch_stats"])
        return (y * dy).sum(), (updates, y if kept else None)

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)


def _loop(layer: Any, params: Any, batch_stats: Any, x: Any, dy: Any) -> Any:
    """Steps down the gradients, in one compiled program."""

    def step(carry: Any, _: None) -> tuple[Any, None]:
        leaves, batch_stats = carry
        params, x = leaves
        gradients, (updates, _) = training_step(layer, False, params, batch_stats, x, dy)
        leaves = jax.tree.map(lambda leaf, gradient: leaf - 1e-3 * gradient, leaves, gradients)
        return (leaves, updates["batch_stats"]), None

    return jax.lax.scan(step, ((params, x), batch_stats), length=_ITERATIONS)[0]


def repeat(step: Callable[..., Any], operands: tuple[Any, ...], number: int) -> None:
    """Calls a compiled step that often, and waits for the last result."""
    for _ in range(number):
        result = step(*operands)
    jax.block_until_ready(result)


def _torch_calls(shape: tuple[int, ...]) -> list[tuple[str, Call]]:
    """PyTorch's layer on as many cores; none without PyTorch or if the device is not a CPU."""
    try:
        import torch
    except ImportError:
        return []
    if jax.default_backend() != "cpu":
        return []
    x, scale, bias, dy = (torch.tensor(operand) for operand in layer_operands(shape))
    axes = (0, len(shape) - 1, *range(1, len(shape) - 1))
    # PyTorch's features come second, and lie last in memory as here: channels_last.
    x, dy = (value.permute(axes) for value in (x, dy))
    layer = torch.nn.functional.batch_norm
    leaves = [value.requires_grad_() for value in (x, scale, bias)]
    mean, var = torch.zeros(shape[-1]), torch.ones(shape[-1])

    def call(number: int) -> None:
        for _ in range(number):
            y = layer(x, mean, var, scale, bias, training=True, momentum=0.01)
            torch.autograd.grad(y, leaves, dy)

    return [("PyTorch, with y", call)]


def _cells(timings: pd.DataFrame, pairs: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Medians by name, in a loop those of an iteration, and ratios by the labels of their pairs."""
    medians = {
        name: f"{timings[name].median() / (_ITERATIONS if name.endswith(_LOOP) else 1):.3g}"
        for name in timings.columns
    }
    return medians | {label: f"{ratio(timings, *pair):.2f}" for label, pair in pairs.items()}


def page(options: argparse.Namespace) -> str:
    """A table of layers, a column for each shape, and one of networks, a row for each."""
    rounds = options.rounds
    layers = {joined(shape): measure(layer_calls(shape), rounds) for shape in SHAPES}
    networks = {
        f"{depth} x {operation}, {joined(shape)}": measure(
            network_calls(operation, depth, shape), rounds
        )
        for operation, depth, shape in NETWORKS
    }
    suffixes, ours, torch = (*KEPT, _LOOP), ("BatchNorm", "BatchRenorm"), "PyTorch, with y"
    to_flax = {f"{n} / flax{s}": (n + s, _BASELINE + s) for n in ours for s in suffixes}
    has_torch = all(torch in timings for timings in layers.values())
    to_torch = {"BatchNorm / PyTorch": ("BatchNorm, with y", torch)} if has_torch else {}
    to_ours = {
        f"BatchRenorm / BatchNorm{s}": ("BatchRenorm" + s, "BatchNorm" + s) for s in suffixes
    }
    pairs = to_flax | to_torch | to_ours
    columns = {
        shape: _cells(timings, pairs)
        | {"eight traversals": f"{4 * ratio(timings, 'copy', 'BatchNorm, with y'):.0%}"}
        for shape, timings in layers.items()
    }
    means = "; ".join(
        f"{of} {statistics.geometric_mean(ratio(each, of, to) for each in layers.values()):.2f}"
        for of, to in to_flax.values()
    )
    text = f"""\
Milliseconds of a forward and a backward pass in float32, features last: gradients of input, scale
and bias, and the new moving averages. Medians of {rounds} readings, all
implementations in turn in one process; ratios are medians of the readings' ratios. "With y": the
output is an output of the compiled program, too, as it is in a network and always in PyTorch. "In a
loop": one of {_ITERATIONS} steps down the gradients in one program, free of what a call costs.
A copy is x + 1. A layer traverses its input eight times at the least (forward it reads x twice and
writes y; backward it reads x and dy twice and writes dx): the last row is the time that four
copies take, which are eight traversals, as a share of that of BatchNorm with y; small inputs stay
in the caches, where calls cost more than traversals.
Geometric means of the ratios to {_BASELINE}: {means}.
"""
    if not has_torch:
        text += "PyTorch is not installed here, or the device is no CPU: its columns are missing.\n"
    in_networks = {f"{name} / flax": (name, _BASELINE) for name in ours}
    rows = {name: _cells(timings, in_networks) for name, timings in networks.items()}
    below = """\
The same within networks of so many blocks, each of the operation, the normalization and a ReLU, the
input in the shape given; gradients of all parameters and the input. Where the operation is a
multiplication by 1.01, all between two layers is elementwise, and XLA computes some of it more than
once. No network has that; it is the worst case.
"""
    tables = pd.DataFrame(columns), pd.DataFrame.from_dict(rows, orient="index")
    return signed_page("The layers' speed", tables[0], text, tables[1], below, packages=WITH_TORCH)
