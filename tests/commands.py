"""Commands that are launched, and what they say to a user's mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(module, *arguments, **env):
    """The process of `python -m MODULE`, which has ended."""
    command = [sys.executable, "-m", module, *arguments]
    pipes = {"capture_output": True, "text": True}
    return subprocess.run(command, cwd=ROOT, env=os.environ | env, timeout=120, **pipes)


def sentence_of(code, out, err):
    """The sentence on stderr of a command that ended with code 2 and nothing on stdout."""
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ") and err.count("\n") == 1
    return err.removeprefix("error: ")


def code_of(main, *arguments):
    """The code that a command ends this process with."""
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return exit_.value.code


def refusal(capsys, main, *arguments):
    """The sentence that a command says to arguments."""
    return sentence_of(code_of(main, *arguments), *capsys.readouterr())


def output(capsys, *arguments, main):
    """What a command that has nothing to warn of prints."""
    main(arguments)
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out
