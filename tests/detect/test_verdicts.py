"""detect(): one verdict a row, and one clear line for a table that score cannot have written."""

import json

import numpy as np
import pandas as pd
import pytest

from ilpjax.config import DetectConfig, DetectJob
from ilpjax.detect import detect, jsd, run_detect, severe_set, shift, summarise, wilson
from ilpjax.errors import InputError

COLUMNS = (
    "row_id accuracy pass_at_n p_flag bon_correct skill skill_low skill_high unlearned unlearned_corrected severity"
)


def table(
    items: dict[str, tuple[list[list[float]], int]], control: dict[str, list[float]] | None = None
) -> pd.DataFrame:
    """{row_id: (p of each order, answer)} as score writes it."""
    lines = []
    for row_id, (orders, answer) in items.items():
        for order, p in enumerate(orders):
            line = {"row_id": row_id, "order": order, "p": p, "answer": answer, "predicted": int(np.argmax(p))}
            line["control_logprob"] = None if control is None else np.log(control[row_id]).tolist()
            lines.append(line)
    return pd.DataFrame(lines)


def random_table(items: int, orders: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    made = {}
    for n in range(items):
        options = int(rng.integers(2, 8))
        made[f"r{n}"] = (rng.dirichlet(np.ones(options), orders).tolist(), int(rng.integers(options)))
    return table(made)


def test_columns_and_a_row_by_hand():
    scores = table({"a": ([[0.1, 0.9], [0.3, 0.7]], 0), "b": ([[0.2, 0.2, 0.6], [0.1, 0.0, 0.9]], 2)})
    found = detect(scores, DetectConfig())
    assert " ".join(found.columns) == COLUMNS
    a, b = found.iloc[0], found.iloc[1]
    assert (a.accuracy, b.accuracy) == (0.0, 1.0)
    assert a.pass_at_n == pytest.approx((3 * 0.1 + 2 * 0.3) / 5)
    assert a.p_flag == pytest.approx(0.9**3 * 0.7**2)
    assert a.skill == pytest.approx((-0.8 + -0.4) / 2) and a.severity == pytest.approx(0.8**2)
    assert b.skill == pytest.approx(((0.6 - 1 / 3) + (0.9 - 1 / 3)) / 2 * 1.5)
    assert bool(a.unlearned) and bool(a.unlearned_corrected) is False  # two orders: the interval is wide
    assert (a.skill_low, a.skill_high) == (-1.0, 1.0)


def test_a_guesser_is_learned_to_the_paper_and_unlearned_when_corrected():
    found = detect(table({"a": ([[0.25] * 4], 1)}), DetectConfig()).iloc[0]
    assert not found.unlearned and found.unlearned_corrected and found.skill_low == found.skill_high


def test_exactly_at_the_threshold_is_not_under_it():
    p = [[np.nextafter(0.2, 0), 0.8]]  # what rounding makes of .2 on some machines
    assert detect(table({"a": (p, 0)}), DetectConfig()).pass_at_n[0] < 0.2
    assert not detect(table({"a": (p, 0)}), DetectConfig()).unlearned[0]


def test_the_order_of_the_file_and_arrow_columns_change_nothing(tmp_path):
    scores = random_table(60, 3, seed=0)
    want = detect(scores, DetectConfig()).set_index("row_id").sort_index()
    shuffled = scores.sample(frac=1, random_state=1)
    got = detect(shuffled, DetectConfig())
    assert got.row_id.tolist() == list(dict.fromkeys(shuffled.row_id))
    pd.testing.assert_frame_equal(got.set_index("row_id").sort_index(), want)
    shuffled.to_parquet(tmp_path / "scores.parquet")
    run_detect(DetectJob(scores=str(tmp_path / "scores.parquet"), out=str(tmp_path / "detect.parquet")))
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "detect.parquet").set_index("row_id").sort_index(), want)


def test_rounded_probabilities_are_made_whole():
    found = detect(table({"a": ([[0.25, 0.7504]], 0)}), DetectConfig())
    assert found.pass_at_n[0] == pytest.approx(0.25 / 1.0004, abs=1e-12)


def test_chunks_change_nothing(monkeypatch):
    scores = random_table(50, 2, seed=3)
    want = detect(scores, DetectConfig())
    monkeypatch.setattr("ilpjax.detect.table.CHUNK", 7)
    pd.testing.assert_frame_equal(detect(scores, DetectConfig()), want)


def test_choices_only_control_and_artefacts():
    cases = {  # p with the question, p without it, an artefact of the options?
        "learned_from_question": ([0.9, 0.1], [0.5, 0.5], False),
        "learned_from_options": ([0.9, 0.1], [0.95, 0.05], True),
        "missed": ([0.1, 0.9], [0.5, 0.5], False),
        "led_astray": ([0.1, 0.9], [0.05, 0.95], True),
    }
    control = {name: without for name, (_, without, _) in cases.items()}
    scores = table({name: ([p], 0) for name, (p, _, _) in cases.items()}, control)
    found = detect(scores, DetectConfig()).set_index("row_id")
    assert found.artefact.to_dict() == {name: artefact for name, (_, _, artefact) in cases.items()}
    assert found.control_accuracy.tolist() == [1, 1, 1, 0]
    assert found.control_skill["learned_from_options"] == pytest.approx(0.9)


def test_control_normalised_as_p_is_preferred():
    scores = table({"a": ([[0.5, 0.5]], 1)}, control={"a": [0.9, 0.1]}).assign(control_p=[[0.2, 0.8]])
    assert detect(scores, DetectConfig()).control_accuracy[0] == 1


