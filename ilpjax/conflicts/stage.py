"""Rows to conflicts.parquet: near pairs, those whose answers differ, who is right; every step counted."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from jax.experimental import multihost_utils

from ilpjax.config import ConflictConfig, DataConfig, MeshConfig
from ilpjax.conflicts.answers import KINDS, SAME
from ilpjax.conflicts.approximate import approximate_pairs
from ilpjax.conflicts.asked import AskedModel
from ilpjax.conflicts.encode import Encoder, default_encoder, encode_to, load_encoder
from ilpjax.conflicts.graph import STEPS, Alike, contradictions, said, support
from ilpjax.conflicts.lexical import lexical_alike, lexical_pairs, lexical_vectors
from ilpjax.conflicts.pairs import similar_pairs
from ilpjax.errors import InputError
from ilpjax.knowledge import Dispute, Judge, Ruling, make_judge
from ilpjax.parallel import make_mesh
from ilpjax.rows import Row
from ilpjax.rundir import RunDir, fingerprint, read_table, write_json, write_table

LEXICAL = "lexical"
THRESHOLD, LEXICAL_THRESHOLD = 0.8, 0.5  # least cosine; chosen on one half of planted contradictions
OUTPUTS = ["conflicts.parquet", "conflicts.json"]
COLUMNS = ("row_a", "row_b", "similarity", "kind", "verdict", "judge", "votes", "cost")
# What the model is asked about: a number, a label, a yes or no needs no opinion.
_ARGUABLE = ("name", "list", "negation", "unclear")


class Likeness:
    """How near texts are in meaning (an encoder) or in words; `made_of` changes with it."""

    def __init__(self, cfg: ConflictConfig, mesh: MeshConfig):
        name = (default_encoder() or LEXICAL) if cfg.encoder == "auto" else cfg.encoder
        self.encoder: Encoder | None = None if name == LEXICAL else load_encoder(name, make_mesh(mesh))
        self.name = name
        self.threshold = cfg.threshold or (THRESHOLD if self.encoder else LEXICAL_THRESHOLD)
        self.made_of = [self.encoder.fingerprint if self.encoder else LEXICAL, self.threshold, cfg.nearest, cfg.search]

    @property
    def alike(self) -> Alike:
        return self._cosines if self.encoder else lexical_alike

    def _cosines(self, one: Sequence[str], two: Sequence[str]) -> np.ndarray:
        assert self.encoder is not None
        vectors = self.encoder.encode([*one, *two])
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return np.einsum("nd,nd->n", vectors[: len(one)], vectors[len(one) :])


def check_settings(cfg: ConflictConfig, run: RunDir) -> None:
    """Before anything is computed. Raises InputError for settings that do not go together."""
    if cfg.encoder == LEXICAL and cfg.search == "approximate":
        raise InputError("search: approximate needs vectors; an encoder, or search=exact, would be right")
    make_judge(cfg.judge, run / "conflicts" / "judge.jsonl")


def find_pairs(run: RunDir, rows: Sequence[Row], likeness: Likeness, cfg: ConflictConfig) -> None:
    """conflicts/pairs.parquet: a, b (places in `rows`), similarity; conflicts/search.json: how they were found."""
    texts = ["\n".join([*(message.content for message in row.history), row.prompt]) for row in rows]
    folder = run / "conflicts"
    recall = None
    stamp = fingerprint(texts, likeness.made_of)
    if likeness.encoder is None:
        pairs = lexical_pairs(lexical_vectors(texts), threshold=likeness.threshold, most=cfg.nearest)
    else:
        encode_to(likeness.encoder, texts, len(texts), folder / "vectors.npy", stamp)
        if jax.process_index() == 0:
            pairs, recall = _near(np.load(folder / "vectors.npy", mmap_mode="r"), likeness, cfg, folder, stamp)
    if jax.process_index() == 0:
        write_json(folder / "search.json", {"search": cfg.search, "recall": recall})
        write_table(folder / "pairs.parquet", pairs)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("pairs")


def _near(
    vectors: np.ndarray, likeness: Likeness, cfg: ConflictConfig, folder: Path, stamp: str
) -> tuple[pd.DataFrame, float | None]:
    if cfg.search == "approximate":
        return approximate_pairs(vectors, threshold=likeness.threshold, most=cfg.nearest)
    mesh = make_mesh(MeshConfig(), jax.local_devices())  # one host reads and writes the running top-k
    parts, least, most = folder / "pairs.parts", likeness.threshold, cfg.nearest
    return similar_pairs(vectors, threshold=least, most=most, mesh=mesh, folder=parts, stamp=stamp), None


def judge_pairs(
    run: RunDir, rows: Sequence[Row], likeness: Likeness, cfg: ConflictConfig, mesh: MeshConfig, data: DataConfig
) -> bool:
    """OUTPUTS from conflicts/pairs.parquet. Returns whether every contradiction was judged: else a rerun goes on."""
    pairs = read_table(run / "conflicts" / "pairs.parquet")
    found = contradictions(rows, pairs, likeness.alike, likeness.threshold)
    model = AskedModel(cfg.model, run / "conflicts" / "asked", mesh, data) if cfg.model else None
    if model is not None:
        found = _argued(rows, found, model)
    against = found[found["step"].isin(KINDS)].reset_index(drop=True)
    judge = make_judge(cfg.judge, run / "conflicts" / "judge.jsonl", model.prefers if model else None)
    rulings = judge(_disputes(rows, found, against)) if judge else [None] * len(against)
    if jax.process_index() == 0:
        write_table(run / "conflicts.parquet", _table(rows, against, rulings))
        write_json(run / "conflicts.json", _summary(run, rows, found, rulings, likeness, cfg, judge))
    return judge is None or None not in rulings


def _argued(rows: Sequence[Row], found: pd.DataFrame, model: AskedModel) -> pd.DataFrame:
    """The model's word on what the rules leave open, or call a contradiction of names, lists and sentences."""
    open_ = found.index[found["step"].isin(_ARGUABLE)]
    asked = [(rows[a].prompt, said(rows[a]), said(rows[b])) for a, b in found.loc[open_, ["a", "b"]].to_numpy()]
    for n, says in zip(open_, model.entails(asked) if asked else [], strict=True):
        if says is True:
            found.loc[n, "step"] = "entailed"
        elif says is False and found.loc[n, "step"] == "unclear":
            found.loc[n, "step"] = "text"
    return found


