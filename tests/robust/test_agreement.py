"""Kappa, Jaccard, Fleiss, Holm and the core against tables worked out by hand, and against statsmodels and sklearn."""

import numpy as np
import pandas as pd
import pytest
from fake_grid import OWN, grid, protocols
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import cohen_kappa_score, jaccard_score
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

from ilpjax.errors import InputError
from ilpjax.robust import agreement, core_and_rim, votes
from ilpjax.robust.agreement import holm, jaccard, kappa, p_of_none
from ilpjax.robust.votes import check_lines, cluster_weights, clusters, interval, pair_sums

TWO = protocols({"wording": ("train", "w1")})
NAMES = ["/".join(one.values()) for one in TWO]


def of(flagged, designs=TWO):
    found = votes(grid(flagged, designs))
    return agreement(found, found.weights())


def test_two_protocols_by_hand():
    # 10 rows: both flag 3, the first alone 1, the second alone 2, neither 4.
    told = of([[1, 1]] * 3 + [[1, 0]] + [[0, 1]] * 2 + [[0, 0]] * 4)
    (pair,) = told["pairs"]
    assert (pair["a"], pair["b"], pair["n"]) == (*NAMES, 10)
    assert pair["jaccard"] == pytest.approx(3 / 6)
    chance = 0.4 * 0.5 + 0.6 * 0.5
    assert pair["kappa"] == pytest.approx((0.7 - chance) / (1 - chance))
    assert pair["kappa_low"] < pair["kappa"] < pair["kappa_high"] and pair["p_holm"] == pair["p"]
    assert told["kappa_mean"]["value"] == pair["kappa"] and told["kappa_mean"]["pairs"] == 1
    assert (told["n"], told["protocols"], told["constant"]) == (10, NAMES, [])


def test_a_protocol_that_flags_none_has_no_kappa_and_is_named():
    told = of([[1, 0]] * 3 + [[0, 0]] * 3)
    (pair,) = told["pairs"]
    assert np.isnan([pair["kappa"], pair["kappa_low"], pair["p"], pair["p_holm"]]).all()
    assert (pair["jaccard"], told["constant"], told["kappa_mean"]["value"]) == (0, [NAMES[1]], None)
    (pair,) = of([[0, 0]] * 4)["pairs"]
    assert np.isnan(pair["jaccard"]) and np.isnan(pair["kappa"])


def test_one_protocol_has_no_pairs():
    told = of([[1], [0], [1]], [OWN])
    assert told["pairs"] == [] and told["kappa_mean"]["pairs"] == 0 and told["fleiss"]["value"] is None


def test_rows_that_one_protocol_did_not_judge_do_not_count():
    told = of([[1, 1], [1, np.nan], [0, 0], [np.nan, 1], [0, 1], [1, 0]])
    assert told["pairs"][0]["n"] == 4 and told["fleiss"]["n"] == 4 and told["n"] == 6
    assert told["pairs"][0]["jaccard"] == pytest.approx(1 / 3)


@given(arrays(np.int64, st.tuples(st.integers(2, 30), st.integers(2, 5)), elements=st.integers(0, 1)))
def test_the_sums_give_what_sklearn_and_statsmodels_give(flagged):
    sums = pair_sums(flagged.astype(float), np.ones((1, len(flagged))))
    for at, (a, b) in enumerate(zip(*np.triu_indices(flagged.shape[1]), strict=True)):
        left, right = flagged[:, a], flagged[:, b]
        if len(np.unique(left)) == 2 and len(np.unique(right)) == 2:
            assert kappa(sums)[0, at] == pytest.approx(cohen_kappa_score(left, right))
        else:
            assert np.isnan(kappa(sums)[0, at])
        if left.any() or right.any():
            assert jaccard(sums)[0, at] == pytest.approx(jaccard_score(left, right))


def test_sums_of_weighted_rows_are_sums_of_repeated_rows():
    rng = np.random.default_rng(0)
    values = np.where(rng.random((40, 4)) < 0.2, np.nan, rng.normal(size=(40, 4)))
    times = rng.integers(0, 4, 40)
    weighted = pair_sums(values, times[None].astype(float))
    repeated = pair_sums(np.repeat(values, times, axis=0), np.ones((1, times.sum())))
    for name in ("n", "left", "right", "both"):
        np.testing.assert_allclose(getattr(weighted, name), getattr(repeated, name))


def test_fleiss_is_statsmodels_and_lies_in_its_interval():
    flagged = (np.random.default_rng(1).normal(size=(80, 1)) + np.random.default_rng(2).normal(size=(80, 6))) > 0.5
    told = of(flagged, protocols({"wording": ("train", "w1", "w2"), "dtype": ("float32", "bfloat16")}))
    expected = fleiss_kappa(aggregate_raters(flagged.astype(int))[0])
    assert told["fleiss"]["value"] == pytest.approx(expected) and told["fleiss"]["n"] == 80
    assert told["fleiss"]["low"] < expected < told["fleiss"]["high"]


