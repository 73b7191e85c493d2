import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import one_device

from ilpjax.config import MeshConfig
from ilpjax.conflicts import approximate_pairs, similar_pairs, similar_pairs_reference
from ilpjax.conflicts import pairs as module
from ilpjax.parallel import make_mesh


def vectors(seed: int, rows: int, dims: int, near: int) -> np.ndarray:
    """Unit rows, `near` of them close to another one."""
    rng = np.random.default_rng(seed)
    made = rng.normal(size=(rows, dims)).astype(np.float32)
    for row, other in rng.integers(0, rows, (near, 2)):
        made[row] = made[other] + 0.3 * rng.normal(size=dims) / np.sqrt(dims) * np.linalg.norm(made[other])
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def found(given: np.ndarray, folder, **keys) -> pd.DataFrame:
    keys = {"threshold": 0.7, "most": 4, "block": 512, "mesh": one_device()} | keys
    return similar_pairs(given, folder=folder / "parts", **keys)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000),
    rows=st.integers(2, 1300),
    dims=st.sampled_from([3, 8, 40]),
    most=st.sampled_from([1, 3, 8]),
)
def test_equal_to_the_plain_reference(tmp_path_factory, seed, rows, dims, most):
    """In few dimensions nearly everything is near; the k-th and the next may tie to rounding, so those are left out."""
    given = vectors(seed, rows, dims, rows)
    ours = found(given, tmp_path_factory.mktemp("pairs"), most=most, threshold=0.8)
    wanted = similar_pairs_reference(given, threshold=0.8, most=most)
    both = ours.merge(wanted, "outer", ["a", "b"], suffixes=("", "_"), indicator=True)
    assert not (abs(both["similarity"] - both["similarity_"]) > 1e-5).any()
    doubtful = both[both["_merge"] != "both"]
    cosine = given @ given.T
    np.fill_diagonal(cosine, -1)
    last = np.sort(cosine, axis=1)[:, -most] if most < rows else np.full(rows, -1)
    at_the_bar = np.minimum(abs(last[doubtful["a"]] - cosine[doubtful["a"], doubtful["b"]]), 1)
    at_the_bar = np.minimum(at_the_bar, abs(last[doubtful["b"]] - cosine[doubtful["a"], doubtful["b"]]))
    at_the_bar = np.minimum(at_the_bar, abs(0.8 - cosine[doubtful["a"], doubtful["b"]]))
    assert (at_the_bar < 1e-5).all()


def test_each_pair_once_highest_first_no_row_with_itself(tmp_path):
    given = vectors(0, 1200, 16, 400)
    table = found(given, tmp_path)
    assert len(table) > 200 and (table["a"] < table["b"]).all()
    assert not table.duplicated(["a", "b"]).any() and table["similarity"].is_monotonic_decreasing
    assert table["similarity"].min() >= np.float32(0.7)
    assert not (tmp_path / "parts").exists()


def test_a_thousand_copies_keep_their_nearest_and_no_more(tmp_path):
    given = np.tile(vectors(1, 1, 16, 0), (1000, 1))
    table = found(given, tmp_path, most=3)
    partners = pd.concat([table["a"], table["b"]]).value_counts()
    assert (partners >= 3).all() and len(table) <= 3000


def test_eight_devices_find_what_one_finds(tmp_path):
    given = vectors(2, 9000, 16, 5000)
    np.save(tmp_path / "given.npy", given)
    mapped = np.load(tmp_path / "given.npy", mmap_mode="r")
    eight, one = found(mapped, tmp_path, mesh=make_mesh(MeshConfig())), found(given, tmp_path)
    assert make_mesh(MeshConfig()).size == 8 and len(one) > 3000
    by_place = lambda table: table.sort_values(["a", "b"], ignore_index=True)
    pd.testing.assert_frame_equal(by_place(eight), by_place(one), rtol=1e-5)


def test_a_killed_run_goes_on_from_its_last_copy_and_finds_the_same(tmp_path, monkeypatch):
    given = vectors(3, 3000, 16, 2000)
    whole = found(given, tmp_path / "whole")
    monkeypatch.setattr(module, "KEPT_EVERY", 0.0)
    blocks, real = [], module._one_row

    def counted(these, starts, mesh):
        blocks.append(starts[0])
        if len(blocks) == 4:
            raise KeyboardInterrupt
        real(these, starts, mesh)

    monkeypatch.setattr(module, "_one_row", counted)
    with pytest.raises(KeyboardInterrupt):
        found(given, tmp_path, stamp="x")
    pd.testing.assert_frame_equal(found(given, tmp_path, stamp="x"), whole)
    assert blocks == [0, 512, 1024, 1536, 1536, 2048, 2560]
    blocks.clear()
    blocks.extend([None] * 4)  # no more kills
    with monkeypatch.context() as patch:
        patch.setattr(module, "_one_row", lambda these, starts, mesh: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            found(given, tmp_path, stamp="x")
    pd.testing.assert_frame_equal(found(given, tmp_path, stamp="other", threshold=0.7), whole)
    assert blocks[4:] == [0, 512, 1024, 1536, 2048, 2560]  # another stamp begins anew


def test_two_programs_are_compiled_whatever_the_number_of_rows(tmp_path):
    before = module._fold._cache_size()
    for rows in (1600, 2100, 2600):
        found(vectors(4, rows, 24, 10), tmp_path, most=5)
    assert module._fold._cache_size() == before + 1


@pytest.mark.parametrize("keys", [{"threshold": 0.0}, {"most": 0}])
def test_what_cannot_be_asked(tmp_path, keys):
    with pytest.raises(ValueError, match="above 0"):
        found(vectors(0, 10, 4, 0), tmp_path, **keys)


def test_the_approximate_path_tells_its_recall(tmp_path):
    pytest.importorskip("faiss")
    given = vectors(5, 6000, 48, 4000)
    exact = similar_pairs_reference(given, threshold=0.8, most=4)
    pairs, recall = approximate_pairs(given, threshold=0.8, most=4)
    shared = pairs.merge(exact, on=["a", "b"])
    assert len(exact) > 1000 and len(shared) / len(exact) > 0.9
    assert recall == pytest.approx(len(shared) / len(exact), abs=0.05)
    np.testing.assert_allclose(shared["similarity_x"], shared["similarity_y"], atol=1e-5)
    poor = pairs.iloc[::2].reset_index(drop=True)  # the recall is measured, not assumed
    from ilpjax.conflicts.approximate import _recall

    assert _recall(given, poor, 0.8, 4, 0) < 0.75 * recall
