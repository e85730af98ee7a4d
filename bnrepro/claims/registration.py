"""What a claim was before it was measured: a fingerprint, to be committed before the run.

A ledger keeps the fingerprints of its claims. If one no longer matches its claim, a threshold, a
measurement or a setting was changed after the run.
"""

import ast
import functools
import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bnrepro.claims.claim import Claim
from bnrepro.records import Run, metric_rows


def fingerprint(
    claim: Claim, configs: Mapping[str, Mapping[str, Any]], defaults: Mapping[str, Any]
) -> str:
    """Twelve hexadecimal digits that change with anything that the verdict depends on.

    That is each measurement's words, bounds and function (without comments, layout and the text of
    what it calls, but with the constants that both use), and the settings of the comparisons that
    are read, including seeds.

    Args:
      claim: the declaration.
      configs: of the comparisons, in full length.
      defaults: of settings that a config may lack, by flat key; a setting at its default is the
        same as none.
    """
    plain = json.loads(json.dumps(defaults))

    def settings(name: str) -> dict[str, Any]:
        run = Run(Path(), dict(configs[name]), metric_rows([]), {})
        # It changes nothing about a run, but what is read of it.
        every = {"measure_every": run.config.get("measure_every")}
        return {
            variant: {k: v for k, v in (run.settings(variant) | every).items() if plain.get(k) != v}
            for variant in run.variants
        }

    declared = {
        "id": claim.id,
        "measurements": [
            [one.what, one.rule.low, one.rule.high, one.comparison, _definition(one.measure)]
            for one in claim.measurements
        ],
        "settings": {name: settings(name) for name in claim.comparisons},
    }
    return hashlib.sha256(json.dumps(declared, sort_keys=True).encode()).hexdigest()[:12]


def _definition(measure: Callable[..., Any]) -> Any:
    if isinstance(measure, functools.partial):
        return [_definition(measure.func), measure.args, measure.keywords]
    return [ast.unparse(_parsed(measure)), _constants(measure, set())]


def _parsed(function: Callable[..., Any]) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


def _constants(function: Any, seen: set[Any]) -> dict[str, Any]:
    """The constants of their modules that a function and those of ours that it calls use."""
    function = inspect.unwrap(function)
    if not inspect.isfunction(function) or function in seen:
        return {}
    seen.add(function)
    found: dict[str, Any] = {}
    names = {node.id for node in ast.walk(_parsed(function)) if isinstance(node, ast.Name)}
    for name in sorted(names):
        value = function.__globals__.get(name)
        if isinstance(value, int | float | str | tuple):
            found[name] = value
        elif getattr(value, "__module__", "").startswith("bnrepro.claims"):
            found |= _constants(value, seen)
    return found
