"""A grid's table made of nothing: rows and levels with effects of known size, drawn from a seed."""

from itertools import product

import numpy as np
import pandas as pd
import yaml

from ilpjax.robust import FACTORS
from ilpjax.rundir import RunDir, write_table, write_text

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


DESIGNS = protocols()


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


def make_run(path, flagged, designs, *, seed=0, base="tiny/base", first=0, halves=True, tuned=None):
    """A run directory with what the statistics read. Row n is of data set n % 2, rows 2n and 2n + 2 of some ask the
    same; its own verdict is the first protocol's."""
    run, ids = RunDir(path), [f"r{first + n}" for n in range(len(flagged))]
    own = np.asarray(flagged)[:, 0] == 1
    rows = pd.DataFrame({"row_id": ids, "dataset": [f"set {n % 2}" for n in range(len(ids))]})
    rows["prompt"] = [f"Question {(first + n) // 5}, {n % 2}?" for n in range(len(ids))]
    write_table(run / "rows.parquet", rows)
    verdicts = rows.assign(unlearned=own, unlearned_corrected=own, cause=np.where(own, "missing_knowledge", None))
    write_table(run / "verdicts.parquet", verdicts)
    table = pd.concat([grid(flagged, designs, half=half) for half in ((0, 1, 2) if halves else (0,))])
    table["row_id"] = table["row_id"].map({f"r{n}": row_id for n, row_id in enumerate(ids)})
    write_table(run / "robustness.parquet", table)
    config = {"base": base, "tuned": tuned, "seed": seed, "out": str(path), "detect": {"confidence": 0.9}}
    write_text(run / "config.yaml", yaml.safe_dump(config))
    return run
