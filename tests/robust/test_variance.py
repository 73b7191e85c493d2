"""Variance components: recovered where the truth is known, equal to ANOVA's on a balanced table, null where the design
cannot tell."""

import numpy as np
import pandas as pd
import pytest
from fake_grid import DESIGNS, LEVELS, OWN, draw, grid, protocols
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from ilpjax.robust import FACTORS, variance, votes
from ilpjax.robust.variance import _Design
from ilpjax.robust.votes import cluster_weights, pair_sums

SCORING = {"cloze-raw": 0.0, "cloze-token": 0.2, "letter": -0.4}


def of(y, designs=DESIGNS, flagged=None, measure="p_pass"):
    found = votes(grid(y < -1 if flagged is None else flagged, designs, p_pass=y))
    return variance(found, measure, found.weights())


def factor(told, name):
    return next(one for one in told["factors"] if one["factor"] == name)


def test_known_components_are_recovered():
    y = draw(3000, DESIGNS, row=1, all_rows={"scoring": SCORING}, by_row={"wording": 0.6, "scoring": 0.3}, rest=0.4)
    told = of(y)
    parts = {"row": 1, "wording": 0.36, "scoring": 0.09, "rest": 0.16, "level": np.var(list(SCORING.values()))}
    total = sum(parts.values())
    found = {"row": told["row"], "rest": told["rest"], "level": factor(told, "scoring")["all_rows"]}
    found |= {name: factor(told, name)["by_row"] for name in ("wording", "scoring")}
    for name, part in parts.items():
        assert found[name]["share"] == pytest.approx(part / total, abs=0.02), name
        assert found[name]["low"] <= found[name]["share"] <= found[name]["high"]
    assert told["total"] == pytest.approx(total, rel=0.05) and (told["n"], told["protocols"]) == (3000, 12)
    assert [one["factor"] for one in told["factors"]] == ["wording", "scoring"]  # what moves most comes first
    change = factor(told, "scoring")["change"]
    assert (change["lowest"], change["highest"]) == ("letter", "cloze-token")
    assert change["mean"] == pytest.approx(0.6, abs=0.03) and change["low"] < change["mean"] < change["high"]
    assert factor(told, "scoring")["p_holm"] < 1e-6 and factor(told, "scoring")["df"] == 2


def test_a_factor_that_moves_nothing_is_seldom_significant():
    design, once, p = _Design(pd.DataFrame(DESIGNS)), np.ones((1, 100)), []
    weights = cluster_weights(np.arange(100), resamples=200)
    for seed in range(60):
        y = draw(100, DESIGNS, by_row={"wording": 0.5}, seed=seed)
        p.append(design.p_of_no_change(design.names.index("wording"), pair_sums(y, once), pair_sums(y, weights)))
    assert np.mean(np.array(p) < 0.05) <= 0.15 and np.mean(p) == pytest.approx(0.5, abs=0.15)


def test_balanced_table_gives_the_components_of_anova():
    y = draw(24, DESIGNS, all_rows={"scoring": SCORING}, by_row={"wording": 0.8, "scoring": 0.5})
    long = pd.DataFrame(
        {"y": y[row, column], "row": row, "scoring": one["scoring"], "wording": one["wording"]}
        for row in range(24)
        for column, one in enumerate(DESIGNS)
    )
    fitted = ols("y ~ C(row) * C(scoring) + C(row) * C(wording) + C(scoring) * C(wording)", long).fit()
    table = anova_lm(fitted, typ=1)
    square = (table["sum_sq"] / table["df"]).rename(lambda name: name.replace("C(", "").replace(")", ""))
    rest = square["Residual"]
    by_scoring, by_wording = (square["row:scoring"] - rest) / 4, (square["row:wording"] - rest) / 3
    row = (square["row"] - square["row:scoring"] - square["row:wording"] + rest) / 12
    told = of(y)
    total = told["total"]
    assert told["rest"]["share"] * total == pytest.approx(rest)
    assert factor(told, "scoring")["by_row"]["share"] * total == pytest.approx(by_scoring)
    assert factor(told, "wording")["by_row"]["share"] * total == pytest.approx(by_wording)
    assert told["row"]["share"] * total == pytest.approx(row)


