"""Rows that ask nearly the same: lexical neighbours, and whether their answers disagree.

A neighbour conflicts when it answers otherwise and its answer stands among the row's own options: then both answer one
question. Similarity is the cosine of TF-IDF vectors over words and word pairs.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from ilpjax.rows import Item, Row

BLOCK = 256  # rows compared with all others at a time
NEAREST = 16  # neighbours looked at, a row
LEAST = 0.3  # cosine below which two prompts have little in common
COLUMNS = ("row_id", "partner", "similarity", "conflicts", "agrees", "rival")


def neighbours(rows: Sequence[Row], items: Sequence[Item], asked: Sequence[str]) -> pd.DataFrame:
    """A line a pair (row_id of `asked`, partner): similarity (cosine, at least LEAST); conflicts; agrees (the same
    answer); rival (the option of the row that is the partner's answer, -1 for none). Most similar first."""
    if not asked:
        return pd.DataFrame([], columns=list(COLUMNS))
    place = {row.row_id: n for n, row in enumerate(rows)}
    options = {item.row_id: [plain(option) for option in item.options] for item in items}
    answers = [plain(row.response) for row in rows]
    wanted = [place[row_id] for row_id in asked if row_id in place]
    lines = []
    for n, other, similarity in _nearest([row.prompt for row in rows], wanted):
        own = options.get(rows[n].row_id, [])
        agrees = answers[n] == answers[other]
        rival = own.index(answers[other]) if not agrees and answers[other] in own else -1
        lines.append((rows[n].row_id, rows[other].row_id, similarity, rival >= 0, agrees, rival))
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _nearest(texts: Sequence[str], wanted: Sequence[int]) -> Iterator[tuple[int, int, float]]:
    """(row, another row, cosine), at most NEAREST a row."""
    try:
        vectors = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\w+", dtype=np.float32).fit_transform(texts)
    except ValueError:  # no word in any text
        return
    for start in range(0, len(wanted), BLOCK):
        block = list(wanted[start : start + BLOCK])
        cosine = (vectors[block] @ vectors.T).tocsr()
        for n, row in enumerate(block):
            found = slice(cosine.indptr[n], cosine.indptr[n + 1])
            others, values = cosine.indices[found], cosine.data[found]
            keep = (values >= LEAST) & (others != row)
            others, values = others[keep], values[keep]
            for k in np.lexsort((others, -values))[:NEAREST]:
                yield row, int(others[k]), min(float(values[k]), 1.0)


def plain(text: str) -> str:
    """What two answers are compared by: case, spaces and a full stop do not count."""
    return " ".join(text.split()).rstrip(".").casefold()
