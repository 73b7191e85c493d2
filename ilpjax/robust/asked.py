"""The items of a pass: the run's own, with other wordings, or with distractors drawn at random."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ilpjax import data, diagnose, scoring
from ilpjax.robust.design import Pass
from ilpjax.rows import Item


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
