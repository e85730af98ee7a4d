"""Tests what a run survives: kills, damage, a full disk, mistakes, and untrusted files.

    python -m scripts.torture --workdir=runs/torture --output=results/reliability.md

takes about half an hour on two cores. It needs Linux; the full disk also needs root, to mount a
small one.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bnrepro.comparison.keys import KEYS
from bnrepro.errors import UserError, exit_codes
from scripts import make_parser, signed_page

_NAMES = {"bn": "batch_norm", "brn": "batch_renorm"}
_VARIANTS = {name: {"normalizer": {"name": normalizer}} for name, normalizer in _NAMES.items()}
# Long enough to be killed at many moments, with a checkpoint at each of 50 evaluations.
RUN = (
    "--config=configs/small_batch.py",
    "--config.seeds=2",
    "--config.steps=1500",
    "--config.eval_every=30",
    "--config.checkpoint.every=1",
    "--config.microbatch_size=4",
    f"--config.variants={_VARIANTS}",
    "--config.baseline=bn",
)
# One program for all trials, one at a time, so that numbers are the same to the last digit.
SWEEP = (
    "--config=configs/small_batch.py",
    "--config.seeds=1",
    "--config.steps=2000",
    "--config.eval_every=100",
    "--config.normalizer.name=batch_renorm",
    "--vary=optimizer.learning_rate=log(0.01,1)",
    "--sampler=random",
    "--at-once=1",
)
SEED = 0  # of everything random here


class Result(NamedTuple):
    """The result of a trial: a row of the table."""

    trial: str
    passed: int
    of: int
    seen: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs all trials and writes the table.

    Raises:
      SystemExit: with code 1 if a trial failed.
    """
    parser = make_parser("torture", __doc__)
    parser.add_argument(
        "--workdir", type=Path, required=True, help="folder to work in; new or empty"
    )
    parser.add_argument("--output", type=Path, help="Markdown file to add the table to")
    parser.add_argument("--trials", metavar="NAME,..", help=f"of {', '.join(TRIALS)}; default: all")
    options = parser.parse_args(arguments)
    names = list(TRIALS) if options.trials is None else options.trials.split(",")
    if unknown := [name for name in names if name not in TRIALS]:
        parser.error(f"--trials names no trial: {unknown[0]!r}")
    from bnrepro.records import check_output, check_writable

    with exit_codes():
        if options.output:
            check_output(options.output)
        check_writable(options.workdir)
        # A folder that is not empty may hold somebody's runs.
        if any(options.workdir.iterdir()):
            raise UserError(f"--workdir={options.workdir} must be a new or an empty folder")

    bench, results = Bench(options.workdir), []
    for name in names:
        results.append(TRIALS[name](bench))
        print(results[-1], flush=True)
    if options.output:
        import pandas as pd

        table = pd.DataFrame(results).drop(columns="of")
        table["passed"] = [f"{result.passed} of {result.of}" for result in results]
        page = signed_page(
            f"What a run survives, {datetime.now(UTC):%Y-%m-%d}",
            table.to_markdown(index=False),
            f"Everything random is drawn with seed {SEED}.",
            packages=("jax", "orbax-checkpoint"),
        )
        with options.output.open("a", encoding="utf-8") as file:
            file.write(f"{page}\n")
    sys.exit(any(result.passed < result.of for result in results))


class Bench:
    """A run that is done once undisturbed, and then again under torture.

    Attributes:
      folder: where everything is done.
      changes: to the command line, for a shorter run.
      whole: workdir of the undisturbed run.
      seconds: its time from its first file to its last.
      steps: its number of steps.
    """

    def __init__(self, folder: Path, *changes: str) -> None:
        """Does the undisturbed run."""
        self.folder, self.changes, self.whole = folder, changes, folder / "whole"
        self.seconds = self._finish(self.whole)
        self.steps = _newest_step(self.whole)

    def command(self, workdir: Path, *more: str) -> list[str]:
        """The run's command line."""
        run = [sys.executable, "-m", "experiments.small_batch", *RUN, *self.changes]
        return [*run, f"--workdir={workdir}", *more]

    def start(self, workdir: Path, *more: str) -> subprocess.Popen[str]:
        """Starts the run."""
        pipe = subprocess.PIPE
        return subprocess.Popen(self.command(workdir, *more), stdout=pipe, stderr=pipe, text=True)

    def resumes(self, workdir: Path) -> bool:
        """Whether the same command ends with the undisturbed run's records and final states."""
        from bnrepro.training.checkpoints import restore

        self._finish(workdir)
        pair = (self.whole, workdir)
        return len({(folder / "metrics.csv").read_bytes() for folder in pair}) == 1 and all(
            _equal(*(restore(w / "checkpoints" / name, self.steps, None)[0] for w in pair))
            for name in _NAMES
        )

    def _finish(self, workdir: Path) -> float:
        """Runs it to its end; returns the seconds from its first file to its last."""
        with self.start(workdir) as process:
            began = _begin(process, workdir)
            _, stderr = process.communicate()
        if process.returncode:
            raise RuntimeError(stderr)
        return time.perf_counter() - began


