"""Rows that ask nearly the same: lexical neighbours, and whether their answers disagree.

A neighbour conflicts when it answers otherwise and its answer stands among the row's own options: then both answer one
question; or when the conflict graph (conflicts.parquet) has the pair. Similarity is the cosine of TF-IDF vectors over
words and word pairs, or the graph's where that is higher.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from ilpjax.rows import Item, Row

BLOCK = 256  # rows compared with all others at a time
NEAREST = 16  # neighbours looked at, a row
LEAST = 0.3  # cosine below which two prompts have little in common
COLUMNS = ("row_id", "partner", "similarity", "conflicts", "agrees", "rival", "verdict")


def neighbours(
    rows: Sequence[Row], items: Sequence[Item], asked: Sequence[str], graph: pd.DataFrame | None = None
) -> pd.DataFrame:
    """A line a pair (row_id of `asked`, partner): similarity (cosine, at least LEAST); conflicts; agrees (the same
    answer); rival (the option of the row that is the partner's answer, -1 for none); verdict (the graph's judge on the
    row: right, wrong, both, neither, undecided, unjudged; empty where the graph has no such pair). Most similar first,
    row by row. A pair of which both are right is no conflict."""
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
        lines.append((rows[n].row_id, rows[other].row_id, similarity, rival >= 0, agrees, rival, ""))
    near = pd.DataFrame(lines, columns=list(COLUMNS))
    return near if graph is None or not len(graph) else _joined(near, _from_graph(graph, rows, options, asked))


def _from_graph(
    graph: pd.DataFrame, rows: Sequence[Row], options: Mapping[str, list[str]], asked: Sequence[str]
) -> pd.DataFrame:
    answers = {row.row_id: plain(row.response) for row in rows}
    wanted, seen = set(asked), {"a": ("right", "wrong"), "b": ("wrong", "right")}
    lines = []
    for a, b, similarity, verdict in graph[["row_a", "row_b", "similarity", "verdict"]].itertuples(index=False):
        for row_id, partner, said in zip((a, b), (b, a), seen.get(verdict, (verdict, verdict)), strict=True):
            if row_id in wanted and partner in answers:
                own = options.get(row_id, [])
                rival = own.index(answers[partner]) if answers[partner] in own else -1
                lines.append((row_id, partner, similarity, verdict != "both", False, rival, said))
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _joined(near: pd.DataFrame, told: pd.DataFrame) -> pd.DataFrame:
    """The graph's word on a pair counts; its similarity where it is the higher one."""
    pairs = ["row_id", "partner"]
    both = pd.concat([told, near], ignore_index=True)
    both["similarity"] = both.groupby(pairs)["similarity"].transform("max")
    place = both["row_id"].map(
        {row_id: n for n, row_id in enumerate(dict.fromkeys([*near["row_id"], *told["row_id"]]))}
    )
    both = both.assign(place=place).drop_duplicates(pairs)
    order = ["place", "similarity", "partner"]
    return both.sort_values(order, ascending=[True, False, True], kind="stable")[list(COLUMNS)].reset_index(drop=True)


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
