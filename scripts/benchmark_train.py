"""Times training against only its matrix products, plain Flax and PyTorch: `benchmark train`.

The network is that of configs/mnist_sigmoid.py; a step takes 60 images.
"""

import argparse
from functools import partial
from itertools import pairwise
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from bnrepro.comparison.config import variant_configs
from bnrepro.comparison.program import Program, make_program
from bnrepro.comparison.run import make_job
from bnrepro.comparison.variant import Feed
from bnrepro.data.datasets import Dataset
from bnrepro.models.mlp import MLP
from configs import mnist_sigmoid
from scripts import signed_page
from scripts.benchmark_layers import WITH_TORCH, Call, measure, ratio, repeat

SEEDS = (1, 3, 10)
VARIANTS = ("plain", "batch_norm", "batch_renorm")
FLOOR = "matrix products"
STEPS = 50  # of a dispatch, as in training
_RATE, _FEATURES = 0.1, (784, 100, 100, 100, 10)


def calls(seeds: int) -> list[tuple[str, Call]]:
    """By name: 50 training steps for that many seeds; the peers only with one seed."""
    dataset = noise()
    images, labels = dataset.train_images, dataset.train_labels
    named = [(FLOOR, _floor(seeds, images))]
    named += [(variant, _ours(variant, seeds, dataset)) for variant in VARIANTS]
    return named + (_peers(images, labels) if seeds == 1 else [])


def noise() -> Dataset:
    """10,000 random images of MNIST's size, the first 1,000 of which are the test set, too."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10_000, 28, 28, 1)).astype(np.uint8)
    labels = rng.integers(0, 10, 10_000).astype(np.int32)
    data = images, labels, images[:1_000], labels[:1_000]
    return Dataset("noise", *data, class_names=tuple("0123456789"))


def _floor(seeds: int, images: np.ndarray) -> Call:
    """Products of inputs, weights and gradients, forward and backward, and updates of the weights.

    Nothing is random, normalized or squashed; small factors keep the numbers finite.
    """

    def step(weights: Any, x: Any) -> tuple[Any, None]:
        layers = [x]
        for weight in weights:
            layers.append(layers[-1] @ weight)
        gradient, updated = 1e-6 * layers[-1], []
        for x, weight in zip(layers[-2::-1], weights[::-1], strict=True):
            updated.append(weight - 1e-6 * (x.T @ gradient))
            gradient = gradient @ weight.T
        return updated[::-1], None

    rng = np.random.default_rng(0)
    shapes = pairwise(_FEATURES)
    weights = [jnp.asarray(rng.normal(0, 0.05, (seeds, *s)).astype(np.float32)) for s in shapes]
    # Each seed has minibatches of its own.
    batches = rng.choice(images, (seeds, STEPS, 60)).reshape(seeds, STEPS, 60, -1)
    x = jnp.asarray(batches / 255, jnp.float32)

    def steps(weights: Any, x: Any) -> Any:
        return jax.lax.scan(step, weights, x)[0]

    if seeds == 1:  # a mapped axis of length one would make batched products of them
        return partial(repeat, jax.jit(steps), ([weight[0] for weight in weights], x[0]))
    return partial(repeat, jax.jit(jax.vmap(steps)), (weights, x))


def _ours(variant: str, seeds: int, dataset: Dataset) -> Call:
    """Training with the programs of the experiments."""
    config = mnist_sigmoid.get_config().to_dict()
    config = variant_configs(config | {"seeds": seeds})[variant]
    return training_call(make_program(*make_job(variant, config, dataset)), STEPS)


def training_call(program: Program, steps: int) -> Call:
    """Trains a program's runs for this many steps in one dispatch, as often as called for."""
    feed, seeds = Feed(program), list(range(program.config["seeds"]))
    states, step = program.init(np.array(seeds), {}), 0
    fed = feed(seeds, step, steps)

    def call(number: int) -> None:
        nonlocal states, step, fed
        for _ in range(number):
            states, metrics = program.train_steps(states, program.arrays, fed, step, steps)
            step += steps
            # A stream's next minibatches are read in this call, as this call's were before it.
            fed = feed(seeds, step, steps)
        jax.block_until_ready(metrics)

    return call


