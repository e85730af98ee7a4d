"""Several processes do what one does."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bnrepro.records import read_run

ROOT = Path(__file__).parents[2]
RUN = [
    *(sys.executable, "-m", "experiments.small_batch", "--config=configs/small_batch.py"),
    "--config.seeds=2",
    "--config.steps=50",
    "--config.eval_every=25",
    "--config.checkpoint.every=1",
    "--config.model.hidden=(20,20)",
    "--config.microbatch_size=16",
    "--config.variants={'brn': {'normalizer': {'name': 'batch_renorm'}}}",
    "--config.baseline=brn",
]


def run(command, devices, tmp_path):
    env = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} "
        "--xla_backend_optimization_level=0",
        # Without a set or a network, the digits that come with scikit-learn.
        "TFDS_DATA_DIR": str(tmp_path / "tfds"),
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path),
        "https_proxy": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=150, check=False
    )


def launch(*arguments):
    return [sys.executable, "-m", "scripts.launch_local", *arguments]


def test_two_processes_of_two_devices_do_what_one_process_of_four_does(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    alone = run([*RUN, f"--workdir={one}"], 4, tmp_path)
    assert alone.returncode == 0, alone.stderr
    together = run(launch("-n", "2", "--", *RUN, f"--workdir={two}"), 2, tmp_path)
    assert together.returncode == 0, together.stderr
    key = ["variant", "seed", "step", "split", "metric"]
    numbers, expected = (read_run(w).metrics.set_index(key)["value"] for w in (two, one))
    assert numbers.index.equals(expected.index)
    np.testing.assert_allclose(numbers, expected, rtol=1e-4, atol=1e-5)
    # One process shows its table.
    assert together.stdout.count("microbatch size") == alone.stdout.count("microbatch size") > 0


def test_when_one_process_fails_the_code_is_its_own_and_the_others_are_ended(tmp_path):
    program = (
        "import sys, time\n"
        "if sys.argv[-1] == '--process_id=1': sys.exit(7)\n"
        "time.sleep(1 if '--num_processes=2' in sys.argv else 99)"
    )
    result = run(launch("-n", "2", "--", sys.executable, "-c", program), 1, tmp_path)
    assert result.returncode == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-n", "0", "--", "true"], "-n must be at least 1, got 0"),
        (["-n", "2", "--", "no_such_command"], "cannot start no_such_command"),
    ],
)
def test_mistakes_are_refused(tmp_path, arguments, message):
    result = run(launch(*arguments), 1, tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
