"""Runs the steps of several seeds on one device, on a mesh, or replicated, with equal results."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool

from bnrepro.errors import UserError

SEEDS, DATA = "seeds", "data"


@dataclass(frozen=True)
class Devices:
    """Runs functions of one or several seeds for all seeds, as one program over a mesh of devices.

    States are stacked along a first axis, the seeds. If a batch is spread over devices, the mapped
    function sees its `share` of it and averages over `axis_name`.

    Attributes:
      mesh: devices along the axes `SEEDS` and `DATA`.
      synchronized: spread each microbatch over the devices of `DATA`, which then share statistics,
        instead of whole microbatches.
      padding: microbatches added to a batch, so that each device of `DATA` gets as many. They
        repeat others, and `Task.padding` keeps them from counting.
    """

    mesh: Mesh
    synchronized: bool
    padding: int = 0

    @property
    def axis_name(self) -> str | None:
        """The mapped axis over which a batch is spread; None if it is on one device."""
        return DATA if self.mesh.shape[DATA] > 1 else None

    def share(self, batches: Any) -> Any:
        """A device's part of arrays (steps, microbatches, size, ...); for the mapped function."""
        if self.axis_name is None:
            return batches
        axis = 2 if self.synchronized else 1

        def part(x: Array) -> Array:
            x = self._padded(x, axis)
            size = x.shape[axis] // self.mesh.shape[DATA]
            return lax.dynamic_slice_in_dim(x, lax.axis_index(DATA) * size, size, axis)

        return jax.tree.map(part, batches)

    def whole(self, outputs: Any) -> Any:
        """The reverse of `share`, for arrays (microbatches, size, ...); for the mapped function."""
        if self.axis_name is None:
            return outputs
        axis = 1 if self.synchronized else 0

        def gathered(x: Array) -> Array:
            x = lax.all_gather(x, self.axis_name, axis=axis, tiled=True)
            return x[: len(x) - self.padding]

        return jax.tree.map(gathered, outputs)

    def train(self, seeds: Callable[..., Any]) -> Callable[..., Any]:
        """Compiles f(states, arrays, fed, first, steps) of a device's seeds; donates the states.

        States are placed by `sharding`, arrays as by `place`, and fed batches as by `feed`.
        """
        specs = (P(SEEDS), P(), self._fed, P(), P())
        return jax.jit(self._mapped(seeds, specs), donate_argnums=0)

    def evaluate(self, one_seed: Callable[..., Any]) -> Callable[..., Any]:
        """Compiles f(variables, data, batches) for all seeds.

        Variables are placed by `sharding`, data as by `place`. Batches are (batches, ...), as by
        `place` with `spread`; the mapped function sees its share of them, and sums over
        `axis_name`.
        """

        def seeds(variables: Any, data: Any, batches: Any) -> Any:
            # Not all at once: the outputs of convolutions take much memory.
            return lax.map(lambda variables: one_seed(variables, data, batches), variables)

        return jax.jit(self._mapped(seeds, (P(SEEDS), P(), P(DATA))))

    def _mapped(self, seeds: Callable[..., Any], specs: tuple[P, ...]) -> Callable[..., Any]:
        return jax.shard_map(
            seeds, mesh=self.mesh, in_specs=specs, out_specs=P(SEEDS), check_vma=False
        )

    def select(self, states: Any, runs: Sequence[int]) -> Any:
        """Some of the states, in the same placement."""
        index = np.array(runs)
        return jax.tree.map(lambda x: jax.device_put(x[index], self.sharding), states)

    def place(self, data: Any, *, spread: bool = False) -> Any:
        """Moves arrays from the host to the devices; `spread` splits axis 0."""
        put = _put_own if spread else jax.device_put
        sharding = NamedSharding(self.mesh, P(DATA) if spread else P())
        return jax.tree.map(lambda x: put(np.asarray(x), sharding), data)

    def feed(self, batches: Any) -> Any:
        """Moves arrays (runs, steps, microbatches, size, ...) from the host to the devices."""
        sharding = NamedSharding(self.mesh, self._fed)
        return jax.tree.map(lambda x: _put_own(self._padded(x, 2), sharding), batches)

    def fed_here(self, runs: int, microbatches: int, size: int) -> Bool[np.ndarray, "r m s"]:
        """Which examples of batches that `feed` moves go to devices of this process."""
        fed = NamedSharding(self.mesh, self._fed)
        held = _held(fed, (runs, 1, microbatches + self.padding, size))[:, 0]
        # A device may hold only a repetition.
        repeated = [held[:, first::microbatches].any(1) for first in range(microbatches)]
        return np.stack(repeated, 1)

    def placed_here(self, batches: int, size: int) -> Bool[np.ndarray, "b s"]:
        """Which examples of batches that `place` spreads go to devices of this process."""
        return _held(NamedSharding(self.mesh, P(DATA)), (batches, size))

    def _padded(self, x: Any, axis: int) -> Any:
        """Repeats the first microbatches, which lie along an axis, after the last."""
        size = x.shape[axis]
        return x.take(np.arange(size + self.padding) % size, axis) if self.padding else x

    @property
    def _fed(self) -> P:
        """How fed batches are placed: split over devices as `share` splits them."""
        return P(SEEDS, None, None, DATA) if self.synchronized else P(SEEDS, None, DATA)

    def abstract(self, states: Any, arrays: Any, fed: Any) -> tuple[Any, Any, Any]:
        """What `train` compiles for, as shapes, types and placements; the devices need not exist.

        Args:
          states: of all runs, stacked, as shapes and types.
          arrays: as given to `place`; only shapes and types matter, as for the next.
          fed: as given to `feed`.
        """

        def placed(tree: Any, spec: P) -> Any:
            sharding = NamedSharding(self.mesh, spec)
            return jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
            )

        padded = jax.eval_shape(partial(jax.tree.map, lambda x: self._padded(x, 2)), fed)
        return placed(states, P(SEEDS)), placed(arrays, P()), placed(padded, self._fed)

    @property
    def sharding(self) -> jax.sharding.Sharding:
        """The placement of stacked states."""
        return NamedSharding(self.mesh, P(SEEDS))