def _peers(images: np.ndarray, labels: np.ndarray) -> list[tuple[str, Call]]:
    """The same network with flax.linen's Batch Norm, in a scan and step by step, and PyTorch's."""
    norm = partial(nn.BatchNorm, momentum=0.99)
    model = MLP(10, nn.sigmoid, norm, nn.initializers.normal(0.1), hidden=_FEATURES[1:-1])
    optimizer = optax.sgd(_RATE)
    stored, known = jnp.asarray(images), jnp.asarray(labels)

    def step(state: Any, index: Any) -> tuple[Any, Any]:
        params, batch_stats, opt_state = state
        x, y = stored[index].astype(jnp.float32) / 255, known[index]

        def loss(params: Any) -> tuple[Any, Any]:
            variables = {"params": params, "batch_stats": batch_stats}
            logits, updates = model.apply(variables, x, train=True, mutable=["batch_stats"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return losses.mean(), updates["batch_stats"]

        (value, batch_stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), batch_stats, opt_state), value

    variables = model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)), train=True)
    state = variables["params"], variables["batch_stats"], optimizer.init(variables["params"])
    rng = np.random.default_rng(1)
    indices = jnp.asarray(rng.permutation(len(images))[: 60 * STEPS].reshape(STEPS, 60))
    scan = jax.jit(lambda state: jax.lax.scan(step, state, indices))
    single = jax.jit(step)

    def by_step(number: int) -> None:
        for _ in range(number):
            now = state
            for index in indices:
                now, value = single(now, index)
        jax.block_until_ready(value)

    return [
        ("flax.linen, a scan", partial(repeat, scan, (state,))),
        ("flax.linen, step by step", by_step),
        *_torch(images, labels, np.asarray(indices)),
    ]


def _torch(images: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> list[tuple[str, Call]]:
    try:
        import torch
    except ImportError:
        return []
    # With two, it is slower, and one that waits for work keeps a core from whatever is timed next.
    torch.set_num_threads(1)
    layers: list[Any] = []
    for inputs, outputs in pairwise(_FEATURES[:-1]):
        linear = torch.nn.Linear(inputs, outputs, bias=False)
        layers += [linear, torch.nn.BatchNorm1d(outputs, momentum=0.01), torch.nn.Sigmoid()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(*_FEATURES[-2:]))
    optimizer = torch.optim.SGD(model.parameters(), _RATE)
    stored = torch.tensor(images.reshape(len(images), -1))
    known, batches = torch.tensor(labels).long(), torch.tensor(indices).long()

    def call(number: int) -> None:
        for _ in range(number):
            for index in batches:
                optimizer.zero_grad()
                logits = model(stored[index].float() / 255)
                torch.nn.functional.cross_entropy(logits, known[index]).backward()
                optimizer.step()

    return [("PyTorch", call)]


def page(options: argparse.Namespace) -> str:
    """The table, one column per number of seeds."""
    timings = {seeds: measure(calls(seeds), options.rounds) for seeds in SEEDS}
    columns = {
        f"seeds: {seeds}": {
            f"{FLOOR}, steps/s": f"{1e3 * STEPS * seeds / readings[FLOOR].median():,.0f}"
        }
        | {
            name: f"{ratio(readings, FLOOR, name):.2f}"
            for name in readings.columns
            if name != FLOOR
        }
        for seeds, readings in timings.items()
    }
    text = f"""\
Speed of training, as a share of a scan that does the matrix products and the updates alone, mapped
over as many seeds: the network of configs/mnist_sigmoid.py, batches of 60, {STEPS} steps in one
dispatch. Steps of all seeds count. Medians of {options.rounds} readings, in turn
in one process; ratios are medians of the readings' ratios. Plain, batch_norm and batch_renorm are
what the experiments run, sampling and records of each step included; the peers have Batch Norm and
one seed.
"""
    table = pd.DataFrame(columns).fillna("")
    return signed_page("The speed of training", table, text, packages=WITH_TORCH)
