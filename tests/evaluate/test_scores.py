import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from examined import calibration, examined

from ilpjax.config import WorldJob
from ilpjax.diagnose import ABSTAIN, CAUSES, CLASSES, SIGNALS
from ilpjax.errors import InputError
from ilpjax.evaluate import jobs
from ilpjax.evaluate.examine import shares, single, truth_of
from ilpjax.evaluate.kills import shuffled
from ilpjax.evaluate.pictures import write_picture
from ilpjax.evaluate.score import compare, decoys, doses


@pytest.fixture(scope="module")
def fitted():
    return calibration(examined(100), examined(101))


@pytest.fixture(scope="module")
def told(fitted):
    worlds = [examined(seed) for seed in (1, 2, 3)]
    return compare(worlds, fitted) | {"seeds": [1, 2, 3], "doses": doses(worlds)}


def test_signals_that_part_the_causes_beat_every_baseline_that_does_not_see_them(told):
    assert told["macro_f1"]["low"] > 0.9 and min(v["mean"] for v in told["auroc"].values()) > 0.95
    assert told["ece"]["low"] <= told["ece"]["mean"] <= told["ece"]["high"] + 1e-9
    others = [one["macro_f1"]["high"] for name, one in told["baselines"].items() if name != "cascade_orders"]
    assert max(others) < told["macro_f1"]["low"]
    assert told["baselines"]["cascade_orders"]["worst"] <= told["baselines"]["cascade_orders"]["best"]


@pytest.mark.slow
def test_signals_that_part_nothing_are_worth_no_more_than_the_prior():
    blind = calibration(examined(100, telling=False), examined(101, telling=False))
    found = compare([examined(seed, telling=False) for seed in (1, 2, 3)], blind)
    assert found["macro_f1"]["mean"] < 0.35
    assert all(0.3 < one["mean"] < 0.7 for one in found["auroc"].values())


def test_the_confusion_counts_every_known_row_once(told):
    counts = np.array(told["confusion"])
    worlds = [examined(seed) for seed in (1, 2, 3)]
    known = pd.concat([w.rows["truth"] for w in worlds]).value_counts().drop(ABSTAIN)
    assert counts.sum() == told["rows"] == known.sum()
    assert counts.sum(axis=1).tolist() == [known[cause] for cause in CAUSES] + [0]
    assert sum(n for _, _, n in told["reliability"]) == sum(len(w.rows) for w in worlds)  # rows without a cause, too


def test_without_training_the_causes_that_only_it_tells_are_rightly_abstained_from(told):
    """The three that are left are found as well as before."""
    assert told["without_training"]["macro_f1"]["mean"] > 0.9
    assert told["without_training"]["ece"]["mean"] < 0.2
    assert told["without_training"]["auroc"]["forgetting"]["mean"] is None


@pytest.mark.slow
def test_shuffled_evidence_is_null_and_would_not_be_if_it_were_not_shuffled(fitted):
    worlds = [examined(seed) for seed in (1, 2)]
    found = shuffled(worlds, fitted)
    assert found["null"] and found["macro_f1"] < 0.3
    assert compare(worlds, fitted)["macro_f1"]["mean"] > 2 * found["macro_f1"]


def test_a_world_without_a_row_of_known_cause_takes_no_part(fitted):
    empty = replace(examined(4), rows=examined(4).rows[:0])
    found = compare([examined(1), empty], fitted)
    assert found["by_seed"]["4"] is None and found["macro_f1"]["mean"] > 0.9


def test_decoys_and_doses_are_counted_over_worlds():
    worlds = [examined(1, decoys=["forgetting"]), examined(2)]
    assert decoys(worlds) == ["forgetting"]
    assert {"planted": CAUSES[0], "dose": "dose=7", "n": 20, "took": 14} in doses(worlds)


