"""A world on disk: corpus, base, both arms trained over seeds, and so which plants took."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ilpjax import detect, scoring, train
from ilpjax.config import CPTJob, DetectConfig, NewModel, ScoreJob, SFTJob, WorldJob
from ilpjax.rundir import RunDir, read_table, replacing
from ilpjax.worlds.people import corpus, found
from ilpjax.worlds.plants import EARLY, Plant, Rows, people_needed, plant

ROWS_A_CAUSE = {"small": 24, "medium": 64, "large": 256}
# Deep enough to look a fact up, small enough to learn hundreds of people in a minute or two.
MODEL = {
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}


def make_rows(job: WorldJob) -> tuple[Rows, list[str]]:
    """The rows of both arms and the corpus: a function of the seed and the size alone."""
    rng = np.random.default_rng(job.seed)
    count = ROWS_A_CAUSE[job.size]
    society = found(rng, people_needed(count))
    rows = plant(rng, society, count)
    return rows, corpus(rng, society)


def run_world(job: WorldJob) -> None:
    """Writes corpus.jsonl, rows.jsonl (the planted arm, in training order), twins.jsonl, probes.jsonl, base/model and,
    once both arms were trained over `job.arms` seeds, labels.jsonl: row_id, planted, dose, twin_id, counts (the row was
    not learned in most planted arms, its twin was in most twin arms) and both shares of arms. A rerun goes on where it
    was stopped."""
    rows, text = make_rows(job)
    out = RunDir(job.out)
    made_from = [job.seed, job.size]

    def files() -> None:
        _write(out / "corpus.jsonl", [{"text": line} for line in text])
        _write(out / "rows.jsonl", [_item(r) for r in sorted(rows.planted, key=lambda r: r.block)])
        _write(out / "twins.jsonl", [_item(r) for r in rows.twins])
        probes = [{"row_id": r.row_id, "question": q} for r in rows.planted for q in r.probes]
        _write(out / "probes.jsonl", probes)

    out.stage("files", made_from, ["corpus.jsonl", "rows.jsonl", "twins.jsonl", "probes.jsonl"], files)
    base = out / "base"
    cpt = CPTJob(new=new_model(job), text=str(out / "corpus.jsonl"), out=str(base), seed=job.seed, cpt=job.cpt)
    out.stage("base", [out / "corpus.jsonl", cpt.new, cpt.cpt, cpt.seed], ["base/model"], lambda: train.run_cpt(cpt))
    wrong = {arm: _arms(out, arm, job) for arm in ("planted", "twins")}
    _write(out / "labels.jsonl", labels(rows.planted, wrong["planted"], wrong["twins"]))


def labels(rows: Sequence[Plant], planted: pd.Series, twins: pd.Series) -> list[dict[str, Any]]:
    """`planted`, `twins`: row_id -> share of the arm's seeds in which the row was not learned."""
    made = []
    for row in rows:
        label: dict[str, Any] = {"row_id": row.row_id, "planted": row.planted, "dose": row.dose, "twin_id": row.twin_id}
        if row.twin_id:
            label |= {"planted_wrong": float(planted[row.row_id]), "twin_wrong": float(twins[row.twin_id])}
        took = bool(row.twin_id) and label["planted_wrong"] > 0.5 and label["twin_wrong"] < 0.5
        made.append(label | {"counts": took})
    return made


def new_model(job: WorldJob) -> NewModel:
    shape = {
        "model_type": job.family,
        "hidden_size": job.hidden,
        "intermediate_size": 3 * job.hidden,
        "num_hidden_layers": job.layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return NewModel(config=MODEL | shape)


def _arms(out: RunDir, arm: str, job: WorldJob) -> pd.Series:
    """row_id -> the share of seeds in which the row was not learned, corrected for guessing."""
    base, file = out / "base" / "model", out / ("rows.jsonl" if arm == "planted" else "twins.jsonl")
    sft = job.sft.model_copy(update={"dynamics": False} | ({} if arm == "planted" else {"order": "shuffle"}))
    found = []
    for seed in range(1, job.arms + 1):  # seed 0 is for the run that is diagnosed
        folder = out / "arms" / f"{arm}-{seed}"
        tuned, scores = folder / "tuned", folder / "scores.parquet"
        train_job = SFTJob(base=str(base), rows=str(file), out=str(folder), seed=seed, data=job.data, sft=sft)
        score_job = ScoreJob(model=str(tuned), items=str(file), out=str(scores), control=False, data=job.data)

        def work(train_job: SFTJob = train_job, score_job: ScoreJob = score_job) -> None:
            train.run_sft(train_job)
            scoring.run_score(score_job)

        out.stage(f"{arm}-{seed}", [base, file, seed, sft, job.data], [str(scores.relative_to(out.path))], work)
        verdicts = detect.detect(read_table(scores), DetectConfig())
        found.append(verdicts.set_index("row_id")["unlearned_corrected"].astype(float))
    return pd.concat(found, axis=1).mean(axis=1)


def _item(row: Plant) -> dict[str, Any]:
    block = "early" if row.block == EARLY else "late"
    return {
        "id": row.row_id,
        "dataset": block,
        "question": row.question,
        "options": row.options,
        "answer": row.answer,
    }


def _write(path: Path, records: Sequence[dict[str, Any]]) -> None:
    with replacing(path) as part:
        part.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
