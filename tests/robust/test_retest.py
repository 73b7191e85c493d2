"""The same verdict again: on disjoint draws, and across runs that hold different rows."""

import numpy as np
import pandas as pd
import pytest
from fake_grid import OWN, draw, grid, protocols
from sklearn.metrics import cohen_kappa_score, jaccard_score

from ilpjax.robust import across_runs, retest
from ilpjax.robust.retest import run_pairs

DESIGNS = protocols({"wording": ("train", "w1")})


def test_kappa_of_two_halves_by_hand():
    first, second = [[1], [1], [1], [0], [0], [0], [0], [0]], [[1], [1], [0], [1], [0], [0], [0], [0]]
    table = pd.concat([grid(first, [OWN], half=1), grid(second, [OWN], half=2), grid(first, [OWN])])
    (told,) = retest(table)
    chance = (3 / 8) ** 2 + (5 / 8) ** 2
    assert told["kappa"] == pytest.approx((0.75 - chance) / (1 - chance)) and told["n"] == 8
    assert (told["first"], told["second"]) == (3 / 8, 3 / 8) and told["low"] < told["kappa"] < told["high"]


def test_rows_in_one_half_alone_and_protocols_without_halves():
    first, second = grid([[1], [0], [1], [0]], [OWN], half=1), grid([[1], [0], [np.nan], [0]], [OWN], half=2)
    second = second.iloc[::-1]  # halves are joined by row, not by place
    (told,) = retest(pd.concat([grid([[1, 0]], DESIGNS), first, second]))
    assert told["n"] == 3 and told["kappa"] == 1
    assert retest(grid([[1, 0]], DESIGNS)) == []


def test_constant_halves_have_no_kappa():
    (told,) = retest(pd.concat([grid([[0], [0]], [OWN], half=half) for half in (1, 2)]))
    assert (told["kappa"], told["low"], told["n"], told["first"]) == (None, None, 2, 0)


def test_three_seeds_against_sklearn():
    y = draw(90, [OWN] * 3, rest=0.6) < -0.5
    ids = [f"r{n}" for n in range(90)]
    flags = {f"run{n}": pd.DataFrame({"paper": y[:, n].astype(float)}, ids) for n in range(3)}
    (told,) = across_runs(flags, pd.Series(range(90), ids))
    pairs = [(y[:, a], y[:, b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    kappas = [cohen_kappa_score(*pair) for pair in pairs]
    assert told["kappa"] == pytest.approx(np.mean(kappas)) and (told["n"], told["runs"]) == (90, 3)
    assert (told["least"], told["most"]) == pytest.approx((min(kappas), max(kappas)))
    assert told["jaccard"] == pytest.approx(np.mean([jaccard_score(*pair) for pair in pairs]))
    assert told["low"] < told["kappa"] < told["high"]


def test_runs_of_different_rows_and_rules_are_joined_on_what_they_share():
    one = pd.DataFrame({"paper": [1.0, 0, 1, 0], "core": [1.0, 0, 0, np.nan]}, ["a", "b", "c", "d"])
    two = pd.DataFrame({"paper": [0.0, 0, 1, 1]}, ["d", "b", "c", "e"])
    (told,) = across_runs({"one": one, "two": two}, pd.Series(range(5), list("abcde")))
    assert (told["protocol"], told["n"], told["kappa"]) == ("paper", 3, 1)
    assert run_pairs({"one": one, "two": two}) == [{"a": "one", "b": "two", "shared": 3, "only_a": 1, "only_b": 1}]
