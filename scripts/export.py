"""Writes the variables of one seed of a run to a safetensors file, for any Flax model.

Prints code that loads it. Needs no data set. For example:
python -m scripts.export runs/small_batch "batch_renorm 4" --output=renorm.safetensors --linen
With --layout=torchvision, a ResNet-50 is written for torchvision.models.resnet50.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Of torchvision's Batch Norm.
_TORCH_EPSILON = 1e-5


def main(arguments: Sequence[str] | None = None) -> None:
    """Exports what the command line names.

    Raises:
      SystemExit: with code 2, after a sentence on stderr, if it cannot be exported.
    """
    parser = _parser()
    options = parser.parse_args(arguments)

    # Imported only now, so that --help need not wait for JAX.
    from bnrepro.comparison.keys import ConfigError
    from bnrepro.records import RecordsError
    from bnrepro.training import CheckpointError

    try:
        said = _export(options)
    except (ConfigError, RecordsError, CheckpointError) as error:
        parser.exit(2, f"{error}.\n")
    sys.stdout.write(said)


def _export(options: argparse.Namespace) -> str:
    """Writes the file; returns the message to print."""
    import jax

    from bnrepro import save_variables, to_batch_norm
    from bnrepro.comparison import restored
    from bnrepro.comparison.program import make_model
    from bnrepro.interchange import save_arrays
    from bnrepro.records import RecordsError, read_run
    from bnrepro.training import CheckpointError

    name = options.variant
    run = read_run(options.workdir)
    restored.check_variant(run, name)
    config = restored.checked_configs(run)[name]
    if not options.output.name:
        raise RecordsError(f"--output must name a file, got {options.output}")
    steps, damage = restored.find_checkpoints(run, name)
    for path, wrong in damage.items():
        sys.stderr.write(f"{path} is damaged and is not used: {wrong}.\n")
    if not steps:
        raise CheckpointError(f"{run.workdir} has no intact checkpoint of {name}")
    checkpoint = restored.restore_variant(run, name, config, steps, options.checkpoint)
    example, classes = restored.network_ends(run, config)
    restored.check_model(checkpoint, make_model(config, classes), example)

    seeds = checkpoint.seeds.tolist()
    whole = [seed for seed in seeds if seed not in checkpoint.diverged]
    if not whole:
        raise CheckpointError(f"all seeds of {name} had diverged by step {checkpoint.step:,}")
    seed = whole[0] if options.seed is None else options.seed
    if seed not in whole:
        why = "had diverged" if seed in seeds else "was not trained"
        known = ", ".join(map(str, whole))
        raise CheckpointError(f"seed {seed} of {name} {why}: choose from {known}")
    variables = jax.tree.map(lambda x: x[seeds.index(seed)], checkpoint.variables)
    write: Any = save_variables
    snippet = _snippet(config, classes, options.output, linen=options.linen)
    if options.layout == "torchvision":
        write, variables = save_arrays, _torchvision(config, variables)
        snippet = _torchvision_snippet(config, classes, options.output)
    elif options.linen and config["normalizer"]["name"] == "batch_renorm":
        variables = to_batch_norm(variables, epsilon=config["normalizer"]["epsilon"])
    try:
        write(options.output, variables)
    except OSError as error:
        raise RecordsError(f"cannot write {options.output}: {error.strerror}") from error
    return (
        f"Seed {seed} of {name} at step {checkpoint.step:,} is in {options.output}. To use it:\n\n"
        f"{snippet}"
    )


def _torchvision(config: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of a variant, as torchvision has them.

    Raises:
      ConfigError: torchvision has no such network.
    """
    from bnrepro import to_batch_norm, to_batch_renorm
    from bnrepro.comparison.config import setting
    from bnrepro.comparison.keys import ConfigError
    from bnrepro.layouts import to_torchvision

    possible = {
        "model.name": ("resnet",),
        "model.activation": ("relu",),
        "model.kernel": ("plain",),
        "normalizer.name": ("batch_norm", "batch_renorm"),
    }
    for key, values in possible.items():
        if (value := setting(config, key)) not in values:
            raise ConfigError(
                f"--layout=torchvision needs {key} {' or '.join(values)}, got {value}"
            )
    epsilon = config["normalizer"]["epsilon"]
    if epsilon < _TORCH_EPSILON:
        raise ConfigError(
            f"--layout=torchvision needs normalizer.epsilon of at least {_TORCH_EPSILON:g}, which "
            f"torchvision's Batch Norm adds, got {epsilon:g}"
        )
    if config["normalizer"]["name"] == "batch_norm":
        variables = to_batch_renorm(variables, epsilon=epsilon, count=0)
    # Other epsilons become part of the variance.
    variables = to_batch_norm(variables, epsilon=_TORCH_EPSILON)
    try:
        return to_torchvision(variables)
    except ValueError as error:
        raise ConfigError(f"cannot use --layout=torchvision: {error}") from error


def _torchvision_snippet(config: Mapping[str, Any], classes: int, output: Path) -> str:
    """Python code that loads the file into torchvision's network."""
    return "\n".join(
        [
            "from safetensors.torch import load_file",
            "from torchvision.models import resnet50",
            f"model = resnet50(num_classes={classes}).eval()",
            f"model.load_state_dict(load_file({str(output)!r}))",
            f"# images: float32 (batch, 3, height, width), pixels {_pixels(config)}",
            "logits = model(images)\n",
        ]
    )


def _snippet(config: Mapping[str, Any], classes: int, output: Path, *, linen: bool) -> str:
    """Python code that loads the file into its network."""
    imports = ["from bnrepro import load_variables", "from bnrepro.models import make_network"]
    normalizer = f"make_normalizer({_arguments(config['normalizer'] | {'steps': config['steps']})})"
    if linen and config["normalizer"]["name"] in ("batch_norm", "batch_renorm"):
        imports[:0] = ["from functools import partial", "from flax import linen as nn"]
        fields = {field: config["normalizer"][field] for field in ("momentum", "epsilon")}
        normalizer = f"partial(nn.BatchNorm, {_arguments(fields)})"
    else:
        imports[-1] += ", make_normalizer"
    settings = _arguments({**config["model"], "num_classes": classes})
    return "\n".join(
        [
            *imports,
            f"normalizer = {normalizer}",
            f"model = make_network({settings}, normalizer=normalizer)",
            f"# images: float32 (batch, height, width, channels), pixels {_pixels(config)}",
            f"logits = model.apply(load_variables({str(output)!r}), images, train=False)\n",
        ]
    )


def _pixels(config: Mapping[str, Any]) -> str:
    return "1 where above 127, else 0" if config["binary_input"] else "divided by 255"


def _arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.export", description=__doc__)
    add = parser.add_argument
    add("workdir", type=Path, metavar="WORKDIR", help="the workdir of a run")
    add("variant", metavar="VARIANT", help="one of its variants")
    written = "file to write; an existing one is replaced"
    add("--output", type=Path, required=True, metavar="FILE.safetensors", help=written)
    add("--seed", type=int, metavar="N", help="default: the first that did not diverge")
    which = "default: %(default)s; best: the highest mean test accuracy among those kept"
    add("--checkpoint", default="last", metavar="last|best|STEP", help=which)
    others = parser.add_mutually_exclusive_group()
    linen = "convert Batch Renorm's statistics for flax.linen.BatchNorm"
    others.add_argument("--linen", action="store_true", help=linen)
    layout = "names and shapes of a ResNet-50's arrays are those of torchvision"
    others.add_argument("--layout", choices=["torchvision"], help=layout)
    return parser


if __name__ == "__main__":
    main()
