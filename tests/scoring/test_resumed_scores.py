"""A run that is stopped goes on after its last whole shard and ends with the same file."""

import re

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ilpjax.config import ScoreConfig, ScoreJob
from ilpjax.data import items_table
from ilpjax.errors import InputError
from ilpjax.models import save_model
from ilpjax.progress import progress
from ilpjax.rows import Item
from ilpjax.scoring import run_score, score_items


class Stopped(BaseException):
    """As a signal would: no one catches it."""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr("ilpjax.scoring.score.BLOCK", 8)
    monkeypatch.setattr("ilpjax.scoring.score.SHARD", 300)


@pytest.fixture
def score(tiny, plain, mesh, tmp_path):
    def run(items, stamp="same", out="scores.parquet", **keys):
        cfg = ScoreConfig(batch=2, **keys)
        score_items(*tiny, plain, items, cfg, mesh=mesh, seed=0, out=tmp_path / out, stamp=stamp)
        return (tmp_path / out).read_bytes()

    return run


def broken(items, after, error=Stopped):
    yield from items[:after]
    raise error("disk on fire")


@pytest.mark.parametrize("keys", [{}, {"protocol": "letter", "orders": 3, "texts": True}, {"orders": 2}])
def test_the_same_file_wherever_it_was_stopped(score, items, tmp_path, keys):
    want = score(items, out="whole.parquet", **keys)
    assert pq.ParquetFile(tmp_path / "whole.parquet").num_row_groups > 3
    parts = tmp_path / "scores.parquet.parts"
    for after in (10, 33, 59):
        with pytest.raises(Stopped):
            score(broken(items, after), **keys)
        assert not (tmp_path / "scores.parquet").exists()
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("0*.parquet")}
    assert kept
    before = len(kept)
    with pytest.raises(Stopped):  # what was done is not done again
        score(broken(items, 59), **keys)
    assert {path: path.stat().st_mtime_ns for path in parts.glob("0*.parquet")} == kept and before == len(kept)
    assert score(items, **keys) == want
    assert not parts.exists()


def test_other_inputs_begin_anew(score, items, tmp_path, capfd):
    want = score(items)
    for stamp in ("other", None):
        with pytest.raises(Stopped):
            score(broken(items[::-1], 50), stamp=stamp)
        assert (tmp_path / "scores.parquet.parts").exists() == (stamp is not None)
        assert score(items) == want
    assert "are there already" not in capfd.readouterr().err


def test_it_says_what_was_there_already(score, items, capfd):
    with pytest.raises(Stopped):
        score(broken(items, 50))
    capfd.readouterr()
    score(items)
    told = capfd.readouterr().err
    done = int(re.search(r"score: (\d+) items are there already", told)[1])
    assert 30 <= done < 60 and "score: 60 of 60 items" in told


def test_the_rate_is_of_what_was_done_now(monkeypatch, capfd):
    clock = iter([0.0, 2.0])
    monkeypatch.setattr("ilpjax.progress.time.monotonic", lambda: next(clock))
    with progress("score", 100, done=90) as advance:
        advance(10)
    assert "score: 100 of 100 items, 5.0/s" in capfd.readouterr().err


def test_wrong_input_leaves_nothing(score, items, tmp_path):
    bad = Item(row_id="bad", question="?", options=("where " * 2000, "Rome"), answer=0)
    with pytest.raises(InputError, match="row_id bad"):
        score([*items, bad])
    assert list(tmp_path.iterdir()) == []


def test_all_shards_done_but_not_yet_one_file(score, items, tmp_path, monkeypatch):
    want = score(items)
    (tmp_path / "scores.parquet").unlink()

    def stop(*_, **__):
        raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("ilpjax.scoring.table.pq.ParquetWriter", stop)
        score(items)
    assert score(items) == want


def test_a_changed_model_or_file_or_key_begins_anew(tiny, make_model, tokenizer, items, tmp_path, monkeypatch):
    save_model(tmp_path / "model", *tiny, tokenizer=tokenizer)
    items_table(items[:40]).to_parquet(tmp_path / "items.parquet")
    keys = {"model": str(tmp_path / "model"), "items": str(tmp_path / "items.parquet"), "batch": 8}
    job = lambda **more: ScoreJob.make(keys | {"out": str(tmp_path / "s.parquet"), "mesh": {"data": 8}} | more)
    stamps = []
    monkeypatch.setattr("ilpjax.scoring.score.score_items", lambda *_, stamp, **__: stamps.append(stamp))
    run_score(job())
    run_score(job(out=str(tmp_path / "other.parquet")))
    assert stamps[0] == stamps[1]
    run_score(job(protocol="letter"))
    run_score(job(seed=1))
    items_table(items[:39]).to_parquet(tmp_path / "items.parquet")
    run_score(job())
    save_model(tmp_path / "model", *make_model(initializer_range=0.1), tokenizer=tokenizer)
    run_score(job())
    assert len(set(stamps)) == 5


def test_no_items_make_an_empty_table(score, tmp_path):
    score([])
    table = pd.read_parquet(tmp_path / "scores.parquet")
    assert len(table) == 0 and "option_logprob" in table and np.issubdtype(table["order"].dtype, np.integer)