def killed(bench: Bench, count: int) -> Result:
    """Killed (-9) at random moments, then the same command: the undisturbed run's records?"""
    moments, passed, at = random.Random(SEED), 0, []
    for i in range(count):
        workdir = bench.folder / f"killed_{i}"
        with bench.start(workdir) as process:
            _begin(process, workdir)
            time.sleep(moments.uniform(0, bench.seconds))
            process.kill()
        at.append(_newest_step(workdir))
        passed += bench.resumes(workdir)
        shutil.rmtree(workdir)
    seen = f"killed with checkpoints up to step {', '.join(map(str, sorted(at)))}"
    return Result("kill -9 at a random moment, then the same command", passed, count, seen)


def told_to_end(bench: Bench, count: int) -> Result:
    """SIGTERM at random moments: saved within 10 s, with exit code 75, and resumed?"""
    moments, passed, took = random.Random(SEED), 0, []
    for i in range(count):
        workdir = bench.folder / f"told_{i}"
        with bench.start(workdir) as process:
            step = moments.uniform(0, 0.8 * bench.steps)
            while _newest_step(workdir) < step and process.poll() is None:
                time.sleep(0.02)
            before = time.perf_counter()
            process.terminate()
            process.communicate()
        took.append(time.perf_counter() - before)
        passed += bench.resumes(workdir) and process.returncode == 75 and took[-1] < 10
        shutil.rmtree(workdir)
    seen = f"ended within {max(took):.1f} s"
    return Result("SIGTERM: saves, exit code 75, then the same command", passed, count, seen)


def damaged(bench: Bench, count: int) -> Result:
    """Damages the newest checkpoint or, one time in five, all of them."""
    from bnrepro.training.checkpoints import CheckpointError, Checkpoints, restore, saved_steps

    chance, passed, kinds = random.Random(SEED), 0, dict.fromkeys(_DAMAGES, 0)
    checkpoints = bench.whole / "checkpoints" / "brn"
    steps = sorted(saved_steps(checkpoints))
    expected, _ = restore(checkpoints, steps[-2], None)
    for i in range(count):
        kind = chance.choice(list(_DAMAGES))
        kinds[kind] += 1
        copy = Path(shutil.copytree(checkpoints, bench.folder / "damaged"))
        hit = steps if i % 5 == 4 else steps[-1:]
        for step in hit:
            files = sorted(path for path in (copy / str(step)).rglob("*") if path.is_file())
            _DAMAGES[kind](chance.choice([path for path in files if path.stat().st_size]), chance)
        try:
            restored = Checkpoints(copy, keep=2).restore(lambda notes: None)
            if restored is not None and restored[0] == steps[-2] and len(hit) == 1:
                passed += _equal(restored[1], expected)
        except CheckpointError as error:
            passed += len(hit) > 1 and "\n" not in str(error)
        shutil.rmtree(copy)
    seen = ", ".join(f"{kind}: {number}" for kind, number in kinds.items())
    return Result(
        "damaged checkpoint: found out, and the one before taken, or one sentence if none is whole",
        passed,
        count,
        seen,
    )


def full_disk(bench: Bench) -> Result:
    """A disk that fills up while checkpoints are written, then has room."""
    trial = "full disk: a sentence, exit code 2; with room again, the same command"
    disk = bench.folder / "disk"
    disk.mkdir()
    # Room for half of the checkpoints kept at the end.
    kept = [path for path in (bench.whole / "checkpoints").rglob("*") if path.is_file()]
    size = sum(max(path.stat().st_size, 4096) for path in kept) // 2
    options = ("-t", "tmpfs", "-o", f"size={size}")
    if subprocess.run(["mount", *options, "tmpfs", str(disk)], capture_output=True).returncode:
        return Result(trial, 0, 0, "not tried: only root can mount a small disk")
    try:
        workdir = disk / "w"
        with bench.start(workdir) as process:
            _, stderr = process.communicate()
        said = [line for line in stderr.splitlines() if line.startswith("error: ")]
        clear = len(said) == 1 and "no space left" in said[0].lower()
        clear = clear and process.returncode == 2 and "Traceback" not in stderr
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        before = _newest_step(workdir)
        passed = bench.resumes(workdir) and clear
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    return Result(trial, int(passed), 1, f"resumed from step {before}")


