"""The numbers of the report: report.json, and what the page shows. Counts first, shares with their intervals."""

import math
from typing import Any

import numpy as np
import pandas as pd

from ilpjax.detect import wilson
from ilpjax.diagnose import CLASSES, WHAT_TO_DO
from ilpjax.report.contradictions import count_conflicts
from ilpjax.report.frame import SEVERE, Judged
from ilpjax.report.tables import Tables

JSD_CONFLICT = 0.3  # arXiv:2604.10079 table 10: above it, the paper speaks of a conflict with the base
LENGTH_BINS, POSITION_BINS = 5, 10


def summarise(title: str, tables: Tables, judged: Judged) -> dict[str, Any]:
    """Everything report.json holds. A share is {"n", "of", "share", "low", "high"}: n of `of` rows, Wilson interval
    at config.detect.confidence; share, low and high are null when `of` is 0. NaN is never written: it is null.

    title                 str
    rows                  rows in rows.parquet
    judged, no_verdict    rows with a verdict; rows without an item, so without a verdict
    learned, unlearned    shares, paper mode: pass@N < T (arXiv:2604.10079)
    learned_corrected, unlearned_corrected     shares, corrected mode: skill_high under its threshold
    both_modes            share unlearned in both
    expected_flagged      mean P(flag): the paper-mode share to be expected of new draws
    severe                {"k", "n"}: the severe set, the K unlearned rows worst by severity, and how many there are
    plumbing              rows with a problem (share of all rows) + "unlearned" (of them) + "whole_run" (problems of no
                          one row) + "by_problem": [{"problem", "n", "unlearned", "example"}]
    by_dataset, by_length, by_position   [{"name", "n", "unlearned", "unlearned_corrected", "base_accuracy",
                          "accuracy", ...}]: n judged rows; by_dataset adds "dataset", "rows", "plumbing"; by_length
                          adds "low", "high", "unit" ("tokens" or "bytes"); by_position adds "decile", "by"
                          ("training": step of the last visit, or "file")
    base_vs_tuned         {"n", "paper", "corrected", "p_right", "jsd"}; the first two count "learned" (not before,
                          but after), "already_known", "lost", "never_learned"; p_right means and quantiles; jsd in
                          nats (0 to .693) with "over": share above 0.3
    accuracy              {"base", "tuned"}: share of (row, order) pairs whose most probable option is right, its n
                          counted in rows
    option_order          {"orders", "rows_that_flip", "spread"} of the tuned model, or null with one order
    control               choices-only control {"base", "tuned", "chance", "learned_and_right", "artefact"}, or null
    causes                {"of", "by_cause": [{"cause", "what_to_do", "cascade", n, of, share, low, high}]}, most first:
                          of the rows that were not learned (either mode) and have no plumbing problem; `cascade` counts
                          what the paper's sequence of tests names; or null where nothing was diagnosed
    conflicts             what conflicts.json says, `steps` with "left"; "verdicts": [{"judge", "verdict", "n"}];
                          "shown": the most similar pairs [{"row_a", "row_b", "similarity", "kind", "verdict",
                          "judge"}]; or null
    robust                what `robust.summarise` says, without the single pairs of protocols, or null
    training              {"first_loss", "last_loss", "steps", "visits"} or null
    confidence, protocol, orders, config, environment
    """
    rows, settings = judged.rows, tables.settings
    level = settings.confidence
    protocol = sorted(tables.scores_tuned["protocol"].dropna().unique())
    numbers = {
        "title": title,
        "rows": len(tables.rows),
        "judged": len(rows),
        "no_verdict": len(tables.rows) - len(rows),
        **_modes(rows, level),
        "expected_flagged": _mean(rows["p_flag"]),
        "severe": {"k": SEVERE, "n": int(rows["severe"].sum())},
        "plumbing": _plumbing(tables, rows, level),
        "by_dataset": _by_dataset(tables, rows, level),
        "by_length": _by_length(judged, level),
        "by_position": _by_position(judged, level),
        "base_vs_tuned": _base_vs_tuned(rows, level),
        "accuracy": {"base": share(rows["base_accuracy"], level), "tuned": share(rows["accuracy"], level)},
        "option_order": _option_order(judged, level),
        "control": _control(judged, level),
        "causes": _causes(tables, level),
        "conflicts": count_conflicts(tables),
        "robust": _robust(tables),
        "training": _training(tables),
        "confidence": level,
        "protocol": ", ".join(protocol) or None,
        "orders": judged.tuned_orders,
        "detect": settings.model_dump(mode="json"),
        "config": tables.config,
        "environment": tables.environment,
    }
    return clean(numbers)


