import math

from hypothesis import given
from hypothesis import strategies as st

from ilpjax.plan import largest


@given(st.lists(st.floats(0, 50), min_size=60, max_size=60), st.integers(1, 40), st.floats(1, 400), st.booleans())
def test_exactly_the_largest_that_fits(steps, start, limit, told):
    """Any memory that never falls; beyond the limit the compiler may not say how much it would have been."""
    total, needs = 0.0, [0.0]
    for step in steps:
        total += step
        needs.append(total)
    asked = []

    def need(n):
        asked.append(n)
        bytes_ = needs[min(n, 60)] + max(0, n - 60) * 10.0
        return bytes_ if told or bytes_ <= limit else math.inf

    found = largest(need, limit, start, 10_000, {})
    assert found.exact and (found.fits == 0 or need(found.fits) <= limit) and need(found.fits + 1) > limit
    assert len(asked[:-2]) == len(set(asked[:-2])) == found.tries or found.fits == 0


@given(st.floats(0.1, 5), st.floats(0, 50), st.integers(1, 64), st.integers(0, 6))
def test_stops_where_the_tries_end_and_says_so(slope, fixed, start, tries):
    asked = []

    def need(n):
        asked.append(n)
        return fixed + slope * n

    found = largest(need, 100.0, start, tries, {start: fixed + slope * start})
    assert len(asked) <= tries and found.tries == len(asked)
    assert found.fits == 0 or fixed + slope * found.fits <= 100.0
    assert found.fails is None or fixed + slope * found.fails > 100.0


def test_a_straight_line_needs_three():
    """Two sizes for the slope, one of them known; the candidate; its successor."""
    asked = []

    def need(n):
        asked.append(n)
        return 10 + 2.5 * n

    found = largest(need, 100.0, 8, 8, {8: 30.0})
    assert asked == [16, 36, 37] and found.fits == 36 and found.exact


def test_nothing_fits():
    assert largest(lambda n: 200.0, 100.0, 8, 8, {}).fits == 0