def _disputes(rows: Sequence[Row], found: pd.DataFrame, against: pd.DataFrame) -> list[Dispute]:
    backed = support(found)
    disputes = []
    for a, b in against[["a", "b"]].itertuples(index=False):
        one, two = rows[a], rows[b]
        disputes.append(
            Dispute(
                key=f"{one.row_id} {two.row_id}",
                question=one.prompt,
                other_question=two.prompt,
                answer_a=said(one),
                answer_b=said(two),
                support_a=backed[a, b],
                support_b=backed[b, a],
            )
        )
    return disputes


def _table(rows: Sequence[Row], against: pd.DataFrame, rulings: Sequence[Ruling | None]) -> pd.DataFrame:
    lines = []
    for (a, b, similarity, kind), ruling in zip(against.itertuples(index=False), rulings, strict=True):
        told = (
            (ruling.verdict, ruling.judge, json.dumps(ruling.votes), ruling.cost)
            if ruling
            else ("unjudged", "", "", 0.0)
        )
        lines.append((rows[a].row_id, rows[b].row_id, similarity, kind, *told))
    table = pd.DataFrame(lines, columns=list(COLUMNS))
    return table.astype({"similarity": "float32", "cost": "float64"})


def _summary(
    run: RunDir,
    rows: Sequence[Row],
    found: pd.DataFrame,
    rulings: Sequence[Ruling | None],
    likeness: Likeness,
    cfg: ConflictConfig,
    judge: Judge | None,
) -> dict[str, Any]:
    counts = found["step"].value_counts()
    steps = [
        {"step": step, "n": int(counts[step]), "share": counts[step] / len(found)} for step in STEPS if step in counts
    ]
    verdicts = pd.Series([ruling.verdict if ruling else "unjudged" for ruling in rulings], dtype=object).value_counts()
    return {
        "rows": len(rows),
        "encoder": likeness.name,
        "threshold": likeness.threshold,
        "nearest": cfg.nearest,
        "model": cfg.model,
        **json.loads((run / "conflicts" / "search.json").read_text(encoding="utf-8")),
        "pairs": len(found),
        "steps": steps,
        "same": int(found["step"].isin(SAME).sum()),
        "conflicts": len(rulings),
        "judge": judge.name if judge else None,
        "verdicts": {str(name): int(n) for name, n in verdicts.items()},
        "cost": float(sum(ruling.cost for ruling in rulings if ruling)),
    }


def tell(summary: dict[str, Any]) -> str:
    """conflicts.json in a few lines."""
    how = f"{summary['search']} search" + (f", recall {summary['recall']:.3f}" if summary["recall"] is not None else "")
    lines = [
        f"{summary['rows']:,} rows, {summary['encoder']}, similarity {summary['threshold']:g} and more, {how}: "
        f"{summary['pairs']:,} pairs",
        *(f"  {step['step']:16s} {step['n']:8,d}  {step['share']:6.1%}" for step in summary["steps"]),
        f"{summary['conflicts']:,} contradictions; judge: {summary['judge'] or 'none'}",
        *(f"  {name:16s} {n:8,d}" for name, n in summary["verdicts"].items()),
    ]
    return "\n".join(lines)