def sweep_killed(bench: Bench, workers: int, trials: int, every: float) -> Result:
    """Kills workers of a sweep at random moments; each trial must be there once, as undisturbed.

    Args:
      bench: whose folder and changes to the command line to take.
      workers: that train at a time.
      trials: of the sweep.
      every: seconds between two kills, on average.
    """
    from bnrepro.records import read_run

    trial = f"sweep of {trials} trials, one of {workers} workers killed every {every:g} s or so: "
    command = [*(sys.executable, "-m", "scripts.sweep"), *SWEEP, *bench.changes]
    command.append(f"--trials={trials}")
    peace, war = (bench.folder / name / "sweep" for name in ("peace", "war"))
    quiet = subprocess.DEVNULL
    subprocess.run([*command, f"--workdir={peace}"], check=True, stdout=quiet, stderr=quiet)
    draw, kills = random.Random(SEED), 0
    then = time.monotonic() + draw.expovariate(1 / every)
    command += [f"--workers={workers}", f"--workdir={war}"]
    errors = bench.folder / "war.txt"
    with (
        errors.open("w") as stderr,
        subprocess.Popen(command, stdout=quiet, stderr=stderr) as process,
    ):
        while process.poll() is None:
            time.sleep(0.1)
            if time.monotonic() > then and (alive := _children(process.pid)):
                with suppress(ProcessLookupError):
                    os.kill(draw.choice(alive), signal.SIGKILL)
                    kills, then = kills + 1, time.monotonic() + draw.expovariate(1 / every)
    if process.returncode:
        last_words = errors.read_text().splitlines()[-1:]
        return Result(trial + "each there exactly once", 0, trials, " ".join(last_words))
    runs = [read_run(folder) for folder in (peace, war)]
    same = runs[0].metrics.equals(runs[1].metrics)
    there = len(runs[1].variants) if same else 0
    return Result(trial + "each there exactly once", there, trials, f"{kills} killed")


