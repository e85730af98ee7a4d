"""The keys of a config, what each may be, and the variants it spells out."""

import copy
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from bnrepro.data import SAMPLERS
from bnrepro.models import ACTIVATIONS, INITIALIZERS, NETWORKS, NORMALIZERS
from bnrepro.training import OPTIMIZERS, STRATEGIES


class ConfigError(Exception):
    """A setting that cannot be; the message is one sentence for the user."""


class _Number(NamedTuple):
    kind: type
    low: float
    high: float
    open_low: bool = False  # low itself is out
    open_high: bool = False

    def check(self, key: str, value: Any) -> None:
        kinds = (int, float) if self.kind is float else (int,)
        wanted = "a number" if self.kind is float else "an integer"
        _require(
            isinstance(value, kinds) and not isinstance(value, bool),
            f"{key} must be {wanted}, got {value!r}",
        )
        inside = (
            (value > self.low or (value == self.low and not self.open_low))
            and (value < self.high or (value == self.high and not self.open_high))
            and math.isfinite(value)
        )
        left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
        bounds = f"{left}{self.low:,}, {self.high:,}{right}"
        _require(inside, f"{key} must be in {bounds}, got {value!r}")


class _Choice(NamedTuple):
    known: Iterable[str]

    def check(self, key: str, value: Any) -> None:
        known = sorted(self.known)
        if value not in known:
            hint = f"known are {', '.join(known)}" + _nearest(value, known)
            raise ConfigError(f"{key} is unknown: {value!r}; {hint}")


class _Is(NamedTuple):
    kind: type

    def check(self, key: str, value: Any) -> None:
        wanted = {str: "a string", bool: "True or False"}[self.kind]
        _require(isinstance(value, self.kind), f"{key} must be {wanted}, got {value!r}")


class _Sizes(NamedTuple):
    def check(self, key: str, value: Any) -> None:
        _require(
            isinstance(value, list | tuple)
            and len(value) > 0
            and all(isinstance(size, int) and 1 <= size <= 2**20 for size in value),
            f"{key} must be a tuple of positive integers, got {value!r}",
        )


_RULES: dict[str, Any] = {
    "dataset": _Is(str),
    "data_dir": _Is(str),
    "binary_input": _Is(bool),
    "seeds": _Number(int, 1, 10_000),
    "first_seed": _Number(int, 0, 2**31 - 10_001),
    "steps": _Number(int, 1, 10**9),
    "batch_size": _Number(int, 1, 2**20),
    "microbatch_size": _Number(int, 1, 2**20),
    "eval_every": _Number(int, 1, 10**9),
    "ema_decay": _Number(float, 0, 1, open_high=True),
    "checkpoint.every": _Number(int, 0, 10**9),
    "checkpoint.keep": _Number(int, 1, 1_000),
    "devices.strategy": _Choice(STRATEGIES),
    "devices.seeds": _Number(int, 0, 2**20),
    "devices.data": _Number(int, 0, 2**20),
    "devices.synchronized": _Is(bool),
    "preview": _Is(bool),
    "model.name": _Choice(NETWORKS),
    "model.hidden": _Sizes(),
    "model.channels": _Sizes(),
    "model.activation": _Choice(ACTIVATIONS),
    "model.init": _Choice(INITIALIZERS),
    "model.init_std": _Number(float, 0, 1e3, open_low=True),
    "model.dropout": _Number(float, 0, 1, open_high=True),
    "optimizer.name": _Choice(OPTIMIZERS),
    "optimizer.learning_rate": _Number(float, 0, 1e6, open_low=True),
    "optimizer.momentum": _Number(float, 0, 1, open_high=True),
    "optimizer.weight_decay": _Number(float, 0, 1e6),
    "sampler.name": _Choice(SAMPLERS),
    "sampler.labels_per_batch": _Number(int, 1, 2**20),
    "sampler.examples_per_label": _Number(int, 1, 2**20),
    "sampler.repeat_labels": _Is(bool),
    "evaluation.train_examples": _Number(int, 0, 2**31 - 1),
    "evaluation.minibatches": _Number(int, 0, 2**20),
    "normalizer.name": _Choice(NORMALIZERS),
    "normalizer.momentum": _Number(float, 0, 1),
    "normalizer.epsilon": _Number(float, 0, 1e3, open_low=True),
    "normalizer.r_max": _Number(float, 1, 1e6),
    "normalizer.d_max": _Number(float, 0, 1e6),
    "normalizer.warmup": _Number(float, 0, 1),
    "normalizer.r_max_end": _Number(float, 0, 1),
    "normalizer.d_max_end": _Number(float, 0, 1),
    "normalizer.num_groups": _Number(int, 1, 2**20),
}
# Numbers that a compiled program can take as arguments: variants that differ in nothing else are
# one program.
TRACED = (
    "optimizer.learning_rate", "optimizer.momentum", "optimizer.weight_decay",
    "normalizer.momentum", "normalizer.epsilon", "normalizer.r_max", "normalizer.d_max",
    "model.dropout", "model.init_std",
)  # fmt: skip
# These hold for a whole comparison; a variant cannot change them.
COMMON = {"variants", "baseline", "dataset", "data_dir", "seeds", "first_seed", "steps",
           "eval_every", "preview", "checkpoint"}  # fmt: skip


