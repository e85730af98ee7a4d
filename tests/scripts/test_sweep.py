"""scripts/sweep.py as a user runs it: the whole way, deaths on it, and mistakes."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import optuna
import pandas as pd
import pytest
import sqlalchemy

from bnrepro.comparison import run as run_module
from bnrepro.comparison.config import with_settings
from bnrepro.comparison.keys import ConfigError
from bnrepro.records import read_run
from bnrepro.sweep import engines
from bnrepro.sweep.plan import make_plan
from bnrepro.sweep.space import SweepError
from bnrepro.sweep.study import SharedStudy
from bnrepro.sweep.worker import work
from configs import mnist_sigmoid
from configs.sweeps import learning_rates, renorm_limits
from scripts.launch_local import free_port
from scripts.sweep import main
from scripts.torture import _children
from tests import xla_flags
from tests.commands import refusal
from tests.small_dataset import small_dataset

# Small enough for a second, on whatever MNIST or the digits are at hand.
SMALL = {"steps": 60, "eval_every": 30, "batch_size": 10, "microbatch_size": 10,
         "model.hidden": (4,)}  # fmt: skip
CONFIG = ("--config=configs/mnist_sigmoid.py", "--seeds=1",
          *(f"--config.{key}={value}" for key, value in SMALL.items()))  # fmt: skip
MNIST = mnist_sigmoid.get_config().to_dict()
RATE, NAME = "optimizer.learning_rate", "normalizer.name"
SWEPT = f"--vary={RATE}=log(0.01,1)", f"--vary={NAME}=none,batch_norm", "--trials=6"
FLAGS = {"seeds": None, "vary": (), "sampler": "grid", "trials": None, "prune": False,
         "at-once": "auto", "storage": None}  # fmt: skip


def start(workdir, *arguments, **env):
    command = [sys.executable, "-m", "scripts.sweep", *CONFIG, f"--workdir={workdir}", *arguments]
    env = os.environ | {"XLA_FLAGS": xla_flags(devices=1)} | env
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True)


def sweep(workdir, *arguments, **options):
    process = start(workdir, *arguments, **options)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A workdir, and how the command that swept into it ended."""
    workdir = tmp_path_factory.mktemp("swept") / "rates"
    return workdir, sweep(workdir, *SWEPT, "--workers=1")


def test_a_sweep_ends_with_records_a_table_figures_and_the_best_as_commands(swept):
    workdir, (code, out, err) = swept
    assert (code, "6 of 6 trials" in err) == (0, True), err
    run = read_run(workdir)
    assert len(run.variants) == 6
    assert {run.settings(name)[RATE] for name in run.variants} == {0.01, 0.1, 1.0}
    assert (workdir / "summary.md").exists()
    assert {path.suffix for path in (workdir / "figures").iterdir()} == {".png", ".svg"}
    assert (workdir / "tensorboard" / "trial 5" / "seed_0").is_dir()
    commands = re.findall(
        r"python -m experiments\.train --novariants .*--workdir=runs/best_(\w+)", out
    )
    assert sorted(commands) == ["batch_norm", "none"]
    assert out.count(f"--config.{RATE}=") == 2
    assert out.count("--config.seeds=1") == 2


@pytest.mark.slow
def test_a_sweep_that_goes_on_leaves_gpus_to_its_workers(swept):
    code = "from scripts import sweep; sweep.main(); import jax; print(jax.config.jax_platforms)"
    command = [sys.executable, "-c", code, *CONFIG, f"--workdir={swept[0]}", *SWEPT]
    env = os.environ | {"JAX_PLATFORMS": "cuda"}
    assert subprocess.check_output(command, env=env, text=True).splitlines()[-1] == "cpu"


@pytest.mark.slow
def test_a_sweep_that_is_told_to_end_takes_its_workers_along_and_goes_on_later(tmp_path):
    arguments = (f"--vary={RATE}=0.01,0.1", "--workers=1", "--at-once=1")
    process = start(tmp_path, *arguments)
    while not (workers := _children(process.pid)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    time.sleep(1)  # so that it is at work, or about to
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "asked to stop" in err) == (75, True)
    assert not Path(f"/proc/{workers[0]}").exists()
    assert sweep(tmp_path, *arguments)[0] == 0
    assert len(read_run(tmp_path).variants) == 2