def _children(parent: int) -> list[int]:
    """Ids of the processes that a process started."""
    try:
        return [int(i) for i in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except FileNotFoundError:  # it has ended
        return []


def memory(bench: Bench, evaluations: int) -> Result:
    """Peak memory over many evaluations: flat?"""
    trial = f"memory over {evaluations} evaluations grows by less than 5%"
    changes = (f"--config.steps={30 * evaluations}", "--config.checkpoint.every=2", "--only=bn")
    workdir = bench.folder / "memory"
    samples: list[int] = []  # in MiB
    with bench.start(workdir, *changes) as process:
        while process.poll() is None:
            # Only during training, not while compiling or drawing figures.
            if 0 < _newest_step(workdir) < 30 * evaluations:
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                samples.append(pages * os.sysconf("SC_PAGE_SIZE") // 2**20)
            time.sleep(0.02)
        process.communicate()
    if process.returncode:
        return Result(trial, 0, 1, f"exit code {process.returncode}")
    third = len(samples) // 3
    if not third:
        return Result(trial, 0, 0, "not tried: it was trained before it could be read three times")
    # In the first third, allocators still take what they then keep.
    middle, last = max(samples[third:-third]), max(samples[-third:])
    seen = f"peak of the middle third of training {middle} MiB, of the last {last} MiB"
    return Result(trial, int(last < 1.05 * middle), 1, seen)


def mistakes(bench: Bench, wrong: Sequence[Sequence[str]]) -> Result:
    """Wrong command lines: exit code 2, one sentence, nothing written?"""
    (bench.folder / "a_file").write_text("in the way")
    before = sorted(bench.folder.iterdir())

    def refused(arguments: Sequence[str]) -> bool:
        # Later arguments on a command line override earlier ones.
        more = [argument.replace("FOLDER", str(bench.folder)) for argument in arguments]
        line = bench.command(bench.folder / "w", *more)
        done = subprocess.run(line, capture_output=True, text=True, timeout=300)
        one_sentence = done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        fine = done.returncode == 2 and one_sentence and not done.stdout
        if not fine:
            print("not refused as it should be:", arguments, done.returncode, done.stderr[-500:])
        return fine

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        passed = sum(pool.map(refused, wrong))
    nothing = sorted(bench.folder.iterdir()) == before
    return Result(
        "wrong command line or config value: one sentence, exit code 2, nothing written",
        passed if nothing else 0,
        len(wrong),
        "nothing written" if nothing else "files were written",
    )


def strangers(bench: Bench, every: int = 1) -> Result:
    """Files that would run code if they were unpickled, in the places that are read."""
    from bnrepro.training.checkpoints import checksums

    canary = bench.folder / "canary"
    payload = b"cposix\nsystem\n(S'touch " + os.fsencode(canary.absolute()) + b"'\ntR."
    checkpoint = Path("checkpoints", "bn", str(bench.steps))
    signature = checkpoint.with_suffix(".json")
    parts = sorted(path for path in (bench.whole / checkpoint).rglob("*") if path.is_file())
    names = [Path(name) for name in ("config.json", "metrics.csv", "provenance.json")]
    names += [signature, *(path.relative_to(bench.whole) for path in parts)]
    passed = tried = 0
    for name in names[::every]:
        copy = Path(shutil.copytree(bench.whole, bench.folder / "stranger"))
        # Without its last evaluation, it is resumed.
        lines = (copy / "metrics.csv").read_text().splitlines(keepends=True)
        unfinished = "".join(line for line in lines if f",{bench.steps}," not in line)
        (copy / "metrics.csv").write_text(unfinished)
        (copy / name).write_bytes(payload)
        if checkpoint in name.parents:  # a stranger can sign it, too
            (copy / signature).write_text(json.dumps({"files": checksums(copy / checkpoint)}))
        for line in (
            bench.command(copy),
            [sys.executable, "-m", "scripts.compare", str(copy)],
            [sys.executable, "-m", "scripts.evaluate", str(copy)],
        ):
            subprocess.run(line, capture_output=True, timeout=300)
            tried += 1
            passed += not canary.exists()
        shutil.rmtree(copy)
    trial = "pickled code in a file of a workdir is not run when it is resumed, compared, evaluated"
    return Result(trial, passed, tried, f"{tried // 3} files, each in three commands")


def _begin(process: subprocess.Popen[str], workdir: Path) -> float:
    """Waits until it trains; the time."""
    while not (workdir / "config.json").exists() and process.poll() is None:
        time.sleep(0.02)
    return time.perf_counter()


def _newest_step(workdir: Path) -> int:
    from bnrepro.training.checkpoints import saved_steps

    folders = (workdir / "checkpoints").glob("*")
    return max((step for folder in folders for step in saved_steps(folder)), default=0)


def _equal(tree: object, other: object) -> bool:
    import jax

    # Leaves may be random keys, which NumPy cannot compare.
    leaves, others = jax.tree.leaves(tree), jax.tree.leaves(other)
    return len(leaves) == len(others) and all(
        x.shape == y.shape and bool((x == y).all()) for x, y in zip(leaves, others, strict=True)
    )


def _truncate(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


def _flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


_DAMAGES: dict[str, Callable[[Path, random.Random], object]] = {
    "truncated": _truncate,
    "flipped bit": _flip,
    "missing": lambda path, chance: path.unlink(),
    "empty": lambda path, chance: path.write_bytes(b""),
}


# In the place of any value of its type.
_WRONG = {bool: "maybe", int: "-1", float: "nan", str: "unheard_of", tuple: "(-1,)"}
# Arguments that follow those of `RUN`, and override them.
MISTAKES: list[list[str]] = [
    *(
        [f"--config.{key}={_WRONG[type(known.default)]}"]
        for key, known in KEYS.items()
        if key != "data_dir"  # which a set would be downloaded to
    ),
    *(
        [f"--config.{change}"]
        for change in (
            "steps=3001", "steps=1.5", "steps=99999999999", "seeds=100000", "batch_size=65",
            "batch_size=4194304", "microbatch_size=3", "microbatch_size=1", "ema_decay=1.0",
            "optimizer.learning_rate=inf", "normalizer.epsilon=0.0", "normalizer.warmup=0.9",
            "dataset=", "baseline=none", "devices.seeds=3", "stepss=3",
        )
    ),
    ["--config=configs/none.py"],
    ["--config=configs/small_batch.py:short"],
    ["--workdir="],
    ["--workdir=FOLDER/a_file"],
    ["--workdir=FOLDER/a_file/below"],
    ["--wrokdir=FOLDER/w"],
    ["--resume"],
    ["stray"],
    ["--coordinator=localhost:1"],
]  # fmt: skip

TRIALS: dict[str, Callable[[Bench], Result]] = {
    "killed": partial(killed, count=20),
    "told_to_end": partial(told_to_end, count=5),
    "damaged": partial(damaged, count=50),
    "full_disk": full_disk,
    "memory": partial(memory, evaluations=400),
    "mistakes": partial(mistakes, wrong=MISTAKES),
    "strangers": strangers,
    "sweep": partial(sweep_killed, workers=4, trials=40, every=5.0),
}

if __name__ == "__main__":
    main()
