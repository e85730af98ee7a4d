"""Where the workers of a sweep run: in processes on this machine, or as tasks of a Ray cluster."""

import logging
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from bnrepro.comparison.plan import available_cores
from bnrepro.sweep.plan import Plan
from bnrepro.sweep.space import SweepError
from bnrepro.sweep.worker import work

# Called about every second; tells whether there are trials to take.
Watch = Callable[[], bool]

_ROOT = Path(__file__).parents[2]
# Seconds that workers have to save their trials when they are told to end.
_PATIENCE = 20


def run_local(plan: Plan, workers: int | None, watch: Watch) -> None:
    """Workers in processes of their own, until there is nothing left to take.

    While there is, one that has ended is replaced. Each has one GPU, where there are any; workers
    that share one share its memory, too.

    Args:
      plan: of the sweep.
      workers: how many; None for one on each GPU, or else on each core.
      watch: see `Watch`.

    Raises:
      SweepError: a worker cannot work; the message is its own.
    """
    gpus = _gpus()
    count = workers or len(gpus) or available_cores()
    plan = replace(plan, workers=count)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # What one has compiled, the others need not, nor those that replace them.
        shared = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"} | os.environ
        running: dict[int, subprocess.Popen[bytes]] = {}
        stack.callback(_end, running)
        while (waiting := watch()) or running:
            for i in range(count if waiting else 0):
                if i not in running:
                    running[i] = _start(
                        plan, shared | _environment(i, count, gpus), folder / f"{i}.txt"
                    )
            time.sleep(1)
            for i, worker in list(running.items()):
                code = worker.poll()
                if code is not None:
                    del running[i]
                if code and code > 0:
                    message = (folder / f"{i}.txt").read_text()
                    if code == 2:  # a sentence, after warnings perhaps
                        raise SweepError(message.splitlines()[-1])
                    raise SweepError(f"a worker ended with code {code}: {message}")


def run_ray(plan: Plan, workers: int | None, watch: Watch) -> None:
    """Workers as tasks of the Ray cluster that RAY_ADDRESS names, or that runs on this machine.

    Args:
      plan: of the sweep; every machine of the cluster must reach its storage.
      workers: how many; None for one on each GPU, or else on each core of the cluster.
      watch: see `Watch`.

    Raises:
      SweepError: there is no Ray, no cluster, or a worker cannot work.
    """
    try:
        import ray
    except ImportError as error:
        raise SweepError("Ray is not installed: pip install ray") from error

    environment = {k: os.environ[k] for k in ("TFDS_DATA_DIR", "JAX_PLATFORMS") if k in os.environ}
    # Beside what .gitignore has.
    code = {"working_dir": str(_ROOT), "excludes": ["/results", "/tests"]}
    try:
        ray.init(
            "auto",
            runtime_env={**code, "env_vars": environment},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SweepError(f"there is no Ray cluster: {error}") from error
    try:
        gpus, cores = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
        count = workers or gpus or cores
        # Workers that share a GPU take a part of it each.
        resources: dict[str, Any] = {"num_cpus": 1, "num_gpus": min(1.0, gpus / count)}
        task = ray.remote(max_retries=-1, **resources)(work)
        plan, running = replace(plan, workers=count), list[Any]()
        while (waiting := watch()) or running:
            if waiting:
                running += [task.remote(plan) for _ in range(count - len(running))]
            done, running = ray.wait(running, timeout=1)
            ray.get(done)
    except ray.exceptions.RayError as error:
        raise SweepError(f"a worker failed: {error}") from error
    finally:
        ray.shutdown()


def _start(plan: Plan, environment: dict[str, str], errors: Path) -> "subprocess.Popen[bytes]":
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "bnrepro.sweep.worker"],
            stdin=subprocess.PIPE,
            stderr=stderr,
            env=environment,
            # Ctrl-C is for the process that started it, which ends it then.
            start_new_session=True,
        )
    with suppress(BrokenPipeError), process.stdin as stdin:  # type: ignore[union-attr]
        pickle.dump(plan, stdin)
    return process


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


def _environment(worker: int, workers: int, gpus: list[str]) -> dict[str, str]:
    """The GPU of a worker, and its share of the memory."""
    if not gpus:
        return {}
    sharing = -(-workers // len(gpus))
    return {
        "CUDA_VISIBLE_DEVICES": gpus[worker % len(gpus)],
        "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / sharing:.2f}",
    }


def _gpus() -> list[str]:
    """The GPUs that this process may use."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu]
    return [str(i) for i, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
