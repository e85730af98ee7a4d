"""Shell commands that repeat a training."""

import shlex
from collections.abc import Mapping
from typing import Any


def command_line(program: str, config: str, overrides: Mapping[str, Any]) -> str:
    """A shell command with the config flags of a file and of flat keys."""
    return " ".join([program, f"--config={shlex.quote(config)}", *config_flags(overrides)])


def config_flags(settings: Mapping[str, Any]) -> list[str]:
    """The flags that set flat keys of a config, with all digits."""
    return [f"--config.{key}={shlex.quote(_flag(value))}" for key, value in settings.items()]


def _flag(value: Any) -> str:
    """A setting as ml_collections' flags take it."""
    if isinstance(value, str):
        return value
    return repr(tuple(value) if isinstance(value, list) else value)
