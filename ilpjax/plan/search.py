"""The largest batch that fits, found with few compilations."""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Largest:
    """`fits` is the largest size known to fit (0: none), `fails` the smallest known not to; exact when they touch."""

    fits: int
    fails: int | None
    tries: int

    @property
    def exact(self) -> bool:
        return self.fails == self.fits + 1


def largest(need: Callable[[int], float], limit: float, start: int, tries: int, known: dict[int, float]) -> Largest:
    """The largest n >= 1 with need(n) <= limit, for a `need` that never falls; called at most `tries` times.

    What is `known` is not asked again. Two sizes give a line, whose crossing with the limit is tried next, then its
    neighbour; where the line leads out of what is left, the middle, and never beyond four times what is known to fit.
    """
    seen, asked, step = dict(known), 0, 1
    while True:
        fits = max((n for n, bytes_ in seen.items() if bytes_ <= limit), default=0)
        fails = min((n for n, bytes_ in seen.items() if bytes_ > limit), default=None)
        found = Largest(fits, fails, asked)
        if found.exact or asked >= tries:
            return found
        n = _next(seen, limit, found, step) if seen else start
        seen[n] = need(n)
        asked += 1
        # One that fits right above one that does: the line is too steep, so the steps grow.
        step = step * 2 if seen[n] <= limit and n - fits <= step else 1


def _next(seen: dict[int, float], limit: float, found: Largest, step: int) -> int:
    fits, fails = found.fits, found.fails
    guess = _crossing(seen, limit) or (2 * fits if fits else (fails or 2) // 2)
    if fails is None:
        return min(max(guess, fits + step), 4 * fits)
    if guess <= fits:
        guess = fits + step
    return guess if fits < guess < fails else (fits + fails) // 2


def _crossing(seen: dict[int, float], limit: float) -> int | None:
    """Where the line through the two points nearest to the limit reaches it."""
    points = [(n, bytes_) for n, bytes_ in seen.items() if math.isfinite(bytes_)]
    near = sorted(sorted(points, key=lambda point: abs(point[1] - limit))[:2])
    if len(near) < 2 or near[1][1] <= near[0][1]:
        return None
    (a, low), (b, high) = near
    return max(1, math.floor(a + (limit - low) * (b - a) / (high - low)))
