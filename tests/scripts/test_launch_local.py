"""Several processes do what one does."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count

import numpy as np
import pytest

from bnrepro.records import read_run
from bnrepro.training.checkpoints import find_damage, saved_steps
from scripts import launch_local
from tests import xla_flags
from tests.commands import ROOT, refusal
from tests.small_shards import write_set

SETTINGS = [
    "--config=configs/small_batch.py",
    "--config.seeds=2",
    "--config.steps=50",
    "--config.eval_every=5",
    "--config.checkpoint.every=1",
    "--config.model.hidden=(20,20)",
    "--config.microbatch_size=16",
    "--config.variants={'brn': {'normalizer': {'name': 'batch_renorm'}}}",
    "--config.baseline=brn",
]
RUN = [sys.executable, "-m", "experiments.small_batch", *SETTINGS]
# Says the exit code of each process; the launcher has but one.
REPORT = [
    *(sys.executable, "-c"),
    "import os, signal, subprocess, sys\n"
    "process = subprocess.Popen(sys.argv[1:])\n"
    "signal.signal(signal.SIGTERM, lambda *_: process.terminate())\n"
    "code = process.wait()\n"
    # In one piece: two processes write to one pipe.
    "os.write(1, f'exit code {code}\\n'.encode())\n"
    "sys.exit(code)",
]


def patched(code):
    """The run, after some code."""
    code += "\nimport runpy; runpy.run_module('experiments.small_batch', run_name='__main__')"
    return [sys.executable, "-c", code, *SETTINGS]


def start(command, devices, folder, **env):
    env = os.environ | {
        "XLA_FLAGS": xla_flags(devices),
        # Without a set or a network, the digits that come with scikit-learn.
        "TFDS_DATA_DIR": str(folder / "tfds"),
        "HOME": str(folder),
        "XDG_CACHE_HOME": str(folder),
        "https_proxy": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
        **env,
    }
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=pipe, stderr=pipe, text=True)


def finish(process):
    try:
        stdout, stderr = process.communicate(timeout=150)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def run(*arguments, **env):
    return finish(start(*arguments, **env))


def launch(*arguments):
    return [sys.executable, "-m", "scripts.launch_local", *arguments]


def metrics(workdir):
    return (workdir / "metrics.csv").read_bytes()


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The workdir of a run of two processes, and what they said."""
    folder = tmp_path_factory.mktemp("together")
    workdir = folder / "two"
    said = run(launch("-n", "2", "--", *RUN, f"--workdir={workdir}"), 2, folder)
    assert said.returncode == 0, said.stderr
    return workdir, said


@pytest.mark.slow
def test_two_processes_of_two_devices_do_what_one_process_of_four_does(together, tmp_path):
    two, said_by_two = together
    one = tmp_path / "one"
    said_by_one = run([*RUN, f"--workdir={one}"], 4, tmp_path)
    assert said_by_one.returncode == 0, said_by_one.stderr
    key = ["variant", "seed", "step", "split", "metric"]
    numbers, expected = (read_run(w).metrics.set_index(key)["value"] for w in (two, one))
    assert numbers.index.equals(expected.index)
    np.testing.assert_allclose(numbers, expected, rtol=1e-4, atol=1e-5)
    # One process shows its table.
    tables = [said.stdout.count("microbatch size") for said in (said_by_two, said_by_one)]
    assert tables[0] == tables[1] > 0


@pytest.mark.slow
def test_told_to_end_both_processes_save_and_resumed_they_end_as_if_nothing_had_been(
    together, tmp_path
):
    workdir = tmp_path / "two"
    checkpoints = workdir / "checkpoints" / "brn"
    # JAX looks once a second whether it was told to end: by then, all would be done.
    slowly = patched(
        "import time\n"
        "from bnrepro.training.checkpoints import Checkpoints\n"
        "save = Checkpoints.save\n"
        "Checkpoints.save = lambda *args, **kwargs: (time.sleep(1), save(*args, **kwargs))"
    )
    command = launch("-n", "2", "--", *REPORT, *slowly, f"--workdir={workdir}")
    with start(command, 2, tmp_path) as process:
        latest = time.monotonic() + 100
        while not list(checkpoints.glob("*.json")) and time.monotonic() < latest:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        said = finish(process)
    assert said.returncode == 75, said.stderr
    assert said.stdout.count("exit code 75") == 2, said.stdout
    last = max(saved_steps(checkpoints))
    assert 5 <= last < 50
    assert find_damage(checkpoints, last) is None
    said = run(launch("-n", "2", "--", *RUN, "--resume", f"--workdir={workdir}"), 2, tmp_path)
    assert said.returncode == 0, said.stderr
    assert metrics(workdir) == metrics(together[0])


