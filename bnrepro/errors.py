"""What ends a command without a traceback."""

import difflib
import re
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """A mistake of the user or a failure of the machine; the message is one sentence."""


class Preempted(BaseException):
    """The process was asked to stop (SIGTERM); like KeyboardInterrupt, not an error."""


def as_user_error(error: BaseException) -> UserError | None:
    """The error itself if it is one, or one that says that there is too little memory; or None."""
    if isinstance(error, UserError):
        return error
    # XLA's words; the type of its errors is not known without loading JAX.
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        why = "not enough memory for these sizes and numbers of seeds"
        return UserError(f"{why}: {first_line(error)}")
    return None


def first_line(error: BaseException) -> str:
    """Another library's error message, as part of a sentence; the error's type if it has none."""
    # Without the file-like object that Pillow could not read.
    text = re.sub(r" <_io\.\w+ object at \w+>", "", str(error)).strip()
    return (text or type(error).__name__).splitlines()[0].rstrip(".:")


def nearest(word: Any, known: Iterable[str]) -> str:
    """A "did you mean" for the nearest of some names, if any is near."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""
