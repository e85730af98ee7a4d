"""Every test runs on eight CPU devices, without silent rank promotion, on the same examples."""

import atexit
import os
import shutil
import tempfile

# Most of the time goes into compiling: what one process of a session has compiled, the others need
# not, neither pytest's workers nor the commands that tests launch.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
# Read when jax is imported and when its devices are first asked for.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()

import hypothesis
import jax
import jaxtyping
import pytest
from absl import flags

jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("fast", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("fast")


@pytest.fixture
def untyped(monkeypatch):
    """Turns shape checks off, for states that are only described: their fields are not arrays."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def own_flags():
    """Removes the flags that a command defines, which the next one defines again."""
    known = set(flags.FLAGS)
    yield
    flags.FLAGS.remove_flag_values(set(flags.FLAGS) - known)


@pytest.fixture
def launch_here(own_flags, monkeypatch):
    """Launches a command in this process that takes its flags from sys.argv."""
    for name in ("quiet_logging", "heed_sigterm"):  # which are for a process of its own
        monkeypatch.setattr(f"experiments.cli.{name}", lambda: None)

    def launch(main, arguments):
        monkeypatch.setattr("sys.argv", ["", *arguments])
        main()

    return launch
