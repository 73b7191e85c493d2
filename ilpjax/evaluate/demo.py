"""The tour: a world, a base, a run; what was found beside what was planted, and how often the causes were right."""

from pathlib import Path

import pandas as pd

from ilpjax import pipeline
from ilpjax.config import DemoJob, WorldJob
from ilpjax.evaluate.examine import examine, single


def run_demo(job: DemoJob) -> None:
    world = examine(WorldJob(out=job.out, seed=job.seed, arms=1), job.seed, Path(job.out))
    verdicts = world.verdicts
    shown = verdicts[~verdicts["planted"].isin(("surroundings", "decoy"))]
    print(pipeline.summary(shown, "planted"))
    named = shown[shown["cause"].notna() & (shown["planted"] != "clean")]
    print("\nrows not learned: planted (down), cause named (across)")
    print(pd.crosstab(named["planted"], named["cause"]).to_string())
    known = named[~named["truth"].isin(("", "abstain"))]
    right = (single(known["truth"], known["cause"].to_numpy()) == known["cause"]).sum()
    print(f"\nplants that took: {len(known)}; cause named rightly: {right} ({right / max(len(known), 1):.0%})")
    print(f"report: {world.folder / 'run' / 'report.html'}")
