"""One line a judged row: verdicts, both models' option probabilities, length, place in training, problems."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from ilpjax.detect import severe_set, shift
from ilpjax.errors import InputError
from ilpjax.report.tables import Tables

SEVERE = 1000  # K of arXiv:2604.10079: the severe set is the K worst unlearned rows


@dataclass(frozen=True, kw_only=True)
class Judged:
    """`rows` and the arrays share their first axis: the judged rows in file order."""

    rows: pd.DataFrame
    base: Float[np.ndarray, "rows options"]  # mean over option orders, item's own option order; 0 past the last option
    tuned: Float[np.ndarray, "rows options"]
    base_orders: int
    tuned_orders: int
    length_unit: str  # "tokens" or "bytes"
    position_by: str  # "training" (step of the last visit) or "file"
    control: bool  # whether both models' choices-only control was scored


def judged_rows(tables: Tables) -> Judged:
    """Joins the tables on row_id. Columns of `rows`: those of rows.parquet and detect.parquet, base_<column> from
    detect_base.parquet, base_p, tuned_p (probability of the right option), jsd (nats), base_spread, tuned_spread
    (highest minus lowest right-option probability over orders), flips (the tuned pick depends on the order), chance,
    problems (kinds, tuple), length, place (0 first to n-1 last), severe.
    """
    rows = tables.rows.merge(tables.detect, on="row_id", sort=False)
    rows = rows.merge(tables.detect_base.add_prefix("base_").rename(columns={"base_row_id": "row_id"}), on="row_id")
    rows = rows.sort_values("position", kind="stable").reset_index(drop=True)
    for column in ("unlearned", "unlearned_corrected", "base_unlearned", "base_unlearned_corrected"):
        rows[column] = rows[column].astype(bool)
    right = rows["row_id"].map(tables.items.set_index("row_id")["answer"]).to_numpy(int)
    counts = rows["row_id"].map(tables.items.set_index("row_id")["options"].map(len)).to_numpy(int)
    base = _options("scores_base", tables.scores_base, rows["row_id"], right, counts)
    tuned = _options("scores_tuned", tables.scores_tuned, rows["row_id"], right, counts)
    at = np.arange(len(rows))
    rows["base_p"], rows["tuned_p"] = base.mean[at, right], tuned.mean[at, right]
    rows["base_spread"], rows["tuned_spread"], rows["flips"] = base.spread, tuned.spread, tuned.flips
    rows["jsd"] = _shift(rows["row_id"], tables)
    rows["chance"] = 1 / counts
    kinds = tables.plumbing.groupby("row_id")["problem"].agg(lambda found: tuple(sorted(set(found))))
    rows["problems"] = rows["row_id"].map(kinds).map(lambda found: found if isinstance(found, tuple) else ())
    rows["severe"] = rows["row_id"].isin(severe_set(tables.detect, SEVERE)["row_id"])
    length_unit = _lengths(rows, tables)
    return Judged(
        rows=rows,
        base=base.mean,
        tuned=tuned.mean,
        base_orders=base.orders,
        tuned_orders=tuned.orders,
        length_unit=length_unit,
        position_by=_places(rows, tables),
        control=all(c in rows and rows[c].notna().any() for c in ("control_accuracy", "base_control_accuracy")),
    )


@dataclass(frozen=True)
class _Options:
    mean: Float[np.ndarray, "rows options"]
    spread: Float[np.ndarray, " rows"]
    flips: Bool[np.ndarray, " rows"]
    orders: int


def _shift(row_ids: pd.Series, tables: Tables) -> pd.Series:
    if row_ids.empty:
        return pd.Series(dtype=float)
    try:
        moved = shift(tables.scores_base, tables.scores_tuned)
    except InputError as error:
        raise InputError(f"scores_base.parquet, scores_tuned.parquet: {error}; run score again for both") from None
    return row_ids.map(moved.set_index("row_id")["jsd"])


def _options(
    name: str,
    scores: pd.DataFrame,
    row_ids: pd.Series,
    right: Int[np.ndarray, " rows"],
    counts: Int[np.ndarray, " rows"],
) -> _Options:
    """Option probabilities of one model, over its option orders. Raises InputError when the items are other ones."""
    line = pd.Series(np.arange(len(row_ids)), index=row_ids.to_numpy())
    scores = scores[scores["row_id"].isin(line.index)]
    at = line[scores["row_id"]].to_numpy()
    width = counts.max(initial=2)
    p = np.zeros((len(scores), width))
    lengths = scores["p"].map(len).to_numpy(int)
    other = (lengths != counts[at]) | (scores["answer"].to_numpy(int) != right[at])
    if other.any():
        row_id = scores["row_id"].iloc[int(np.argmax(other))]
        raise InputError(f"{name}.parquet: row_id {row_id!r} has other options than in items.parquet; run score again")
    if len(scores):
        p[np.arange(width) < lengths[:, None]] = np.concatenate(scores["p"].to_numpy())
    total, count = np.zeros((len(row_ids), width)), np.zeros(len(row_ids))
    np.add.at(total, at, p)
    np.add.at(count, at, 1)
    of_right = pd.Series(p[np.arange(len(at)), right[at]]).groupby(at)
    picks = pd.Series(scores["predicted"].to_numpy()).groupby(at).nunique()
    spread = (of_right.max() - of_right.min()).to_numpy()
    return _Options(total / count[:, None], spread, picks.to_numpy() > 1, int(count.max(initial=0)))


def _lengths(rows: pd.DataFrame, tables: Tables) -> str:
    """Response length: target tokens where training counted them, else UTF-8 bytes."""
    if tables.dynamics is not None:
        tokens = rows["row_id"].map(tables.dynamics.groupby("row_id")["tokens"].last())
        if tokens.notna().all():
            rows["length"] = tokens.astype(int)
            return "tokens"
    rows["length"] = rows["response"].map(lambda text: len(text.encode()))
    return "bytes"


def _places(rows: pd.DataFrame, tables: Tables) -> str:
    """When training last saw the row: what left-side forgetting is about. Without dynamics, the file's order."""
    if tables.dynamics is not None:
        last = rows["row_id"].map(tables.dynamics.groupby("row_id")["step"].max())
        if last.notna().all():
            rows["place"] = last.rank(method="first").astype(int) - 1
            return "training"
    rows["place"] = rows["position"].rank(method="first").astype(int) - 1
    return "file"
