"""Writes the variables of one seed of a run to a safetensors file, for any Flax model.

Prints code that loads it. Needs no data set. For example:
python -m scripts.export runs/small_batch "batch_renorm 4" --output=renorm.safetensors --linen
With --layout, a ResNet-50 is written for torchvision.models.resnet50, or an Inception-v3 for
keras.applications.InceptionV3.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnrepro.errors import UserError, exit_codes
from scripts import make_parser

# The normalizers that flax's and the other libraries' Batch Norm can stand for.
_STATISTICS = ("batch_norm", "batch_renorm")
# By layout: the network that it has, and the epsilon of its Batch Norm.
_LAYOUTS = {"keras": ("inception", 1e-3), "torchvision": ("resnet", 1e-5)}


@exit_codes()
def main(arguments: Sequence[str] | None = None) -> None:
    """Exports what the command line names.

    Raises:
      SystemExit: with code 2, after a sentence on stderr, if it cannot be exported.
    """
    options = _parser().parse_args(arguments)

    # Imported only now, so that --help need not wait for JAX.
    import jax

    from bnrepro import save_variables, to_batch_norm
    from bnrepro.comparison import restored
    from bnrepro.comparison.program import make_model
    from bnrepro.interchange import save_arrays
    from bnrepro.records import read_run

    name = options.variant
    run = read_run(options.workdir)
    restored.check_variant(run, name)
    config = restored.checked_configs(run)[name]
    normalizer = config["normalizer"]["name"]
    if options.linen and normalizer not in _STATISTICS:
        raise UserError(
            f"--linen needs normalizer.name {' or '.join(_STATISTICS)}, got {normalizer}"
        )
    checkpoint = restored.restore_variant(run, name, options.checkpoint)
    if checkpoint is None:
        raise UserError(f"{name} of {run.workdir}: {restored.why_none(run, name)}")
    example, classes = restored.network_ends(run, config)
    restored.check_model(checkpoint, make_model(config, classes), example)

    seeds = checkpoint.seeds.tolist()
    whole = [seed for seed in seeds if seed not in checkpoint.diverged]
    if not whole:
        raise UserError(f"all seeds of {name} had diverged by step {checkpoint.step:,}")
    seed = whole[0] if options.seed is None else options.seed
    if seed not in whole:
        why = "had diverged" if seed in seeds else "was not trained"
        known = ", ".join(map(str, whole))
        raise UserError(f"seed {seed} of {name} {why}: choose from {known}")
    variables = jax.tree.map(lambda x: x[seeds.index(seed)], checkpoint.variables)
    write: Any = save_variables
    snippet = _snippet(config, classes, example.shape, options.output, linen=options.linen)
    if options.layout:
        write, variables = save_arrays, _in_layout(options.layout, config, variables)
        snippet = _layout_snippet(options.layout, config, classes, example.shape, options.output)
    elif options.linen and normalizer == "batch_renorm":
        variables = to_batch_norm(variables, epsilon=config["normalizer"]["epsilon"])
    try:
        write(options.output, variables)
    except OSError as error:
        raise UserError(f"cannot write {options.output}: {error.strerror}") from error
    print(f"Seed {seed} of {name} at step {checkpoint.step:,} is in {options.output}. To use it:\n")
    sys.stdout.write(snippet)


def _in_layout(
    layout: str, config: Mapping[str, Any], variables: Mapping[str, Any]
) -> dict[str, Any]:
    """The variables of a variant, as another library has them.

    Raises:
      UserError: it has no such network.
    """
    from bnrepro import to_batch_norm, to_batch_renorm
    from bnrepro.comparison.config import setting
    from bnrepro.layouts import to_keras, to_torchvision

    network, layout_epsilon = _LAYOUTS[layout]
    possible = {
        "model.name": (network,),
        "model.activation": ("relu",),
        "model.kernel": ("plain",),
        "model.norm_placement": ("before",),
        "normalizer.name": _STATISTICS,
    }
    for key, values in possible.items():
        if (value := setting(config, key)) not in values:
            raise UserError(f"--layout={layout} needs {key} {' or '.join(values)}, got {value}")
    epsilon = config["normalizer"]["epsilon"]
    if epsilon < layout_epsilon:
        raise UserError(
            f"--layout={layout} needs normalizer.epsilon of at least {layout_epsilon:g}, which "
            f"its Batch Norm adds, got {epsilon:g}"
        )
    if config["normalizer"]["name"] == "batch_norm":
        variables = to_batch_renorm(variables, epsilon=epsilon, count=0)
    # Other epsilons become part of the variance.
    variables = to_batch_norm(variables, epsilon=layout_epsilon)
    try:
        return {"keras": to_keras, "torchvision": to_torchvision}[layout](variables)
    except ValueError as error:
        raise UserError(f"cannot use --layout={layout}: {error}") from error


def _layout_snippet(
    layout: str, config: Mapping[str, Any], classes: int, shape: Sequence[int], output: Path
) -> str:
    """Python code that loads the file into the other library's network."""
    if layout == "torchvision":
        return f"""\
from safetensors.torch import load_file
from torchvision.models import resnet50
model = resnet50(num_classes={classes}).eval()
model.load_state_dict(load_file({str(output)!r}))
# images: float32 (batch, 3, height, width), {_prepared(config)}
logits = model(images)
"""
    return f"""\
import keras
from safetensors.numpy import load_file
keras.utils.clear_session()  # numbers layers from the first
model = keras.applications.InceptionV3(
    weights=None, classes={classes}, classifier_activation=None, input_shape={tuple(shape[1:])}
)
for name, array in load_file({str(output)!r}).items():
    layer, variable = name.split('/')
    getattr(model.get_layer(layer), variable).assign(array)
# images: float32 (batch, height, width, 3), {_prepared(config)}
logits = model(images, training=False)
"""


