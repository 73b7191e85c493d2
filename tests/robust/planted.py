"""Do rows of a planted cause stay in the robust core, and decoys out of it? Over several planted worlds.

    python tools/world.py evaluate seeds=1,2,3,4,5 size=small out=runs/worlds
    python tests/robust/planted.py worlds=runs/worlds/seed-1,runs/worlds/seed-2

judges each world's run under every protocol (what is there is not run again) and counts, of the rows that were planted
and took (unlearned though their twins were learned): those the run flags, core, rim, never, and the share of votes
that flag them, overall and under protocols of one kind.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from ilpjax.config import RobustnessJob
from ilpjax.detect import wilson
from ilpjax.pipeline import run_robustness
from ilpjax.robust.agreement import GROUPS
from ilpjax.robust.votes import read_grid, verdicts, votes
from ilpjax.rundir import RunDir, read_table

KINDS = {  # of protocols -> whether one is
    "own wording": lambda p: p["wording"] == "train",
    "other wordings": lambda p: p["wording"] != "train",
    "near distractors": lambda p: p["source"] == "near",
    "random distractors": lambda p: p["source"] == "random",
    "free-form": lambda p: p["scoring"].str.startswith("free"),
}


def judged(world: Path) -> pd.DataFrame:
    """A line a row: planted, group, own, share, and the share of each kind of protocol that flags it."""
    run_robustness(RobustnessJob(run=str(world / "run")))
    run = RunDir(world / "run")
    grid = read_grid(run)
    found, voted = votes(grid), verdicts(grid)
    rows = read_table(run / "robust_rows.parquet").set_index("row_id")
    for kind, is_one in KINDS.items():
        with np.errstate(invalid="ignore"):
            own = voted[:, is_one(found.protocols).to_numpy()]
            rows[kind] = pd.Series(np.nansum(own, axis=1) / np.isfinite(own).sum(axis=1), found.row_ids)
    labels = pd.read_json(world / "labels.jsonl", lines=True, dtype={"row_id": str}).set_index("row_id")
    named = read_table(run / "plumbing.parquet")["row_id"]
    planted = labels["planted"].where(labels["planted"] != "decoy", "decoy: " + labels["dose"].astype(str))
    rows["planted"], rows["counts"] = planted.reindex(rows.index), labels["counts"].reindex(rows.index)
    return rows.assign(world=world.name, plumbing=rows.index.isin(named))


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line a kind of row: of plants only those that took, of clean rows and decoys all."""
    kept = rows[rows["counts"] | (rows["planted"] == "clean") | rows["planted"].str.startswith("decoy")]
    lines = []
    for planted, own in kept.groupby("planted"):
        core = wilson(int((own["group"] == "core").sum()), len(own))
        line = {"planted": planted, "worlds": own["world"].nunique(), "n": len(own), "run flags": int(own["own"].sum())}
        line |= {"of them core": int((own["own"] & (own["group"] == "core")).sum())}
        line |= {group: int((own["group"] == group).sum()) for group in GROUPS}
        line |= {name: round(core[key], 3) for name, key in (("core share", "share"), ("low", "low"), ("high", "high"))}
        line |= {"plumbing": int(own["plumbing"].sum()), "votes": round(own["share"].mean(), 2)}
        lines.append(line | {kind: round(own[kind].mean(), 2) for kind in KINDS})
    return pd.DataFrame(lines)


def main(args: list[str]) -> None:
    keys = dict(arg.split("=", 1) for arg in args)
    rows = pd.concat([judged(Path(world)) for world in keys["worlds"].split(",")])
    found = table(rows)
    print(found.to_string(index=False))
    if "out" in keys:
        Path(keys["out"]).write_text(json.dumps(found.to_dict("records"), indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