def variant_configs(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The full config of each variant, checked.

    Args:
      config: as plain nested dicts.

    Returns:
      Name of the variant -> config without `variants` and `baseline`.

    Raises:
      ConfigError: a key or a value that cannot be.
    """
    common = common_config(config)
    check_config(common)
    variants: Any = config.get("variants")
    _require(
        isinstance(variants, Mapping) and len(variants) > 0,
        "variants must name at least one variant",
    )
    resolved = {}
    for name, overrides in config["variants"].items():
        _require(
            re.fullmatch(r"[\w+=.,-][\w+=., -]*", name) is not None and name not in (".", ".."),
            f"variants must have names of letters, digits, spaces and _+=.,- (folders are named "
            f"after them), got {name!r}",
        )
        _require(
            isinstance(overrides, Mapping), f"variants.{name} must be a dict, got {overrides!r}"
        )
        resolved[name] = _override(common, overrides, f"variants.{name}.", "")
        try:
            check_config(resolved[name])
        except ConfigError as error:
            raise ConfigError(f"variant {name}: {error}") from None
    baseline = config.get("baseline")
    _require(
        baseline in variants,
        f"baseline must be one of the variants ({', '.join(variants)}), got {baseline!r}",
    )
    return resolved


def _override(
    base: Mapping[str, Any], overrides: Mapping[str, Any], where: str, prefix: str
) -> dict[str, Any]:
    result = copy.deepcopy(dict(base))
    for key, value in overrides.items():
        path = prefix + key
        _require(path not in COMMON, f"{where}{path} cannot differ between variants")
        if key not in base:
            hint = _nearest(path, [*_RULES, "model"])
            raise ConfigError(f"{where}{path} is no config key{hint}")
        if isinstance(base[key], Mapping):
            _require(isinstance(value, Mapping), f"{where}{path} must be a dict, got {value!r}")
            value = _override(base[key], value, where, f"{path}.")
        result[key] = value
    return result


def common_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says of all of its variants."""
    return {key: value for key, value in config.items() if key not in ("variants", "baseline")}


def with_settings(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A config with other values of some keys, which are given flat and may be traced."""
    changed = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in config.items()
    }
    for key, value in settings.items():
        section, _, field = key.rpartition(".")
        (changed[section] if section else changed)[field] = value
    return changed


def check_setting(key: str, value: Any) -> None:
    """Makes sure that there is such a key and that it may have this value.

    Raises:
      ConfigError: it is not so; the sentence names the nearest key, or the bounds.
    """
    # The nearest is looked for only where one is missing: it takes longer than all else.
    if key not in _RULES:
        raise ConfigError(f"{key} is no config key" + _nearest(key, _RULES))
    _RULES[key].check(key, value)


def is_number(key: str) -> bool:
    """Whether a config key takes numbers."""
    return isinstance(_RULES[key], _Number)


def is_integer(key: str) -> bool:
    """Whether a config key takes integers only."""
    return is_number(key) and _RULES[key].kind is int


def check_config(config: Mapping[str, Any]) -> None:
    """Makes sure that a config without variants has all keys, with values that go together.

    Raises:
      ConfigError: it has not; the sentence says which.
    """
    flat = {
        f"{key}.{field}" if isinstance(value, Mapping) else key: inner
        for key, value in config.items()
        for field, inner in (value.items() if isinstance(value, Mapping) else [("", value)])
    }
    for key, value in flat.items():
        check_setting(key, value)
    for key in _RULES:
        _require(key in flat, f"the config lacks {key}")

    batch_size, microbatch_size = flat["batch_size"], flat["microbatch_size"]
    _require(
        batch_size % microbatch_size == 0,
        f"batch_size must be a multiple of microbatch_size, got {batch_size} and {microbatch_size}",
    )
    _require(
        flat["steps"] % flat["eval_every"] == 0,
        f"steps must be a multiple of eval_every, got {flat['steps']} and {flat['eval_every']}",
    )
    name = flat["normalizer.name"]
    _require(
        not (name.startswith("batch_") and microbatch_size == 1),
        f"{name} cannot train on a microbatch_size of 1: a single value has no deviation from its "
        "own mean to learn from; take 2 or more, or group_norm, layer_norm or none",
    )
    for end in ("normalizer.r_max_end", "normalizer.d_max_end"):
        _require(
            flat[end] >= flat["normalizer.warmup"],
            f"{end} must be at least normalizer.warmup, got {flat[end]:g} and "
            f"{flat['normalizer.warmup']:g}",
        )
    if name == "group_norm":
        groups = flat["normalizer.num_groups"]
        key = "model.channels" if flat["model.name"] == "cnn" else "model.hidden"
        _require(
            all(size % groups == 0 for size in flat[key]),
            f"normalizer.num_groups must divide all of {key}, got {groups} and {flat[key]}",
        )
    _require(
        not (flat["model.dropout"] and flat["devices.synchronized"]),
        "model.dropout draws for whole microbatches, and devices.synchronized spreads them over "
        f"devices: set one to 0 or False, got {flat['model.dropout']} and True",
    )
    _require(
        not (flat["optimizer.name"] == "adam" and flat["optimizer.momentum"]),
        f"adam takes no optimizer.momentum, got {flat['optimizer.momentum']}; set it to 0",
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _nearest(word: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""