def test_level_effects_are_least_squares_with_a_dummy_a_row():
    """Rows missing under some protocols, and no full product."""
    rng, designs = np.random.default_rng(4), protocols(LEVELS | {"dtype": ("float32", "bfloat16")})[::3]
    y = draw(25, designs, all_rows={"scoring": SCORING})
    y[rng.random(y.shape) < 0.25] = np.nan
    y[0, 0] = 0.0
    found = votes(grid(np.where(np.isnan(y), np.nan, y < 0), designs, p_pass=y))
    lines = [(y[r, c], r, *(one[name] for name in FACTORS)) for r, c, one in _cells(y, designs)]
    long = pd.DataFrame(lines, columns=["y", "row", *FACTORS])
    fitted = ols("y ~ C(row) + C(scoring) + C(wording) + C(dtype)", long).fit()
    design = _Design(found.protocols)
    effects = design.effects(found.p_pass, np.ones((1, len(found.p_pass))))[0]
    for name, levels, at in zip(design.names, design.levels, design.at, strict=True):
        own = dict(zip(levels, [0.0, *effects[at]], strict=True))
        first = sorted(levels)[0]
        for level in sorted(levels)[1:]:
            assert own[level] - own[first] == pytest.approx(fitted.params[f"C({name})[T.{level}]"])


def _cells(y, designs):
    return [(r, c, one) for r in range(len(y)) for c, one in enumerate(designs) if not np.isnan(y[r, c])]


def test_flips_are_counted_between_protocols_that_differ_in_one_factor():
    designs = [OWN, OWN | {"wording": "w1"}, OWN | {"wording": "w1", "dtype": "bfloat16"}]
    flagged = np.array([[1, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 1]])
    told = of(1.0 - flagged, designs, flagged, "flagged")
    assert factor(told, "wording")["flips"]["share"] == 0.5 and factor(told, "dtype")["flips"]["share"] == 0.25
    assert factor(told, "wording")["flips"]["pairs"] == 1
    change = factor(told, "dtype")["change"]
    assert (change["lowest"], change["highest"], change["mean"]) == ("float32", "bfloat16", 0.25)


def test_a_factor_that_changes_no_verdict_alone_is_not_blamed_for_the_company_it_keeps():
    """bfloat16 stands mostly beside a scoring whose effect hangs on the wording: least squares would blame it."""
    designs = [OWN | {"scoring": s, "wording": w} for s in ("cloze-raw", "letter") for w in ("train", "w1")]
    designs += [one | {"dtype": "bfloat16"} for one in (designs[0], designs[3])]
    row = np.random.default_rng(0).normal(size=200)
    flagged = np.stack([row < 0, row < 0.1, row < 0.2, row < 2, row < 0, row < 2], axis=1).astype(float)
    told = factor(of(1.0 - flagged, designs, flagged, "flagged"), "dtype")
    assert told["change"]["mean"] == 0 and told["flips"]["share"] == 0 and told["p"] == 1


def test_factors_that_move_together_cannot_be_told():
    designs = [OWN, OWN | {"wording": "w1", "dtype": "bfloat16"}, OWN | {"count": "k2"}]
    told = of(draw(30, designs), designs)
    for name in ("wording", "dtype"):
        one = factor(told, name)
        assert one["all_rows"]["share"] is one["by_row"]["share"] is one["change"] is one["p"] is one["flips"] is None
    assert factor(told, "count")["all_rows"]["share"] is not None


def test_one_protocol_has_no_factor():
    told = of(draw(20, [OWN]), [OWN])
    assert told["factors"] == [] and told["protocols"] == 1


def test_verdicts_that_never_vary():
    told = of(np.zeros((20, len(DESIGNS))), flagged=np.ones((20, len(DESIGNS))), measure="flagged")
    assert told["total"] == 0 and np.isnan(told["row"]["share"])
    assert factor(told, "wording")["flips"]["share"] == 0
