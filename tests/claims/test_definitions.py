"""The definitions are checked by numbers that a wrong layer would not give."""

import jax.numpy as jnp
import pytest

from bnrepro.claims import CLAIMS, exact
from bnrepro.layers import BatchNorm
from tests.small_dataset import small_dataset


@pytest.mark.parametrize("name", ["A1", "A2", "A3", "A5", "A6"])
def test_a_definition_holds_on_random_data(name):
    for measurement in CLAIMS[name].measurements:
        found = measurement.measure(small_dataset())
        assert found.mean < measurement.rule.high


class Unbiased(BatchNorm):
    """Normalizes by the unbiased variance of 32 values."""

    def __call__(self, x, use_running_average=None):
        y = super().__call__(x, use_running_average)
        return y * jnp.sqrt(31 / 32)


@pytest.mark.parametrize("measure", [exact.normalization_error, exact.identity_error])
def test_the_unbiased_variance_is_told_from_the_biased_one(measure, monkeypatch):
    monkeypatch.setattr(exact, "BatchNorm", Unbiased)
    assert measure(small_dataset()).mean > 1e-2
