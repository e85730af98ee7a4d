"""Which variants share a program, with which numbers, and how many of them are trained at once."""

import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from bnrepro.comparison import plan as plan_module
from bnrepro.comparison.config import common_config
from bnrepro.comparison.plan import (
    available_cores,
    bytes_per_variant,
    group_variants,
    most_together,
)
from bnrepro.comparison.program import make_program
from bnrepro.comparison.run import dataset_of, make_job
from tests.small_dataset import small_config, small_dataset
from tests.small_shards import write_set

RATE, MOMENTUM, NAME = "optimizer.learning_rate", "normalizer.momentum", "normalizer.name"


def config(**settings):
    return common_config(small_config(**settings))


def program_of(**settings):
    return make_program(*make_job("a variant", config(**settings), small_dataset()))


def test_variants_share_a_program_that_takes_the_numbers_they_differ_in():
    variants = {
        "slow": config(**{RATE: 0.1}),
        "normed": config(**{RATE: 0.1, NAME: "batch_norm"}),
        "fast": config(**{RATE: 1}),
    }
    groups = group_variants(variants)
    assert [group.numbers for group in groups] == [
        {"slow": {RATE: 0.1}, "fast": {RATE: 1}},
        {"normed": {}},
    ]
    assert [group.config for group in groups] == [variants["slow"], variants["normed"]]


def test_groups_of_the_same_program_are_equal_whichever_their_variants():
    """As those of a sweep, whose programs take the same numbers of all trials."""
    settings = ({RATE: 0.1}, {RATE: 1.0}, {RATE: 0.1, MOMENTUM: 0.5})
    first, second, other = (
        group_variants({f"trial {i}": config(**own)}, (RATE,))[0] for i, own in enumerate(settings)
    )
    assert first == second != other
    assert second.numbers == {"trial 1": {RATE: 1.0}}


def test_as_many_variants_go_together_as_the_cache_or_the_memory_has_room_for(monkeypatch):
    program = program_of()
    assert jax.default_backend() == "cpu"
    assert most_together(program, ()) == 4  # of two seeds each

    device = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 1_000, "bytes_in_use": 100})
    mesh = SimpleNamespace(devices=np.array([device]))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(plan_module, "bytes_per_variant", lambda program, traced: 200)
    on_gpu = program._replace(devices=SimpleNamespace(mesh=mesh))
    assert most_together(on_gpu, ()) == 3  # in four fifths of 1,000 bytes, less 100


@pytest.mark.usefixtures("untyped")
def test_the_memory_of_a_variant_grows_with_its_batch():
    small, large = (
        bytes_per_variant(program_of(batch_size=size, **{"devices.strategy": "single"}), (RATE,))
        for size in (12, 96)
    )
    images = 2 * (96 - 12) * 16 * 4  # seeds x examples x pixels x bytes
    assert large - small > images


@pytest.mark.usefixtures("untyped")
def test_the_memory_of_a_streamed_variant_has_room_for_the_images_of_two_dispatches(
    tmp_path, monkeypatch
):
    """Those that it trains on, and the next."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_set(tmp_path)
    settings = {"dataset": "squares", "data_dir": str(tmp_path), "devices.strategy": "single"}
    streamed = config(**settings, stream=True)
    _, data, devices = make_job("a variant", streamed, dataset_of(streamed))

    def taken(steps):
        fed = data._replace(source=data.source._replace(steps_at_once=steps))
        return bytes_per_variant(make_program(streamed, fed, devices), (RATE,))

    few, many = map(taken, (1, 101))
    # Seeds x steps x examples x bytes of an image and its label.
    images = 2 * 100 * 12 * (16 * 16 * 3 + 4)
    assert 2 * images < many - few < 2.2 * images


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux assigns cores")
def test_only_the_cores_that_a_job_was_given_count():
    # They are assigned to a thread, so that this one keeps its own.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(os.sched_setaffinity, 0, {min(os.sched_getaffinity(0))}).result()
        assert pool.submit(available_cores).result() == 1