def _snippet(
    config: Mapping[str, Any], classes: int, shape: Sequence[int], output: Path, *, linen: bool
) -> str:
    """Python code that loads the file into its network."""
    imports = "from bnrepro import load_variables\nfrom bnrepro.models import make_network"
    fields = dict(config["normalizer"])
    if config["model"]["dtype"] != "float32":
        fields["dtype"] = config["model"]["dtype"]
    if linen:
        imports = f"from functools import partial\nfrom flax import linen as nn\n{imports}"
        shared = ("momentum", "epsilon", "use_scale", "dtype")
        fields = {field: fields[field] for field in shared if field in fields}
        normalizer = f"partial(nn.BatchNorm, {_arguments(fields)})"
    else:
        imports += ", make_normalizer"
        normalizer = f"make_normalizer({_arguments(fields | {'steps': config['steps']})})"
    settings = _arguments({**config["model"], "num_classes": classes})
    return f"""\
{imports}
normalizer = {normalizer}
model = make_network({settings}, normalizer=normalizer)
# images: float32 (batch, {", ".join(map(str, shape[1:]))}), {_prepared(config)}
logits = model.apply(load_variables({str(output)!r}), images, train=False)
"""


def _prepared(config: Mapping[str, Any]) -> str:
    """How images are made ready."""
    size, digits = config["image_size"], config["digits"]
    resized = "cropped centrally and resized" if config["stream"] else "averaged down"
    parts = [f"{resized} to {size} x {size}"] * bool(size)
    parts += [f"{digits} side by side"] * (digits > 1)
    pixels = "1 where above 127, else 0" if config["binary_input"] else "divided by 255"
    return ", ".join([*parts, f"pixels {pixels}"])


def _arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("export", __doc__)
    add = parser.add_argument
    add("workdir", type=Path, metavar="WORKDIR", help="the workdir of a run")
    add("variant", metavar="VARIANT", help="one of its variants")
    written = "file to write; an existing one is replaced"
    add("--output", type=Path, required=True, metavar="FILE.safetensors", help=written)
    add("--seed", type=int, metavar="N", help="default: the first that did not diverge")
    which = "default: %(default)s; best: of those kept, the most accurate (held-out, if so trained)"
    add("--checkpoint", default="last", metavar="last|best|STEP", help=which)
    others = parser.add_mutually_exclusive_group()
    linen = "convert Batch Renorm's statistics for flax.linen.BatchNorm"
    others.add_argument("--linen", action="store_true", help=linen)
    layout = "names and shapes are those of torchvision's ResNet-50 or Keras' Inception-v3"
    others.add_argument("--layout", choices=sorted(_LAYOUTS), help=layout)
    return parser


if __name__ == "__main__":
    main()
