"""The command line: help, mistakes, Ctrl-C."""

import os
import subprocess
import sys
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from bnrepro.errors import UserError, exit_codes
from bnrepro.records import read_run
from experiments import cli, mnist_sigmoid
from tests import commands, xla_flags
from tests.commands import ROOT, refusal, sentence_of
from tests.small_shards import write_set

CONFIG = "--config=configs/mnist_sigmoid.py"


def test_help_shows_the_command_and_the_flags_without_loading_jax():
    result = commands.run("experiments.mnist_sigmoid", "--help", PYTHONPROFILEIMPORTTIME="1")
    assert result.returncode == 0
    assert "python -m experiments.mnist_sigmoid --config=" in result.stdout
    assert "--workdir" in result.stdout
    assert "normalizer.epsilon = 1e-05: added to the variance (number in (0, 1,000" in result.stdout
    assert " jax\n" not in result.stderr


def test_help_says_nothing_of_a_reader_that_has_enough_of_it():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "experiments.mnist_sigmoid", "--help"]
    with os.fdopen(writer, "w") as pipe:
        ended = subprocess.run(command, cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE, timeout=120)
    assert ended.stderr == b""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.stepss=3"], 'Did you mean "steps"'),
        (["--config.variants.plain.nothing=3"], "no such config key: 'nothing'"),
        (["--config.steps=1.5"], "--config.steps=1.5"),
        (["--wrokdir=x"], "Did you mean: workdir"),
        (["--config=configs/none.py"], "configs/none.py"),
        (["--config=tests/experiments/broken_config.py"], "ZeroDivisionError: division by zero"),
        (["--config=tests/experiments/broken_config.py:"], "must return a ConfigDict, got None"),
        (["--config=tests/experiments/broken_config.py:exit"], "failed: SystemExit: no"),
        (["--config=tests/experiments/broken_config.py:number"], "model is not a config key"),
        # Keys that a file leaves out can be changed.
        (["--config=tests/experiments/broken_config.py:bare", "--config.steps=0"], "steps must be"),
        (["--config=tests/experiments/broken_config.py:bare"], "variants must name at least one"),
        (["--config=configs/__init__.py"], "get_config"),
        (
            ["--config.normalizer.name=layer_norm"],
            "--config.normalizer.name would change nothing: all variants set it or do not use it (",
        ),
        (["--only=plain,batchnorm"], "--only names an unknown variant: 'batchnorm'"),
        (["--only="], "--only must name variants; the config has batch_norm, "),
        (["--only=plain", "--config.baseline=bn"], "baseline must be one of the variants (plain)"),
        # A variant that was not asked for may be wrong.
        (
            ["--only=plain", "--config.variants.batch_norm.normalizer.name=x", "--resume"],
            "--resume found nothing to resume",
        ),
        (["--resume", "--overwrite"], "--resume continues the workdir, --overwrite replaces it"),
        (["--coordinator=localhost:1"], "--coordinator, --num_processes and --process_id go"),
        (["--wandb="], "--wandb=PROJECT"),
        # As where it is not installed.
        (["--wandb=norms"], "--wandb needs a package (import of wandb halted"),
        (["stray"], "unexpected argument 'stray'"),
        (["--workdir="], "--workdir=runs/NAME"),
        (["--config.steps=-500"], "steps must be in"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2_and_nothing_is_written(
    tmp_path, monkeypatch, capsys, launch_here, arguments, message
):
    workdir = tmp_path / "w"
    config = [] if arguments[0].startswith("--config=") else [CONFIG]
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "wandb", None)
    launch = partial(launch_here, partial(cli.launch, mnist_sigmoid.report, doc=""))
    assert message in refusal(capsys, launch, *config, f"--workdir={workdir}", *arguments)
    assert not workdir.exists()


@pytest.mark.usefixtures("own_flags")
def test_flags_change_numbers_and_lists_to_all_that_their_keys_take(monkeypatch):
    config = "--config=tests/experiments/broken_config.py:plain"
    changes = ["--config.optimizer.learning_rate=0.3", "--config.model.hidden=(4,)"]
    monkeypatch.setattr("sys.argv", ["", config, *changes])
    config = cli.parse_config("")
    assert (config["optimizer"]["learning_rate"], config["model"]["hidden"]) == (0.3, (4,))


@pytest.mark.usefixtures("own_flags")
def test_a_key_that_a_config_refers_to_another_follows_the_flag_of_that(monkeypatch):
    config = "--config=tests/experiments/broken_config.py:reference"
    monkeypatch.setattr("sys.argv", ["", config, "--config.batch_size=8"])
    assert cli.parse_config("")["microbatch_size"] == 4


