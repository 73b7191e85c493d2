"""Both sides of `bench similarity` find the planted pairs, and no other."""

import json
import sys
from unittest.mock import MagicMock

import numpy as np
import pytest

from ilpjax.bench import run, similarity
from ilpjax.bench.similarity import APART, MOST, PLANTED, THRESHOLD, Similarity, make_vectors
from ilpjax.bench.worker import Worker
from ilpjax.config import BenchJob
from ilpjax.conflicts import similar_pairs_reference
from ilpjax.errors import BenchError

ROWS = 1200


@pytest.fixture
def side(tmp_path):
    return Similarity(BenchJob(what="similarity", rows=ROWS, dims=128), tmp_path)


@pytest.mark.parametrize("dims", [128, 384])
def test_the_planted_pairs_are_all_that_are_near(dims):
    vectors, planted = make_vectors(ROWS, dims, seed=3)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert len(np.unique(planted)) == 2 * ROWS // APART and vectors.dtype == np.float32
    cosine = np.triu(vectors @ vectors.T, 1)
    near = np.argwhere(cosine > 0.6)
    assert near.tolist() == planted.tolist()
    found = cosine[tuple(near.T)]
    assert PLANTED[0] - 1e-6 < found.min() < 0.85 and 0.95 < found.max() < PLANTED[1] + 1e-6
    assert not np.array_equal(make_vectors(ROWS, dims, seed=4)[0], vectors)


def test_ours_gives_every_pair_and_counts_those_looked_at(side, tmp_path):
    vectors = np.load(tmp_path / "vectors.npy")
    plain = similar_pairs_reference(vectors, threshold=THRESHOLD, most=MOST).sort_values(["a", "b"])
    found = np.reshape(side.check(), (-1, 3))
    assert (found[:, :2] * ROWS).round().astype(int).tolist() == plain[["a", "b"]].to_numpy().tolist()
    assert found[:, 2] == pytest.approx(plain["similarity"].to_numpy(), abs=1e-6)
    assert side.run() == ROWS * (ROWS - 1) / 2


def test_a_pair_of_another_row_is_a_difference(side):
    ours = side.check()
    other = [ours[0], ours[1] + 1 / ROWS, *ours[2:]]
    tolerance = run.BENCHES["similarity"].tolerance[0]
    with pytest.raises(BenchError, match="differ"):
        run.check(ours, other, tolerance)
    with pytest.raises(BenchError, match="results of ours"):
        run.check(ours, ours[3:], tolerance)


@pytest.mark.slow
def test_the_peer_finds_the_same_pairs_with_any_chunks(side, tmp_path):
    pytest.importorskip("sentence_transformers")
    program = run.PEERS / run.BENCHES["similarity"].peer
    with Worker("peer", [sys.executable, str(program)], {"HF_HUB_OFFLINE": "1"}) as peer:
        versions = peer.ask("prepare", job={}, folder=str(tmp_path), device="cpu")
        assert set(versions) == {"sentence-transformers", "torch"}
        run.check(side.check(), peer.ask("check"), run.BENCHES["similarity"].tolerance[0])
        turn = peer.ask("run", threads=1, query_chunk=100, corpus_chunk=500)
        few = peer.ask("run", threads=1, query_chunk=100, corpus_chunk=500, few=True)
    assert turn["work"] == side.run() and few["work"] == 600 * 599 / 2


@pytest.mark.slow
def test_a_large_file_is_searched_by_a_process_of_its_own(side, monkeypatch, capsys):
    monkeypatch.setattr(similarity, "LARGE", 2 * ROWS)
    more = side.more()
    assert more["flops"] == 256
    told = run.shares(1e6, {**more, "matmul_rate": 1e12, "copy_rate": 1e10, "peak": None})
    large = told["large"]
    assert large["rows"] == 2 * ROWS and large["rate"] * large["seconds"] == pytest.approx(ROWS * (2 * ROWS - 1))
    assert large["gflops"] == pytest.approx(large["rate"] * 256 / 1e9)
    assert large["estimated_s"] * large["rate"] == pytest.approx(1e12 / 2, rel=1e-5)
    assert large["mapped_mib"] == pytest.approx(2 * ROWS * (128 * 4 + 8 * MOST) / 2**20)
    assert large["peak_mib"] > 2 * ROWS * 128 * 4 / 2**20  # it has read the vectors
    run.show_large(json.loads(json.dumps(large)))
    assert "2,400 rows alone" in capsys.readouterr().out


def test_a_large_file_with_other_pairs_than_planted_is_an_error(side, monkeypatch):
    worker = MagicMock()
    worker.__enter__.return_value.ask.return_value = {"found": [[0, 1]], "seconds": 1.0}
    monkeypatch.setattr(similarity, "Worker", lambda *_: worker)
    with pytest.raises(BenchError, match=r"not the pairs that were planted"):
        side._large(ROWS)
