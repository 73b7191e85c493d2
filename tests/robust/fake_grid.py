"""A grid's table made of nothing: rows and levels with effects of known size, drawn from a seed."""

from itertools import product

import numpy as np
import pandas as pd

from ilpjax.robust import FACTORS

OWN = {
    "scoring": "cloze-raw",
    "decoding": "t1",
    "order": "own",
    "source": "own",
    "count": "all",
    "wording": "train",
    "dtype": "float32",
}
LEVELS = {"scoring": ("cloze-raw", "cloze-token", "letter"), "wording": ("train", "w1", "w2", "w3")}


def protocols(levels=LEVELS):
    """The full product of these levels, everything else as the run has it."""
    return [OWN | dict(zip(levels, values, strict=True)) for values in product(*levels.values())]


def grid(flagged, designs, *, p_pass=None, half=0):
    """The table of a matrix of verdicts, a row by a protocol; a NaN has no line."""
    lines = []
    for (row, column), flag in np.ndenumerate(np.asarray(flagged, float)):
        if np.isnan(flag):
            continue
        one = designs[column]
        p = 1 - flag if p_pass is None else p_pass[row, column]
        lines.append(
            {"row_id": f"r{row}", "protocol": "/".join(one[name] for name in FACTORS), **one, "half": half, "n": 5}
            | {"p_pass": p, "flagged": bool(flag), "flagged_corrected": None, "predicted": -1}
        )
    return pd.DataFrame(lines)


def draw(rows, designs, *, row=1.0, all_rows=None, by_row=None, rest=0.3, seed=0):
    """y = row + level + level on this row + rest, all normal with these standard deviations (`all_rows`: the effects
    of each level themselves, by factor)."""
    rng, y = np.random.default_rng(seed), np.zeros((rows, len(designs)))
    y += rng.normal(0, row, (rows, 1)) + rng.normal(0, rest, y.shape)
    for name, effects in (all_rows or {}).items():
        y += [effects[one[name]] for one in designs]
    for name, spread in (by_row or {}).items():
        levels = sorted({one[name] for one in designs})
        own = rng.normal(0, spread, (rows, len(levels)))
        y += own[:, [levels.index(one[name]) for one in designs]]
    return y
