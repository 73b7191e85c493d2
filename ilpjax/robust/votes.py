"""The grid's table as matrices, a row by a protocol, and its rows drawn again in clusters."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from ilpjax.errors import InputError
from ilpjax.robust.design import FACTORS
from ilpjax.rundir import RunDir, read_table

NEEDED = ("row_id", "protocol", *FACTORS, "half", "p_pass", "flagged")
CONTROL = "control"  # the options without the question: reported beside the votes, never one of them
RESAMPLES = 1000
CHUNK = 1 << 22  # numbers of features that exist at a time

Weights = Float[np.ndarray, "resample row"]


@dataclass(frozen=True, kw_only=True)
class Votes:
    """What every protocol says of every row; NaN where a protocol did not judge a row.

    `cluster` numbers rows that ask the same question of the same data set: they are drawn together, being one
    observation twice.
    """

    row_ids: np.ndarray
    cluster: Int[np.ndarray, " row"]
    protocols: pd.DataFrame  # a line a protocol, its name the index; columns are FACTORS
    flagged: Float[np.ndarray, "row protocol"]
    p_pass: Float[np.ndarray, "row protocol"]

    def weights(self, seed: int = 0) -> Weights:
        return cluster_weights(self.cluster, seed)


def read_grid(run: RunDir) -> pd.DataFrame:
    """robustness.parquet with `dataset` and `cluster`. Raises InputError where it is absent or of other rows."""
    path = run / "robustness.parquet"
    if not path.is_file():
        raise InputError(f"run: {run.path} holds no robustness.parquet; run robustness first")
    table, rows = read_table(path), read_table(run / "rows.parquet")
    if lacking := [name for name in NEEDED if name not in table]:
        raise InputError(f"{path}: no column {', '.join(lacking)}; run robustness again")
    check_lines(table, path)
    rows["cluster"] = clusters(rows["dataset"], rows["prompt"])
    if not table["row_id"].isin(rows["row_id"]).all():
        raise InputError(f"{path}: holds rows that are not in rows.parquet; run robustness again")
    return table.merge(rows[["row_id", "dataset", "cluster"]], "left", "row_id")


def check_lines(table: pd.DataFrame, where: Path | str) -> None:
    """Raises InputError unless there is one line a row, protocol and half, with verdicts in it."""
    key = ["row_id", "protocol", "half"]
    if not len(table):
        raise InputError(f"{where}: no lines; run robustness again")
    if table.duplicated(key).any():
        row_id, protocol, half = table.loc[table.duplicated(key), key].iloc[0]
        raise InputError(f"{where}: {row_id!r} occurs twice under {protocol}, half {half}; run robustness again")


def clusters(dataset: pd.Series, prompt: pd.Series) -> Int[np.ndarray, " row"]:
    """A number a distinct question of a data set, letter case and white space aside."""
    question = prompt.str.split().str.join(" ").str.casefold()
    return pd.factorize(dataset.astype(str) + "\0" + question)[0]


def votes(grid: pd.DataFrame, half: int = 0) -> Votes:
    """The protocols of one half (0: all draws), without the control, in the grid's order."""
    lines = grid[(grid["half"] == half) & (grid["scoring"] != CONTROL)]
    rows = lines.drop_duplicates("row_id")
    protocols = lines.drop_duplicates("protocol").set_index("protocol")[list(FACTORS)]
    place = (pd.Index(rows["row_id"]).get_indexer(lines["row_id"]), protocols.index.get_indexer(lines["protocol"]))
    matrices = {}
    for name in ("flagged", "p_pass"):
        matrices[name] = np.full((len(rows), len(protocols)), np.nan)
        matrices[name][place] = lines[name].to_numpy(float, na_value=np.nan)
    cluster = rows["cluster"] if "cluster" in rows else pd.Series(np.arange(len(rows)))
    return Votes(row_ids=rows["row_id"].to_numpy(), cluster=cluster.to_numpy(int), protocols=protocols, **matrices)


def is_blind(lines: pd.DataFrame) -> bool:
    """Whether p_pass is not above chance over the rows (one-sided, 97.5 %): a row that is flagged so says nothing."""
    over = lines["p_pass"] - lines["chance"].fillna(0.0)
    return bool(over.mean() <= 1.96 * over.sem(ddof=0))


def verdicts(grid: pd.DataFrame) -> Float[np.ndarray, "row protocol"]:
    """What counts for core and rim: of protocols that are not blind, the corrected verdict where there is one, so that
    fewer options flag as many guessers; 1, 0, or NaN for no vote. As `votes(grid).flagged` has rows and protocols."""
    found, lines = votes(grid), grid[(grid["half"] == 0) & (grid["scoring"] != CONTROL)]
    corrected = lines["flagged_corrected"].astype("boolean").fillna(lines["flagged"].astype("boolean"))
    place = pd.Index(found.row_ids).get_indexer(lines["row_id"])
    table = np.full(found.flagged.shape, np.nan)
    table[place, found.protocols.index.get_indexer(lines["protocol"])] = corrected.to_numpy(float, na_value=np.nan)
    if "chance" in lines:
        blind = {name for name, one in lines.groupby("protocol") if is_blind(one)}
        table[:, found.protocols.index.isin(blind)] = np.nan
    return table


def cluster_weights(cluster: Int[np.ndarray, " row"], seed: int = 0, resamples: int = RESAMPLES) -> Weights:
    """How often each row is drawn when as many clusters as there are get drawn with replacement."""
    _, own = np.unique(cluster, return_inverse=True)
    count, rng = own.max(initial=-1) + 1, np.random.default_rng(seed)
    drawn = [np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(resamples)]
    return np.stack(drawn)[:, own].astype(float)


def interval(drawn: Float[np.ndarray, "resample ..."], confidence: float) -> Float[np.ndarray, "2 ..."]:
    """Low and high ends of the percentile interval; NaN where fewer than half of the resamples have a value."""
    known = np.isfinite(drawn).mean(axis=0) > 0.5
    tail = (1 - confidence) / 2
    ends = np.nanquantile(np.where(known, drawn, 0.0), [tail, 1 - tail], axis=0)
    return np.where(known, ends, np.nan)


@dataclass(frozen=True)
class PairSums:
    """Sums over the rows that both protocols of a pair judge, for each resample; pairs as `np.triu_indices` has them,
    a protocol with itself included."""

    n: Float[np.ndarray, "resample pair"]
    left: Float[np.ndarray, "resample pair"]  # of the first protocol's values
    right: Float[np.ndarray, "resample pair"]
    both: Float[np.ndarray, "resample pair"]  # of the products


def pair_sums(values: Float[np.ndarray, "row protocol"], weights: Weights) -> PairSums:
    """Everything that kappa, Jaccard and covariances of two protocols need, linear in the rows' weights."""
    there = np.isfinite(values).astype(float)
    filled = np.where(there > 0, values, 0.0)
    first, second = np.triu_indices(values.shape[1])
    total = np.zeros((4, len(weights), len(first)))
    step = max(1, CHUNK // (4 * max(len(first), 1)))
    for start in range(0, len(values), step):
        rows = slice(start, start + step)
        seen, own, drawn = there[rows], filled[rows], weights[:, rows]
        features = (
            seen[:, first] * seen[:, second],
            own[:, first] * seen[:, second],
            seen[:, first] * own[:, second],
            own[:, first] * own[:, second],
        )
        total += [drawn @ feature for feature in features]
    return PairSums(*total)
