"""The run-time type checker of the tests, and the flags of the commands that they launch."""

import os
import re

from beartype import BeartypeConf, beartype

# An int will do where a float is asked for (PEP 484).
_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function):
    """Checks types, but not of functions in functions: that compiles a check at each call."""
    return function if "<locals>" in function.__qualname__ else _check(function)


def xla_flags(devices: int) -> str:
    """XLA's flags of this process, but with so many devices."""
    return re.sub(r"device_count=\d+", f"device_count={devices}", os.environ["XLA_FLAGS"])
