"""Saves variables of a model to safetensors files, and converts between BatchRenorm and BatchNorm.

`bnrepro.BatchNorm` and `flax.linen.BatchNorm` have the same variables, which are interchangeable.
`BatchRenorm` keeps sigma = sqrt(var + epsilon) instead of var, and a count.
"""

import operator
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from bnrepro.layers.shared import check_range

# Prefixes that Flax adds to the name of a class lifted by nn.remat, nn.vmap, nn.scan ...
_LIFTED = "(?:Checkpoint|Vmap|Scan|Jit|Map_variables)*"
_STATISTICS = {"BatchNorm": {"mean", "var"}, "BatchRenorm": {"mean", "std", "count"}}


def save_variables(path: str | os.PathLike[str], variables: Mapping[str, Any]) -> None:
    """Writes a safetensors file with names such as "params/Dense_0/kernel", complete or not at all.

    Args:
      path: of the file, in an existing folder; a file with that name is replaced.
      variables: collections, nested dicts of arrays. Empty dicts are not stored.

    Raises:
      ValueError: a name that is not a string or contains "/", an array outside any collection, or
        a value that is not an array of integers, bools, floats of 16 to 64 bits or complex64.
    """
    path = Path(path)
    arrays = {}
    for names, value in flatten_dict(variables).items():
        if len(names) < 2 or any(not isinstance(name, str) or "/" in name for name in names):
            raise ValueError(
                f"cannot save {path}: {names} must be a collection and names without '/'."
            )
        dtype = getattr(value, "dtype", type(value))
        # safetensors writes further types, but cannot read them back.
        if not re.fullmatch(r"bool|u?int(8|16|32|64)|b?float(16|32|64)|complex64", str(dtype)):
            raise ValueError(f"cannot save {path}: {'/'.join(names)} cannot be of {dtype}.")
        arrays["/".join(names)] = value
    save_arrays(path, arrays)


def save_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Writes a safetensors file of arrays by name, complete or not at all.

    Args:
      path: as for `save_variables`.
      arrays: with names of any kind, such as those of another library.
    """
    from safetensors.numpy import save  # not needed to convert in memory

    path = Path(path)
    # safetensors 0.8 copies the bytes as they are in memory, which must be in C order.
    ordered = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    with tempfile.TemporaryDirectory(dir=path.parent, ignore_cleanup_errors=True) as folder:
        beside = Path(folder, path.name)
        beside.write_bytes(save(ordered))  # save_file would deny access to all other users
        beside.replace(path)


def load_variables(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what `save_variables` wrote: nested dicts of JAX arrays, for `model.apply`.

    Raises:
      ValueError: the file is damaged or holds something else, or 64-bit numbers that JAX would
        truncate to 32 bits.
      OSError: it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        stored = load_file(path)
    except (SafetensorError, AttributeError) as error:  # the latter of a type unknown to NumPy
        raise ValueError(f"cannot load {path}: {error}.") from error
    flat = {tuple(name.split("/")): jnp.asarray(array) for name, array in stored.items()}
    for names, array in flat.items():
        name = "/".join(names)
        if len(names) < 2 or any(names[:end] in flat for end in range(len(names))):
            raise ValueError(f"cannot load {path}: {name} is not a variable of a model.")
        if array.dtype != (dtype := stored[name].dtype):
            raise ValueError(f"cannot load {path}: {name}, {dtype}, needs jax_enable_x64.")
    return unflatten_dict(flat)


def to_batch_norm(variables: Mapping[str, Any], *, epsilon: float) -> dict[str, Any]:
    """Converts a model's `BatchRenorm` layers to `BatchNorm`, Flax's or ours.

    var = sigma^2 - epsilon, and inference is the same. If that would be negative, which needs an
    `epsilon` above the layer's own, var is 0 and BatchNorm divides by sqrt(epsilon), not by sigma.

    Args:
      variables: collections with the layers anywhere in `batch_stats`; not changed.
      epsilon: of the layers, at least 0.

    Returns:
      Variables in which these layers have `mean` and `var`. An automatic name, such as
      BatchRenorm_0, becomes the one that Flax gives the new layer. All else is unchanged.

    Raises:
      ValueError: there is no such layer, a new name is taken, or a number is out of range.
    """
    check_range("to_batch_norm", "epsilon", epsilon, 0)

    def statistics(old: Mapping[str, Any]) -> dict[str, Any]:
        return {"mean": old["mean"], "var": jnp.maximum(jnp.square(old["std"]) - epsilon, 0)}

    return _moved(variables, "BatchRenorm", "BatchNorm", statistics)


def to_batch_renorm(variables: Mapping[str, Any], *, epsilon: float, count: int) -> dict[str, Any]:
    """Converts a model's `BatchNorm` layers, Flax's or ours, to `BatchRenorm`.

    sigma = sqrt(var + epsilon), and inference is the same; result and errors as `to_batch_norm`.

    Args:
      variables: as there. If `nn.scan` or `nn.vmap` stacks layers, stack the new counts likewise.
      epsilon: as there.
      count: updates to count as done, at least 0, for schedules of r_max and d_max. With 0 the ramp
        starts as in a new model: training continues as Batch Norm and changes gradually. With the
        ramp's end it is Batch Renorm at once, which is sound if the averages fit the data.
    """
    check_range("to_batch_renorm", "epsilon", epsilon, 0)
    check_range("to_batch_renorm", "count", count, 0)
    count = operator.index(count)

    def statistics(old: Mapping[str, Any]) -> dict[str, Any]:
        std = jnp.sqrt(jnp.add(old["var"], epsilon))
        return {"mean": old["mean"], "std": std, "count": jnp.asarray(count, jnp.int32)}

    return _moved(variables, "BatchNorm", "BatchRenorm", statistics)


def _moved(
    variables: Mapping[str, Any], old: str, new: str, statistics: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
    """`variables` with the statistics and the automatic names of the new layer."""

    def is_layer(path: tuple[str, ...], node: Mapping[str, Any]) -> bool:
        # Modules may also be called mean and var.
        leaves = {name for name, child in node.items() if not isinstance(child, Mapping)}
        return path[:1] == ("batch_stats",) and leaves == set(node) == _STATISTICS[old]

    flat = flatten_dict(variables, keep_empty_nodes=True, is_leaf=is_layer)
    layers = {path[1:] for path, node in flat.items() if isinstance(node, Mapping)}
    if not layers:
        raise ValueError(f"no {old} in batch_stats: no module has just {sorted(_STATISTICS[old])}.")

    def renamed(path: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            re.sub(rf"^({_LIFTED}){old}_(\d+)$", rf"\1{new}_\2", name)
            if path[: end + 1] in layers
            else name
            for end, name in enumerate(path)
        )

    modules = {path[1:end] for path in flat for end in range(len(path) + 1)}
    if taken := {renamed(layer) for layer in layers if renamed(layer) != layer} & modules:
        raise ValueError(f"the new name {'/'.join(min(taken))} is taken: name the layers yourself.")
    return unflatten_dict(
        {
            (path[0], *renamed(path[1:])): statistics(node) if isinstance(node, Mapping) else node
            for path, node in flat.items()
        }
    )
