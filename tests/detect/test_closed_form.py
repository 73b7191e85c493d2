"""Closed forms against 10^5 simulated draws, and the properties they must have."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ilpjax.detect import (
    best_of_n,
    count_distribution,
    error_consistency,
    expected_pass,
    flag_count,
    flag_probability,
    jsd,
    pass_interval,
)
from ilpjax.detect.closed_form import mean_interval, right_probability, skill

DRAWS = 100_000


def distributions(items: int, orders: int, options: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(options, 0.7), (items, orders)), rng.integers(options, size=items)


def draw(p: np.ndarray, runs: int, seed: int) -> np.ndarray:
    """picks[item, draw, run]: run r draws from order r mod R."""
    rng = np.random.default_rng(seed)
    edges = np.cumsum(p, axis=2)
    picks = np.empty((len(p), DRAWS, runs), int)
    for item in range(len(p)):
        for run in range(runs):
            picks[item, :, run] = np.searchsorted(edges[item, run % p.shape[1]][:-1], rng.random(DRAWS))
    return picks


def close(share: np.ndarray, expected: np.ndarray) -> None:
    """Within five standard errors of 10^5 draws: a wrong formula fails, a right one fails once in 10^6."""
    error = 5 * np.sqrt(np.maximum(expected * (1 - expected), 1e-6) / DRAWS)
    assert (np.abs(share - expected) < error).all(), np.abs(share - expected) / error


@pytest.mark.parametrize(
    ("runs", "orders", "options"), [(5, 1, 4), (5, 5, 4), (5, 3, 10), (8, 3, 2), (1, 2, 4), (3, 5, 4)]
)
def test_closed_forms_match_simulated_draws(runs, orders, options):
    p, answer = distributions(6, orders, options, seed=runs * 100 + orders)
    picks = draw(p, runs, seed=1)
    right = right_probability(p, answer)
    correct = picks == answer[:, None, None]
    count = correct.sum(axis=2)

    share = count.mean(axis=1) / runs
    expected = expected_pass(right, runs)
    spread = np.sqrt(np.mean([right[:, r % orders] * (1 - right[:, r % orders]) for r in range(runs)], axis=0) / runs)
    assert (np.abs(share - expected) < 5 * spread / np.sqrt(DRAWS)).all()

    for threshold in (0.2, 0.5, 0.6):
        close(np.mean(count / runs < threshold - 1e-12, axis=1), flag_probability(right, runs, threshold))
    for c, probability in enumerate(count_distribution(right, runs).T):
        close(np.mean(count == c, axis=1), probability)

    run_order = np.arange(runs) % orders
    confidence = np.take_along_axis(p[:, run_order][:, None], picks[..., None], axis=3)[..., 0]
    winner = confidence.argmax(axis=2)[..., None]
    close(np.take_along_axis(correct, winner, axis=2)[..., 0].mean(axis=1), best_of_n(p, answer, runs))


def test_best_of_n_with_ties_gives_the_first_run():
    p = np.array([[[0.5, 0.5, 0.0], [0.5, 0.25, 0.25]]])
    answer = np.array([1])
    picks = draw(p, 4, seed=3)
    confidence = np.take_along_axis(p[:, [0, 1, 0, 1]][:, None], picks[..., None], axis=3)[..., 0]
    winner = confidence.argmax(axis=2)[..., None]
    right = np.take_along_axis(picks == 1, winner, axis=2)[..., 0].mean(axis=1)
    close(right, best_of_n(p, answer, 4))


def test_best_of_n_never_finds_what_is_never_drawn():
    p = np.array([[[0.0, 1.0]], [[1.0, 0.0]]])
    assert best_of_n(p, np.array([0, 0]), 5).tolist() == [0.0, 1.0]


def test_error_consistency_matches_simulated_pairs():
    p, answer = distributions(6, 3, 4, seed=8)
    rng = np.random.default_rng(0)
    edges = np.cumsum(p, axis=2)
    for item in range(len(p)):
        orders = rng.integers(3, size=(2, DRAWS))
        picks = np.array([(rng.random(DRAWS)[:, None] > edges[item, o][:, :-1]).sum(axis=1) for o in orders])
        same_mistake = (picks[0] == picks[1]) & (picks[0] != answer[item])
        close(same_mistake.mean(keepdims=True), error_consistency(p[item : item + 1], answer[item : item + 1]))


@pytest.mark.parametrize(
    ("threshold", "runs", "flagged"),
    [
        (0.2, 5, [0]),
        (0.6, 5, [0, 1, 2]),
        (0.2, 4, [0]),
        (0.3, 10, [0, 1, 2]),
        (0.7, 10, list(range(7))),
        (0.21, 5, [0, 1]),
    ]
    + [(0.1 + 0.2, 10, [0, 1, 2]), (1 / 3, 3, [0]), (2 / 3, 3, [0, 1]), (0.29, 100, list(range(29))), (1e-6, 5, [0])],
)
def test_flag_is_strictly_under_the_threshold(threshold, runs, flagged):
    assert [c for c in range(runs + 1) if c < flag_count(threshold, runs)] == flagged


def test_a_guesser_and_a_wrong_row_are_flagged_as_often_as_the_spec_says():
    flagged = flag_probability(np.array([[0.25], [0.05]]), 5, 0.2)
    assert flagged.round(3).tolist() == [0.237, 0.774]
    assert flag_probability(np.array([[0.25]]), 500, 0.2)[0] < 0.01  # and never as N grows


@st.composite
def scored(draw):
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(2, 6)))
    weights = draw(hnp.arrays(float, shape, elements=st.floats(0.01, 1)))
    answer = draw(hnp.arrays(int, shape[0], elements=st.integers(0, shape[2] - 1)))
    return weights / weights.sum(axis=2, keepdims=True), answer


@given(scored(), st.integers(1, 7), st.randoms())
def test_renaming_the_options_changes_nothing(case, runs, random):
    p, answer = case
    rename = list(range(p.shape[2]))
    random.shuffle(rename)
    renamed, moved = p[:, :, rename], np.argsort(rename)[answer]
    for quantity in (lambda p, a: best_of_n(p, a, runs), error_consistency, right_probability):
        np.testing.assert_allclose(quantity(renamed, moved), quantity(p, answer), atol=1e-12)


@given(scored(), st.integers(1, 7))
def test_probabilities_hold_together(case, runs):
    p, answer = case
    right = right_probability(p, answer)
    mass = count_distribution(right, runs)
    np.testing.assert_allclose(mass.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(mass @ np.arange(runs + 1) / runs, expected_pass(right, runs), atol=1e-12)
    np.testing.assert_allclose(best_of_n(p, answer, 1), right[:, 0], atol=1e-12)
    np.testing.assert_allclose(expected_pass(right, 1), right[:, 0], atol=1e-12)
    np.testing.assert_allclose(flag_probability(right, 1, 0.2), 1 - right[:, 0], atol=1e-12)
    interval = pass_interval(right, runs, 0.9)
    cover = [
        mass[i, round(lo * runs) : round(hi * runs) + 1].sum() for i, (lo, hi) in enumerate(zip(*interval, strict=True))
    ]
    assert min(cover) >= 0.9 - 1e-9


@given(scored())
def test_padding_with_impossible_options_changes_nothing(case):
    p, answer = case
    padded = np.concatenate([p, np.zeros_like(p)], axis=2)
    np.testing.assert_allclose(best_of_n(padded, answer, 4), best_of_n(p, answer, 4), atol=1e-12)
    np.testing.assert_allclose(error_consistency(padded, answer), error_consistency(p, answer), atol=1e-12)


def test_the_same_distribution_in_every_order_makes_orders_irrelevant():
    p, answer = distributions(20, 1, 4, seed=5)
    repeated = np.repeat(p, 5, axis=1)
    np.testing.assert_allclose(best_of_n(repeated, answer, 5), best_of_n(p, answer, 5), atol=1e-12)
    right, right5 = right_probability(p, answer), right_probability(repeated, answer)
    np.testing.assert_allclose(flag_probability(right5, 5, 0.2), flag_probability(right, 5, 0.2), atol=1e-12)


def test_skill_of_a_guesser_a_perfect_and_a_wrong_row():
    values = skill(np.array([[0.25], [1.0], [0.0], [0.5]]), np.array([4, 4, 4, 2]))
    np.testing.assert_allclose(values[:, 0], [0, 1, -1 / 3, 0], atol=1e-15)


def test_the_interval_over_orders_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    values = rng.normal(0.3, 0.05, (20_000, 5))
    low, high = mean_interval(values, 0.95, floor=np.full(20_000, -1.0))
    covered = np.mean((low <= 0.3) & (high >= 0.3))
    assert abs(covered - 0.95) < 5 * np.sqrt(0.95 * 0.05 / 20_000)


def test_one_order_has_no_spread():
    low, high = mean_interval(np.array([[0.4]]), 0.95, floor=np.array([-1.0]))
    assert low == high == 0.4


def test_jsd_against_scipy_and_its_bounds():
    from scipy.spatial.distance import jensenshannon

    p, _ = distributions(50, 2, 5, seed=2)
    expected = [jensenshannon(a, b) ** 2 for a, b in p]
    np.testing.assert_allclose(jsd(p[:, 0], p[:, 1]), expected, atol=1e-12)
    assert jsd(np.array([1.0, 0]), np.array([0, 1.0])) == pytest.approx(np.log(2))
    assert jsd(np.array([0.5, 0.5]), np.array([0.5, 0.5])) == 0