NO_ROOM = "import shutil, types; shutil.disk_usage = lambda path: types.SimpleNamespace(free=9)"
UNSHARED = """\
from bnrepro.comparison import run
from bnrepro.records import RecordsError
def failing(workdir): raise RecordsError(f"{workdir} is not a workdir")
run.read_run = failing
"""
DAMAGED = """\
from bnrepro.data.shards import DatasetError, Shards
image, read = Shards.image, []
def failing(shards, index):
    read.append(index)
    if len(read) > %d: raise DatasetError("too many are damaged")
    return image(shards, index)
Shards.image = failing
"""
STREAM = ("--config.stream=True", "--config.dataset=squares", "--config.batch_size=8",
          "--config.microbatch_size=4")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "settings", "message"),
    [
        pytest.param(NO_ROOM, (), "9 are free", id="no room for a checkpoint"),
        pytest.param(UNSHARED, (), "two is not a workdir", id="a folder that is not shared"),
        pytest.param(DAMAGED % 3, STREAM, "too many are damaged", id="stream in evaluation"),
        pytest.param(
            DAMAGED % 3,
            (*STREAM, "--config.measures=('near_linear',)"),
            "too many are damaged",
            id="stream of measures",
        ),
        pytest.param(DAMAGED % 30, STREAM, "too many are damaged", id="stream in training"),
    ],
)
def test_when_one_process_cannot_go_on_all_end(tmp_path, fault, settings, message):
    write_set(tmp_path / "tfds")
    second = patched(f"import sys\nif sys.argv[-1] == '--process_id=1': exec({fault!r})")
    line = launch("-n", "2", "--", *REPORT, *second, *settings, f"--workdir={tmp_path / 'two'}")
    said = run(line, 2, tmp_path)
    assert said.stdout.count("exit code 2") == 2, said.stderr
    errors = [line for line in said.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    for reason in (message, "another process could not do its part"):
        assert sum(reason in error for error in errors) == 1


@pytest.mark.slow
def test_when_the_first_process_refuses_the_workdir_all_end(tmp_path):
    two = tmp_path / "two"
    two.mkdir()
    (two / "notes.txt").write_text("of someone else")
    said = run(launch("-n", "2", "--", *REPORT, *RUN, f"--workdir={two}"), 2, tmp_path)
    assert said.stdout.count("exit code 2") == 2, said.stderr
    errors = sorted(line for line in said.stderr.splitlines() if line.startswith("error: "))
    assert "no run of ours wrote: notes.txt" in errors[0]
    assert errors[1] == "error: another process could not do its part"


@pytest.mark.slow
def test_distributed_joins_the_processes_that_slurm_tells_of(together, tmp_path):
    workdir = tmp_path / "slurm"
    # JAX listens at a port that the job's number chooses.
    job = next(job for job in count(os.getpid()) if is_free(61440 + job % 2**12))
    step = {"SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    command = [*RUN, f"--workdir={workdir}", "--distributed"]

    def join(index):
        own = {"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)}
        return run(command, 2, tmp_path, **step, **own, no_proxy="localhost")

    with ThreadPoolExecutor() as pool:
        for said in pool.map(join, range(2)):
            assert said.returncode == 0, said.stderr
    assert metrics(workdir) == metrics(together[0])
    provenance = json.loads((workdir / "provenance.json").read_text())
    assert len(provenance["machine"]["devices"]) == 4


def is_free(port):
    with socket.socket() as tried:
        return tried.connect_ex(("localhost", port)) != 0


def test_when_one_process_fails_the_code_is_its_own_and_the_others_are_ended(tmp_path):
    program = (
        "import sys, time\n"
        "if sys.argv[-1] == '--process_id=1': sys.exit(7)\n"
        "time.sleep(1 if '--num_processes=2' in sys.argv else 99)"
    )
    result = run(launch("-n", "2", "--", sys.executable, "-c", program), 1, tmp_path)
    assert result.returncode == 7


def test_no_process_at_all_is_refused(capsys):
    said = refusal(capsys, launch_local.main, "-n", "0", "--", "true")
    assert said == "-n must be at least 1, got 0\n"


def test_where_one_process_cannot_start_those_before_it_are_ended(monkeypatch, capsys):
    started, start = [], subprocess.Popen

    def first_only(*_, **__):
        if started:
            raise OSError(errno.EAGAIN, "no more processes")
        started.append(start([sys.executable, "-c", "import time; time.sleep(99)"]))
        return started[0]

    monkeypatch.setattr(launch_local.subprocess, "Popen", first_only)
    monkeypatch.setattr(launch_local.signal, "signal", lambda *_: None)
    said = refusal(capsys, launch_local.main, "-n", "2", "--", "run")
    assert said == "cannot start run: no more processes\n"
    assert started[0].wait(10) == -signal.SIGTERM


@contextmanager
def launched(program):
    """Two processes that have said that they are ready, in a group as of a terminal."""
    # A shell has those ignore it that it runs in the background.
    heed = (
        "import runpy, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "runpy.run_module('scripts.launch_local', run_name='__main__')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", heed, "-n", "2", "--", sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        for _ in range(2):
            assert process.stdout.readline() == "ready\n"
        yield process


def test_an_interrupt_reaches_all_and_they_are_waited_for():
    # In one piece: two processes write to one pipe.
    save = (
        "import os, time\n"
        "try:\n    os.write(1, b'ready\\n'); time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(1); os.write(1, b'saved\\n')"
    )
    with launched(save) as process:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(30) == 130
        os.set_blocking(process.stdout.fileno(), False)
        assert process.stdout.read() == "saved\n" * 2


def test_an_interrupt_ends_those_that_wait_for_one_that_has_failed(tmp_path):
    stuck = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGTERM, lambda *_: os.write(1, b'told\\n'))\n"
        "os.write(1, b'ready\\n')\n"
        "for _ in range(600):\n"
        f"    if sys.argv[-1] == '--process_id=1' and os.path.exists('{tmp_path}/fail'):\n"
        "        sys.exit(7)\n"
        "    time.sleep(0.1)"
    )
    with launched(stuck) as process:
        (tmp_path / "fail").touch()
        assert process.stdout.readline() == "told\n"
        time.sleep(1)  # until it waits
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(8) == 7  # sooner than after the time that they are given