def test_a_sweep_of_fewer_trials_keeps_the_checkpoints_of_the_others(
    tmp_path, monkeypatch, launch_here
):
    monkeypatch.setattr(engines, "run_local", lambda plan, *_: work(plan))
    monkeypatch.setattr(run_module, "load_dataset", lambda *_, **__: small_dataset())
    workdir, vary = tmp_path / "w", f"{RATE}=log(0.01,1)"
    config = with_settings(MNIST, SMALL)
    plan = plan_of(workdir, config=config, vary=[vary], seeds=1, trials=2, sampler="random")
    workdir.mkdir()
    with SharedStudy(plan) as study:
        study.refill()
        with study.alive():
            _, second = study.claim(lambda group, unfinished: 2)
            study.begin([second], name := uuid4().hex)
            checkpoints = workdir / "checkpoints" / name
            checkpoints.mkdir(parents=True)
    arguments = (f"--workdir={workdir}", f"--vary={vary}", "--sampler=random", "--trials=1")
    launch_here(main, [*CONFIG, *arguments])
    assert read_run(workdir).variants == ["trial 0"]
    assert checkpoints.exists()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is an extra: make test-extras")
def test_the_tasks_of_a_ray_cluster_share_a_sweep(tmp_path):
    # In a process of its own: Ray forks, which a process that uses JAX should not.
    code = "import ray; ray.init(num_cpus=2, include_dashboard=False)\n"
    code += "print('at', ray.get_runtime_context().gcs_address, flush=True); input()"
    pipe = subprocess.PIPE
    # What who connects must know, too.
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid4().hex}
    arguments = (f"--vary={RATE}=0.01,0.1,1", "--engine=ray", "--workers=2", "--at-once=1")
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | token,
        stdin=pipe,
        stdout=pipe,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as cluster:
        try:
            address = next(line.split()[1] for line in cluster.stdout if line.startswith("at "))
            env = token | {"RAY_ADDRESS": address}
            code, _, err = sweep(tmp_path / "w", *arguments, **env)
            mistake = sweep(tmp_path / "none", *arguments, "--config.dataset=mnits", **env)
        finally:
            cluster.communicate("\n")
    assert code == 0, err
    assert len(read_run(tmp_path / "w").variants) == 3
    # What a worker finds is one sentence here, too.
    said = mistake[2].splitlines()[-1]
    assert (mistake[0], said.startswith("error: "), "worker" in said) == (2, True, False), said


@pytest.fixture
def postgresql():
    """The URL of a database whose server was started for this test."""
    pytest.importorskip("psycopg", reason="psycopg is an extra: make test-extras")
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
    if programs is None:
        pytest.skip("Debian's postgresql is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        # The server refuses to run as root.
        user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if user:
            shutil.chown(folder, "postgres")

        def control(program, *arguments):
            command = [*user, programs / program, f"--pgdata={folder}/data", *arguments]
            subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)

        control("initdb", "--username=sweeps", "--auth=trust")
        options = f"--options=-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        control("pg_ctl", "start", "--wait", f"--log={folder}/log", options)
        try:
            yield f"postgresql://sweeps@127.0.0.1:{port}/postgres"
        finally:
            control("pg_ctl", "stop", "--mode=immediate")


@pytest.mark.slow
def test_two_sweeps_on_one_postgresql_storage_share_the_trials(postgresql, tmp_path):
    """As on two machines, each with a workdir of its own."""
    workdirs = [tmp_path / machine / "rates" for machine in ("one", "two")]
    arguments = (f"--vary={RATE}=log(0.01,1)", "--trials=8", "--workers=1", "--at-once=1")
    sweeps = [start(workdir, *arguments, f"--storage={postgresql}") for workdir in workdirs]
    for process in sweeps:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    storage = optuna.storages.RDBStorage(postgresql)
    study = optuna.load_study(study_name="rates", storage=storage)
    trials, attributes = study.get_trials(), study.user_attrs
    storage.remove_session()
    storage.engine.dispose()
    # One that both have enqueued at the same moment waits, once more, in vain.
    trained = [trial for trial in trials if trial.state != optuna.trial.TrialState.WAITING]
    assert sorted(trial.user_attrs["index"] for trial in trained) == list(range(8))
    assert {trial.state for trial in trained} == {optuna.trial.TrialState.COMPLETE}
    assert len([key for key in attributes if key.startswith("worker ")]) == 2
    one, two = (read_run(workdir).metrics for workdir in workdirs)
    assert set(one["variant"]) == {f"trial {i}" for i in range(8)}
    pd.testing.assert_frame_equal(one, two)


