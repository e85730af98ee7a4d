r"""Starts several processes of one run on this machine, to try out a run on several hosts.

    python -m scripts.launch_local -n 2 -- python -m experiments.small_batch \
        --config=configs/small_batch.py --workdir=runs/two_processes

Each gets --coordinator, --num_processes and --process_id. When one fails, the others are stopped.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from scripts import make_parser

_GRACE = 10  # seconds to stop after SIGTERM


def free_port() -> int:
    """A port of this machine that nothing uses."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port: int = free.getsockname()[1]
    return port


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command that follows --, N times at once.

    Raises:
      SystemExit: with the code of the first process that failed, else 0; 2 for a usage error; 130
        if interrupted (Ctrl-C), once all have ended.
    """
    parser = make_parser("launch_local", __doc__)
    parser.add_argument("-n", type=int, required=True, metavar="N", help="number of processes")
    parser.add_argument("command", nargs="+", help="what to run, after --")
    options = parser.parse_args(arguments)
    if options.n < 1:
        parser.error(f"-n must be at least 1, got {options.n}")

    flags = [f"--coordinator=localhost:{free_port()}", f"--num_processes={options.n}"]
    # With a proxy, they would not find each other.
    no_proxy = ",".join(filter(None, [os.environ.get("no_proxy"), "localhost", "127.0.0.1"]))
    env = os.environ | {"no_proxy": no_proxy}
    processes: list[subprocess.Popen[bytes]] = []
    # To all at once, as a cluster stops a job: they agree on the step to stop at.
    signal.signal(signal.SIGTERM, partial(_terminate, processes))
    try:
        for i in range(options.n):
            command = [*options.command, *flags, f"--process_id={i}"]
            processes.append(subprocess.Popen(command, env=env))
        sys.exit(_wait(processes))
    except OSError as error:
        _terminate(processes)
        parser.error(f"cannot start {options.command[0]}: {error.strerror}")
    except KeyboardInterrupt:  # it reaches them all, which need a moment to save their states
        for process in processes:
            process.wait()
        sys.exit(130)


def _terminate(processes: Sequence[subprocess.Popen[bytes]], *_: Any) -> None:
    for process in processes:
        process.terminate()


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Waits for all, or until one fails, and then stops the others; returns the exit code."""
    codes: list[int | None] = [None]
    while None in codes and not any(codes):
        time.sleep(0.1)
        codes = [process.poll() for process in processes]
    failed = next(filter(None, codes), 0)
    if failed:  # the others would wait forever for it
        _terminate(processes)
        for process in processes:
            try:
                process.wait(_GRACE)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                process.kill()
    return 128 - failed if failed < 0 else failed


if __name__ == "__main__":
    main()
