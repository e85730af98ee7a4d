"""The run-time type checker of the tests, and the flags of the commands that they launch."""

import os
import re

from beartype import BeartypeConf, beartype

# An int will do where a float is asked for (PEP 484).
_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function):
    """Checks types; in nested functions, where a check is compiled at each call, only shapes."""
    nested, types = "<locals>" in function.__qualname__, function.__annotations__.values()
    shaped = any("jaxtyping" in type(one).__module__ for one in types)
    return function if nested and not shaped else _check(function)


def xla_flags(devices: int) -> str:
    """XLA's flags of this process, but with so many devices."""
    return re.sub(r"device_count=\d+", f"device_count={devices}", os.environ["XLA_FLAGS"])