def test_a_plant_that_took_has_its_cause_one_whose_twin_failed_has_none_and_the_rest_is_unknown():
    labels = pd.DataFrame(
        {
            "planted": ["forgetting", "forgetting", "forgetting", "clean"],
            "twin_id": ["a", "b", "c", ""],
            "counts": [True, False, False, False],
            "twin_wrong": [0.0, 1.0, 0.0, np.nan],
        }
    )
    assert truth_of(labels).tolist() == ["forgetting", ABSTAIN, "", ""]


def test_of_two_causes_each_has_half_and_either_is_right():
    truth = pd.Series(["missing_knowledge+data_conflict", "forgetting"])
    table = shares(truth)
    assert table[0, CLASSES.index("missing_knowledge")] == table[0, CLASSES.index("data_conflict")] == 0.5
    assert table[1].tolist() == [0, 0, 0, 1, 0, 0]
    assert single(truth, np.array(["data_conflict", "undertrained"])).tolist() == ["data_conflict", "forgetting"]
    assert single(truth, np.array(["undertrained", "undertrained"])).tolist() == ["missing_knowledge", "forgetting"]


def test_the_table_and_the_picture_say_what_the_json_says(told, tmp_path):
    kills = {"one": {"null": True, "says": "as it must"}, "two": {"null": False, "says": "not"}}
    text = jobs.table(json.loads(json.dumps(told | {"decoys_blamed": [], "kill_tests": kills})))
    assert f"{told['macro_f1']['mean']:.3f}" in text and "kill test two: not: NOT NULL" in text
    write_picture(tmp_path / "evaluation.png", told)
    assert (tmp_path / "evaluation.png").read_bytes().startswith(b"\x89PNG")


def run(monkeypatch, tmp_path, fitted, worlds, what="evaluate", **keys):
    fitted.save(tmp_path / "calibration.json")
    monkeypatch.setattr(jobs, "examine", lambda job, seed: worlds[seed])
    monkeypatch.setattr(jobs, "kill_tests", lambda *_: {})
    monkeypatch.setattr(jobs, "signals_of_a_random_base", lambda job, folder, seed: examined(seed).rows[list(SIGNALS)])
    given = {"out": str(tmp_path), "seeds": list(worlds), "calibration": str(tmp_path / "calibration.json")}
    jobs.run_world(WorldJob.make(given | {"what": what} | keys))


def test_worlds_that_the_calibration_saw_are_not_evaluated(monkeypatch, tmp_path, fitted):
    with pytest.raises(InputError, match="fitted on 100"):
        run(monkeypatch, tmp_path, fitted, {100: examined(100), 1: examined(1)})


def test_worlds_in_which_no_plant_took_are_told(monkeypatch, tmp_path, fitted):
    rows = examined(1).rows.assign(truth=ABSTAIN)
    with pytest.raises(InputError, match="no plant of these worlds took"):
        run(monkeypatch, tmp_path, fitted, {1: replace(examined(1), rows=rows)})
    rows = examined(1).rows.replace({"truth": {"forgetting": ABSTAIN}})
    with pytest.raises(InputError, match="was proven forgetting"):
        run(monkeypatch, tmp_path, fitted, {1: replace(examined(1), rows=rows)}, what="calibrate")
    assert not (tmp_path / "evaluation.json").exists()


@pytest.mark.slow
def test_what_calibrate_writes_evaluate_reads(monkeypatch, tmp_path, fitted, capsys):
    run(monkeypatch, tmp_path, fitted, {5: examined(5), 6: examined(6)}, what="calibrate")
    run_again = json.loads((tmp_path / "calibration.json").read_text())
    assert run_again["made_by"]["rows_of_untrained_bases"] == 16
    assert run_again["made_by"]["seeds"] == [5, 6] and run_again["made_by"]["command"].endswith("seeds=5,6 size=small")
    capsys.readouterr()
    monkeypatch.setattr(jobs, "examine", lambda job, seed: examined(seed))
    given = {"out": str(tmp_path), "seeds": [1], "calibration": str(tmp_path / "calibration.json"), "json": True}
    jobs.run_world(WorldJob.make(given | {"what": "evaluate"}))
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "evaluation.json").read_text())
    assert {"macro_f1", "ece", "auroc", "confusion", "baselines"} <= set(told)