class _Replicas(Devices):
    """The same with `pmap`, which trains on a copy of all but the batch on each device."""

    def train(self, seeds: Callable[..., Any]) -> Callable[..., Any]:
        axis = self._fed.index(DATA)

        # The index tells how many replicas there are where no batch is fed.
        def replica(index: Array, *arguments: Any) -> Any:
            return seeds(*arguments)

        replicas = jax.pmap(
            replica,
            axis_name=DATA,
            in_axes=(0, None, None, axis, None, None),
            out_axes=None,
            devices=list(self.mesh.devices.flat),
        )

        def part(x: Array) -> Array:
            return x.reshape(*x.shape[:axis], self.mesh.size, -1, *x.shape[axis + 1 :])

        def train(states: Any, arrays: Any, fed: Any, *steps: Any) -> Any:
            parts = jax.tree.map(part, fed)
            return replicas(jnp.arange(self.mesh.size), states, arrays, parts, *steps)

        return jax.jit(train, donate_argnums=0)


def _put_own(x: np.ndarray, sharding: jax.sharding.Sharding) -> Array:
    """Moves an array to devices; of several processes, each moves what its own devices get."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _held(sharding: jax.sharding.Sharding, shape: tuple[int, ...]) -> Bool[np.ndarray, "..."]:
    held = np.zeros(shape, bool)
    for index in sharding.addressable_devices_indices_map(shape).values():
        held[index] = True
    return held


def fetch(tree: Any) -> Any:
    """Moves arrays to the host; with several processes, each gets those of all."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.device_get(tree)


