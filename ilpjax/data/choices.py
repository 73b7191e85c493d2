"""The multiple-choice view: native options kept, or distractors found among the answers of the same data set."""

import bisect
import hashlib
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from ilpjax.rows import Item, Row

NEIGHBOURS = 48  # rows near in meaning that are looked at for distractors
LENGTH_WEIGHT = 0.3  # cosine similarity that a factor e in length costs
RARE = 16  # terms of a question that count for its neighbours: the rarest
COMMON = 500  # a term in more rows than this (and than 5 %) tells no neighbours apart and costs most of the time
BLOCK = 512  # questions compared with all others at a time

_NUMBER = re.compile(r"(?<![\w.])([-+\u2212]?)(\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(\.\d+)?")
_CODE = re.compile(
    r"```"
    r"|[{};]\s*$"
    r"|^\s*(def|class|for|while|if|else|elif|try|function|public|private|static|void)\b.*[:{(]\s*$"
    r"|^\s*(import \w|from \S+ import |#include|return\b.*[;)]\s*$|(let|const|var) \w+ =|SELECT .* FROM )",
    re.MULTILINE,
)


def make_items(rows: Sequence[Row], options: int, seed: int) -> list[Item]:
    """The items of rows, in order: native options as they are; for a free-form row its response and up to
    `options - 1` distractors, responses of other rows of its data set.

    Distractors are near in meaning (TF-IDF of the prompt), alike in type (number, yes/no, code, phrase, sentence, long)
    and length, and differ from the answer and from each other after `normalise`. Ties and the answer's place are drawn
    by (seed, row_id): neither depends on the order of the file. A yes/no row gets yes/no options only. A data set with
    too few distinct answers gives fewer options; a row without any distractor has no item.
    """
    free: dict[str, list[Row]] = {}
    for row in rows:
        if not row.options:
            free.setdefault(row.dataset, []).append(row)
    made = {row.row_id: native_item(row) for row in rows if row.options}
    for group in free.values():
        made |= _from_group(sorted(group, key=lambda row: row.row_id), options, seed)
    return [made[row.row_id] for row in rows if row.row_id in made]


