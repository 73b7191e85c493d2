"""Rows that contradict each other never share a batch: buckets from a colouring of the conflict graph."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

Edge = tuple[int, int]


def colour(count: int, edges: Iterable[Edge]) -> Int[np.ndarray, " rows"]:
    """A colour for each of `count` rows, so that no edge joins two of one colour; -1 for a row without an edge.

    Greedy, the rows with most edges first (Welsh and Powell 1967): at most one colour more than a row has edges.
    """
    near: dict[int, set[int]] = {}
    for a, b in edges:
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    colours = np.full(count, -1)
    for row in sorted(near, key=lambda row: (-len(near[row]), row)):
        taken = {colours[other] for other in near[row]}
        colours[row] = next(c for c in range(len(near)) if c not in taken)
    return colours


def buckets(
    colours: Int[np.ndarray, " rows"], lengths: Int[np.ndarray, " rows"], *, seed: int, epoch: int
) -> list[Int[np.ndarray, " members"]]:
    """The rows of each colour, filled up with rows of none, drawn by (seed, epoch), to about as many tokens each."""
    count = int(colours.max(initial=-1)) + 1
    if not count:
        return [np.arange(len(colours))]
    free = np.random.default_rng([seed % 2**64, epoch, count]).permutation(np.flatnonzero(colours < 0))
    own = np.array([lengths[colours == c].sum() for c in range(count)])
    # Water fills the lowest first: every bucket gets what it lacks of a common level.
    level, total = 0.0, float(lengths[free].sum())
    for lowest in range(count, 0, -1):
        members = np.sort(own)[:lowest]
        level = (total + members.sum()) / lowest
        if level >= members[-1]:
            break
    ends = np.cumsum(np.maximum(level - own, 0))
    place = np.searchsorted(ends, np.cumsum(lengths[free]) - lengths[free] / 2).clip(max=count - 1)
    return [np.sort(np.concatenate([np.flatnonzero(colours == c), free[place == c]])) for c in range(count)]


def together(batches: Iterable[Sequence[int]], edges: Iterable[Edge]) -> list[tuple[int, int, int]]:
    """(batch, a, b) for every edge whose rows both are in one batch: the proof is that there is none."""
    partners: dict[int, set[int]] = {}
    for a, b in edges:
        partners.setdefault(a, set()).add(b)
    found = []
    for n, batch in enumerate(batches):
        members = set(batch)
        found += [(n, a, b) for a in members for b in sorted(partners.get(a, set()) & members)]
    return found