def share(flags: Any, confidence: float) -> dict[str, Any]:
    """{"n", "of", "share", "low", "high"} of booleans, or of per-row shares in [0, 1]; missing ones do not count.

    A sum of per-row shares need not be whole: its interval is the one that covers both whole neighbours'.
    """
    values = np.asarray(flags, dtype=float)
    values = values[~np.isnan(values)]
    n, of = round(float(values.sum()), 9), len(values)
    if of == 0:
        return {"n": 0, "of": 0, "share": None, "low": None, "high": None}
    low = wilson(math.floor(n), of, confidence)["low"]
    high = wilson(math.ceil(n), of, confidence)["high"]
    return {"n": int(n) if n == int(n) else n, "of": of, "share": n / of, "low": low, "high": high}


def clean(value: Any) -> Any:
    """Plain JSON values: NumPy scalars unpacked, NaN and infinities to None."""
    if isinstance(value, dict):
        return {str(key): clean(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [clean(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _modes(rows: pd.DataFrame, level: float) -> dict[str, Any]:
    return {
        "learned": share(~rows["unlearned"], level),
        "unlearned": share(rows["unlearned"], level),
        "learned_corrected": share(~rows["unlearned_corrected"], level),
        "unlearned_corrected": share(rows["unlearned_corrected"], level),
        "both_modes": share(rows["unlearned"] & rows["unlearned_corrected"], level),
    }


def _causes(tables: Tables, level: float) -> dict[str, Any] | None:
    if tables.diagnose is None:
        return None
    named, cascade = tables.diagnose["cause"], tables.diagnose["cascade"]
    found = [
        {"cause": name, "what_to_do": WHAT_TO_DO[name], "cascade": int((cascade == name).sum())}
        | share(named == name, level)
        for name in CLASSES
    ]
    return {"of": len(named), "by_cause": sorted(found, key=lambda one: -one["n"])}


def _group(rows: pd.DataFrame, level: float) -> dict[str, Any]:
    return {
        "n": len(rows),
        "unlearned": share(rows["unlearned"], level),
        "unlearned_corrected": share(rows["unlearned_corrected"], level),
        "base_accuracy": share(rows["base_accuracy"], level),
        "accuracy": share(rows["accuracy"], level),
    }


def _by_dataset(tables: Tables, rows: pd.DataFrame, level: float) -> list[dict[str, Any]]:
    problems = set(tables.plumbing["row_id"].dropna())
    groups = []
    for name, every in tables.rows.groupby("dataset", sort=True):
        own = rows[rows["dataset"] == name]
        plumbing = int(every["row_id"].isin(problems).sum())
        groups.append({"name": name, "dataset": name, "rows": len(every), "plumbing": plumbing, **_group(own, level)})
    return groups


def _by_length(judged: Judged, level: float) -> list[dict[str, Any]]:
    """Bins of about equal size; rows of one length stay together, so there may be fewer bins."""
    rows, unit = judged.rows, judged.length_unit
    if not len(rows):
        return []
    bins = pd.qcut(rows["length"], LENGTH_BINS, labels=False, duplicates="drop").fillna(0)
    groups = []
    for _, own in rows.groupby(bins):
        low, high = int(own["length"].min()), int(own["length"].max())
        name = f"{low:,}" if low == high else f"{low:,}–{high:,}"
        groups.append({"name": name, "low": low, "high": high, "unit": unit, **_group(own, level)})
    return groups


def _by_position(judged: Judged, level: float) -> list[dict[str, Any]]:
    rows, by = judged.rows, judged.position_by
    decile = rows["place"] * POSITION_BINS // max(len(rows), 1)
    return [
        {"name": f"{10 * d}–{10 * d + 10} %", "decile": int(d) + 1, "by": by, **_group(own, level)}
        for d, own in rows.groupby(decile)
    ]


def _base_vs_tuned(rows: pd.DataFrame, level: float) -> dict[str, Any]:
    def crossed(column: str) -> dict[str, Any]:
        before, after = ~rows["base_" + column], ~rows[column]
        return {
            "learned": share(~before & after, level),
            "already_known": share(before & after, level),
            "lost": share(before & ~after, level),
            "never_learned": share(~before & ~after, level),
        }

    return {
        "n": len(rows),
        "paper": crossed("unlearned"),
        "corrected": crossed("unlearned_corrected"),
        "p_right": {"base": _spread(rows["base_p"]), "tuned": _spread(rows["tuned_p"])},
        "jsd": {**_spread(rows["jsd"]), "unit": "nats", "over": share(rows["jsd"] > JSD_CONFLICT, level)},
    }


def _plumbing(tables: Tables, rows: pd.DataFrame, level: float) -> dict[str, Any]:
    problems = tables.plumbing
    unlearned = set(rows.loc[rows["unlearned"], "row_id"])
    affected = tables.rows["row_id"].isin(problems["row_id"].dropna())
    kinds = []
    for problem, own in problems.groupby("problem", sort=True):
        ids = own["row_id"].dropna().unique()
        example = own["detail"].dropna().iloc[:1].tolist()
        counts = {"n": len(ids), "unlearned": int(pd.Series(ids).isin(unlearned).sum())}
        kinds.append({"problem": problem, **counts, "example": example[0] if example else None})
    kinds.sort(key=lambda kind: -kind["n"])
    whole = problems[problems["row_id"].isna()]
    return {
        **share(affected, level),
        "unlearned": int(tables.rows.loc[affected, "row_id"].isin(unlearned).sum()),
        "whole_run": [f"{p}: {d}" if d else str(p) for p, d in zip(whole["problem"], whole["detail"], strict=True)],
        "by_problem": kinds,
    }


def _option_order(judged: Judged, level: float) -> dict[str, Any] | None:
    if judged.tuned_orders < 2:
        return None
    rows = judged.rows
    return {
        "orders": judged.tuned_orders,
        "rows_that_flip": share(rows["flips"], level),
        "spread": _spread(rows["tuned_spread"]),
    }


def _control(judged: Judged, level: float) -> dict[str, Any] | None:
    """How often the right option wins when the question is left out."""
    if not judged.control:
        return None
    rows = judged.rows
    learned = rows[~rows["unlearned"]]
    return {
        "base": share(rows["base_control_accuracy"], level),
        "tuned": share(rows["control_accuracy"], level),
        "chance": _mean(rows["chance"]),
        "learned_and_right": share(learned["control_accuracy"], level),
        "artefact": share(rows["artefact"], level) if "artefact" in rows else None,
    }


def _robust(tables: Tables) -> dict[str, Any] | None:
    if not tables.robust:
        return None
    agreement = {name: value for name, value in tables.robust["agreement"].items() if name != "pairs"}
    return tables.robust | {"agreement": agreement}


def _training(tables: Tables) -> dict[str, Any] | None:
    if tables.train_log is None or not len(tables.train_log):
        return None
    log = tables.train_log.sort_values("step")
    visits = None if tables.dynamics is None else len(tables.dynamics)
    losses = {"first_loss": log["loss"].iloc[0], "last_loss": log["loss"].iloc[-1]}
    return {**losses, "steps": int(log["step"].iloc[-1]), "visits": visits}


def _spread(values: pd.Series) -> dict[str, Any]:
    q = values.quantile([0.1, 0.25, 0.5, 0.75, 0.9]).tolist()
    return {"mean": _mean(values), "p10": q[0], "p25": q[1], "median": q[2], "p75": q[3], "p90": q[4]}


def _mean(values: pd.Series) -> float | None:
    return float(values.mean()) if len(values) else None