def plan_of(workdir, varied=None, config=MNIST, overrides=None, **flags):
    file = "configs/a file.py:full"
    return make_plan(config, varied or {}, FLAGS | flags, workdir, file, overrides or {})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"vary": [f"{RATE}=1,2"], "overrides": {RATE: 3}},
            f"--config.{RATE} would change nothing: the sweep varies it",
        ),
        ({"vary": [RATE]}, "--vary must be KEY=VALUES"),
        ({"vary": [f"{RATE}=0.1,1"], "sampler": "random"}, "give the number of --trials"),
        ({"vary": [f"{RATE}=0.1,1"], "seeds": 0}, "seeds must be in"),
        ({"vary": [f"{RATE}=0.1", f"{RATE} =0.3"]}, f"--vary is given twice for {RATE}"),
        # As where a shell's variable is not set: machines would share nothing.
        ({"vary": [f"{RATE}=1,2"], "storage": ""}, "--storage must be the URL of a database"),
    ],
)
def test_mistakes_are_one_sentence(flags, message, tmp_path):
    with pytest.raises((SweepError, ConfigError), match=message):
        plan_of(tmp_path, **flags)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*CONFIG, f"--vary={RATE}=1,2", "--at-once=0"], "must be auto or a number of trials"),
        (
            [*CONFIG, f"--vary={RATE}=1,2", "--storage=postgresql://me:secret@host:port/x"],
            "--storage must be the URL of a database, as in postgresql://USER@HOST/DATABASE",
        ),
        ([*CONFIG, f"--vary={RATE}=1,2", "--storage=sqlite:///{}/no/x"], "cannot use the storage"),
        # As where it is not installed.
        ([*CONFIG, f"--vary={RATE}=1,2", "--engine=ray"], "Ray is not installed: pip install ray"),
        (["--config={}/c.py:full"], "get_sweep() of {}/c.py failed: NameError: no such list"),
        ([*CONFIG, *SWEPT, "--sampler=random", "--config.dataset=mnits"], "mnits"),
    ],
)
def test_mistakes_end_with_code_2_and_nothing_written(
    tmp_path, monkeypatch, capsys, launch_here, arguments, message
):
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "c.py").write_text(
        "from configs.mnist_sigmoid import get_config\n"
        "def get_sweep():\n"
        "    raise NameError('no such list')\n"
    )
    arguments = [argument.format(tmp_path) for argument in arguments]
    launch = partial(launch_here, main)
    sentence = refusal(capsys, launch, *arguments, f"--workdir={tmp_path / 'w'}")
    assert message.format(tmp_path) in sentence
    assert "secret" not in sentence
    assert not (tmp_path / "w").exists()


def test_the_command_line_comes_on_top_of_the_config_file(tmp_path):
    varied = {RATE: [0.1, 1.0], NAME: ["none", "batch_norm"]}
    plan = plan_of(tmp_path, varied, vary=[f"{RATE}=0.3"])
    assert plan.space == {RATE: [0.3], NAME: ["none", "batch_norm"]}
    assert plan.count == 2


def test_a_sweep_keeps_its_study_in_its_workdir_under_a_name_that_outlives_renaming(tmp_path):
    plan = plan_of(tmp_path / "what?", vary=[f"{RATE}=0.1,1"])
    storage = sqlalchemy.make_url(plan.storage)
    assert (storage.database, plan.name) == (str(tmp_path / "what?" / "sweep.db"), "sweep")
    # Of a storage that others share, the workdir's name tells sweeps apart.
    shared = plan_of(tmp_path / "rates", vary=[f"{RATE}=0.1,1"], storage="postgresql://host/x")
    assert (shared.storage, shared.name) == ("postgresql://host/x", "rates")


@pytest.mark.parametrize(
    ("storage", "tasks", "commands"),
    [
        (None, "16", 1),
        *(
            ("postgresql://host/x", *case)
            for case in [("16", 16), ("0", 1), ("-3", 1), ("many", 1)]
        ),
    ],
)
def test_the_tasks_of_a_slurm_array_share_the_trials_of_a_common_storage(
    storage, tasks, commands, tmp_path, monkeypatch
):
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", tasks)
    plan = plan_of(tmp_path, vary=[f"{RATE}=0.1,1"], storage=storage)
    assert plan.commands == commands


def test_the_command_of_a_single_run_has_what_was_overridden(tmp_path):
    overrides = {"model.hidden": (5, 6), "steps": 100, "seeds": 3, "sampler.name": "epochs"}
    plan = plan_of(tmp_path, overrides=overrides, vary=[f"{RATE}=0.1,1"], seeds=2)
    assert plan.command == (
        "python -m experiments.train --novariants --config='configs/a file.py:full' "
        "--config.model.hidden='(5, 6)' --config.steps=100 --config.seeds=2 "
        "--config.sampler.name=epochs"
    )


@pytest.mark.parametrize(("config", "trials"), [(learning_rates, 24), (renorm_limits, 108)])
def test_the_repositorys_own_sweeps_are_grids(config, trials, tmp_path):
    plan = plan_of(tmp_path, config.get_sweep(), config.get_config().to_dict())
    assert (plan.sampler, plan.trials, plan.count) == ("grid", trials, trials)
