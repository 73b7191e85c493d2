"""A run's grid in numbers: robust_rows.parquet, and what robustness.json says beside the grid's own keys."""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ilpjax.config import DetectConfig
from ilpjax.detect import wilson
from ilpjax.errors import InputError
from ilpjax.robust.agreement import GROUPS, agreement, core_and_rim
from ilpjax.robust.prevalence import agreement_of_runs, read_config, read_run, shares
from ilpjax.robust.retest import retest
from ilpjax.robust.show import plain, robustness_text
from ilpjax.robust.variance import variance
from ilpjax.robust.votes import read_grid, votes
from ilpjax.rundir import RunDir, read_table, write_json, write_table


def tell(run: RunDir, others: Sequence[RunDir] = ()) -> str:
    """Writes RUN/robust_rows.parquet (see `core_and_rim`) and the keys of `summarise` into RUN/robustness.json, whose
    other keys stay; returns what a person reads. Raises InputError as `summarise` does."""
    rows, told = _summary(run, others)
    path = run / "robustness.json"
    try:
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        raise InputError(f"{path}: not JSON; run robustness again") from None
    write_table(run / "robust_rows.parquet", rows)
    write_json(path, before | told)
    return robustness_text(told)


def summarise(run: RunDir, others: Sequence[RunDir] = ()) -> dict[str, Any]:
    """The statistics of RUN/robustness.parquet, in plain JSON values: null where there is no number.

    rows        {"n", "protocols", "groups", "by_cause", "mean_share"}, see `core_and_rim`:
                groups: {"core", "rim", "never": {"n", "of", "share", "low", "high" (Wilson), "own", "artefact"}}; own
                and artefact: how many of them the run itself and the options alone flag
                by_cause: [{"cause", "n", "core", "rim", "never"}]
                mean_share: {"own", "others": {"n", "mean"}}, of the protocols that flag a row that the run flags, and
                one that it does not
    agreement   see `agreement`
    variance    {"p_pass", "flagged"}: see `variance`
    retest      {"halves": see `retest`, "runs": see `agreement_of_runs`; `others` are runs of other training seeds}
    prevalence  see `shares`: every protocol, the two rules of the run and the core, over the rows of the grid
    confidence  of every interval: detect.confidence of the run

    Raises InputError naming the table that is missing or wrong, and when `others` have no row in common with `run`.
    """
    return _summary(run, others)[1]


def _summary(run: RunDir, others: Sequence[RunDir]) -> tuple[pd.DataFrame, dict[str, Any]]:
    grid, own = read_grid(run), read_run(run, protocols=True)
    config = DetectConfig.make(read_config(run).get("detect") or {}, f"{run / 'config.yaml'}: detect.")
    level, found = config.confidence, votes(grid)
    if not len(found.protocols):
        raise InputError(f"{run / 'robustness.parquet'}: holds the control alone; run robustness with other scorings")
    weights = found.weights()
    rows = core_and_rim(grid, own.flags["paper"] == 1)
    judged = [own, *(read_run(one, protocols=(one / "robustness.parquet").is_file()) for one in others)]
    between = agreement_of_runs(judged, level)
    if others and (not between or len(between[0]["runs"]) <= len(others)):
        raise InputError("others: a run of another base or without a row in common; runs of other seeds would be right")
    told = {
        "rows": _groups(rows, run, level),
        "agreement": agreement(found, weights, level),
        "variance": {name: variance(found, name, weights, level) for name in ("p_pass", "flagged")},
        "retest": {"halves": retest(grid, level), "runs": between},
        "prevalence": shares(own.flags.loc[own.flags.index.isin(rows["row_id"])], level),
        "confidence": level,
    }
    return rows, plain(told)


def _groups(rows: pd.DataFrame, run: RunDir, confidence: float) -> dict[str, Any]:
    counted = {}
    for name in GROUPS:
        own = rows[rows["group"] == name]
        share = wilson(len(own), len(rows), confidence)
        counted[name] = {"n": share["count"], "own": int(own["own"].sum()), "artefact": int(own["artefact"].sum())}
        counted[name] |= {key: share[key] for key in ("of", "share", "low", "high")}
    cause = read_table(run / "verdicts.parquet").set_index("row_id").get("cause", pd.Series(dtype=object))
    named = rows["row_id"].map(cause)
    table = pd.crosstab(named[named != ""], rows["group"]).reindex(columns=GROUPS, fill_value=0)
    by_cause = [{"cause": name, "n": int(line.sum())} | line.to_dict() for name, line in table.iterrows()]
    parts = {"own": rows.loc[rows["own"], "share"], "others": rows.loc[~rows["own"], "share"]}
    told = {"n": len(rows), "protocols": int(rows["n"].max()), "groups": counted, "by_cause": by_cause}
    return told | {"mean_share": {name: {"n": len(part), "mean": part.mean()} for name, part in parts.items()}}
