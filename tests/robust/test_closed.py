"""What one scored pass says under other protocols, held to plain definitions and to draws."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ilpjax import scoring
from ilpjax.config import DetectConfig
from ilpjax.detect import detect
from ilpjax.robust import closed
from ilpjax.robust.free import counted, free_form
from ilpjax.rows import Item

CFG = DetectConfig()


def scored(seed=0, items=40, orders=3, width=5):
    """Items of 2 to `width` options, some of them empty."""
    rng = np.random.default_rng(seed)
    options = rng.integers(2, width + 1, items)
    there = np.arange(width) < options[:, None]
    shape = (items, orders, width)
    fill = lambda values: np.where(there[:, None], values, 0)
    return closed.Scored(
        row_ids=np.array([f"r{n}" for n in range(items)]),
        options=options,
        answer=rng.integers(0, options),
        logprob=fill(rng.normal(-8, 3, shape)),
        tokens=fill(np.repeat(rng.integers(0, 6, (items, 1, width)), orders, axis=1)),
        nbytes=fill(np.repeat(rng.integers(1, 20, (items, 1, width)), orders, axis=1)),
        control=fill(rng.normal(-9, 2, shape)),
    )


def everything(one):
    return closed.show(one, "all", 0)


@given(
    st.integers(0, 50), st.sampled_from(["cloze-raw", "cloze-token", "cloze-byte", "cloze-pmi", "letter", "control"])
)
def test_a_scoring_is_the_plain_softmax_of_its_score(seed, name):
    one = scored(seed, items=6)
    p = closed.probabilities(one, name, "raw", everything(one))
    for item, order in np.ndindex(p.shape[:2]):
        size = one.options[item]
        at = lambda values: values[item, order, :size]  # noqa: B023
        score = at(one.control if name == "control" else one.logprob).copy()
        score /= {"cloze-token": np.maximum(at(one.tokens), 1), "cloze-byte": at(one.nbytes)}.get(name, 1)
        score -= at(one.control) if name == "cloze-pmi" else 0
        weights = np.exp(score - score.max()) * (at(one.tokens) > 0)
        weights = weights if weights.any() else np.ones(size)
        assert at(p) == pytest.approx(weights / weights.sum())
        assert not p[item, order, size:].any()


def test_without_a_control_pmi_and_control_are_refused():
    one = replace(scored(), control=None)
    for name in ("cloze-pmi", "control"):
        with pytest.raises(ValueError, match="control"):
            closed.probabilities(one, name, "raw", everything(one))


@given(st.integers(0, 50), st.floats(0.05, 1.0))
def test_decodings_are_what_they_are_called(seed, top_p):
    one = scored(seed, items=5)
    p = closed.probabilities(one, "cloze-raw", "raw", everything(one))
    for place in np.ndindex(p.shape[:2]):
        q = p[place]
        cold = q ** (1 / 0.3) / np.sum(q ** (1 / 0.3))
        assert closed.decode(p, "t0.3", top_p)[place] == pytest.approx(cold)
        assert closed.decode(p, "t1", top_p)[place] == pytest.approx(q)
        greedy = closed.decode(p, "greedy", top_p)[place]
        assert greedy[np.argmax(q)] == 1 and greedy.sum() == 1
        kept = closed.decode(p, "top_p", top_p)[place] > 0
        assert q[kept].sum() >= top_p - 1e-6 and q[kept].sum() - q[kept].min() < top_p + 1e-6
        assert q[~kept].max(initial=0) < q[kept].min()


def test_equals_stay_together_in_the_nucleus():
    p = np.array([[[0.25, 0.25, 0.25, 0.25]], [[0.5, 0.2, 0.2, 0.1]]])
    assert (closed.decode(p, "top_p", 0.6) > 0).tolist() == [[[True] * 4], [[True, True, True, False]]]


@given(st.integers(0, 20), st.sampled_from([("k2", 2), ("k3", 3)]))
def test_fewer_options_keep_the_right_one_and_do_not_depend_on_other_rows(seed, level):
    name, count = level
    one = scored(seed)
    shown = closed.show(one, name, 7)
    assert (shown.sum(axis=1) == np.minimum(one.options, count)).all()
    assert shown[np.arange(len(shown)), one.answer].all()
    some = np.array([5, 3, 11])
    assert (closed.show(one.take(some), name, 7) == shown[some]).all()
    assert (closed.show(one, name, 8) != shown).any()


@pytest.mark.parametrize("count", ["all", "k2"])
@pytest.mark.parametrize("decoding", ["t1", "t0.3", "top_p", "greedy"])
def test_closed_forms_equal_a_hundred_thousand_draws(decoding, count):
    one = scored(3, items=25, orders=1)
    shown = closed.show(one, count, 0)
    p = closed.decode(closed.probabilities(one, "cloze-raw", "raw", shown), decoding, 0.9)
    exact = closed.verdicts(one, p, shown, CFG)["p_pass"].to_numpy()
    n = 100_000
    drawn = closed.draws(one, p[:, 0], 1, CFG.model_copy(update={"runs": n}), seed=0)["p_pass"].to_numpy()
    assert np.abs(drawn - exact).max() <= 5 * np.sqrt(exact * (1 - exact) / n).max() + 1e-9
    assert (np.abs(drawn - exact) <= 5 * np.sqrt(exact * (1 - exact) / n) + 1e-9).all()


def test_the_verdict_of_all_options_at_temperature_1_is_detects_own():
    one = scored(orders=4)
    p = closed.probabilities(one, "cloze-raw", "raw", everything(one))
    table = pd.DataFrame(
        {
            "row_id": np.repeat(one.row_ids, 4),
            "order": np.tile(range(4), len(p)),
            "p": [line[:size] for lines, size in zip(p, one.options, strict=True) for line in lines],
            "answer": np.repeat(one.answer, 4),
        }
    )
    want, got = detect(table, CFG), closed.verdicts(one, p, everything(one), CFG)
    assert (got["p_pass"] == want["pass_at_n"]).all() and (got["flagged"] == want["unlearned"]).all()
    assert (got["flagged_corrected"] == want["unlearned_corrected"]).all() and (got["n"] == 4).all()


def test_halves_are_other_draws_and_the_same_ones_again():
    one = scored(items=300, orders=1)
    p = closed.probabilities(one, "cloze-raw", "raw", everything(one))[:, 0]
    first, second = (closed.draws(one, p, half, CFG, seed=0) for half in (1, 2))
    pd.testing.assert_frame_equal(first, closed.draws(one, p, 1, CFG, seed=0))
    assert (first["p_pass"] != second["p_pass"]).mean() > 0.2
    # Independent given p: what two halves have in common is explained by p alone.
    left = [half["p_pass"] - p[np.arange(300), one.answer] for half in (first, second)]
    assert stats.pearsonr(*left).pvalue > 0.001


def test_a_taste_for_a_label_is_divided_out_and_no_row_corrects_itself():
    rng = np.random.default_rng(0)
    items, orders, seed = 400, 4, 5
    ids = np.array([f"r{n}" for n in range(items)])
    truth = rng.normal(0, 1, (items, 1, 4))
    listed = np.array([[scoring.permutation(seed, row_id, n, 4) for n in range(orders)] for row_id in ids])
    taste = np.array([2.0, 0.0, -1.0, 0.5])[listed.argsort(axis=2)]
    ones = np.ones((items, orders, 4), int)
    biased = closed.Scored(ids, np.full(items, 4), np.zeros(items, int), truth + taste, ones, ones, None)
    shown = everything(biased)
    p = lambda one: closed.probabilities(one, "letter", "raw", shown)
    fair = np.exp(truth) / np.exp(truth).sum(axis=2, keepdims=True)
    off = lambda one: np.abs(p(one) - fair).mean()
    corrected = closed.without_label_bias(biased, seed)
    assert off(corrected) < 0.15 * off(biased)
    changed = biased.logprob.copy()
    changed[0] = rng.normal(0, 5, (orders, 4))
    moved = closed.without_label_bias(replace(biased, logprob=changed), seed).logprob
    assert moved[0] - changed[0] == pytest.approx(corrected.logprob[0] - biased.logprob[0])


def test_a_control_comes_from_another_pass_over_the_same_rows():
    one = scored()
    asked = replace(one.take(np.array([7, 2, 9])), control=None, row_ids=np.array(["r7", "r2", "unknown"]))
    found = asked.controlled_by(one)
    assert found.row_ids.tolist() == ["r7", "r2"] and (found.control == one.control[[7, 2]]).all()


def test_real_draws_are_flagged_as_the_papers_rule_has_it():
    found = counted(np.array(["a", "b", "c"]), np.array([0, 1, 5]), 5, CFG.threshold)
    assert found["flagged"].tolist() == [True, False, False] and found["p_pass"].tolist() == [0.0, 0.2, 1.0]


def test_one_table_of_answers_gives_every_metric():
    items = [Item(row_id=i, question="?", options=("the red bird", "a key"), answer=0) for i in ("x", "y")]
    said = {"x": ["The red bird.", "red bird sings", "A", "a key"], "y": ["a key", "a key", "B", "snow"]}
    rows = [(row_id, n, text) for row_id, texts in said.items() for n, text in enumerate(texts)]
    answers = pd.DataFrame(rows, columns=["row_id", "sample", "text"])
    share = lambda metric: free_form(answers, items, metric, 0.2).query("half == 0").set_index("row_id")
    assert share("em")["p_pass"].tolist() == [0.25, 0.0]
    assert share("f1")["p_pass"].tolist() == share("rouge_l")["p_pass"].tolist() == [0.5, 0.0]
    assert share("choice")["p_pass"].tolist() == [0.75, 0.0] and share("choice")["predicted"].tolist() == [0, 1]
    halves = free_form(answers, items, "em", 0.2).query("half > 0").set_index(["half", "row_id"])["p_pass"]
    assert halves[1, "x"] == 0.5 and halves[2, "x"] == 0.0
    best = free_form(answers.query("sample == 0"), items, "em", 0.2)
    assert set(best["half"]) == {0}  # one answer without chance: nothing to test again
