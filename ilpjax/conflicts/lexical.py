"""Pairs of texts that are alike in their letters and words: what serves where there is no sentence encoder."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from ilpjax.conflicts.pairs import pair_table
from ilpjax.progress import progress

BLOCK = 512  # texts compared with all others at a time


def lexical_vectors(texts: Sequence[str]) -> sparse.csr_matrix:
    """Unit rows: TF-IDF of words and word pairs beside that of four letters in a row, half and half."""
    settings = {"sublinear_tf": True, "dtype": np.float32}
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\w+", **settings)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(4, 4), **settings)
    parts = []
    for vectorizer in (words, letters):
        try:
            parts.append(vectorizer.fit_transform(texts))
        except ValueError:  # no text holds a word
            parts.append(sparse.csr_matrix((len(texts), 1), dtype=np.float32))
    return normalize(sparse.hstack(parts)).tocsr()


def lexical_pairs(vectors: sparse.csr_matrix, *, threshold: float, most: int) -> pd.DataFrame:
    """As `similar_pairs`, of sparse vectors. Every text is compared with all: meant for some 10^5 of them."""
    found = []
    turned = vectors.T.tocsr()
    starts = range(0, vectors.shape[0], BLOCK)
    with progress("pairs", len(starts), "blocks of rows") as advance:
        for start in starts:
            cosine = (vectors[start : start + BLOCK] @ turned).tocoo()
            near = (cosine.data >= threshold) & (cosine.row + start != cosine.col)
            block = pd.DataFrame(
                {"row": cosine.row[near] + start, "other": cosine.col[near], "value": cosine.data[near]}
            )
            block = block.sort_values(["row", "value", "other"], ascending=[True, False, True], kind="stable")
            found.append(block.groupby("row", sort=False).head(most))
            advance(1)
    return pair_table(*(np.concatenate([block[name] for block in found]) for name in ("row", "other", "value")))


def lexical_alike(one: Sequence[str], two: Sequence[str]) -> Float[np.ndarray, " pair"]:
    """Cosines of texts, pair by pair."""
    vectors = lexical_vectors([*one, *two])
    return np.asarray(vectors[: len(one)].multiply(vectors[len(one) :]).sum(axis=1)).ravel()