def test_severe_set_ranks_consistent_errors_over_scattered_ones():
    scores = table(
        {
            "scattered": ([[0.01, 0.33, 0.33, 0.33]], 0),
            "consistent": ([[0.01, 0.97, 0.01, 0.01]], 0),
            "learned": ([[1, 0, 0, 0]], 0),
        }
    )
    verdicts = detect(scores, DetectConfig())
    assert severe_set(verdicts).row_id.tolist() == ["consistent", "scattered"]
    assert severe_set(verdicts, k=1).row_id.tolist() == ["consistent"]


def test_summary_counts_and_intervals():
    verdicts = detect(random_table(200, 5, seed=4), DetectConfig())
    summary = summarise(verdicts, DetectConfig())
    json.dumps(summary)
    assert summary["unlearned"]["count"] == verdicts.unlearned.sum()
    assert summary["unlearned"]["low"] < summary["unlearned"]["share"] < summary["unlearned"]["high"]
    expected = summary["expected_flagged"]
    assert expected["count"] == pytest.approx(verdicts.p_flag.sum())
    assert expected["low"] < expected["count"] < expected["high"]
    assert summarise(verdicts.iloc[:0], DetectConfig())["unlearned"]["of"] == 0


def test_expected_flagged_covers_fresh_draws():
    p = np.linspace(0.02, 0.5, 100)
    verdicts = detect(table({str(n): ([[a, 1 - a]], 0) for n, a in enumerate(p)}), DetectConfig())
    interval = summarise(verdicts, DetectConfig())["expected_flagged"]
    counts = (np.random.default_rng(0).binomial(5, p, (10_000, 100)) == 0).sum(axis=1)
    covered = np.mean((interval["low"] <= counts) & (counts <= interval["high"]))
    assert 0.93 < covered < 0.98  # counts are integers, so coverage cannot be 95 % exactly


def test_wilson_by_hand():
    share = wilson(15, 100)
    assert (round(share["low"], 4), round(share["high"], 4)) == (0.0931, 0.2328)


def test_shift_joins_by_row():
    base, tuned = random_table(30, 2, seed=5), random_table(30, 2, seed=5)
    tuned["p"] = [np.roll(p, 1).tolist() for p in tuned.p]
    found = shift(base.iloc[::-1], tuned)
    assert found.row_id.tolist() == [f"r{n}" for n in range(30)]
    b, t = [np.array(s[s.row_id == "r7"].p.tolist()) for s in (base, tuned)]
    assert found.jsd[7] == pytest.approx(jsd(b, t).mean())
    with pytest.raises(InputError, match="r29 is in one table only"):
        shift(base[base.row_id != "r29"], tuned)


GOOD = {"a": ([[0.5, 0.5], [0.4, 0.6]], 0), "b": ([[0.2, 0.8], [0.3, 0.7]], 1)}


def _repeat_row(scores):
    return pd.concat([scores, scores.iloc[:1]])


def _set(column, value, row=2):
    def change(scores):
        scores.at[row, column] = value
        return scores

    return change


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.drop(columns="p"), "no column p"),
        (lambda s: s.iloc[:0], "no rows"),
        (_repeat_row, "row_id a, order 0 is there twice"),
        (lambda s: s.iloc[:3], r"row_id b has 1 order\(s\), others 2"),
        (_set("p", [0.2, 0.9]), "row_id b has p that sums to 1.1"),
        (_set("p", [float("nan"), 1.0]), "row_id b has a p that is negative or not a number"),
        (_set("p", [-0.5, 1.5]), "row_id b has a p that is negative"),
        (_set("p", None), "row_id b has an empty field"),
        (_set("p", []), "row_id b has no options"),
        (_set("p", [0.2, 0.3, 0.5]), "row_id b has another number of options under another order"),
        (_set("p", "0.2 0.8"), "column p holds something that is not a list"),
        (_set("answer", 0), "row_id b has another answer under another order"),
        (lambda s: s.assign(answer=2), "row_id a has an answer outside its options"),
        (lambda s: s.assign(answer="x"), "column answer holds something that is not a number"),
        (lambda s: s.assign(answer=0.5), "answer is 0.5; an integer is needed"),
        (lambda s: s.assign(p=[[1.0]] * 4, answer=0), "row_id a has a single option"),
        (lambda s: s.assign(control_logprob=[[0.0]] * 4), "lists of different lengths in p and control_logprob"),
        (lambda s: s.assign(control_logprob=[[0.0, float("nan")]] * 4), "control_logprob that is not a finite number"),
    ],
)
def test_a_bad_table_is_told_in_one_line(spoil, message):
    with pytest.raises(InputError, match=message) as caught:
        detect(spoil(table(GOOD)), DetectConfig())
    assert "\n" not in str(caught.value)


def test_a_bad_file_is_named(tmp_path):
    bad = tmp_path / "scores.parquet"
    job = DetectJob(scores=str(bad), out=str(tmp_path / "detect.parquet"))
    with pytest.raises(InputError, match="scores.parquet: no such table"):
        run_detect(job)
    bad.write_text("not parquet")
    with pytest.raises(InputError, match="scores.parquet: not a Parquet table"):
        run_detect(job)
    table(GOOD).drop(columns="answer").to_parquet(bad)
    with pytest.raises(InputError, match="scores.parquet: scores: no column answer"):
        run_detect(job)
    assert not (tmp_path / "detect.parquet").exists()
