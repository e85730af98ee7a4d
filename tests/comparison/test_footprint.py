"""What a step takes on each device, as its compiled program says."""

import jax
import pytest

from bnrepro.comparison.config import variant_configs, with_settings
from bnrepro.comparison.footprint import (
    Collective,
    collectives,
    compile_step,
    footprint,
    measured_seconds,
)
from bnrepro.comparison.run import make_job
from bnrepro.data.descriptions import describe_dataset
from configs import small_batch

pytestmark = pytest.mark.usefixtures("untyped")

HLO = """\
HloModule step

%body (arg: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %x = f32[4,8]{1,0:T(8,128)} get-tuple-element(%arg), index=1
  %all-reduce.1 = (f32[4,8]{1,0:T(8,128)S(1)}, /*index=1*/bf16[3]{0}) all-reduce(%x, %y)
  %all-gather-start.2 = (f32[4,8]{1,0}, f32[16,8]{1,0}) all-gather-start(%x), dimensions={0}
  %all-gather-done.2 = f32[16,8]{1,0} all-gather-done(%all-gather-start.2)
  ROOT %psum.3 = pred[] all-reduce(%flag), metadata={op_name="all-gather(x)"}
}

ENTRY %main.4 (p: f32[4,8]) -> f32[4,8] {
  %while.1 = (s32[], f32[4,8]{1,0}) while(%p), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  %while.2 = (s32[], f32[4,8]{1,0}) while(%p), condition=%cond, body=%body
  ROOT %all-reduce.5 = f32[4,8]{1,0} all-reduce(%x), to_apply=%add
}
"""


def job(available=None, **settings):
    config = small_batch.get_config().to_dict() | {"seeds": 2}
    config = with_settings(variant_configs(config)["batch_norm 4"], {"model.hidden": (20, 10)})
    config = {**with_settings(config, settings), "stream": settings.get("stream", False)}
    return make_job("batch_norm 4", config, describe_dataset("mnist"), available)


def test_collectives_are_counted_with_their_bytes():
    # In the body 4 * 8 * 4 + 3 * 2 and one, and 16 * 8 * 4, the result without the operand; three
    # times, and once more in the loop of unknown length.
    assert collectives(HLO) == {
        "all-gather": Collective(4 * 1, 4 * 512),
        "all-reduce": Collective(4 * 2 + 1, 4 * 135 + 128),
    }


# 784 x 20, 20 x 10 and 10 x 10 weights, two scales and biases of normalizers, and the last bias.
PARAMETERS = 4 * (784 * 20 + 20 * 10 + 10 * 10 + 2 * (20 + 10) + 10)


@pytest.mark.parametrize(
    ("strategy", "stream"),
    [
        ("jit", False),
        ("jit", True),
        pytest.param("pmap", False, marks=pytest.mark.slow),
        ("single", True),
    ],
)
def test_a_step_on_four_devices_takes_what_a_calculation_by_hand_says(strategy, stream):
    settings = {"devices.strategy": strategy, "devices.seeds": int(strategy == "pmap")}
    taken = footprint(compile_step(job(jax.devices()[:4], **settings, stream=stream)))
    seeds, data = {"jit": (2, 2), "pmap": (1, 4), "single": (1, 1)}[strategy]
    assert (taken.seeds, taken.data) == (seeds, data)
    runs = 2 // seeds
    assert taken.parameters == runs * PARAMETERS
    # Three products of two operations, for outputs, gradients of weights and, except in the first
    # layer, of inputs. Everything elementwise is about a tenth of that.
    products = runs * 64 // data * 2 * (2 * 784 * 20 + 3 * (20 * 10 + 10 * 10))
    assert products < taken.flops < 1.3 * products
    images = runs * 64 // (1 if strategy == "single" else data) * 784 if stream else 60_000 * 785
    assert images < taken.arguments < images + 200_000 + 60_000 * 3 * (not stream)
    if strategy == "single":
        assert not taken.collectives
    else:
        # Gradients, moving averages of means and variances, loss and accuracy of each run.
        reduced = runs * (PARAMETERS + 4 * (2 * (20 + 10) + 2))
        assert taken.collectives.keys() == {"all-reduce"}
        assert taken.collectives["all-reduce"].bytes == reduced


def test_synchronized_statistics_are_exchanged_as_well():
    settings = {"devices.seeds": 1, "devices.data": 4, "devices.synchronized": True}
    settings |= {"model.hidden": (20,)}
    taken = footprint(compile_step(job(**settings))).collectives
    # Once in each direction.
    assert (taken["all-gather"].number, taken["reduce-scatter"].number) == (1, 1)
    in_parts = footprint(compile_step(job(**settings, accumulation_steps=4))).collectives
    for kind in ("all-gather", "reduce-scatter"):
        assert in_parts[kind] == Collective(4, taken[kind].bytes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stream", "data", "parts"),
    [(False, 0, 4), (True, 0, 4), (True, 3, 2)],  # 6 microbatches a device, or twice 3
)
def test_a_gradient_in_parts_takes_about_as_many_operations(stream, data, parts):
    settings = {"stream": stream, "devices.data": data}
    whole, in_parts = (
        footprint(compile_step(job(accumulation_steps=number, **settings))) for number in (1, parts)
    )
    assert whole.flops < in_parts.flops < 1.2 * whole.flops


def test_a_streamed_step_is_timed_on_black_images():
    step = compile_step(job(**{"devices.strategy": "pmap"}, stream=True))
    assert 0 < measured_seconds(step) < 10
