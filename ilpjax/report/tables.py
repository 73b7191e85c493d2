"""The run directory's tables, read and checked: a wrong or missing one is named, with the job that makes it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from ilpjax.config import DetectConfig
from ilpjax.errors import InputError
from ilpjax.rundir import RunDir, read_table


class Need(NamedTuple):
    job: str  # the job that writes the table
    columns: tuple[str, ...]
    unique: bool = False  # one line a row_id


_SCORES = ("row_id", "order", "protocol", "p", "predicted", "answer", "correct")
_VERDICTS = (
    *("row_id", "accuracy", "pass_at_n", "p_flag", "bon_correct", "skill", "skill_low", "skill_high"),
    *("unlearned", "unlearned_corrected", "severity"),
)
NEEDS = {
    "rows": Need("prepare", ("row_id", "dataset", "position", "source", "prompt", "response"), unique=True),
    "items": Need("prepare", ("row_id", "question", "options", "answer", "option_sources"), unique=True),
    "plumbing": Need("prepare", ("row_id", "problem", "detail")),
    "scores_base": Need("score", _SCORES),
    "scores_tuned": Need("score", _SCORES),
    "detect_base": Need("detect", _VERDICTS, unique=True),
    "detect": Need("detect", _VERDICTS, unique=True),
}
_ROBUST = Need("robustness", ("row_id", "votes", "n", "share", "group", "own", "artefact"), unique=True)
_STATISTICS = ("rows", "agreement", "variance", "retest", "prevalence", "confidence")  # of robustness.json
_GRAPH = Need("run", ("row_a", "row_b", "similarity", "kind", "verdict", "judge"))
_GRAPH_TOLD = ("encoder", "threshold", "search", "recall", "pairs", "steps", "conflicts")  # of conflicts.json
_CAUSES = Need("run", ("row_id", "cause", "causes", "cascade", "posterior_abstain", "evidence"), unique=True)
OPTIONAL = {
    "dynamics": Need("sft", ("row_id", "step", "epoch", "loss", "p_right", "tokens")),
    "train_log": Need("sft", ("step", "loss")),
}


@dataclass(frozen=True, kw_only=True)
class Tables:
    """A run as it lies on disk. `dynamics` and `train_log` are None where nothing was trained in this run."""

    rows: pd.DataFrame
    items: pd.DataFrame
    plumbing: pd.DataFrame
    scores_base: pd.DataFrame
    scores_tuned: pd.DataFrame
    detect_base: pd.DataFrame
    detect: pd.DataFrame
    diagnose: pd.DataFrame | None  # None in a run directory that was not diagnosed
    conflicts: pd.DataFrame | None  # None where contradictions were not looked for; with `graph`, conflicts.json
    graph: dict[str, Any]
    robust_rows: pd.DataFrame | None  # None where robustness did not run on these verdicts; with `robust` of that job
    robust: dict[str, Any]
    outdated: str  # why there are none although robustness did run, in words; else empty
    dynamics: pd.DataFrame | None
    train_log: pd.DataFrame | None
    config: dict[str, Any]
    environment: dict[str, Any]
    settings: DetectConfig

    @property
    def untrained(self) -> str:
        """Why there are no training dynamics, in words; empty where there are some."""
        if self.dynamics is not None:
            return ""
        if self.config.get("tuned"):
            return "The tuned checkpoint was brought, not trained here, so there are no training dynamics."
        return "dynamics.parquet is not in the run directory (sft.dynamics was off, or sft did not run here)."


def load_tables(run: RunDir) -> Tables:
    """Raises InputError naming the file that is missing, corrupt or made from other rows, and the job to run."""
    if not run.path.is_dir():
        raise InputError(f"run: {run.path} is not a run directory; would be the out= of an earlier job")
    tables: dict[str, Any] = {name: _read(run / f"{name}.parquet", need) for name, need in NEEDS.items()}
    _same_rows(run, tables)
    config = _mapping(run / "config.yaml", yaml.safe_load, "YAML")
    for name, need in OPTIONAL.items():
        path = run / f"{name}.parquet"
        # A run given a tuned checkpoint may lie over an older one that trained: those curves are another model's.
        tables[name] = _read(path, need) if path.is_file() and not config.get("tuned") else None
    path = run / "diagnose.parquet"
    tables["diagnose"] = _read(path, _CAUSES) if path.is_file() else None
    tables |= _conflicts(run, tables["rows"])
    tables |= _robust(run, tables["detect"])
    environment = _mapping(run / "environment.json", json.loads, "JSON")
    settings = DetectConfig.make(config.get("detect") or {}, f"{run / 'config.yaml'}: detect.")
    return Tables(**tables, config=config, environment=environment, settings=settings)


def _read(path: Path, need: Need) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"{path}: no such table; run {need.job} first")
    try:
        table = read_table(path)
    except InputError as error:
        raise InputError(f"{error}; run {need.job} again") from None
    for column in need.columns:
        if column not in table:
            raise InputError(f"{path}: no column {column}; run {need.job} again")
    if need.unique and table["row_id"].duplicated().any():
        twice = table["row_id"][table["row_id"].duplicated()].iloc[0]
        raise InputError(f"{path}: row_id {twice!r} occurs twice; run {need.job} again")
    return table


def _same_rows(run: RunDir, tables: dict[str, pd.DataFrame]) -> None:
    """Every verdict needs its row, its item and both models' scores."""
    verdicts = tables["detect"]["row_id"]
    for name in ("rows", "items", "scores_base", "scores_tuned", "detect_base"):
        lost = ~verdicts.isin(tables[name]["row_id"])
        if lost.any():
            path, row_id = run / f"{name}.parquet", verdicts[lost].iloc[0]
            job = NEEDS[name].job
            raise InputError(
                f"{path}: lacks {int(lost.sum())} rows of detect.parquet (first: {row_id!r}); run {job} again"
            )


