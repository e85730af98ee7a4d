"""What `pip install bnrepro` brings is enough for the layers, and says what it is."""

import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import bnrepro

ROOT = Path(__file__).parents[1]

USE_THE_LAYERS = """
import jax
import bnrepro
from flax import nnx

x = jax.random.normal(jax.random.key(0), (8, 3))
r_max, d_max = bnrepro.renorm_schedules(100)
for layer in (bnrepro.BatchNorm(), bnrepro.BatchRenorm(r_max=r_max, d_max=d_max)):
    variables = layer.init(jax.random.key(0), x, use_running_average=False)
    y, _ = layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
for layer_type in (bnrepro.nnx.BatchNorm, bnrepro.nnx.BatchRenorm):
    layer_type(3, rngs=nnx.Rngs(0))(x)
bnrepro.to_batch_renorm(bnrepro.BatchNorm().init(jax.random.key(0), x, True), epsilon=1e-5, count=0)
print(bnrepro.__version__, y.shape)
"""

# Refuses to import what no distribution that is wanted brings.
ONLY = """
import sys

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refusal())
"""


def needed(distribution):
    """Names of the distributions that one needs without its extras, itself included."""
    names, ahead = set(), [distribution]
    while ahead:
        name = ahead.pop()
        if name in names:
            continue
        names.add(name)
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                ahead.append(canonicalize_name(requirement.name))
    return names


def test_the_layers_need_nothing_but_the_core_requirements():
    wanted = needed("bnrepro")
    refused = {
        module
        for module, brought_by in metadata.packages_distributions().items()
        if not wanted & {canonicalize_name(name) for name in brought_by}
    }
    assert {"pandas", "optuna", "safetensors"} <= refused
    result = subprocess.run(
        [sys.executable, "-c", ONLY.format(refused=refused) + USE_THE_LAYERS],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{bnrepro.__version__} (8, 3)\n"


def test_the_metadata_and_the_changelog_name_this_version():
    assert metadata.version("bnrepro") == bnrepro.__version__
    assert f"## {bnrepro.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.slow
def test_the_wheel_works_in_a_fresh_environment(tmp_path):
    def run(*command):
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    # A copy: setuptools leaves a folder build/ in what it builds from.
    source = shutil.copytree(ROOT / "bnrepro", tmp_path / "source" / "bnrepro").parent
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, source)
    (wheel,) = tmp_path.glob("bnrepro-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    constraints = ROOT / ".requirements.lock"
    run(python, "-m", "pip", "install", "--quiet", "-c", constraints, wheel)
    assert run(python, "-c", USE_THE_LAYERS) == f"{bnrepro.__version__} (8, 3)\n"
    assert "pandas" not in run(python, "-m", "pip", "list")
