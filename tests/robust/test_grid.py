"""The robustness job on a finished run: its table, what is run and what is not, and what is refused."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from small_run import LEXICAL, checkpoint, rows, write_rows

from ilpjax.config import RobustnessJob, RunJob, SampleJob
from ilpjax.errors import InputError
from ilpjax.pipeline import run, run_robustness
from ilpjax.robust import COLUMNS, FACTORS
from ilpjax.robust.grid import _in_numbers
from ilpjax.robust.passes import Tuned
from ilpjax.rundir import read_table
from ilpjax.scoring import run_sample

pytestmark = pytest.mark.slow
SFT = {"epochs": 1, "seq_len": 64, "batch": 8, "lr": 1e-3, "remat": False}
LONE = {"id": "lone", "dataset": "other", "prompt": "Say it.", "response": "A word nobody else says."}
LESS = {"decodings": ["greedy", "t1"], "wordings": ["train", "w1"], "samples": 4, "new_tokens": 3}
LESS["scorings"] = ["letter", "letter-debiased", "cloze-raw", "cloze-pmi", "control", "free-em", "free-choice"]
PASSES = 6 + 3  # the run's own, letter, near, random, w1, bfloat16; free-form under each decoding, and greedy in w1


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("robust")
    base = checkpoint(folder / "model")
    file = write_rows(folder / "towns.jsonl", rows())
    lone = write_rows(folder / "lone.jsonl", [LONE])
    job = RunJob.make(
        {"base": str(base), "rows": [str(file), str(lone)], "out": str(folder / "r"), "sft": SFT, "conflicts": LEXICAL}
    )
    run(job)
    return folder / "r"


@pytest.fixture(scope="session")
def judged(made):
    run_robustness(RobustnessJob.make({"run": str(made), **LESS}))
    return made


def again(folder, monkeypatch, stop_at=None, **keys):
    """The job once more; the passes that were really run."""
    ran, write = [], Tuned.write

    def counted(self, planned, rows, out, stamp):
        if stamp is not None:  # not a timing
            if len(ran) == stop_at:
                raise KeyboardInterrupt
            ran.append(planned.one.name)
        write(self, planned, rows, out, stamp)

    monkeypatch.setattr(Tuned, "write", counted)
    try:
        run_robustness(RobustnessJob.make({"run": str(folder), **LESS, **keys}))
    finally:
        monkeypatch.setattr(Tuned, "write", write)
    return ran


def table_of(folder):
    return read_table(folder / "robustness.parquet")


def test_every_judged_row_has_a_line_a_protocol_and_the_runs_own_is_detects(judged):
    table, told = table_of(judged), json.loads((judged / "robustness.json").read_text())
    assert tuple(table.columns) == COLUMNS
    assert not table.duplicated(["row_id", "protocol", "half"]).any()
    whole = table[table["half"] == 0]
    detected = read_table(judged / "detect.parquet").set_index("row_id")
    assert len(detected) == 12 and "lone" not in detected.index  # a row without distractors is not judged
    assert (whole.groupby("protocol")["row_id"].nunique() == 12).all()
    own = whole[whole["protocol"] == told["own"]].set_index("row_id").loc[detected.index]
    assert own["p_pass"].to_numpy() == pytest.approx(detected["pass_at_n"].to_numpy(), abs=1e-12)
    assert (own["flagged"] == detected["unlearned"]).all()
    assert (own["flagged_corrected"] == detected["unlearned_corrected"]).all()
    assert [one["name"] for one in told["protocols"]] == list(whole["protocol"].drop_duplicates())
    assert (table["protocol"] == table[list(FACTORS)].agg("/".join, axis=1)).all()


def test_a_run_judged_by_letter_in_two_orders_is_the_pass_of_every_letter_protocol(made, tmp_path, monkeypatch, capsys):
    keys = {"base": str(made / "tuned"), "tuned": str(made / "tuned"), "rows": str(made / "rows.parquet")}
    score = {"protocol": "letter", "orders": 2, "control": False}
    study = run(RunJob.make({**keys, "out": str(tmp_path / "r"), "score": score, "conflicts": LEXICAL}))
    asked = {
        "scorings": ["letter", "cloze-pmi", "control"],
        "decodings": ["t1"],
        "sources": ["own"],
        "wordings": ["train"],
    }
    assert again(tmp_path / "r", monkeypatch, **asked, dtypes=["float32"]) == ["cloze-own-train-float32"]
    assert "control/t1/permuted/own/all/train/float32: left out, the run has no control" in capsys.readouterr().out
    table = table_of(tmp_path / "r")
    own = table[(table["protocol"] == "letter/t1/permuted/own/all/train/float32") & (table["half"] == 0)]
    both = own.merge(study.rows, on="row_id")
    assert both["p_pass"].to_numpy() == pytest.approx(both["pass_at_n"].to_numpy())
    assert (both["flagged"] == both["unlearned"]).all()
    halves = table[(table["protocol"] == own["protocol"].iloc[0]) & (table["half"] > 0)]
    # Five runs take the first order three times, the second twice.
    mean = halves.pivot(index="row_id", columns="half", values="p_pass") @ np.array([3, 2]) / 5
    assert own.set_index("row_id")["p_pass"].to_dict() == pytest.approx(mean.to_dict())


def test_a_protocol_that_does_no_better_than_guessing_is_called_blind(judged):
    table, told = table_of(judged), json.loads((judged / "robustness.json").read_text())
    options = {row_id: len(o) for row_id, o in read_table(judged / "items.parquet")[["row_id", "options"]].to_numpy()}
    most = table["count"].map({"k2": 2, "k3": 3}).fillna(99)
    shown = np.minimum(table["row_id"].map(options), most)
    free = table["scoring"].str.startswith("free")
    assert table["chance"].to_numpy() == pytest.approx(np.where(free, 0, 1 / shown))
    blind = {one["name"]: one["blind"] for one in told["protocols"]}
    assert blind["free-em/t1/own/own/all/train/float32"]  # so little training: not one right answer in words
    sure = pd.DataFrame({"p_pass": [0.9, 0.8, 0.9, 0.7], "chance": 0.25, "flagged": False})
    assert not _in_numbers(sure)["blind"] and _in_numbers(sure.assign(p_pass=[0.9, 0.1, 0.0, 0.1]))["blind"]


def test_halves_are_there_where_there_is_chance(judged):
    table = table_of(judged)
    halves = table.groupby("protocol")["half"].agg(set)
    sure = (table["decoding"] == "greedy") & (table["order"] == "own")
    assert all(halves[name] == {0} for name in table.loc[sure, "protocol"].unique())
    assert all(halves[name] == {0, 1, 2} for name in table.loc[~sure, "protocol"].unique())
    letter = table[(table["order"] == "permuted") & (table["half"] > 0)]
    drawn = table[(table["scoring"] == "free-em") & (table["decoding"] == "t1")]
    assert (letter["n"] == 2).all() and drawn["n"].isin((2, 4)).all()
    assert table.loc[table["decoding"] == "greedy", "flagged_corrected"].isna().all()


def test_letter_draws_of_the_real_sampler_have_the_shares_of_the_closed_form(judged, tmp_path):
    n, table = 4000, table_of(judged)
    job = SampleJob(
        model=str(judged / "tuned"),
        rows=str(judged / "items.parquet"),
        out=str(tmp_path / "drawn.parquet"),
        protocol="letter",
        samples=n,
    )
    run_sample(job)
    right = read_table(job.out).groupby("row_id")["correct"].mean()
    letter = table[(table["scoring"] == "letter") & (table["order"] == "own") & (table["count"] == "all")]
    letter = letter[(letter["decoding"] == "t1") & (letter["half"] == 0)].set_index("row_id")["p_pass"]
    expected = letter[right.index].to_numpy()
    assert (np.abs(right.to_numpy() - expected) < 5 * np.sqrt(expected * (1 - expected) / n)).all()


def test_what_is_there_is_not_run_again_and_other_thresholds_need_no_pass(judged, monkeypatch, tmp_path):
    before = table_of(judged)
    assert again(judged, monkeypatch) == []
    assert table_of(judged).equals(before)
    told = json.loads((judged / "robustness.json").read_text())["cost"]
    assert told["ran"] == 0 and len(told["passes"]) == PASSES
    assert all(one["seconds"] > 0 for one in told["passes"] if one["table"] != "scores_tuned.parquet")
    copy = shutil.copytree(judged, tmp_path / "r")
    assert again(copy, monkeypatch, counts=["all"], sources=["own"]) == []
    assert set(table_of(copy)["count"]) == {"all"}


def test_a_killed_grid_goes_on_where_it_was_and_ends_the_same(judged, monkeypatch, tmp_path):
    copy = shutil.copytree(judged, tmp_path / "r")
    for path in [copy / "robustness", copy / ".stages"]:
        shutil.rmtree(path)
    (copy / "robustness.parquet").unlink()
    with pytest.raises(KeyboardInterrupt):
        again(copy, monkeypatch, stop_at=2)
    assert not (copy / "robustness.parquet").exists()
    assert len(again(copy, monkeypatch)) == PASSES - 1 - 2
    assert table_of(copy).equals(table_of(judged))


def test_dry_says_the_cost_and_leaves_nothing(made, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(made, tmp_path / "r", ignore=shutil.ignore_patterns("robust*"))
    shutil.rmtree(copy / ".stages")
    before = sorted(copy.rglob("*"))
    assert again(copy, monkeypatch, dry=True, scorings=["letter", "free-em"], decodings=["t1"]) == []
    told = capsys.readouterr().out
    assert "12 rows under" in told and "to read, at most 0 to generate" not in told and "estimated: " in told
    assert sorted(copy.rglob("*")) == before


def test_a_limit_takes_rows_by_their_ids(judged, monkeypatch, tmp_path):
    copy = shutil.copytree(judged, tmp_path / "r")
    again(copy, monkeypatch, limit=5, scorings=[], decodings=[], orders=[], wordings=[], dtypes=[])
    five = table_of(copy)["row_id"].unique()
    assert len(five) == 5 and set(five) != set(read_table(copy / "detect.parquet")["row_id"][:5])


def test_wrong_runs_and_probes_are_told_in_a_line(made, tmp_path):
    with pytest.raises(InputError, match="holds no finished run"):
        run_robustness(RobustnessJob(run=str(tmp_path)))
    with pytest.raises(InputError, match=r"nowhere.jsonl: no such file of probes"):
        run_robustness(RobustnessJob(run=str(made), probes="nowhere.jsonl"))
    copy = shutil.copytree(made, tmp_path / "r", ignore=shutil.ignore_patterns("tuned"))
    with pytest.raises(InputError, match=r"run: .*tuned.config.json is not there; a finished run"):
        run_robustness(RobustnessJob(run=str(copy)))
