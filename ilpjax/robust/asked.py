"""What a pass asks: the run's own items, with other wordings, or with other rows' answers as distractors."""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ilpjax import conflicts, data, diagnose, scoring
from ilpjax.robust.design import Pass
from ilpjax.rows import Item, Message, Row

CELLS = 1 << 24  # of cosines that exist at a time
AT_HAND = 64  # nearest questions that are looked at first


class _Answer(NamedTuple):
    key: str
    row_id: str
    text: str


def asked(
    one: Pass,
    items: Sequence[Item],
    everybody: Sequence[Item],
    datasets: Mapping[str, str],
    probes: Mapping[str, Sequence[str]],
    seed: int,
) -> list[Item]:
    """The items of the pass, in order; those that it cannot ask are left out: no such wording, no other answer, more
    options than labels. `everybody`: whose answers may be distractors; `datasets`: of every row_id."""
    found = list(items)
    if one.source == "random":
        found = random_distractors(found, everybody, datasets, seed)
    elif one.source == "near":
        found = near_distractors(found, everybody, datasets)
    if one.wording != "train":
        found = reworded(found, int(one.wording[1:]), probes)
    return [item for item in found if one.kind != "letter" or len(item.options) <= len(scoring.LABELS)]


def reworded(items: Sequence[Item], number: int, probes: Mapping[str, Sequence[str]]) -> list[Item]:
    """The items asked in their wording of that number, from 1 on."""
    found = []
    for item in items:
        # A native set's question stands in a frame of its own, which is taken off before it is put in another.
        bare = item.question.removeprefix("Question: ").removesuffix("\nAnswer:")
        others = diagnose.wordings(replace(item, question=bare), probes)
        others = [bare if wording == item.question else wording for wording in others]
        if number <= len(others):
            found.append(replace(item, question=others[number - 1]))
    return found


def rows_reworded(rows: Sequence[Row], items: Sequence[Item]) -> list[Row]:
    """The rows that `items` ask, prompted as they do."""
    asks = {item.row_id: item.question for item in items}
    prompted = lambda row: (*row.history, Message("user", asks[row.row_id]), row.messages[-1])
    return [replace(row, messages=prompted(row)) for row in rows if row.row_id in asks]


def random_distractors(
    items: Sequence[Item], everybody: Sequence[Item], datasets: Mapping[str, str], seed: int
) -> list[Item]:
    """As many distractors as before, but right answers of rows of the data set drawn by (seed, row_id): of the answer's
    type where there are enough, then of others (of yes and no there are no others). The right option keeps its place,
    where that is still there."""
    pools: dict[tuple[str, str], dict[str, _Answer]] = defaultdict(dict)
    for item in sorted(everybody, key=lambda item: item.row_id):
        text = item.options[item.answer]
        key = data.normalise(text)
        for kind in (data.answer_type(text), ""):
            pools[datasets[item.row_id], kind].setdefault(key, _Answer(key, item.row_id, text))
    of = {name: sorted(pool.values()) for name, pool in pools.items()}
    found = []
    for item in items:
        right = item.options[item.answer]
        kind, dataset, wanted = data.answer_type(right), datasets[item.row_id], len(item.options) - 1
        drawn = random.Random(f"{seed}\0{item.row_id}")
        chosen = _draw(of[dataset, kind], {data.normalise(right)}, wanted, drawn)
        if kind != "yes-no":
            taken = {data.normalise(right), *(answer.key for answer in chosen)}
            chosen += _draw(of[dataset, ""], taken, wanted - len(chosen), drawn)
        if chosen:
            found.append(_with(item, chosen))
    return found


def near_distractors(items: Sequence[Item], everybody: Sequence[Item], datasets: Mapping[str, str]) -> list[Item]:
    """As many distractors as before, but the right answers of the rows whose questions are most alike in letters and
    words, of the answer's type before others. A question that may be the same in other words, whose answer may be
    right too, comes last. The right option keeps its place, where that is still there."""
    asked_of: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        asked_of[datasets[item.row_id]].append(item)
    found: dict[str, Item] = {}
    for dataset, own in asked_of.items():
        pool = sorted((item for item in everybody if datasets[item.row_id] == dataset), key=lambda item: item.row_id)
        found |= {item.row_id: _with(item, chosen) for item, chosen in _nearest(own, pool) if chosen}
    return [found[item.row_id] for item in items if item.row_id in found]


def _nearest(items: Sequence[Item], pool: Sequence[Item]) -> Iterator[tuple[Item, list[_Answer]]]:
    vectors = conflicts.lexical_vectors([item.question for item in pool])
    at = {item.row_id: n for n, item in enumerate(pool)}
    texts = [item.options[item.answer] for item in pool]
    answers = [_Answer(data.normalise(text), item.row_id, text) for item, text in zip(pool, texts, strict=True)]
    kinds = np.array([data.answer_type(text) for text in texts])
    step = max(1, CELLS // len(pool))
    for start in range(0, len(items), step):
        block = items[start : start + step]
        cosines = (vectors[[at[item.row_id] for item in block]] @ vectors.T).toarray()
        for item, cosine in zip(block, cosines, strict=True):
            own = at[item.row_id]
            same_type = kinds == kinds[own]
            # Tiers: the cosine orders within one, and is under 1 or so.
            order = 2.0 * (cosine >= conflicts.LEXICAL_THRESHOLD) + 4.0 * ~same_type - cosine
            if kinds[own] == "yes-no":
                order = np.where(same_type, order, np.inf)
            few = np.argpartition(order, min(AT_HAND, len(order) - 1))[:AT_HAND]
            nearest = few[np.lexsort((few, order[few]))]
            chosen = _first(answers, nearest, order, answers[own].key, len(item.options) - 1)
            if len(chosen) < len(item.options) - 1:  # the nearest all have the same few answers
                nearest = np.argsort(order, kind="stable")
                chosen = _first(answers, nearest, order, answers[own].key, len(item.options) - 1)
            yield item, chosen


def _first(answers: Sequence[_Answer], nearest: np.ndarray, order: np.ndarray, right: str, count: int) -> list[_Answer]:
    chosen: dict[str, _Answer] = {}
    for n in nearest:
        if len(chosen) == count or np.isinf(order[n]):
            break
        if answers[n].key != right:
            chosen.setdefault(answers[n].key, answers[n])
    return list(chosen.values())


def _draw(pool: Sequence[_Answer], taken: set[str], count: int, drawn: random.Random) -> list[_Answer]:
    """`count` different answers of the pool that are not taken, or as many as there are."""
    some = drawn.sample(pool, min(len(pool), count + len(taken))) if count else []
    return [answer for answer in some if answer.key not in taken][:count]


def _with(item: Item, chosen: Sequence[_Answer]) -> Item:
    options, sources = [a.text for a in chosen], [a.row_id for a in chosen]
    place = min(item.answer, len(chosen))
    options.insert(place, item.options[item.answer])
    sources.insert(place, "answer")
    return replace(item, options=tuple(options), answer=place, option_sources=tuple(sources))
