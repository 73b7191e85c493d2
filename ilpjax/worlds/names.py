"""Invented names: pronounceable, seeded, never a real person's on purpose."""

import numpy as np

ONSETS = (
    "b",
    "br",
    "d",
    "dr",
    "f",
    "g",
    "gr",
    "h",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "z",
)
VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "io")
CODAS = ("", "l", "m", "n", "nd", "r", "rk", "s", "t", "th")


def invent(rng: np.random.Generator, count: int, syllables: int = 2, suffix: str = "") -> list[str]:
    """`count` different capitalised names."""
    names: dict[str, None] = {}  # keeps order, drops repeats
    while len(names) < count:
        parts = [rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(syllables)]
        names["".join(parts).capitalize() + suffix] = None
    return list(names)
