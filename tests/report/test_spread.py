from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from bench.report.spread import PairedDifference, SeedStats

accuracies = st.lists(st.tuples(*2 * [st.integers(0, 10_000).map(lambda n: n / 100)]), min_size=3, max_size=12)


@given(accuracies)
def test_the_interval_is_that_of_the_paired_t_test(pairs):
    guided, baseline = (dict(enumerate(values)) for values in zip(*pairs, strict=True))
    gain = PairedDifference.between(guided, baseline)
    if gain.std < 1e-9:  # scipy warns and gives no number
        assert gain.low == pytest.approx(gain.mean) == gain.high
        return
    expected = ttest_rel(list(guided.values()), list(baseline.values())).confidence_interval(0.95)
    assert (gain.low, gain.high) == pytest.approx((expected.low, expected.high))
    assert gain.verdict == ("higher" if gain.low > 0 else "lower" if gain.high < 0 else "unclear")


def test_only_seeds_that_both_arms_have_count():
    gain = PairedDifference.between({0: 90.0, 1: 91.0, 2: None, 5: 99.0}, {0: 80.0, 1: 82.0, 2: 85.0, 3: 10.0})
    assert (gain.values, gain.mean) == ({0: 10.0, 1: 9.0}, 9.5)
    assert (gain.low, gain.high, gain.verdict) == (None, None, "too few seeds")
    assert PairedDifference.between({0: 90.0}, {1: 80.0}) is None


def test_one_value_has_no_deviation():
    assert SeedStats.of({4: 80.0}) == SeedStats(80.0, None, {4: 80.0})
    assert SeedStats.of({4: None}) is None
    assert SeedStats.of({0: 1.0, 1: 3.0}).std == math.sqrt(2)
