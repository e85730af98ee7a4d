"""The space of a sweep: config keys, each with a range of numbers or a list of values."""

import ast
import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from bnrepro.comparison.config import check_changed, check_settings, with_settings
from bnrepro.comparison.keys import check_setting, is_integer, may_be_swept
from bnrepro.errors import UserError

# It logs each study that it makes, also those that only draw points.
optuna.logging.set_verbosity(optuna.logging.ERROR)


class SweepError(UserError):
    """An invalid or failed sweep."""


class Range(NamedTuple):
    """All numbers from `low` to `high`, inclusive, on a linear or logarithmic scale."""

    low: float
    high: float
    log: bool


# By flat key. Values are as in JSON.
Space = Mapping[str, Range | list[Any]]


def values_by_key(varied: Sequence[str]) -> dict[str, str]:
    """What each `--vary=KEY=VALUES` gives, as text.

    Raises:
      SweepError: one has no "=", or two have the same key.
    """
    given: dict[str, str] = {}
    for text in varied:
        key, equals, values = (part.strip() for part in text.partition("="))
        if not equals:
            raise SweepError(f"--vary must be KEY=VALUES, got {text!r}")
        if key in given:
            raise SweepError(f"--vary is given twice for {key}")
        given[key] = values
    return given


def parse_values(key: str, values: Any) -> Range | list[Any]:
    """The values of one key.

    Args:
      key: flat, as in optimizer.learning_rate.
      values: `log(LOW,HIGH)`, `uniform(LOW,HIGH)` or comma-separated values, as a string; or a list
        of values.

    Raises:
      SweepError: none of these, no value, a reversed range, or a log range from 0 or below.
    """
    if isinstance(values, str):
        if match := re.fullmatch(r"\s*(log|uniform)\s*\((.*)\)\s*", values):
            return _range(key, match[1] == "log", match[2], values)
        values = _listed(values)
    if not isinstance(values, list | tuple) or not values:
        raise SweepError(f"{key} must have a range or a list of values, got {values!r}")
    # JSON has no NumPy numbers.
    listed = [value.item() if isinstance(value, np.generic) else value for value in values]
    try:
        plain: list[Any] = json.loads(json.dumps(listed))
    except (TypeError, ValueError) as error:
        raise SweepError(
            f"{key} has a value that cannot be stored in the records: {error}"
        ) from None
    if any(value in plain[:i] for i, value in enumerate(plain)):
        raise SweepError(f"{key} has a value twice: {values}")
    return plain


def _range(key: str, log: bool, bounds: str, text: str) -> Range:
    try:
        low, high = (float(bound) for bound in bounds.split(","))
    except ValueError:
        raise SweepError(f"{key} must have a range of two numbers, got {text}") from None
    if not (0 if log else -math.inf) < low < high < math.inf:
        above = " above 0" * log
        raise SweepError(f"{key} must have a finite range{above}, from low to high, got {text}")
    # Whole numbers as such, for the keys that take no others.
    low, high = (int(end) if end.is_integer() else end for end in (low, high))
    return Range(low, high, log)


def _listed(text: str) -> list[Any]:
    with suppress(ValueError, TypeError, SyntaxError):
        return list(ast.literal_eval(f"[{text}]"))
    return [_value(part.strip()) for part in text.split(",")]  # names without quotes


def _value(text: str) -> Any:
    with suppress(ValueError, TypeError, SyntaxError):
        return ast.literal_eval(text)
    return text


def make_space(varied: Mapping[str, Any]) -> Space:
    """The space of a sweep, each of whose values is valid by itself.

    Args:
      varied: values by key, as `parse_values` takes them.

    Raises:
      SweepError: see `parse_values`; or a key cannot vary between trials.
      ConfigError: a key does not exist or has an invalid value.
    """
    if not varied:
        raise SweepError('say what to vary: --vary "optimizer.learning_rate=log(0.01,3)"')
    space = {key: parse_values(key, given) for key, given in varied.items()}
    for key, values in space.items():
        for value in values[:2] if isinstance(values, Range) else values:
            check_setting(key, value)
        if not may_be_swept(key):
            raise SweepError(f"{key} is common to all trials and cannot be varied")
    return space


