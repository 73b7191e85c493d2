"""A world as `examine` returns it, with signals drawn by hand: nothing is trained."""

from pathlib import Path

import numpy as np
import pandas as pd

from ilpjax import diagnose
from ilpjax.diagnose import CAUSES, CLASSES, SIGNALS
from ilpjax.evaluate.examine import Examined, shares

TELLING = ("probe_spread", "probe_wrong", "conflict", "forgot", "slope")  # a signal each that parts a cause


def examined(seed: int, n: int = 150, telling: bool = True, decoys: list[str] | None = None) -> Examined:
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame({name: rng.uniform(0, 0.3, n) for name in SIGNALS})
    label = rng.integers(0, len(CLASSES), n)
    for cause, name in enumerate(TELLING if telling else ()):
        rows.loc[label == cause, name] += 2.0
    rows["row_id"], rows["truth"] = [f"r{i}" for i in range(n)], np.asarray(CLASSES, dtype=object)[label]
    counted = pd.DataFrame(
        [(cause, f"dose={d}", 10, d) for cause in CAUSES for d in (2, 7)], columns=["planted", "dose", "n", "took"]
    )
    return Examined(seed, Path(f"seed-{seed}"), rows, decoys or [], counted, pd.DataFrame())


def calibration(*worlds: Examined) -> diagnose.Calibration:
    rows = pd.concat([world.rows for world in worlds], ignore_index=True)
    return diagnose.fit(rows, shares(rows["truth"]), {"seeds": [world.seed for world in worlds], "command": "none"})