def normalise(text: str) -> str:
    """What two answers are compared by: case, articles, spaces, punctuation and the way a number is written do not
    count (`The 1,000.` is `1000.0`; `-5` is not `5`). An answer of punctuation alone stays as it is."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = _NUMBER.sub(_canonical, plain)
    words = "".join(c for c in words if not _ignored(c))
    words = re.sub(r"\b(a|an|the)\b", " ", words)
    return "".join(words.split()) or "".join(plain.split())


def answer_type(text: str) -> str:
    """number, yes-no, code, phrase (up to 6 words), sentence (up to 40 words, one line), long."""
    stripped = text.strip()
    if _NUMBER.fullmatch(stripped.strip("$€£%°. ")):
        return "number"
    if normalise(text) in ("yes", "no", "true", "false"):
        return "yes-no"
    if _CODE.search(stripped):
        return "code"
    words = len(stripped.split())
    if "\n" in stripped or words > 40:
        return "long"
    return "phrase" if words <= 6 else "sentence"


def native_item(row: Row) -> Item:
    """The item of a row that has options."""
    return Item(
        row_id=row.row_id,
        question=row.prompt,
        options=row.options,
        answer=row.answer,
        history=row.history,
        option_sources=("native",) * len(row.options),
    )


@dataclass(frozen=True)
class _Answer:
    row_id: str
    text: str
    key: str
    type: str

    @cached_property
    def size(self) -> float:
        return math.log(len(self.text) + 1)


def _from_group(rows: list[Row], options: int, seed: int) -> dict[str, Item]:
    answers = [_Answer(r.row_id, r.response, normalise(r.response), answer_type(r.response)) for r in rows]
    by_type: dict[str, list[_Answer]] = {}
    distinct = list({a.key: a for a in reversed(answers)}.values())  # the first row_id stands for copies
    for answer in sorted(distinct, key=lambda a: (a.size, a.row_id)):
        by_type.setdefault(answer.type, []).append(answer)
    near = neighbours([row.prompt for row in rows], NEIGHBOURS)
    items = {}
    for n, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        ranked = _ranked(answer, [(answers[m], s) for m, s in zip(*near[n], strict=True)], seed)
        chosen = _choose(answer, ranked, by_type, options - 1)
        if chosen:
            items[row.row_id] = _item(row, chosen, seed)
    return items


def _ranked(answer: _Answer, near: list[tuple[_Answer, float]], seed: int) -> Iterator[_Answer]:
    """Neighbours of the same type, the most similar and most alike in length first."""
    alike = [(s - LENGTH_WEIGHT * abs(a.size - answer.size), a) for a, s in near if a.type == answer.type]
    ties = {a.row_id: _draw(seed, answer.row_id, a.row_id) for _, a in alike}
    yield from (a for _, a in sorted(alike, key=lambda pair: (-round(pair[0], 6), ties[pair[1].row_id])))


def _choose(answer: _Answer, ranked: Iterator[_Answer], by_type: dict[str, list[_Answer]], count: int) -> list[_Answer]:
    """The first `count` that differ: neighbours, then others of the type by length, then other types by length."""
    chosen: dict[str, _Answer] = {}

    def take(candidates: Iterator[_Answer]) -> bool:
        for candidate in candidates:
            if len(chosen) == count:
                return True
            if candidate.key != answer.key:
                chosen.setdefault(candidate.key, candidate)
        return len(chosen) == count

    if take(ranked) or take(_by_length(answer, by_type[answer.type])) or (answer.type == "yes-no" and chosen):
        return list(chosen.values())
    others = [a for kind, group in by_type.items() if kind != answer.type for a in group]
    others.sort(key=lambda a: (a.size, a.row_id))
    take(_by_length(answer, others))
    return list(chosen.values())


def _by_length(answer: _Answer, candidates: list[_Answer]) -> Iterator[_Answer]:
    """`candidates` (sorted by size) from the nearest in length outward."""
    right = bisect.bisect_left(candidates, answer.size, key=lambda a: a.size)
    left = right - 1
    while left >= 0 or right < len(candidates):
        up = candidates[right].size - answer.size if right < len(candidates) else math.inf
        down = answer.size - candidates[left].size if left >= 0 else math.inf
        if up <= down:
            yield candidates[right]
            right += 1
        else:
            yield candidates[left]
            left -= 1


def _item(row: Row, chosen: list[_Answer], seed: int) -> Item:
    options = [(row.response, "answer"), *((a.text, a.row_id) for a in chosen)]
    order = np.random.default_rng(_draw(seed, row.row_id)).permutation(len(options))
    shuffled = [options[n] for n in order]
    return Item(
        row_id=row.row_id,
        question=row.prompt,
        options=tuple(text for text, _ in shuffled),
        answer=int(np.argmin(order)),
        history=row.history,
        option_sources=tuple(source for _, source in shuffled),
    )


def neighbours(texts: Sequence[str], count: int) -> list[tuple[list[int], list[float]]]:
    """For each text the indices of up to `count` others that share terms with it, nearest first, and their cosine
    similarity (TF-IDF). Blocked: memory is `BLOCK` texts times all, never all times all."""
    if len(texts) < 2:
        return [([], []) for _ in texts]
    try:
        rows = TfidfVectorizer(sublinear_tf=True, dtype=np.float32, token_pattern=r"(?u)\w+").fit_transform(texts)
    except ValueError:  # no text holds a word
        return [([], []) for _ in texts]
    found = []
    terms = _telling(rows)
    columns = terms.T.tocsr()
    for start in range(0, len(texts), BLOCK):
        product = (terms[start : start + BLOCK] @ columns).tocsr()
        for n in range(product.shape[0]):
            span = slice(product.indptr[n], product.indptr[n + 1])
            found.append(_top(product.indices[span], product.data[span], start + n, count))
    return found


def _telling(rows: sparse.csr_matrix) -> sparse.csr_matrix:
    """Each row's `RARE` heaviest terms, the most common left out: nearest neighbours share rare words."""
    kept = rows.tocsc()
    df = np.diff(kept.indptr)
    kept = kept[:, df <= max(COMMON, 0.05 * rows.shape[0])].tocsr()
    for n in range(kept.shape[0]):
        span = slice(kept.indptr[n], kept.indptr[n + 1])
        values = kept.data[span]
        if len(values) > RARE:
            values[np.argsort(-values, kind="stable")[RARE:]] = 0
    kept.eliminate_zeros()
    return kept


def _top(indices: np.ndarray, values: np.ndarray, own: int, count: int) -> tuple[list[int], list[float]]:
    others = indices != own
    indices, values = indices[others], values[others]
    if len(values) > count:
        # Everything as near as the last is kept, so that ties are not cut by an accident of order.
        bar = np.partition(values, len(values) - count)[len(values) - count]
        indices, values = indices[values >= bar], values[values >= bar]
    order = np.lexsort((indices, -values))[: 2 * count]
    return indices[order].tolist(), values[order].tolist()


def _draw(*key: object) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(map(str, key)).encode()).digest()[:8], "big")


def _canonical(match: re.Match[str]) -> str:
    sign, whole, part = match.groups()
    whole, part = whole.replace(",", "").lstrip("0") or "0", (part or "").rstrip("0").strip(".")
    minus = "m" if sign in ("-", "\u2212") and (whole != "0" or part) else ""
    return f"~{minus}{whole}{'p' + part if part else ''}"


def _ignored(char: str) -> bool:
    category = unicodedata.category(char)
    return category[0] == "P" or category == "Sc"
