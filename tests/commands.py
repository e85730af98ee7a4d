"""What the tests of commands share."""

import pytest


def refusal(capsys, main, *arguments):
    """The sentence on stderr of a call that ends with code 2 and nothing on stdout."""
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert (exit_.value.code, captured.out) == (2, "")
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err.removeprefix("error: ")
