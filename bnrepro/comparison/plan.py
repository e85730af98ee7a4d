"""Which variants share a compiled program, which numbers it takes, and how many train at once.

A variant is compiled into a program with all of its seeds. Variants that differ only in numbers the
program can take as arguments (`TRACED`) share the program. Comparisons and sweeps both follow this.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from bnrepro.comparison.config import setting, with_settings
from bnrepro.comparison.keys import TRACED
from bnrepro.comparison.program import Program
from bnrepro.comparison.variant import Feed
from bnrepro.training.devices import Devices

# Runs of one program on a CPU: with more, these small networks no longer fit a core's cache.
_RUNS_ON_CPU = 8
# Variants of one program on a device whose memory has room for more.
_MOST_TOGETHER = 1024
# Part of a device's memory to use.
_MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class Group:
    """Variants that share one program. Groups are equal if their programs are.

    Attributes:
      key: what the program is compiled for, as text.
      config: the first variant's.
      numbers: what the program takes as arguments, by variant and flat key.
    """

    key: str
    config: Mapping[str, Any] = field(compare=False)
    numbers: Mapping[str, Mapping[str, float]] = field(compare=False)

    @property
    def name(self) -> str:
        """The first variant's name."""
        return next(iter(self.numbers))


def group_variants(
    configs: Mapping[str, Mapping[str, Any]], traced: Sequence[str] | None = None
) -> list[Group]:
    """Groups variants by the program that trains them, in the order of their first variants.

    Args:
      configs: the full config of each variant, by name.
      traced: keys of the numbers that programs take; None: those that differ within a group.
    """
    possible = TRACED if traced is None else traced
    members = defaultdict[str, dict[str, Mapping[str, Any]]](dict)
    for name, config in configs.items():
        key = json.dumps(with_settings(config, dict.fromkeys(possible)), sort_keys=True)
        members[key][name] = config
    groups = []
    for key, own in members.items():
        values = {k: [setting(config, k) for config in own.values()] for k in possible}
        taken = [k for k in possible if traced is not None or len(set(values[k])) > 1]
        numbers = {name: {k: values[k][i] for k in taken} for i, name in enumerate(own)}
        groups.append(Group(key, next(iter(own.values())), numbers))
    return groups


def most_together(program: Program, traced: Sequence[str]) -> int:
    """How many variants of a program to train at once; limited by CPU cache or device memory."""
    if jax.default_backend() == "cpu":
        return max(1, _RUNS_ON_CPU // program.config["seeds"])
    stats = program.devices.mesh.devices.flat[0].memory_stats() or {}
    if "bytes_limit" not in stats:
        return _MOST_TOGETHER
    free = _MEMORY_SHARE * stats["bytes_limit"] - stats["bytes_in_use"]
    return min(_MOST_TOGETHER, max(1, int(free / bytes_per_variant(program, traced))))


def bytes_per_variant(program: Program, traced: Sequence[str]) -> int:
    """Device memory that training one variant takes, in addition to a data set that lives there."""
    seeds = program.config["first_seed"] + np.arange(program.config["seeds"])
    numbers = {key: np.zeros(len(seeds), np.float32) for key in traced}
    train_steps: Any = program.train_steps
    with closing(Feed(program)) as feed:
        fed = feed(seeds.tolist(), 0, 1)
    states = program.init(seeds, numbers)
    memory = train_steps.lower(states, program.arrays, fed, 0, 1).compile().memory_analysis()
    # The next minibatches of a stream are moved to the device while it trains on these.
    streamed = 2 * sum(x.nbytes for x in jax.tree.leaves(fed))
    return memory.temp_size_in_bytes + memory.output_size_in_bytes + streamed


def side_by_side(devices: Iterable[Devices]) -> int:
    """How many programs on these devices to run at once, each in its own thread.

    XLA keeps only one CPU core busy with networks this small, so each core trains its own variant.
    Two programs that are both spread over several devices could wait for each other forever.
    """
    spread = any(used.mesh.size > 1 for used in devices)
    if jax.default_backend() != "cpu" or spread or jax.process_count() > 1:
        return 1
    return available_cores()


def available_cores() -> int:
    """Cores that this process may use: on a machine shared by SLURM jobs, only its own."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
