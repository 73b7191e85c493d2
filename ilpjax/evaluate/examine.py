"""A world made, tuned and diagnosed; what is known of each row beside what was said of it."""

from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float

from ilpjax import data, diagnose, models, parallel, pipeline, worlds
from ilpjax.config import ConflictConfig, DiagnoseConfig, MeshConfig, RunJob, WorldJob
from ilpjax.diagnose import CAUSES, CLASSES
from ilpjax.errors import InputError
from ilpjax.rundir import read_table


@dataclass(frozen=True)
class Examined:
    """`rows`: the planted rows that the run did not learn: labels, signals and `truth`, one of CLASSES, or two causes
    joined by "+"; `abstain` where the twin was not learned either. Plants that did not take in most planted arms though
    their twin was learned are left out: nothing is known of them. `decoys`: the causes that decoys were given."""

    seed: int
    folder: Path
    rows: pd.DataFrame
    decoys: list[str]
    counted: pd.DataFrame  # planted, dose, n, took: how many plants took, a dose each
    verdicts: pd.DataFrame  # every row of verdicts.parquet, with `planted` and `truth`


def examine(job: WorldJob, seed: int, folder: Path | None = None) -> Examined:
    """Makes the world of `seed` in `folder` (OUT/seed-SEED), runs the pipeline on its planted arm. A rerun goes on."""
    folder = folder or Path(job.out) / f"seed-{seed}"
    worlds.run_world(job.model_copy(update={"out": str(folder), "seed": seed}))
    run = run_job(job, folder)
    verdicts = pipeline.run(run).rows
    labels = pd.read_json(folder / "labels.jsonl", lines=True, dtype={"row_id": str})
    if set(labels["row_id"]) != set(verdicts["row_id"]):
        where = folder / "labels.jsonl"
        raise InputError(f"{where}: the labels of other rows than {run.rows}; a world's own folder would be right")
    labels["truth"] = truth_of(labels)
    signals = read_table(folder / "run" / "signals.parquet")
    rows = signals.merge(labels[labels["truth"] != ""], on="row_id")
    decoys = labels.loc[labels["planted"] == "decoy", "row_id"]
    named = verdicts[verdicts["row_id"].isin(set(decoys)) & verdicts["cause"].isin(CAUSES)]
    took = labels[labels["twin_id"] != ""].groupby(["planted", "dose"])["counts"].agg(["size", "sum"]).reset_index()
    verdicts = verdicts.merge(labels[["row_id", "planted", "truth"]], on="row_id")
    counted = took.set_axis(["planted", "dose", "n", "took"], axis=1)
    return Examined(seed, folder, rows, named["cause"].tolist(), counted, verdicts)


def run_job(job: WorldJob, folder: Path) -> RunJob:
    """The run that is diagnosed: the planted arm, once more, with a seed that no arm had."""
    return RunJob(
        base=str(folder / "base" / "model"),
        rows=str(folder / "rows.jsonl"),
        out=str(folder / "run"),
        title=f"Planted world {folder.name}",
        data=job.data,
        conflicts=ConflictConfig(encoder="lexical"),  # no encoder was trained on people who do not exist
        sft=job.sft,
        diagnose=DiagnoseConfig(probes=str(folder / "probes.jsonl"), calibration=job.calibration),
    )


def signals_of_a_random_base(job: WorldJob, folder: Path, seed: int) -> pd.DataFrame:
    """The world's run again, on a base of the same shape that was never trained: it knows nothing. A rerun goes on."""
    base, run = folder / "random_base", run_job(job, folder)
    if not base.is_dir():
        mesh = parallel.make_mesh(MeshConfig())
        spec = models.read_spec(models.resolve(run.base))
        model, params = models.init_model(spec, jax.random.key(seed), mesh)
        models.save_model(base, model, params, tokenizer=data.load_tokenizer(run.base))
    out = folder / "random_run"
    pipeline.run(run.model_copy(update={"base": str(base), "out": str(out)}))
    return read_table(out / "signals.parquet")


def truth_of(labels: pd.DataFrame) -> pd.Series:
    """A planted row's cause where it counts, `abstain` where its twin was not learned either, else nothing."""
    planted = labels["twin_id"] != ""
    known = np.where(labels["counts"], labels["planted"], np.where(labels["twin_wrong"] >= 0.5, "abstain", ""))
    return pd.Series(np.where(planted, known, ""), index=labels.index)


def shares(truth: pd.Series) -> Float[np.ndarray, "row class"]:
    """A row's share of each class; of two causes at once half each."""
    table = np.zeros((len(truth), len(CLASSES)))
    for n, name in enumerate(truth):
        for part in name.split("+"):
            table[n, CLASSES.index(part)] += 1 / (name.count("+") + 1)
    return table


def single(truth: pd.Series, named: np.ndarray) -> np.ndarray:
    """Of two causes at once either is right: the one that was named, else the first."""
    parts = [name.split("+") for name in truth]
    return np.array([said if said in part else part[0] for part, said in zip(parts, named, strict=True)], dtype=object)


def posterior_of(rows: pd.DataFrame, calibration: diagnose.Calibration) -> Float[np.ndarray, "row class"]:
    return calibration.posterior(rows).to_numpy()
