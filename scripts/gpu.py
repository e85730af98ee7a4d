"""Runs what needs a GPU, and keeps the results in results/gpu/: `make gpu`.

    python -m scripts.gpu --minutes=10  # again and again, until it says that all is done

It measures the speed of the layers, trains 256 runs as one program, runs the comparison of
configs/inception.py:tiny, and measures the speed of Inception-v3 and ResNet-50, in this order. What
is finished is not run again. The comparison resumes where it was; a benchmark that did not end in
time begins anew. A command that fails, for example because a data set is missing, does not keep the
others from running, and is run again by the next call.

Exit codes: 0, all is done; 75, there is more to do, or it was asked to stop (SIGTERM); 2, there is
no GPU; 130, interrupted (Ctrl-C), with the state saved; otherwise that of the first command that
failed.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bnrepro.errors import UserError
from experiments import cli
from scripts import make_parser, results

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "gpu"
# What results/gpu/ holds at the end, and the command that makes it, but for where to write.
COMMANDS = {
    "layers.md": "scripts.benchmark layers",
    "sweep.md": "scripts.benchmark sweep --trials=256",
    "inception_tiny": "experiments.inception --config=configs/inception.py:tiny --config.seeds=3",
    **{
        f"{network}_{dtype}.md": f"scripts.benchmark inception --network={network} --dtype={dtype}"
        for network in ("inception", "resnet")
        for dtype in ("float32", "bfloat16")
    },
}


@cli.exit_codes(resumes=True)
def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is not finished, as far as the time allows.

    Raises:
      SystemExit: with one of the codes above, unless all is done.
    """
    parser = make_parser("gpu", __doc__)
    parser.add_argument("--minutes", type=float, default=10, help="default: %(default)s")
    end = time.monotonic() + 60 * parser.parse_args(arguments).minutes
    if not has_gpu():
        raise UserError("JAX finds no GPU here: see docs/devices.md")
    from bnrepro.records import SUMMARY_MD

    # One of the commands launches others, which need memory, too.
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    codes = {}
    for name, words in COMMANDS.items():
        is_file = name.endswith(".md")
        last = RESULTS / name if is_file else RESULTS / name / SUMMARY_MD
        if last.exists():
            continue
        print(f"{name}: {words}", file=sys.stderr)
        workdir = ROOT / "runs" / "gpu" / name
        place = f"--output={RESULTS / name}" if is_file else f"--workdir={workdir}"
        RESULTS.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", *shlex.split(words), place]
        code = results.run(command, max(end - time.monotonic(), 0), environment)
        codes[name] = code
        if code == cli.PREEMPTED:
            break
        if not code and not is_file:
            results.keep(workdir, RESULTS / name, [])
    failed = {name: code for name, code in codes.items() if code not in (0, cli.PREEMPTED)}
    for name, code in failed.items():
        print(f"{name} failed with exit code {code}", file=sys.stderr)
    if cli.PREEMPTED in codes.values():
        print("the time is up: run the same command again to go on", file=sys.stderr)
        sys.exit(cli.PREEMPTED)
    if failed:
        sys.exit(next(iter(failed.values())))


def has_gpu() -> bool:
    """Whether JAX finds a GPU; asked in another process, since this one would keep its memory."""
    code = "import jax; print(jax.default_backend())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return found.stdout.strip() == "gpu"


if __name__ == "__main__":
    cli.heed_sigterm()
    main()