def test_a_variant_whose_name_has_a_comma_is_named_in_double_quotes(own_flags):
    config = {"variants": {"a,b": {}, "c": {}}, "baseline": "c"}
    with pytest.raises(UserError, match="has a,b, c; put a name with commas in double quotes"):
        cli.only(config, ["a", "b"])
    flags.DEFINE_list("only", None, "")
    flags.FLAGS(["", '--only="a,b"'])
    assert list(cli.only(config, flags.FLAGS.only)["variants"]) == ["a,b"]


def test_a_sweep_is_offered_only_of_what_it_may_vary():
    variants = {"a": {"devices": {"strategy": "jit"}, "batch_size": 6}}
    for key, offered in (("devices.strategy", False), ("batch_size", True)):
        with pytest.raises(UserError, match="with --only") as caught:
            cli.check_overrides({"variants": variants}, {key: 1})
        assert (f"--vary={key}" in str(caught.value)) == offered


def test_sizes_of_few_labels_are_refused_if_no_variant_draws_by_them():
    own = {"name": "labels", "labels_per_batch": 2}
    config = {"sampler": {"name": "epochs"}, "variants": {"iid": {}, "few": {"sampler": own}}}
    with pytest.raises(UserError, match="would change nothing: all variants set it or do not use"):
        cli.check_overrides(config, {"sampler.labels_per_batch": 3})
    cli.check_overrides(config, {"sampler.examples_per_label": 3})
    cli.check_overrides(config, {"sampler.name": "with_replacement"})


@pytest.mark.parametrize(
    ("flag", "but"), [("--overwrite=true", ", without --overwrite,"), ("--nooverwrite", "")]
)
def test_a_command_that_overwrites_is_not_to_be_given_again_as_it_is(
    capsys, monkeypatch, flag, but
):
    monkeypatch.setattr("sys.argv", ["", flag])
    with pytest.raises(SystemExit), exit_codes(resumes=True):
        raise KeyboardInterrupt
    assert f"the same command{but} resumes" in capsys.readouterr().err


def test_what_saves_nothing_does_not_say_so(capsys):
    with pytest.raises(SystemExit) as exit_, exit_codes():
        raise KeyboardInterrupt
    assert (exit_.value.code, capsys.readouterr().err) == (130, "interrupted\n")


@pytest.mark.parametrize("library", [jnp, np], ids=["of the device", "of the host"])
def test_too_little_memory_is_one_sentence(capsys, library):
    with pytest.raises(SystemExit) as exit_, exit_codes():
        library.zeros((2**23, 2**23))  # larger than any address space
    said = sentence_of(exit_.value.code, *capsys.readouterr())
    assert said.startswith("not enough memory for these sizes") and "allocat" in said


CHECKPOINTS = "bnrepro.training.checkpoints:Checkpoints"
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("owner", "function", "signal", "code"),
    [
        (CHECKPOINTS, "save", "SIGTERM", 75),
        pytest.param(CHECKPOINTS, "save", "SIGINT", 130, marks=SLOW),
        pytest.param("bnrepro.comparison.program", "evaluate", "SIGTERM", 75, marks=SLOW),
        pytest.param("bnrepro.report.figures", "accuracy_figure", "SIGTERM", 75, marks=SLOW),
    ],
)
def test_told_to_end_it_leaves_complete_files_whatever_it_is_at(
    tmp_path, owner, function, signal, code
):
    workdir, finished = tmp_path / "w", function == "accuracy_figure"
    program = (
        "import os, pkgutil, runpy, signal\n"
        # Where the tests run in the background, SIGINT is ignored, and a child inherits that.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"owner = pkgutil.resolve_name({owner!r})\n"
        f"original = owner.{function}\n"
        "def told(*args, **kwargs):\n"
        f"    owner.{function} = original\n"
        f"    os.kill(os.getpid(), signal.{signal})\n"
        "    return original(*args, **kwargs)\n"
        f"owner.{function} = told\n"
        "runpy.run_module('experiments.mnist_sigmoid', run_name='__main__', alter_sys=True)\n"
    )
    write_set(tmp_path)
    arguments = [
        *(sys.executable, "-c", program, CONFIG, f"--workdir={workdir}", "--only=batch_renorm"),
        *("--config.dataset=squares", f"--config.data_dir={tmp_path}", "--config.eval_every=20"),
        *("--config.batch_size=12", "--config.microbatch_size=12", "--config.seeds=1"),
        "--config.model.hidden=(5,)",
        # Enough that no variant ends before it hears of the signal.
        f"--config.steps={40 if finished else 4_000}",
        "--config.checkpoint.every=1",
    ]
    env = os.environ | {"XLA_FLAGS": xla_flags(devices=1)}
    result = subprocess.run(
        arguments, cwd=ROOT, env=env, timeout=120, capture_output=True, text=True
    )
    assert result.returncode == code, result.stderr
    assert "resumes from there" in result.stderr
    assert "Traceback" not in result.stderr
    done = read_run(workdir)
    assert all(map(done.finished, done.variants)) == finished
    assert not (workdir / "summary.md").exists()
