"""--help is shown at once."""

import subprocess
import sys

EXAMPLES = {
    "compare": "runs/small_batch",
    "evaluate": "runs/small_batch",
    "export": "runs/small_batch",
    "prepare_data": "mnist",
}
SCRIPT = f"""
import importlib, sys
for name in {list(EXAMPLES)}:
    sys.argv = [name, "--help"]
    try: importlib.import_module(f"scripts.{{name}}").main()
    except SystemExit as exit_: assert exit_.code == 0
    heavy = {{"jax", "pandas", "rich", "tensorflow_datasets"}} & set(sys.modules)
    assert not heavy, (name, heavy)
"""


def test_help_shows_an_example_and_waits_for_no_heavy_import():
    shown = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    for name, argument in EXAMPLES.items():
        assert f"python -m scripts.{name} {argument}" in " ".join(shown.stdout.split())
