"""From pairs of rows near in meaning to those that contradict each other, step by step, each step counted."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from ilpjax.conflicts.answers import KINDS, OPEN, SAME, compare
from ilpjax.conflicts.questions import Names, is_open, same_question, unshared
from ilpjax.rows import Row

STEPS = ("other question", "open request", *SAME, *OPEN, *KINDS)


Alike = Callable[[Sequence[str], Sequence[str]], Float[np.ndarray, " pair"]]  # cosines of texts, pair by pair


def contradictions(rows: Sequence[Row], pairs: pd.DataFrame, alike: Alike, threshold: float) -> pd.DataFrame:
    """`pairs` (a, b: places in `rows`; similarity) with a column `step`: one of STEPS, the first that decided.

    Prompts that share lines (one passage, one instruction) are alike for that alone: what else they say must have a
    similarity of `threshold`, too.
    """
    names = Names(row.prompt for row in rows)
    couples = [(rows[a], rows[b]) for a, b in zip(pairs["a"], pairs["b"], strict=True)]
    left = [unshared(a.prompt, b.prompt) for a, b in couples]
    both = [texts for texts in left if texts]
    cosine = iter(alike([a for a, _ in both], [b for _, b in both]) if both else ())
    near = [next(cosine) >= threshold if texts else True for texts in left]
    step = [decide(a, b, names) if n else "other question" for (a, b), n in zip(couples, near, strict=True)]
    return pairs.assign(step=pd.Series(step, index=pairs.index, dtype=object))


def decide(a: Row, b: Row, names: Names) -> str:
    if a.history != b.history or not same_question(a.prompt, b.prompt, names):
        return "other question"
    if not a.options and not b.options and (is_open(a.prompt) or is_open(b.prompt)):
        return "open request"
    return compare((a.prompt, b.prompt), (said(a), said(b)), (a.options, b.options))


def said(row: Row) -> str:
    """The answer in words: of a row with options, the right one."""
    return row.options[row.answer] if row.options else row.response


def support(pairs: pd.DataFrame) -> Counter[tuple[int, int]]:
    """(a, b) -> rows near a, and asking the same as a, that agree with it: witnesses for a's answer against b's."""
    agree: dict[int, set[int]] = {}
    for a, b in pairs.loc[pairs["step"].isin(SAME), ["a", "b"]].itertuples(index=False):
        agree.setdefault(a, set()).add(b)
        agree.setdefault(b, set()).add(a)
    counted: Counter[tuple[int, int]] = Counter()
    for a, b in pairs.loc[pairs["step"].isin(KINDS), ["a", "b"]].itertuples(index=False):
        counted[a, b] = len(agree.get(a, set()) - {b})
        counted[b, a] = len(agree.get(b, set()) - {a})
    return counted
