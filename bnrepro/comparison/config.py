"""The variants of a config, and checks that its settings are valid together."""

import re
from collections.abc import Mapping
from typing import Any

from bnrepro.comparison.keys import (
    AUXILIARY_CHANNELS,
    CHANNELS,
    COMMON,
    KEYS,
    STEMS,
    ConfigError,
    check_setting,
    require,
)
from bnrepro.errors import nearest

# By flat key.
DEFAULTS = {name: key.default for name, key in KEYS.items()}
ON_ONE_DEVICE = {
    "devices.strategy": "single",
    "devices.seeds": 0,
    "devices.data": 0,
    "devices.synchronized": False,
}


def variant_configs(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The full config of each variant, checked.

    Args:
      config: as plain nested dicts.

    Returns:
      Name of the variant -> config without `variants` and `baseline`.

    Raises:
      ConfigError: an unknown key or an invalid value.
    """
    common = common_config(config)
    check_settings(common)
    variants: Any = config.get("variants")
    require(
        isinstance(variants, Mapping) and len(variants) > 0,
        "variants must name at least one variant",
    )
    resolved = {}
    for name, overrides in variants.items():
        require(
            isinstance(name, str)
            and re.fullmatch(r"[\w+=.,-][\w+=., -]*", name) is not None
            and len(name.encode()) <= 200
            and name not in (".", ".."),
            f"variants must have names of letters, digits, spaces and _+=.,- of 200 bytes at most "
            f"(folders are named after them), got {name!r}",
        )
        require(
            isinstance(overrides, Mapping), f"variants.{name} must be a dict, got {overrides!r}"
        )
        resolved[name] = own = dict(common)
        for key, value in overrides.items():
            where = f"variants.{name}.{key}"
            require(key not in COMMON, f"{where} cannot differ between variants")
            if key not in common:
                raise ConfigError(f"{where} is not a config key{nearest(key, common)}")
            if isinstance(common[key], Mapping):
                require(isinstance(value, Mapping), f"{where} must be a dict, got {value!r}")
                value = {**common[key], **value}
            own[key] = value
        check_changed(own, common, f"variant {name}")
    baseline = config.get("baseline")
    require(
        baseline in variants,
        f"baseline must be one of the variants ({', '.join(variants)}), got {baseline!r}",
    )
    return resolved


def common_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config that its variants share; missing keys get their defaults."""
    common = {key: value for key, value in config.items() if key not in ("variants", "baseline")}
    for key, default in DEFAULTS.items():
        section, _, field = key.rpartition(".")
        if not section:
            common.setdefault(field, default)
        elif isinstance(held := common.get(section, {}), Mapping):
            common[section] = {field: default, **held}
    return common


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config, with any variants that it has, and the defaults of keys that it lacks."""
    own = {key: config[key] for key in ("variants", "baseline") if key in config}
    return common_config(config) | own


def setting(config: Mapping[str, Any], key: str) -> Any:
    """The value of a flat key."""
    section, _, field = key.rpartition(".")
    return (config[section] if section else config)[field]


def of_test_minibatches(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config with the sizes of test minibatches in place of those of training.

    With `evaluation.labels_per_batch`, a batch has as many minibatches, and a minibatch as many
    microbatches, as in training.
    """
    sampler, labels = config["sampler"], config["evaluation"]["labels_per_batch"]
    if sampler["name"] != "labels" or not labels:
        return config
    sizes = {
        key: config[key] * labels // sampler["labels_per_batch"]
        for key in ("batch_size", "microbatch_size")
    }
    return with_settings(config, {"sampler.labels_per_batch": labels, **sizes})


def with_settings(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A config with some values replaced, given by flat key; they may be traced."""
    changed = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in config.items()
    }
    for key, value in settings.items():
        section, _, field = key.rpartition(".")
        (changed[section] if section else changed)[field] = value
    return changed


def check_config(config: Mapping[str, Any]) -> None:
    """Makes sure that the values of a config without variants are valid, also together.

    Raises:
      ConfigError: they are not; the message says which.
    """
    flat = check_settings(config)

    require(
        flat["augment"] != "inception" or (flat["stream"] and flat["image_size"] > 0),
        "augment inception crops while it reads: it needs stream True and an image_size, got "
        f"{flat['stream']} and {flat['image_size']}",
    )
    require(
        flat["digits"] == 1 or not flat["random_flip"],
        "random_flip would mirror the order of digits, and so their label: it needs digits 1",
    )
    batch_size, microbatch_size = flat["batch_size"], flat["microbatch_size"]
    require(
        batch_size % microbatch_size == 0,
        f"batch_size must be a multiple of microbatch_size, got {batch_size} and {microbatch_size}",
    )
    parts, microbatches = flat["accumulation_steps"], batch_size // microbatch_size
    require(
        microbatches % parts == 0,
        f"accumulation_steps must divide the number of microbatches, {batch_size} / "
        f"{microbatch_size}, got {parts}",
    )
    require(
        flat["steps"] % flat["eval_every"] == 0,
        f"steps must be a multiple of eval_every, got {flat['steps']} and {flat['eval_every']}",
    )
    labels, trained = flat["evaluation.labels_per_batch"], flat["sampler.labels_per_batch"]
    require(
        flat["sampler.name"] != "labels" or microbatch_size * labels % trained == 0,
        "evaluation.labels_per_batch must make whole microbatches of the test images, but "
        f"{microbatch_size} x {labels} / {trained} is none (microbatch_size, these, and "
        "sampler.labels_per_batch)",
    )
    name, network = flat["normalizer.name"], flat["model.name"]
    require(
        not (
            name == "moving_average_batch_norm"
            and microbatch_size == flat["normalizer.window"] == 1
        ),
        f"{name} cannot train on a microbatch_size of 1 with a normalizer.window of 1: a single "
        "value divided by its own size has no gradient; make either 2 or more",
    )
    require(
        name != "evonorm_s0"
        or (flat["model.activation"], flat["model.norm_placement"]) == ("identity", "before"),
        "evonorm_s0 contains its nonlinearity: it needs model.activation identity and "
        f"model.norm_placement before, got {flat['model.activation']} and "
        f"{flat['model.norm_placement']}",
    )
    require(
        network != "resnet" or (name != "evonorm_s0" and flat["model.norm_placement"] == "before"),
        "resnet has nonlinearities after sums: it needs model.norm_placement before and a "
        f"normalizer without a nonlinearity, got {flat['model.norm_placement']} and {name}",
    )
    measured = {"near_linear", "sigmoid_input", "sigmoid_inputs"} & {*flat["measures"]}
    require(
        not (name == "evonorm_s0" and measured),
        "evonorm_s0 contains its nonlinearity, whose inputs cannot be measured: leave out "
        f"{', '.join(sorted(measured))}",
    )
    require(
        not flat["model.zero_last_scale"]
        or (network == "resnet" and name != "none" and flat["normalizer.use_scale"]),
        "model.zero_last_scale needs model.name resnet and a normalizer with a scale, got "
        f"{network}, {name} and normalizer.use_scale {flat['normalizer.use_scale']}",
    )
    require(
        not (name == "none" and flat["model.kernel"] == "standardized"),
        "model.kernel standardized gives weights a variance of 1, which needs a normalizer: set "
        "normalizer.name, or model.kernel plain",
    )
    for end in ("normalizer.r_max_end", "normalizer.d_max_end"):
        require(
            flat[end] >= flat["normalizer.warmup"],
            f"{end} must be at least normalizer.warmup, got {flat[end]:g} and "
            f"{flat['normalizer.warmup']:g}",
        )
    stride, known = flat["model.stem_stride"], (0, *STEMS.get(network, ()))
    require(
        stride in known,
        f"model.stem_stride of {network} must be {' or '.join(map(str, known))}, got {stride}",
    )
    if name in ("evonorm_s0", "group_norm"):
        groups = flat["normalizer.num_groups"]
        if network in CHANNELS:
            key, channels = f"the channels of {network}", CHANNELS[network]
            if network == "inception" and flat["model.auxiliary"]:
                channels = (*channels, AUXILIARY_CHANNELS)
            sizes = tuple(max(1, round(flat["model.width"] * size)) for size in channels)
        else:
            key = "model.channels" if network == "cnn" else "model.hidden"
            sizes = flat[key]
        require(
            all(size % groups == 0 for size in sizes),
            f"normalizer.num_groups must divide all of {key}, got {groups} and {sizes}",
        )
    if network == "mlp" and name in ("evonorm_s0", "group_norm", "layer_norm"):
        groups = 1 if name == "layer_norm" else flat["normalizer.num_groups"]
        require(
            all(size > groups for size in flat["model.hidden"]),
            f"{name} learns nothing from a single unit, which has no deviation from its own mean: "
            f"all of model.hidden must be above {groups}, got {flat['model.hidden']}",
        )
    require(
        not (flat["model.dropout"] and flat["devices.synchronized"]),
        "model.dropout draws for whole microbatches, and devices.synchronized spreads them over "
        f"devices: set one to 0 or False, got {flat['model.dropout']} and True",
    )
    require(
        not (flat["optimizer.name"] == "adam" and flat["optimizer.momentum"]),
        f"adam takes no optimizer.momentum, got {flat['optimizer.momentum']}; set it to 0",
    )


def check_changed(config: Mapping[str, Any], common: Mapping[str, Any], whose: str) -> None:
    """As `check_config`, of one of several configs.

    Raises:
      ConfigError: it names whose config is wrong, unless the common one is wrong in the same way.
    """
    try:
        check_config(config)
    except ConfigError as error:
        try:
            check_config(common)
        except ConfigError as shared:
            if str(shared) == str(error):
                raise
        raise ConfigError(f"{whose}: {error}") from None


def check_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Makes sure that each value of such a config is valid by itself; returns them by flat key.

    Raises:
      ConfigError: one is not; the message says which.
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{key}.{field}": inner for field, inner in value.items()}
        else:  # an empty section keeps its name, which is that of no key
            flat[key] = value
    for key, value in flat.items():
        check_setting(key, value)
    return flat