def check_trials(config: Mapping[str, Any], trials: Iterable[Mapping[str, Any]]) -> None:
    """Makes sure that a config is valid with the settings of each trial.

    Raises:
      ConfigError: it is not, or not with those of the trial that the message names.
    """
    check_settings(config)
    for settings in trials:
        changed, whose = with_settings(config, settings), f"a trial with {in_words(settings)}"
        check_changed(changed, config, whose)


def in_words(settings: Mapping[str, Any]) -> str:
    """How errors name a trial with these settings."""
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def grid(space: Space, trials: int | None) -> list[dict[str, Any]]:
    """All points of a grid, in which the last key varies fastest.

    Ranges get as many points as `trials` leaves room for, evenly spaced on their scale.

    Raises:
      SweepError: the grid has more points than `trials`, or a range although `trials` is None.
    """
    ranges = [key for key, values in space.items() if isinstance(values, Range)]
    sizes = [2 if key in ranges else len(values) for key, values in space.items()]
    least = math.prod(sizes)
    if trials is None:
        if ranges:
            raise SweepError(
                f"give the number of --trials, which sets the points of {ranges[0]} in the grid"
            )
        trials = least
    if least > trials:
        raise SweepError(
            f"the grid has {'at least ' * bool(ranges)}{least:,} points "
            f"({' x '.join(map(str, sizes))}), but --trials is {trials:,}"
        )
    # The largest number of points along each range whose product fits.
    along, room = 2, trials * 2 ** len(ranges) // least
    while ranges and (along + 1) ** len(ranges) <= room:
        along += 1
    axes = [
        _points(key, values, along) if isinstance(values, Range) else values
        for key, values in space.items()
    ]
    return [dict(zip(space, point, strict=True)) for point in product(*axes)]


def _points(key: str, values: Range, count: int) -> list[Any]:
    spaced = (np.geomspace if values.log else np.linspace)(values.low, values.high, count)
    # Without rounding noise in the last digits, which must not lead out of the range.
    points = np.clip([float(f"{point:.6g}") for point in spaced], values.low, values.high).tolist()
    return list(dict.fromkeys(map(round, points) if is_integer(key) else points))


def drawn(space: Space, sampler: str, trials: int) -> list[dict[str, Any]]:
    """Points drawn at random, each with its index as the seed, or of a Sobol sequence ("qmc").

    Optuna draws the first point at random in any case.
    """
    points, random = [], optuna.samplers.RandomSampler
    with warnings.catch_warnings(action="ignore"):  # Optuna's: QMCSampler is experimental
        sobol = optuna.samplers.QMCSampler(scramble=True, seed=0, independent_sampler=random(0))
        study = optuna.create_study(sampler=sobol)
        for index in range(trials):
            study.sampler = sobol if sampler == "qmc" else random(seed=index)
            trial = study.ask(distributions(space))
            study.tell(trial, 0.0)
            points.append(decode(space, trial.params))
    return points


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space as Optuna knows it."""
    return {key: _distribution(key, values) for key, values in space.items()}


def _distribution(key: str, values: Range | list[Any]) -> BaseDistribution:
    if not isinstance(values, Range):
        return CategoricalDistribution([*map(_encoded, values)])
    if is_integer(key):
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def suggest(space: Space, trial: optuna.Trial) -> dict[str, Any]:
    """The settings of a trial; Optuna draws those that it lacks."""
    for key, known in distributions(space).items():
        match known:
            case CategoricalDistribution():
                trial.suggest_categorical(key, known.choices)
            case IntDistribution():
                trial.suggest_int(key, known.low, known.high, log=known.log)
            case FloatDistribution():
                trial.suggest_float(key, known.low, known.high, log=known.log)
    return decode(space, trial.params)


def encode(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as Optuna stores them."""
    return {key: _encoded(value) for key, value in settings.items()}


def decode(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from Optuna's stored form, in the order of the space."""
    return {
        key: params[key]
        if isinstance(values, Range)
        else next(value for value in values if _encoded(value) == params[key])
        for key, values in space.items()
    }


def _encoded(value: Any) -> Any:
    """A choice as Optuna can store it: a list as text, anything else unchanged."""
    return json.dumps(value) if isinstance(value, list) else value
