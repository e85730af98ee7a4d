"""Runs the workers of a sweep: as processes on this machine, or as tasks of a Ray cluster."""

import logging
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from bnrepro.comparison.plan import available_cores
from bnrepro.errors import as_user_error
from bnrepro.sweep.plan import Plan
from bnrepro.sweep.space import SweepError
from bnrepro.sweep.worker import work

# Called about once a second; returns how many trials there are to take, or None if all have ended.
Watch = Callable[[], int | None]

_ROOT = Path(__file__).parents[2]
# Seconds that workers get to save their trials after SIGTERM.
_PATIENCE = 20
# How often each worker may be killed. Of those that took a trial, the study counts fewer.
_MAX_KILLED = 100


def run_local(plan: Plan, workers: int | None, watch: Watch) -> None:
    """Runs workers as processes until all trials have ended, here or on other machines.

    A worker that exits is replaced while there are trials to take. Each gets one GPU if there are
    any; workers on the same GPU split its memory.

    Args:
      plan: the sweep.
      workers: how many; None for one per GPU, or one per core if there is no GPU.
      watch: see `Watch`.

    Raises:
      SweepError: a worker cannot work, for the reason that it gives, or is killed again and again.
    """
    gpus = _gpus()
    count = workers or len(gpus) or available_cores()
    plan = replace(plan, workers=count)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # Programs that one worker has compiled, which the others load.
        shared = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"} | os.environ
        if gpus:
            shared |= _sharing(count, len(gpus))[1]
        running: dict[int, subprocess.Popen[bytes]] = {}
        stack.callback(_end, running)
        (folder / "plan").write_bytes(pickle.dumps(plan))
        killed = 0
        while (waiting := watch()) is not None or running:
            for i in set(range(count if waiting else 0)) - running.keys():
                own = {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}
                running[i] = _start(folder, i, shared | own)
            time.sleep(1)
            for i in [i for i, worker in running.items() if worker.poll() is not None]:
                code = running.pop(i).returncode
                killed += code < 0
                if killed > _MAX_KILLED * count:
                    raise SweepError(
                        f"workers were killed {killed} times, the last by signal {-code}, perhaps "
                        "for lack of memory; try fewer --workers"
                    )
                if code > 0:
                    message = (folder / f"{i}.txt").read_text()
                    if code == 2:  # the last line is the message; warnings may precede it
                        raise SweepError(message.splitlines()[-1].removeprefix("error: "))
                    raise SweepError(f"a worker exited with code {code}: {message}")


def run_ray(plan: Plan, workers: int | None, watch: Watch) -> None:
    """As `run_local`, but as tasks of the Ray cluster at RAY_ADDRESS, or on this machine.

    Args:
      plan: the sweep; every machine of the cluster must reach its storage.
      workers: how many; None for one per GPU of the cluster, or one per core without GPUs.
      watch: see `Watch`.

    Raises:
      SweepError: Ray or a cluster is missing, or a worker cannot work.
    """
    ray = import_ray()
    environment = {k: os.environ[k] for k in ("TFDS_DATA_DIR", "JAX_PLATFORMS") if k in os.environ}
    # Excluded in addition to .gitignore.
    code = {"working_dir": str(_ROOT), "excludes": ["/results", "/tests"]}
    try:
        ray.init(
            "auto",
            runtime_env={**code, "env_vars": environment},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SweepError(f"cannot connect to a Ray cluster: {error}") from error
    try:
        gpus, cores = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
        count = workers or gpus or cores
        resources: dict[str, Any] = {"num_cpus": 1}
        if gpus:
            sharing, memory = _sharing(count, gpus)
            resources |= {"num_gpus": 1 / sharing, "runtime_env": {"env_vars": memory}}
        task = ray.remote(max_retries=_MAX_KILLED, **resources)(work)
        plan, running = replace(plan, workers=count), list[Any]()
        while (waiting := watch()) is not None or running:
            if waiting:
                running += [task.remote(plan) for _ in range(count - len(running))]
            time.sleep(1)
            done, running = ray.wait(running, num_returns=len(running), timeout=0)
            ray.get(done)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)  # what a worker raised; the error has its traceback
        known = as_user_error(cause) if cause else None
        message = str(known) if known else f"a worker failed: {error}"
        raise SweepError(message) from error
    finally:
        ray.shutdown()


def import_ray() -> Any:
    """The package, which is an extra; raises a SweepError if it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise SweepError("Ray is not installed: pip install ray") from error
    return ray


def _start(folder: Path, worker: int, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    with (folder / "plan").open("rb") as plan, (folder / f"{worker}.txt").open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "bnrepro.sweep.worker"],
            stdin=plan,
            stderr=errors,
            env=environment,
            # Ctrl-C reaches only the parent, which then stops its workers.
            start_new_session=True,
        )


def _end(workers: "dict[int, subprocess.Popen[bytes]]") -> None:
    for worker in workers.values():
        worker.terminate()
    deadline = time.monotonic() + _PATIENCE
    for worker in workers.values():
        try:
            worker.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def _sharing(workers: int, gpus: int) -> tuple[int, dict[str, str]]:
    """How many workers share a GPU, and the environment variable that splits its memory."""
    sharing = -(-workers // gpus)
    return sharing, {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / sharing:.2f}"}


def _gpus() -> list[str]:
    """The GPUs that this process may use."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu not in ("", "-1")]
    return [str(i) for i, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
