import math
from itertools import product
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilpjax.bench.ratio import COVERAGE, paired_ratio

rates = st.floats(0.1, 100)
pairs = st.lists(st.tuples(rates, rates), min_size=5, max_size=30)


@given(pairs)
def test_it_is_the_median_of_the_paired_ratios_and_lies_inside(rounds):
    ours, peer = zip(*rounds, strict=True)
    ratio, low, high = paired_ratio(ours, peer)
    single = [a / b for a, b in rounds]
    assert ratio == median(single)
    assert low <= ratio <= high and {low, high} <= set(single)


@given(pairs, st.floats(0.1, 10), st.randoms())
def test_a_change_of_the_machine_between_rounds_changes_nothing(rounds, speed, random):
    speeds = [speed if random.random() < 0.5 else 1.0 for _ in rounds]
    ours, peer = zip(*rounds, strict=True)
    slowed = ([rate * s for rate, s in zip(side, speeds, strict=True)] for side in (ours, peer))
    for was, now in zip(paired_ratio(ours, peer), paired_ratio(*slowed), strict=True):
        assert math.isclose(was, now, rel_tol=1e-9)


@given(pairs)
def test_turned_round_it_is_the_inverse(rounds):
    ours, peer = zip(*rounds, strict=True)
    if len(rounds) % 2:  # the median of an even number is between two of them
        forth, back = paired_ratio(ours, peer), paired_ratio(peer, ours)
        for a, b in zip(forth, (back.ratio, back.high, back.low), strict=True):
            assert math.isclose(a, 1 / b, rel_tol=1e-9)


@pytest.mark.parametrize("rounds", range(5, 14))
def test_the_interval_holds_the_median_as_often_as_it_says_and_no_narrower_one_does(rounds):
    """Each round falls on either side of the true median: all ways that can happen."""
    values = sorted(range(1, rounds + 1))
    _, low, high = paired_ratio(values, [1.0] * rounds)
    lowest, highest = values.index(low), values.index(high)

    def held(first: int, last: int) -> float:
        below = [sum(sides) for sides in product((0, 1), repeat=rounds)]  # rounds under the true median
        return sum(first < n <= last for n in below) / 2**rounds

    assert lowest == rounds - 1 - highest
    assert held(lowest, highest) >= COVERAGE
    assert held(lowest + 1, highest - 1) < COVERAGE


def test_rounds_that_do_not_pair_are_refused():
    for ours, peer in (([1.0] * 4, [1.0] * 4), ([1.0] * 6, [1.0] * 5)):
        with pytest.raises(ValueError, match="at least five pairs"):
            paired_ratio(ours, peer)