def _conflicts(run: RunDir, rows: pd.DataFrame) -> dict[str, Any]:
    """conflicts.parquet and what conflicts.json says of it."""
    path = run / "conflicts.parquet"
    if not path.is_file():
        return {"conflicts": None, "graph": {}}
    table, told = _read(path, _GRAPH), _mapping(run / "conflicts.json", json.loads, "JSON")
    if lacking := [name for name in _GRAPH_TOLD if name not in told]:
        raise InputError(f"{run / 'conflicts.json'}: no key {lacking[0]}; run {_GRAPH.job} again")
    ids = pd.concat([table["row_a"], table["row_b"]])
    if (lost := ids[~ids.isin(rows["row_id"])]).size:
        raise InputError(f"{path}: row {lost.iloc[0]!r} is not in rows.parquet; run {_GRAPH.job} again")
    return {"conflicts": table, "graph": told}


def _robust(run: RunDir, verdicts: pd.DataFrame) -> dict[str, Any]:
    """robust_rows.parquet and what robustness.json says of it, unless they are of verdicts that are there no more."""
    path = run / "robust_rows.parquet"
    none: dict[str, Any] = {"robust_rows": None, "robust": {}}
    if not path.is_file():
        return none | {"outdated": ""}
    rows, told = _read(path, _ROBUST), _mapping(run / "robustness.json", json.loads, "JSON")
    if lacking := [name for name in _STATISTICS if name not in told]:
        raise InputError(f"{run / 'robustness.json'}: no key {lacking[0]}; run robustness again")
    now = rows["row_id"].map(verdicts.set_index("row_id")["unlearned"].astype(bool))
    if not (now == rows["own"]).all():
        return none | {"outdated": "robust_rows.parquet tells of other verdicts than these; run robustness again."}
    return {"robust_rows": rows, "robust": {name: told[name] for name in _STATISTICS}, "outdated": ""}


def _mapping(path: Path, parse: Callable[[str], Any], kind: str) -> dict[str, Any]:
    """An absent file is an empty mapping: tables copied from elsewhere can still be reported."""
    if not path.is_file():
        return {}
    try:
        value = parse(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError):
        raise InputError(f"{path}: not {kind}; remove it, or run the job that wrote it again") from None
    if not isinstance(value or {}, dict):
        raise InputError(f"{path}: expected a mapping of keys to values")
    return value or {}
