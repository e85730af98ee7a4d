"""--help is shown at once."""

import subprocess
import sys

import pytest

COMMANDS = {
    "compare": "runs/small_batch",
    "evaluate": "runs/small_batch",
    "export": "runs/small_batch",
    "prepare_data": "mnist",
}


@pytest.mark.parametrize(("name", "argument"), COMMANDS.items())
def test_help_shows_an_example_and_waits_for_no_heavy_import(name, argument):
    script = (
        f"import sys; sys.argv = ['{name}', '--help']\n"
        f"from scripts import {name} as command\n"
        "try: command.main()\n"
        "except SystemExit as exit_: assert exit_.code == 0\n"
        "assert not {'jax', 'pandas', 'rich', 'tensorflow_datasets'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    example = f"python -m scripts.{name} {argument}".encode()
    assert example in b" ".join(shown.stdout.split())
