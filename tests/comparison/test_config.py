"""Configs: what each key may be, and what is said when it is not."""

from importlib import import_module

import pytest
from flax.traverse_util import flatten_dict

from bnrepro.comparison import keys
from bnrepro.comparison.config import variant_configs, with_settings
from bnrepro.comparison.keys import KEYS, ConfigError, check_setting
from bnrepro.models import networks
from bnrepro.training import measures
from configs import mnist_sigmoid, non_iid, small_batch, small_batch_cnn
from tests.commands import ROOT

CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("[!_]*.py"))


def config(**changes):
    """The MNIST config with `changes` to its keys; `a__b` is key a.b."""
    settings = {path.replace("__", "."): value for path, value in changes.items()}
    return with_settings(mnist_sigmoid.get_config().to_dict(), settings)


def one_variant(normalizer, microbatch_size=60, **model):
    """Changes that leave one variant, of that normalizer."""
    variant = {"normalizer": normalizer, "model": model}
    return {"microbatch_size": microbatch_size, "variants": {"plain": variant}}


BATCH_NORM, GROUP_NORM, EVONORM = (
    {"name": name} for name in ("batch_norm", "group_norm", "evonorm_s0")
)
MABN = {"name": "moving_average_batch_norm"}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_of_the_repository_is_valid(name):
    assert variant_configs(import_module(f"configs.{name}").get_config().to_dict())


@pytest.mark.parametrize("module", [mnist_sigmoid, non_iid, small_batch])
def test_a_preview_is_marked_and_shorter(module):
    full, preview = (module.get_config(length).to_dict() for length in ("full", "preview"))
    assert (full["preview"], preview["preview"]) == (False, True)
    assert preview["steps"] < full["steps"]
    assert set(preview["variants"]) <= set(full["variants"])
    assert variant_configs(preview)
    with pytest.raises(ValueError, match="full or preview, got 'short'"):
        module.get_config("short")


