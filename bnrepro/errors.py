"""What ends a command without a traceback."""

import difflib
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


class UserError(Exception):
    """A mistake of the user or a failure of the machine; the message is one sentence."""


class Preempted(BaseException):
    """The process was asked to stop (SIGTERM); like KeyboardInterrupt, not an error."""


@contextmanager
def exit_codes(*, resumes: bool = False) -> Iterator[None]:
    """Ends the process with a sentence and a code: 2 after an error that `as_user_error` knows.

    After `Preempted`, the code is 75; after Ctrl-C, 130.

    Args:
      resumes: whether the same command resumes what was interrupted.
    """
    # Absl's flags take one dash or two, and perhaps a value.
    overwrites = any(re.match("--?overwrite", argument) for argument in sys.argv)
    but = ", without --overwrite," * overwrites
    saved = (
        f": all progress is saved in the workdir; the same command{but} resumes from there"
    ) * resumes
    try:
        yield
    except (Preempted, KeyboardInterrupt) as error:
        told = isinstance(error, Preempted)
        print(("asked to stop" if told else "interrupted") + saved, file=sys.stderr)
        sys.exit(75 if told else 130)  # 75 is EX_TEMPFAIL of sysexits.h
    except Exception as error:
        if (known := as_user_error(error)) is None:
            raise
        fail(known)


def fail(error: BaseException) -> NoReturn:
    """Exits after reporting a user's mistake in one sentence."""
    # For an unknown key, ml_collections nests the message with the nearest key in other errors.
    cause: Any = error
    while isinstance(cause, AttributeError | KeyError) and cause.args:
        cause = cause.args[0]
    message = str(cause) or type(error).__name__
    if message.startswith("'") and isinstance(error, AttributeError | KeyError):
        message = f"no such config key: {message}"
    # In one piece: several processes may share a terminal or a log.
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.exit(2)  # as opposed to 1 for a bug of ours


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