def test_holm_by_hand():
    assert holm(pd.Series([0.01, np.nan, 0.04, 0.03])).tolist() == pytest.approx(
        [0.03, np.nan, 0.06, 0.06], nan_ok=True
    )
    assert np.isnan(holm(pd.Series([np.nan, np.nan]))).all()


def test_core_rim_never_and_what_the_control_flags():
    designs = protocols({"wording": ("train", "w1", "w2", "w3"), "count": ("all", "k2")})[:5]
    control = OWN | {"scoring": "control"}
    # flagged by 5, 4 (just .8), 3, none, none of five, and 4 of the 4 that judge it; then the control's verdict
    flags = [[1] * 5 + [1], [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 1], [0] * 5 + [1], [0] * 6, [1, 1, 1, 1, np.nan, 0]]
    own = pd.Series({"r0": True, "r1": True, "r2": False, "r3": False, "r4": True})
    table = core_and_rim(grid(flags, [*designs, control]), own)
    assert table["row_id"].tolist() == [f"r{n}" for n in range(6)]
    assert table["votes"].tolist() == [5, 4, 3, 0, 0, 4] and table["n"].tolist() == [5, 5, 5, 5, 5, 4]
    assert table["group"].tolist() == ["core", "core", "rim", "never", "rim", "core"]
    assert table["own"].tolist() == [True, True, False, False, True, False]
    assert table["artefact"].tolist() == [True, False, True, False, False, False]


def test_rows_that_ask_the_same_are_drawn_together():
    same = clusters(pd.Series(["a", "a", "b", "a"]), pd.Series(["Who  is it?", "who is\nit?", "Who is it?", "When?"]))
    assert same.tolist() == [0, 0, 1, 2]
    weights = cluster_weights(same, resamples=50)
    assert (weights[:, 0] == weights[:, 1]).all() and not (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """Kappa of two raters who share a latent cause, 150 rows in clusters of two, 200 tables."""
    rng, covered = np.random.default_rng(3), 0
    truth = kappa(pair_sums(_raters(rng, 200_000), np.ones((1, 400_000))))[0, 1]
    cluster = np.arange(150) // 2
    for _ in range(200):
        drawn = kappa(
            pair_sums(_raters(rng, 75), cluster_weights(cluster, seed=int(rng.integers(1 << 30)), resamples=300))
        )
        low, high = interval(drawn[:, 1], 0.95)
        covered += low <= truth <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_p_is_as_rare_as_it_says_though_every_question_is_asked_twice():
    """Two raters who do not agree; rows of a cluster are copies, so that taking them as independent would halve p."""
    rng, rare, cluster = np.random.default_rng(4), 0, np.arange(150) // 2
    for seed in range(200):
        values = np.repeat((rng.random((75, 2)) < 0.4).astype(float), 2, axis=0)
        drawn = kappa(pair_sums(values, cluster_weights(cluster, seed, 300)))
        rare += p_of_none(kappa(pair_sums(values, np.ones((1, 150)))), drawn)[1] < 0.05
    assert 0.02 <= rare / 200 <= 0.1
    assert p_of_none(np.array([[1.0, np.nan]]), np.array([[0.9, np.nan], [1.0, np.nan]]))[0] < 1e-9
    assert np.isnan(p_of_none(np.array([[np.nan]]), np.array([[np.nan]]))).all()


def _raters(rng, groups):
    """Both rows of a cluster are the same question: the latent cause is shared."""
    latent = np.repeat(rng.normal(size=groups), 2)[:, None]
    return (latent + 0.7 * rng.normal(size=(2 * groups, 2)) < -0.5).astype(float)


def test_a_grid_with_a_line_twice_or_none_is_refused():
    table = grid([[1, 0]], TWO)
    with pytest.raises(InputError, match="x.parquet: 'r0' occurs twice under .*, half 0; run robustness again"):
        check_lines(pd.concat([table, table.head(1)]), "x.parquet")
    with pytest.raises(InputError, match="x.parquet: no lines"):
        check_lines(table.head(0), "x.parquet")


def test_a_blind_protocol_has_no_vote_and_a_corrected_verdict_counts_where_there_is_one():
    flagged = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 1]] * 20)
    table = grid(flagged, protocols()[:3])
    last = table["protocol"] == table["protocol"].iloc[2]
    table["chance"] = np.where(table["protocol"] == table["protocol"].iloc[1], 1.0, 0.0)  # the second one guesses
    table["flagged_corrected"] = table["flagged"].astype("boolean").where(~last, True)
    rows = core_and_rim(table, pd.Series(dtype=bool))
    assert rows["n"].eq(2).all()
    assert rows["votes"].tolist() == [2, 1, 1] * 20 and rows["group"].tolist() == ["core", "rim", "rim"] * 20