def test_variants_differ_in_their_overrides_alone():
    variants = variant_configs(config())
    assert set(variants) == {"plain", "batch_norm", "batch_renorm"}
    for name, variant in variants.items():
        expected = variants["plain"]["normalizer"] | {"name": "none" if name == "plain" else name}
        assert variant == variants["plain"] | {"normalizer": expected}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepps": 3}, "stepps is not a config key; did you mean steps?"),
        ({"steps": "many"}, "steps must be an integer, got 'many'"),
        ({"steps": 0}, r"steps must be in \[1, 1,000,000,000\], got 0"),
        ({"steps": True}, "steps must be an integer, got True"),
        ({"batch_size": 50}, "multiple of microbatch_size, got 50 and 60"),
        ({"accumulation_steps": 2}, "the number of microbatches, 60 / 60, got 2"),
        (
            {
                "sampler__name": "labels",
                "evaluation__labels_per_batch": 1,
                "batch_size": 63,
                "microbatch_size": 63,
            },
            "whole microbatches of the test images, but 63 x 1 / 2 is none",
        ),
        ({"steps": 1001}, "steps must be a multiple of eval_every, got 1001 and 500"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\), got 1.0"),
        ({"optimizer__name": "sdg"}, "'sdg'; choose from adam, rmsprop, sgd; did you mean sgd"),
        ({"optimizer__learning_rate": float("nan")}, "learning_rate must be in .* got nan"),
        ({"optimizer__learning_rate": 0.0}, r"learning_rate must be in \(0, "),
        ({"normalizer__r_max_end": 0.01}, "r_max_end must be at least normalizer.warmup"),
        ({"model__hidden": (100, 0)}, "hidden must be a tuple of positive integers"),
        ({"model__hidden": (True,)}, "hidden must be a tuple of positive integers"),
        ({"dataset": 3}, "dataset must be a string, got 3"),
        ({"binary_input": "yes"}, "binary_input must be True or False, got 'yes'"),
        ({"baseline": "zero"}, "baseline must be one of the variants"),
        ({"variants": {}}, "at least one variant"),
        ({"variants": {"../plain": {}}}, "names of letters, digits.*got '../plain'"),
        ({"variants": {64: {}}}, "names of letters, digits.*got 64"),
        ({"variants": {101 * "é": {}}}, "names of letters, digits.*200 bytes.*got 'é"),
        ({"variants": {"plain": 3}}, "variants.plain must be a dict"),
        ({"variants": {"plain": {64: {}}}}, "variants.plain.64 is not a config key"),
        ({"variants": {"plain": {"modle": {}}}}, "plain.modle is not .*; did you mean model?"),
        ({"variants": {"plain": {"steps": 5}}}, "steps cannot differ between variants"),
        ({"variants__plain": {"optimizer": {"rate": 1.0}}}, "optimizer.rate is not a config key"),
        ({"variants__plain": {"batch_size": 7}}, "variant plain: batch_size must be a multiple"),
        ({"wings": {}}, "wings is not a config key"),
        ({"variants__plain": {"optimizer": 3}}, "optimizer must be a dict"),
        ({"model__kernel": "standardized"}, "variance of 1, which needs a normalizer"),
        ({"model__dropout": 0.5, "devices__synchronized": True}, "set one to 0 or False, got 0.5"),
        ({"optimizer__name": "adam", "optimizer__momentum": 0.9}, "adam takes no"),
        ({"augment": "inception", "image_size": 8}, "needs stream True and an image_size, got Fal"),
        ({"digits": 2, "random_flip": True}, "needs digits 1"),
        ({"augment": "inception", "stream": True}, "needs stream True and an image_size, got True"),
        ({"measures": ("gradient_norm",)}, "did you mean gradient_norms"),
        ({"measures": "gradient_norms"}, "measures must be a tuple of names"),
        (
            one_variant(EVONORM, activation="identity") | {"measures": ("near_linear",)},
            "whose inputs cannot be measured: leave out near_linear",
        ),
        (one_variant(GROUP_NORM, hidden=(20, 10)), r"must be above 10, got \(20, 10\)"),
        (one_variant({"name": "layer_norm"}, hidden=(20, 1)), r"must be above 1, got \(20, 1\)"),
        (one_variant(MABN | {"window": 1}, 1), "of 1 with a normalizer.window of 1"),
        (
            one_variant(EVONORM, activation="identity", norm_placement="both"),
            "nonlinearity.* got identity and both",
        ),
        (one_variant(GROUP_NORM, hidden=(25,)), r"num_groups .* got 10 and \(25,\)"),
        (
            one_variant(GROUP_NORM, name="inception", width=0.25),
            r"num_groups .*channels of inception, got 10 and \(8, 12, ",
        ),
        (  # 768 channels become 769; the others stay as they are.
            one_variant(
                GROUP_NORM | {"num_groups": 16}, name="inception", width=1.001, auxiliary=True
            ),
            r"num_groups .*channels of inception, got 16 and \(32, .* 448, 769\)",
        ),
        (
            one_variant(BATCH_NORM, name="resnet", stem_stride=3),
            "stem_stride of resnet must be 0 or 4 or 1, got 3",
        ),
        (
            one_variant(BATCH_NORM, name="resnet", norm_placement="after"),
            "resnet has nonlinearities after sums.* got after and batch_norm",
        ),
        (
            one_variant(EVONORM, name="resnet", activation="identity"),
            "resnet has nonlinearities after sums.* got before and evonorm_s0",
        ),
        *(
            (
                one_variant(normalizer, name=name, zero_last_scale=True),
                f"zero_last_scale needs .* got {name}, {normalizer['name']} and .*{scale}",
            )
            for normalizer, name, scale in (
                ({"name": "none"}, "resnet", True),
                (BATCH_NORM | {"use_scale": False}, "resnet", False),
                (BATCH_NORM, "cnn", True),
            )
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(changes, message):
    with pytest.raises(ConfigError, match=message) as raised:
        variant_configs(config(**changes))
    assert "\n" not in str(raised.value)


def test_a_common_value_that_all_variants_set_need_not_fit_the_others():
    own = {name: {"microbatch_size": size} for name, size in (("plain", 50), ("halves", 25))}
    assert variant_configs(config(batch_size=50, variants=own)).keys() == own.keys()
    with pytest.raises(ConfigError, match=r"^batch_size must be a multiple of .*, got 50 and 60"):
        variant_configs(config(batch_size=50, variants=own | {"another": {}}))
    own["halves"]["optimizer"] = {"name": "adam", "momentum": 0.9}
    with pytest.raises(ConfigError, match=r"^variant halves: adam takes no optimizer.momentum"):
        variant_configs(config(batch_size=50, variants=own))


def test_a_missing_key_has_its_default():
    incomplete = config(normalizer__epsilon=1e-2)
    del incomplete["normalizer"]["epsilon"], incomplete["checkpoint"], incomplete["ema_decay"]
    for variant in variant_configs(incomplete).values():
        assert variant["normalizer"]["epsilon"] == 1e-5
        assert variant["checkpoint"] == {"every": 10, "keep": 2}
        assert variant["ema_decay"] == 0.0


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (networks, "ACTIVATIONS"),
        (networks, "DTYPES"),
        (networks, "KERNELS"),
        (measures, "MEASURES"),
    ],
)
def test_the_names_that_keys_may_have_are_those_that_the_code_knows(module, names):
    assert sorted(getattr(keys, names)) == sorted(getattr(module, names))


def test_the_page_of_the_keys_has_their_table():
    rows = [
        f"| `{name}` | {key.rule.text} | `{key.default!r}` | {key.explanation} |"
        for name, key in KEYS.items()
    ]
    table = "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows])
    assert table in (ROOT / "docs" / "configuration.md").read_text()


def test_every_key_is_in_the_config_that_explains_them_and_every_default_may_be():
    common = {k: v for k, v in config().items() if k not in ("variants", "baseline")}
    assert set(flatten_dict(common, sep=".")) == set(KEYS)
    for name, key in KEYS.items():
        check_setting(name, key.default)


def test_what_batch_norm_and_batch_renorm_share_is_the_same_in_both():
    for module in (small_batch, small_batch_cnn):
        variants = variant_configs(module.get_config().to_dict())
        for size in small_batch.MICROBATCH_SIZES:
            norm, renorm = variants[f"batch_norm {size}"], variants[f"batch_renorm {size}"]
            renorm["normalizer"]["name"] = "batch_norm"
            assert norm == renorm


def test_the_papers_setting_is_what_the_config_says():
    plain = variant_configs(config())["plain"]
    assert plain["model"]["hidden"] == (100, 100, 100)
    assert (plain["steps"], plain["batch_size"], plain["binary_input"]) == (50_000, 60, True)
