"""What paired rounds say about a ratio."""

from collections.abc import Sequence
from math import comb
from statistics import median
from typing import NamedTuple

COVERAGE = 0.93  # five rounds reach 93.75 % with their smallest and largest


class Ratio(NamedTuple):
    """Of two rates over rounds taken in turn: the median of the paired ratios, and an interval for that median."""

    ratio: float
    low: float
    high: float


def paired_ratio(ours: Sequence[float], peer: Sequence[float]) -> Ratio:
    """Each round's ratio of ours to the peer, its median, and the narrowest order statistics that hold the median of
    all such rounds with at least 93 % (sign-test interval, no assumption on the noise).

    Pairs, because the machine's speed wanders: two turns beside each other meet the same machine.
    Raises ValueError for fewer than five rounds or rounds that do not pair.
    """
    if len(ours) != len(peer) or len(ours) < 5:
        raise ValueError(f"{len(ours)} and {len(peer)} rounds; at least five pairs are needed")
    ratios = sorted(a / b for a, b in zip(ours, peer, strict=True))
    outside = _outside(len(ratios))
    return Ratio(median(ratios), ratios[outside], ratios[-1 - outside])


def _outside(rounds: int) -> int:
    """How many of the smallest, and of the largest, lie outside the interval."""
    outside, missed = 0, 2 * 0.5**rounds
    while (missed := missed + 2 * comb(rounds, outside + 1) * 0.5**rounds) <= 1 - COVERAGE:
        outside += 1
    return outside
