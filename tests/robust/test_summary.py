"""What is written beside the grid, and what a person reads."""

import json

import numpy as np
import pytest
from fake_grid import DESIGNS, OWN, draw, make_run

from ilpjax.errors import InputError
from ilpjax.robust import summarise, tell
from ilpjax.rundir import RunDir, read_table, write_json, write_table

ALL = [*DESIGNS, OWN | {"scoring": "control"}]


def flags(seed=0, rows=80):
    return (draw(rows, ALL, by_row={"wording": 0.5}, seed=seed) < -0.6).astype(float)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("run"), flags(), ALL)
    write_json(run / "robustness.json", {"cost": {"passes": 3}, "agreement": "old"})
    return run


def test_rows_and_keys_are_written_and_the_grids_own_stay(run):
    text = tell(run)
    told = json.loads((run / "robustness.json").read_text(), parse_constant=pytest.fail)
    assert told.pop("cost") == {"passes": 3} and told == summarise(run)
    rows = read_table(run / "robust_rows.parquet")
    assert len(rows) == 80 and (rows["n"] == 12).all() and set(rows["group"]) <= {"core", "rim", "never"}
    for name, group in told["rows"]["groups"].items():
        own = rows[rows["group"] == name]
        assert (group["n"], group["of"]) == (len(own), 80)
        assert (group["own"], group["artefact"]) == (own["own"].sum(), own["artefact"].sum())
    own = told["rows"]["mean_share"]["own"]
    assert own["n"] == rows["own"].sum() and own["mean"] == pytest.approx(rows[rows["own"]]["share"].mean(), rel=1e-4)
    assert told["confidence"] == 0.9 and "90 % intervals" in text
    assert len(told["agreement"]["pairs"]) == 66 and len(told["retest"]["halves"]) == 12
    named = {one["rule"]: one for one in told["prevalence"]}
    assert len(named) == 3 + 13 and named["paper"]["flagged"] == rows["own"].sum()
    (cause,) = told["rows"]["by_cause"]
    assert cause["n"] == rows["own"].sum() == cause["core"] + cause["rim"] and cause["never"] == 0
    for words in ("80 rows under up to 12 protocols", "wording", "n = 80", "test and retest", "missing_knowledge"):
        assert words in text, words


def test_the_same_twice(run):
    tell(run)
    before = (run / "robustness.json").read_bytes()
    tell(run)
    assert (run / "robustness.json").read_bytes() == before


@pytest.mark.slow
def test_other_seeds_are_compared_by_rule_core_and_protocol(run, tmp_path):
    others = [make_run(tmp_path / str(seed), flags(seed), ALL, seed=seed) for seed in (1, 2)]
    (others[1] / "robustness.parquet").unlink()  # a run without a grid can still be compared by its verdicts
    (group,) = summarise(run, others)["retest"]["runs"]
    assert [one["protocol"] for one in group["rules"]] == ["paper", "corrected"] and group["rules"][0]["runs"] == 3
    (group,) = summarise(run, others[:1])["retest"]["runs"]
    assert [one["protocol"] for one in group["rules"]][:3] == ["paper", "corrected", "core"]
    assert len(group["rules"]) == 3 + 13 and group["differ"] == ["seed"]
    assert "which differ in seed" in tell(run, others[:1])


def test_runs_that_share_nothing_are_refused(run, tmp_path):
    for n, other in enumerate(({"base": "another"}, {"first": 1000})):
        with pytest.raises(InputError, match="others: a run of another base or without a row in common"):
            summarise(run, [make_run(tmp_path / str(n), flags(), ALL, **other)])


def test_a_grid_of_one_protocol_and_no_draws(tmp_path):
    run = make_run(tmp_path, flags()[:, :1], [OWN], halves=False)
    text = tell(run)
    told = json.loads((run / "robustness.json").read_text(), parse_constant=pytest.fail)
    assert told["agreement"]["pairs"] == told["variance"]["flagged"]["factors"] == told["retest"]["halves"] == []
    assert "none was drawn twice" in text and told["rows"]["groups"]["rim"]["n"] == 0


def test_rows_missing_under_a_protocol_are_counted(tmp_path):
    flagged = flags()
    flagged[:30, 3] = np.nan
    told = summarise(make_run(tmp_path, flagged, ALL))
    name = "/".join(ALL[3].values())
    assert next(one for one in told["prevalence"] if one["rule"] == name)["n"] == 50
    assert {pair["n"] for pair in told["agreement"]["pairs"] if name in (pair["a"], pair["b"])} == {50}
    assert told["agreement"]["fleiss"]["n"] == 50 and told["agreement"]["n"] == 80


def test_what_is_missing_or_wrong_is_named(tmp_path):
    with pytest.raises(InputError, match="holds no robustness.parquet; run robustness first"):
        tell(RunDir(tmp_path))
    run = make_run(tmp_path, flags(rows=10), ALL)
    whole = read_table(run / "robustness.parquet")
    write_table(run / "robustness.parquet", whole.drop(columns="half"))
    with pytest.raises(InputError, match="robustness.parquet: no column half; run robustness again"):
        tell(run)
    write_table(run / "robustness.parquet", whole.replace({"row_id": {"r3": "r999"}}))
    with pytest.raises(InputError, match="robustness.parquet: holds rows that are not in rows.parquet"):
        tell(run)
    write_table(run / "robustness.parquet", whole[whole["scoring"] == "control"])
    with pytest.raises(InputError, match="holds the control alone"):
        tell(run)
    assert not (run / "robust_rows.parquet").exists()
    write_table(run / "robustness.parquet", whole)
    (run / "robustness.json").write_text("{")
    with pytest.raises(InputError, match="robustness.json: not JSON; run robustness again"):
        tell(run)
    assert not (run / "robust_rows.parquet").exists()
