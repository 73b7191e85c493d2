"""The stage between verdicts and report: what the base is asked, the signals, the causes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ilpjax import data, detect, scoring
from ilpjax.config import DiagnoseConfig, RunJob
from ilpjax.diagnose.attribute import PACKAGED, load_calibration
from ilpjax.diagnose.probes import Facts, make_probes, probe_items, read_probes
from ilpjax.diagnose.signals import is_blind, row_signals
from ilpjax.diagnose.verdicts import diagnose
from ilpjax.errors import InputError
from ilpjax.knowledge import Endpoint, EndpointExtractor, Extractor, PatternExtractor
from ilpjax.rows import Item, Row
from ilpjax.rundir import RunDir, fingerprint, read_table, write_table

OUTPUTS = ["probes.parquet", "signals.parquet", "neighbours.parquet", "diagnose.parquet"]
_READS = ("rows", "items", "plumbing", "scores_base", "scores_tuned", "detect", "dynamics", "conflicts")


def check_settings(cfg: DiagnoseConfig) -> None:
    """Before anything is trained. Raises InputError for a file that is not there, or is no calibration."""
    load_calibration(cfg.calibration)
    if cfg.probes:
        read_probes(Path(cfg.probes))
    if cfg.triples.url and not cfg.triples.model:
        raise InputError("diagnose.triples.model: the endpoint needs a model's name")


def stage_inputs(run: RunDir, base: Path, job: RunJob) -> list[Any]:
    """What the stage depends on."""
    cfg = job.diagnose
    tables = [path for path in (run / f"{name}.parquet" for name in _READS) if path.is_file()]
    files = [Path(cfg.probes)] if cfg.probes else []
    calibration = Path(cfg.calibration or PACKAGED)
    return [*tables, *files, base, cfg, job.score, job.data, bool(job.tuned), calibration]


def run_stage(run: RunDir, base: Path, job: RunJob) -> None:
    """OUTPUTS, of the rows that were not learned and have no fault of the pipe.

    Raises InputError, before anything is scored, for wrong probes, calibration or endpoint.
    """
    calibration = load_calibration(job.diagnose.calibration)
    rows = data.rows_from_table(read_table(run / "rows.parquet"))
    items = data.items_from_table(read_table(run / "items.parquet"))
    asked = _asked(run)
    wanted = set(asked)
    facts = _facts([row for row in rows if row.row_id in wanted], run, job.diagnose)
    probes = make_probes([item for item in items if item.row_id in wanted], job.diagnose.probes, facts)
    write_table(run / "probes.parquet", probes)
    said = _ask(run, base, probe_items(probes), job) if asked else None
    dynamics, graph = run / "dynamics.parquet", run / "conflicts.parquet"
    signals, near = row_signals(
        rows,
        items,
        asked,
        base=read_table(run / "scores_base.parquet"),
        tuned=read_table(run / "scores_tuned.parquet"),
        probes=probes,
        probe_scores=said,
        dynamics=read_table(dynamics) if dynamics.is_file() and not job.tuned else None,
        graph=read_table(graph) if graph.is_file() else None,
    )
    write_table(run / "signals.parquet", signals)
    write_table(run / "neighbours.parquet", near)
    told = told_facts(probes, said, facts)
    write_table(run / "diagnose.parquet", diagnose(signals, near, rows, items, calibration, told))


def told_facts(probes: pd.DataFrame, scores: pd.DataFrame | None, facts: Facts) -> dict[str, list[dict[str, Any]]]:
    """row_id -> its triples: subject, relation, object, and `blind` (eq. 4; null for one that was not asked)."""
    blind: dict[tuple[str, int], bool] = {}
    if scores is not None:
        lines, p, right = detect.option_means(scores)
        asked = probes.iloc[np.asarray(lines).astype(int)]
        kinds = zip(asked["row_id"], asked["kind"], asked["number"], is_blind(p, right), strict=True)
        blind = {(row_id, int(number)): bool(b) for row_id, kind, number, b in kinds if kind == "fact"}
    return {
        row_id: [
            {"subject": t.subject, "relation": t.relation, "object": t.object, "blind": blind.get((row_id, n))}
            for n, t in enumerate(triples)
        ]
        for row_id, triples in facts.items()
    }


def _asked(run: RunDir) -> list[str]:
    found = read_table(run / "detect.parquet")
    faulty = set(read_table(run / "plumbing.parquet")["row_id"])
    unlearned = found.loc[found["unlearned"] | found["unlearned_corrected"], "row_id"]
    return [row_id for row_id in unlearned if row_id not in faulty]


def _facts(rows: Sequence[Row], run: RunDir, cfg: DiagnoseConfig) -> Facts:
    one, cache = cfg.triples, run / "triples_cache.jsonl"
    extract: Extractor = PatternExtractor()
    if one.url and one.model:
        extract = EndpointExtractor(Endpoint(one.url, one.key_env, cache, requests=one.requests), one.model)
    return dict(zip((row.row_id for row in rows), extract(rows), strict=True))


def _ask(run: RunDir, base: Path, items: Sequence[Item], job: RunJob) -> pd.DataFrame:
    """The base's scores, with the choices-only control: what the question adds is what it knows."""
    out = run / "scores_probes.parquet"
    cfg = job.score.model_copy(update={"control": True})
    stamp = fingerprint(run / "probes.parquet", base, cfg, job.data, job.seed)
    template = job.data.template
    scoring.score_with(base, items, cfg, template=template, mesh=job.mesh, seed=job.seed, out=out, stamp=stamp)
    return read_table(out)