@contextmanager
def all_or_none() -> Iterator[None]:
    """Fails in all processes if one fails: the others would wait for it forever.

    Raises:
      UserError: another process failed.
    """
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    failed = multihost_utils.process_allgather(np.array(failure is not None))
    if failure is not None:
        raise failure
    if failed.any():
        raise UserError("another process could not do its part")


def make_devices(
    config: Mapping[str, Any], available: Sequence[jax.Device] | None = None
) -> Devices:
    """Chooses devices for the runs of a config.

    With strategy `jit`, they run one program over a mesh of devices; with `pmap`, all but the batch
    is replicated; with `single`, only the first device is used. Seeds are spread over some devices,
    and the microbatches of a batch (of each of its parts, if the gradient is computed in parts)
    over others, with padding if these do not divide them. Where the config leaves open how many,
    the choice is the one with which each device has the fewest microbatches to compute; among
    these, one without padding, then the one with the most devices, then the one that spreads the
    seeds most, since they do not communicate. Several processes use all devices.

    Args:
      config: of the runs.
      available: to choose from, even if they are only described (default: `jax.devices()`).

    Raises:
      ValueError: the strategy does not do that, or sizes do not divide.
    """
    strategy, synchronized = config["devices"]["strategy"], config["devices"]["synchronized"]
    seeds, data, num_seeds = config["devices"]["seeds"], config["devices"]["data"], config["seeds"]
    batch_size, microbatch_size = config["batch_size"], config["microbatch_size"]
    accumulation_steps = config["accumulation_steps"]
    assert strategy in ("jit", "pmap", "single"), strategy
    if strategy != "jit" and jax.process_count() > 1:
        raise ValueError(
            f"devices.strategy {strategy} runs in one process, but there are "
            f"{jax.process_count()}; use jit"
        )
    if strategy == "single" and max(seeds, data) > 1:
        raise ValueError(f"devices.strategy single uses one device, got {seeds} x {data}")
    if strategy == "pmap" and seeds > 1:
        raise ValueError(f"devices.strategy pmap does not spread seeds, got devices.seeds {seeds}")
    available = jax.devices() if available is None else available
    if strategy == "single":
        available = available[:1]
    several = len({device.process_index for device in available}) > 1
    parts, what = batch_size // microbatch_size // accumulation_steps, "microbatches at once"
    if synchronized:
        parts, what = microbatch_size, "examples of a microbatch"
    if seeds and num_seeds % seeds:
        raise ValueError(f"devices.seeds must divide the {num_seeds} seeds, got {seeds}")
    if synchronized and data and parts % data:
        raise ValueError(f"devices.data must divide the {parts} {what}, got {data}")
    possible = _divisors(parts) if synchronized else range(1, len(available) + 1)
    shapes = [
        (along_seeds, along_data)
        for along_seeds, along_data in product(
            [seeds] if seeds else [1] if strategy == "pmap" else _divisors(num_seeds),
            [data] if data else possible,
        )
        if along_seeds * along_data <= len(available)
    ]
    if not shapes:
        raise ValueError(
            f"devices.seeds x devices.data is {max(seeds, 1)} x {max(data, 1)}, but there are "
            f"only {len(available)} devices"
        )

    def preference(shape: tuple[int, int]) -> tuple[int, ...]:
        each = num_seeds // shape[0] * math.ceil(parts / shape[1])
        idle = len(available) - shape[0] * shape[1]
        return several and idle > 0, each, parts % shape[1] > 0, idle, -shape[0]

    shape = min(shapes, key=preference)
    used = shape[0] * shape[1]
    if used < len(available) and several:
        raise ValueError(
            f"{num_seeds} seeds and {parts} {what} can be spread over {shape[0]} x {shape[1]} of "
            f"the {len(available)} devices, but with several processes all must be used"
        )
    mesh = Mesh(np.array(available[:used]).reshape(shape), (SEEDS, DATA))
    padding = accumulation_steps * (-parts % shape[1])
    return (_Replicas if strategy == "pmap" else Devices)(mesh, synchronized, padding)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
