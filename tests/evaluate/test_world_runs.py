"""A whole world, small enough to learn next to nothing: every file, and a rerun that does nothing."""

import json

import pytest

from ilpjax.config import WorldJob
from ilpjax.errors import InputError
from ilpjax.evaluate import run_world
from ilpjax.evaluate.examine import examine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    tiny = {"hidden": 32, "layers": 1, "arms": 1, "cpt": {"epochs": 1}, "sft": {"epochs": 1}}
    return WorldJob.make({"out": str(tmp_path_factory.mktemp("worlds")), **tiny})


@pytest.fixture(scope="module")
def world(job):
    return examine(job, seed=7)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_world_leaves_corpus_rows_probes_base_and_labels(world):
    for name in ("corpus.jsonl", "rows.jsonl", "twins.jsonl", "probes.jsonl"):
        assert lines(world.folder / name), name
    assert (world.folder / "base" / "model" / "config.json").is_file()
    labels = lines(world.folder / "labels.jsonl")
    assert {"row_id", "planted", "dose", "twin_id", "counts"} <= set(labels[0])
    assert {label["row_id"] for label in labels} == {row["id"] for row in lines(world.folder / "rows.jsonl")}
    assert set(world.verdicts["row_id"]) == {label["row_id"] for label in labels}
    assert world.rows["truth"].isin(("abstain",)).mean() > 0.5  # so little training: the twins fail, too


def test_a_rerun_does_nothing(world, job, capsys):
    capsys.readouterr()
    before = {p: p.stat().st_mtime_ns for p in world.folder.rglob("*.safetensors")}
    again = examine(job, seed=7)
    assert {p: p.stat().st_mtime_ns for p in world.folder.rglob("*.safetensors")} == before
    assert "done\n" not in capsys.readouterr().out.replace("already done, nothing changed", "")
    assert again.rows.equals(world.rows)


def test_decoys_are_plumbing_and_get_no_cause(world):
    decoys = world.verdicts[world.verdicts["planted"] == "decoy"]
    assert len(decoys) and world.decoys == []
    unlearned = decoys[decoys["unlearned"].astype(bool) | decoys["unlearned_corrected"].astype(bool)]
    assert (unlearned["cause"] == "plumbing").all()


def test_the_labels_of_another_world_are_told(world, job, monkeypatch):
    from ilpjax import worlds

    monkeypatch.setattr(worlds, "run_world", lambda job: None)
    file = world.folder / "labels.jsonl"
    kept = file.read_text()
    file.write_text(kept.replace("clean-", "other-"))
    with pytest.raises(InputError, match="labels.jsonl: the labels of other rows"):
        examine(job, seed=7)
    file.write_text(kept)


def test_a_world_where_nothing_took_cannot_be_evaluated(world, job):
    with pytest.raises(InputError, match="no plant of these worlds took"):
        run_world(job.model_copy(update={"what": "evaluate", "seeds": [7]}))
