"""Pairs of vectors that are alike, nearly all of them: an inverted file (faiss) for tens of millions of rows."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Float

from ilpjax.conflicts.pairs import pair_table
from ilpjax.errors import InputError
from ilpjax.progress import progress

BLOCK = 16_384  # rows read at a time
PROBED = 32  # one list in so many is searched
HALF = 2e-3  # what float16 may change in a cosine
SAMPLE = 1_000  # rows whose partners are also found exactly, for the recall


def approximate_pairs(
    vectors: Float[np.ndarray, "row dim"], *, threshold: float, most: int, seed: int = 0
) -> tuple[pd.DataFrame, float]:
    """(pairs as `similar_pairs` gives them, recall). The rows lie in about 4 sqrt(n) lists as float16; the cosines of
    what is found are computed again from `vectors`. The recall is that of `SAMPLE` rows, drawn by `seed`, against all
    rows: the share of their exact partners that were found; 1.0 where they have none.

    Raises InputError where faiss is not installed.
    """
    index = _index(vectors, seed)
    count = len(vectors)
    parts: list[tuple[np.ndarray, ...]] = []
    with progress("pairs", count, "rows") as advance:
        for start, block in _blocks(vectors):
            near, ids = index.search(block, most + 1)
            row = np.repeat(np.arange(start, start + len(block)), most + 1)
            keep = (ids.ravel() >= 0) & (ids.ravel() != row) & (near.ravel() >= threshold - HALF)
            row, other = row[keep], ids.ravel()[keep]
            parts.append((row, other, np.einsum("nd,nd->n", vectors[row], vectors[other])))
            advance(len(block))
    found = pair_table(*map(np.concatenate, zip(*parts, strict=True)))
    found = found[found["similarity"] >= np.float32(threshold)].reset_index(drop=True)
    return found, _recall(vectors, found, threshold, most, seed)


def _index(vectors: np.ndarray, seed: int) -> "faiss.Index":  # type: ignore[name-defined]  # noqa: F821
    try:
        import faiss
    except ImportError as error:
        raise InputError(
            "search: faiss is not installed; pip install 'ilpjax[approximate]', or search=exact"
        ) from error
    count, dims = vectors.shape
    lists = max(1, min(int(4 * math.sqrt(count)), count // 39))  # fewer than 39 rows a list make poor lists
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dims), dims, lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    drawn = np.random.default_rng(seed).choice(count, min(count, 64 * lists), replace=False)
    index.train(np.ascontiguousarray(vectors[np.sort(drawn)]))
    for _, block in _blocks(vectors):
        index.add(block)
    index.nprobe = max(8, lists // PROBED)
    return index


def _recall(vectors: np.ndarray, found: pd.DataFrame, threshold: float, most: int, seed: int) -> float:
    drawn = np.sort(np.random.default_rng(seed).choice(len(vectors), min(SAMPLE, len(vectors)), replace=False))
    wanted: list[tuple[int, int, float]] = []
    for start, block in _blocks(vectors):
        cosine = vectors[drawn] @ block.T
        cosine[drawn[:, None] == np.arange(start, start + len(block))] = -1
        at, other = np.nonzero(cosine >= np.float32(threshold))
        wanted += zip(drawn[at].tolist(), (other + start).tolist(), cosine[at, other].tolist(), strict=True)
    exact = pd.DataFrame(wanted, columns=["row", "other", "value"]).sort_values("value", ascending=False, kind="stable")
    exact = exact.groupby("row").head(most)
    pairs = set(zip(found["a"], found["b"], strict=True))
    hits = [(min(a, b), max(a, b)) in pairs for a, b in zip(exact["row"], exact["other"], strict=True)]
    return sum(hits) / len(hits) if hits else 1.0


def _blocks(vectors: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(vectors), BLOCK):
        yield start, np.ascontiguousarray(vectors[start : start + BLOCK], np.float32)
