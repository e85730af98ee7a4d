"""Statistics against scipy, published examples and numbers worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bnrepro.report.statistics import Rule, Verdict, difference, estimate, holm, pooled

OURS, THEIRS = [0.96, 0.93, 0.95, 0.91], [0.94, 0.90, 0.92, 0.91]


def by_seed(values, first=0):
    return pd.Series(values, range(first, first + len(values)))


def interval(one):
    return one.ci95_low, one.ci95_high


def test_a_mean_has_students_interval_and_p_value():
    found, expected = estimate([*OURS, math.nan, math.inf]), stats.ttest_1samp(OURS, 0.92)
    assert (found.n, found.minimum, found.maximum) == (4, 0.91, 0.96)
    assert found.mean == pytest.approx(0.9375)
    np.testing.assert_allclose(interval(found), expected.confidence_interval())
    assert found.ends == interval(found)
    assert found.p_value(0.92) == pytest.approx(expected.pvalue)


def test_fewer_than_three_values_have_minimum_and_maximum_and_no_interval():
    two = estimate([1.0, 3.0])
    assert (two.mean, two.n, two.ends) == (2, 2, (1, 3))
    assert np.isnan([*interval(two), two.p_value()]).all()
    assert estimate([]).n == 0
    assert np.isnan(estimate([]).mean)


def test_values_that_do_not_vary_differ_from_all_but_themselves():
    same = estimate([0.5, 0.5, 0.5])
    assert interval(same) == (0.5, 0.5)
    assert (same.p_value(0.5), same.p_value(0.4)) == (1, 0)


def test_a_difference_is_paired_over_the_seeds_that_both_have():
    found, paired = difference(by_seed(OURS), by_seed([*THEIRS, 0.1]))
    expected = stats.ttest_rel(OURS, THEIRS)
    assert paired
    np.testing.assert_allclose(interval(found), expected.confidence_interval())
    assert found.p_value() == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("first", [10, len(OURS) - 2])
def test_with_too_few_common_seeds_a_difference_is_welchs(first):
    found, paired = difference(by_seed(OURS), by_seed(THEIRS[:3], first=first))
    expected = stats.ttest_ind(OURS, THEIRS[:3], equal_var=False)
    assert not paired
    assert found.n == 3
    np.testing.assert_allclose(interval(found), expected.confidence_interval())
    assert found.p_value() == pytest.approx(expected.pvalue)
    few, _ = difference(by_seed(OURS), by_seed(THEIRS[:2], first=10))
    np.testing.assert_allclose(few.ends, (0.91 - 0.94, 0.96 - 0.90))


def test_a_pooled_variance_is_that_within_the_samples():
    first, second, empty = pooled([[1.0, 2.0, 3.0], [4.0, 8.0], []])
    # Squares 2 and 8 over 2 + 1 degrees of freedom; t(0.975, 3) = 3.182446.
    np.testing.assert_allclose(first.ci95_high, 2 + 3.182446 * math.sqrt(10 / 3 / 3), rtol=1e-6)
    np.testing.assert_allclose(second.ci95_high, 6 + 3.182446 * math.sqrt(10 / 3 / 2), rtol=1e-6)
    assert empty.n == 0
    assert not any(one.has_interval for one in pooled([[1.0, 2.0], [3.0]]))


@pytest.mark.parametrize(("spread", "stands_out"), [(0.587, False), (0.589, True)])
def test_a_sample_that_varies_far_more_than_the_others_keeps_its_variance(spread, stands_out):
    # Five samples of three: Cochran's table gives 0.6838 of the sum of variances at 5%, so that
    # beside four of 0.04 the limit is 0.346, whose root is 0.588.
    *others, last = pooled([[0.8, 1.0, 1.2]] * 4 + [[5 - spread, 5, 5 + spread]])
    shared = (4 * 0.04 + (not stands_out) * spread**2) / (5 - stands_out)
    assert [one.standard_error for one in others] == pytest.approx([math.sqrt(shared / 3)] * 4)
    expected = spread**2 if stands_out else shared
    assert last.standard_error == pytest.approx(math.sqrt(expected / 3))
    assert (last.df, others[0].df) == ((2, 8) if stands_out else (10, 10))


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        # The example of https://en.wikipedia.org/wiki/Holm-Bonferroni_method.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.01, 0.9], [1, 0.03, 1]),
        ([0.02, math.nan, 0.04], [0.04, math.nan, 0.04]),
        ([], []),
    ],
)
def test_holm_multiplies_each_p_value_by_how_many_are_left(p_values, expected):
    np.testing.assert_allclose(holm(p_values), expected)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule(low=0.90), Verdict.HOLDS),
        (Rule(low=0.93), Verdict.NOT_SETTLED),
        (Rule(low=0.99), Verdict.DOES_NOT_HOLD),
        (Rule(high=0.99), Verdict.HOLDS),
        (Rule(high=0.90), Verdict.DOES_NOT_HOLD),
        (Rule(0.90, 0.99), Verdict.HOLDS),
        (Rule(0.92, 0.99), Verdict.NOT_SETTLED),
        (Rule(0.98, 0.99), Verdict.DOES_NOT_HOLD),
    ],
)
def test_a_verdict_says_on_which_side_of_the_bounds_the_whole_interval_is(rule, expected):
    found = estimate(OURS)
    # By hand: 0.9375 ± 3.182446 * 0.022174 / 2.
    assert interval(found) == pytest.approx((0.902216, 0.972784), abs=1e-6)
    assert rule.verdict(found.mean, rule.p_value(found)) == expected


def test_equivalence_is_two_one_sided_tests_at_half_the_level():
    rule, found = Rule(0.90, 0.99), estimate(OURS)
    above, below = (
        stats.ttest_1samp(OURS, bound, alternative=alternative).pvalue
        for bound, alternative in ((0.90, "greater"), (0.99, "less"))
    )
    assert rule.p_value(found) == pytest.approx(2 * max(above, below))


def test_nothing_is_settled_by_two_values_or_after_an_adjustment():
    rule = Rule(low=0.90)
    two = estimate([0.95, 0.95])
    assert rule.verdict(two.mean, rule.p_value(two)) == "not settled"
    assert rule.verdict(estimate(OURS).mean, 0.06) == "not settled"
