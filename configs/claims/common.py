"""What the comparisons of the claims share: seeds, lengths, and what is kept."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict


def shared(
    config: ConfigDict,
    length: str,
    *,
    seeds: tuple[int, int] = (10, 5),
    steps: tuple[int, int],
    evaluations: int = 20,
) -> bool:
    """Sets seeds and lengths of a comparison; returns whether it is the fast one.

    Pairs are for the lengths full and fast. No earlier result and no trial used these seeds. Those
    of the first registrations, 20,000 to 37,000, gave the variances by which the numbers of seeds
    were chosen. A trial takes others, as in --config.first_seed=90000.
    """
    if length not in ("full", "fast"):
        raise ValueError(f"after the colon, a config takes full or fast, got {length!r}")
    fast = length == "fast"
    config.preview = fast
    config.seeds, config.steps = seeds[fast], steps[fast]
    config.first_seed = 50_000 if fast else 40_000
    config.eval_every = config.steps // evaluations
    config.checkpoint.every = 0
    config.measures = ()
    return fast


def set_variants(config: ConfigDict, variants: Mapping[str, Any]) -> None:
    """Sets the variants, the first of them the baseline."""
    config.variants = dict(variants)
    config.baseline = next(iter(variants))


def names(name: str) -> dict[str, Any]:
    """The overrides that choose a normalizer."""
    return {"normalizer": {"name": name}}
