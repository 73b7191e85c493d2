"""report.json against numbers counted by hand."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from fake_run import make_run
from hypothesis import given
from hypothesis import strategies as st

from ilpjax.report import write_report
from ilpjax.report.numbers import clean, share
from ilpjax.rundir import read_table, write_table


def by_hand(n, of, z=1.959963984540054):
    """Wilson's interval as the textbook writes it."""
    p = n / of
    middle = (p + z * z / (2 * of)) / (1 + z * z / of)
    reach = z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return {"n": n, "of": of, "share": p, "low": middle - reach, "high": middle + reach}


def same(found, expected):
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-9), key


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("numbers"))
    write_report(run, "Numbers")
    return run


@pytest.fixture(scope="module")
def numbers(run):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads((run / "report.json").read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def table(run):
    verdicts = read_table(run / "detect.parquet").merge(
        read_table(run / "detect_base.parquet"), on="row_id", suffixes=("", "_base")
    )
    return read_table(run / "rows.parquet").merge(verdicts, on="row_id")


def test_headline(numbers, table):
    assert (numbers["rows"], numbers["judged"], numbers["no_verdict"]) == (300, 288, 12)
    same(numbers["unlearned"], by_hand(int(table["unlearned"].sum()), 288))
    same(numbers["learned"], by_hand(288 - int(table["unlearned"].sum()), 288))
    same(numbers["unlearned_corrected"], by_hand(int(table["unlearned_corrected"].sum()), 288))
    assert numbers["expected_flagged"] == pytest.approx(table["p_flag"].mean())
    assert (numbers["protocol"], numbers["orders"]) == ("letter", 2)
    assert numbers["config"]["base"] == "tiny/base" and numbers["environment"]["versions"]["jax"] == "0.10.2"


def test_by_dataset(numbers, table):
    assert len(numbers["by_dataset"]) == 4
    for group in numbers["by_dataset"]:
        own = table[table["dataset"] == group["dataset"]]
        assert (group["rows"], group["n"]) == (75, len(own))
        same(group["unlearned"], by_hand(int(own["unlearned"].sum()), len(own)))
        same(group["unlearned_corrected"], by_hand(int(own["unlearned_corrected"].sum()), len(own)))
        assert group["accuracy"]["share"] == pytest.approx(own["accuracy"].mean())
        assert group["base_accuracy"]["share"] == pytest.approx(own["accuracy_base"].mean())


def test_by_length_counts_every_row_once(numbers, table, run):
    tokens = read_table(run / "dynamics.parquet").groupby("row_id")["tokens"].first()
    length = table["row_id"].map(tokens)
    assert sum(group["n"] for group in numbers["by_length"]) == 288
    for group in numbers["by_length"]:
        own = table[(length >= group["low"]) & (length <= group["high"])]
        assert group["unit"] == "tokens"
        same(group["unlearned"], by_hand(int(own["unlearned"].sum()), len(own)))


def test_by_position_is_the_last_visit(numbers, table, run):
    last = table["row_id"].map(read_table(run / "dynamics.parquet").groupby("row_id")["step"].max()).to_numpy()
    ordered = table.iloc[np.argsort(last, kind="stable")].reset_index(drop=True)
    assert [group["decile"] for group in numbers["by_position"]] == list(range(1, 11))
    for group in numbers["by_position"]:
        own = ordered[ordered.index * 10 // 288 == group["decile"] - 1]
        assert group["by"] == "training"
        same(group["unlearned"], by_hand(int(own["unlearned"].sum()), len(own)))


@pytest.mark.parametrize(("mode", "column"), [("paper", "unlearned"), ("corrected", "unlearned_corrected")])
def test_base_against_tuned(numbers, table, mode, column):
    known, learned = ~table[f"{column}_base"], ~table[column]
    cross = numbers["base_vs_tuned"][mode]
    same(cross["learned"], by_hand(int((~known & learned).sum()), 288))
    same(cross["already_known"], by_hand(int((known & learned).sum()), 288))
    same(cross["lost"], by_hand(int((known & ~learned).sum()), 288))
    same(cross["never_learned"], by_hand(int((~known & ~learned).sum()), 288))


def test_probabilities_and_shift(numbers, run):
    p = {}
    for which in ("base", "tuned"):
        scores = read_table(run / f"scores_{which}.parquet")
        right = [line.p[line.answer] for line in scores.itertuples()]
        p[which] = pd.Series(right).groupby(scores["row_id"]).mean()
        assert numbers["base_vs_tuned"]["p_right"][which]["mean"] == pytest.approx(p[which].mean())
        assert numbers["base_vs_tuned"]["p_right"][which]["median"] == pytest.approx(p[which].median())
        assert numbers["accuracy"][which]["share"] == pytest.approx(scores["correct"].mean())
    spread = pd.Series(right).groupby(scores["row_id"]).agg(lambda values: values.max() - values.min())
    assert numbers["option_order"]["spread"]["median"] == pytest.approx(spread.median())
    flips = scores.groupby("row_id")["predicted"].nunique() > 1
    same(numbers["option_order"]["rows_that_flip"], by_hand(int(flips.sum()), 288))
    base, tuned = (read_table(run / f"scores_{which}.parquet")["p"] for which in ("base", "tuned"))
    jsd = [_jsd(a, b) for a, b in zip(base, tuned, strict=True)]
    mean = pd.Series(jsd).groupby(scores["row_id"]).mean()
    assert numbers["base_vs_tuned"]["jsd"]["mean"] == pytest.approx(mean.mean())
    same(numbers["base_vs_tuned"]["jsd"]["over"], by_hand(int((mean > 0.3).sum()), 288))


def _jsd(p, q):
    middle = (p + q) / 2
    return sum((a * math.log(a / m) + b * math.log(b / m)) / 2 for a, b, m in zip(p, q, middle, strict=True))


def test_plumbing(numbers, table, run):
    problems = read_table(run / "plumbing.parquet")
    found = numbers["plumbing"]
    assert {k: found[k] for k in ("n", "of")} == {"n": problems["row_id"].nunique(), "of": 300}
    unlearned = set(table.loc[table["unlearned"], "row_id"])
    assert found["unlearned"] == len(unlearned & set(problems["row_id"]))
    for kind in found["by_problem"]:
        own = set(problems.loc[problems["problem"] == kind["problem"], "row_id"])
        assert (kind["n"], kind["unlearned"]) == (len(own), len(own & unlearned))


def test_control(numbers, table):
    assert numbers["control"]["tuned"]["share"] == pytest.approx(table["control_accuracy"].mean())
    learned = table.loc[~table["unlearned"], "control_accuracy"]
    assert numbers["control"]["learned_and_right"]["share"] == pytest.approx(learned.mean())
    assert numbers["control"]["chance"] == pytest.approx(np.where(table["position"] % 4 == 3, 1 / 3, 1 / 4).mean())


def test_training(numbers, run):
    log = read_table(run / "train_log.parquet")
    assert numbers["training"]["last_loss"] == pytest.approx(log["loss"].iloc[-1])
    assert (numbers["training"]["steps"], numbers["training"]["visits"]) == (90, 900)


def test_a_brought_checkpoint_has_no_training_and_bytes_for_length(tmp_path):
    run = make_run(tmp_path, rows=80, trained=False, orders=1)
    old = make_run(tmp_path / "old", rows=80)
    write_table(run / "dynamics.parquet", read_table(old / "dynamics.parquet"))  # of a run that lay here before
    write_report(run, "Brought")
    numbers = json.loads((run / "report.json").read_text())
    assert numbers["training"] is None and numbers["option_order"] is None
    assert {group["unit"] for group in numbers["by_length"]} == {"bytes"}
    assert {group["by"] for group in numbers["by_position"]} == {"file"}
    assert "was brought, not trained here" in (run / "report.html").read_text()


def test_nothing_judged_and_no_config(tmp_path):
    run = make_run(tmp_path, rows=40)
    for name in ("detect", "detect_base", "scores_base", "scores_tuned", "plumbing", "items"):
        write_table(run / f"{name}.parquet", read_table(run / f"{name}.parquet").head(0))
    (run / "config.yaml").unlink()
    (run / "environment.json").unlink()
    write_report(run, "Empty")
    numbers = json.loads((run / "report.json").read_text())
    assert (numbers["rows"], numbers["judged"], numbers["unlearned"]["share"]) == (40, 0, None)
    assert "No row has a verdict" in (run / "report.html").read_text()


def test_no_control_no_order_is_said(tmp_path):
    run = make_run(tmp_path, rows=60, orders=1)
    for name in ("detect", "detect_base"):
        verdicts = read_table(run / f"{name}.parquet")
        columns = [c for c in verdicts if c.startswith("control") or c == "artefact"]
        write_table(run / f"{name}.parquet", verdicts.drop(columns=columns))
    write_report(run, "No control")
    assert json.loads((run / "report.json").read_text())["control"] is None
    html = (run / "report.html").read_text()
    assert "choices-only control was not scored" in html and "One option order was scored" in html


def test_rerun_writes_the_same_bytes(run):
    before = {name: (run / name).read_bytes() for name in ("report.html", "report.json")}
    write_report(run, "Numbers")
    assert before == {name: (run / name).read_bytes() for name in before}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_share_of_shares_lies_in_its_interval(values):
    found = share(values, 0.95)
    assert 0 <= found["low"] <= found["share"] <= found["high"] <= 1
    assert found["share"] == pytest.approx(np.mean(values), abs=1e-8)


def test_clean_leaves_no_nan():
    value = {"a": [np.float64("nan"), math.inf, np.int64(3)], 4: np.bool_(True), "b": (1.5,)}
    assert clean(value) == {"a": [None, None, 3], "4": True, "b": [1.5]}


def test_causes_are_counted_with_their_intervals(numbers, run):
    named = read_table(run / "diagnose.parquet")
    assert numbers["causes"]["of"] == len(named)
    assert sum(one["n"] for one in numbers["causes"]["by_cause"]) == len(named)
    counts = [one["n"] for one in numbers["causes"]["by_cause"]]
    assert counts == sorted(counts, reverse=True)
    for one in numbers["causes"]["by_cause"]:
        n = int((named["cause"] == one["cause"]).sum())
        same({key: one[key] for key in ("n", "of", "share", "low", "high")}, by_hand(n, len(named)))
        assert one["cascade"] == int((named["cascade"] == one["cause"]).sum()) and one["what_to_do"]


def test_a_run_that_was_not_diagnosed_has_no_causes(tmp_path):
    run = make_run(tmp_path / "r", rows=40)
    (run / "diagnose.parquet").unlink()
    write_report(run, "None")
    assert json.loads((run / "report.json").read_text())["causes"] is None
    assert "Why they were not learned" not in (run / "report.html").read_text()
