"""Would the verdict come out the same again? On disjoint draws of one model, and across training seeds."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from ilpjax.robust.agreement import jaccard, kappa
from ilpjax.robust.votes import cluster_weights, interval, pair_sums, votes

Line = dict[str, Any]


def retest(grid: pd.DataFrame, confidence: float = 0.95) -> list[Line]:
    """Half 1 against half 2 of the draws or orders: {"protocol", "n", "first", "second" (shares flagged), "kappa",
    "low", "high"} a protocol that has both; kappa is null where a half flags all or none."""
    first, second = votes(grid, 1), votes(grid, 2)
    lines = []
    for name in first.protocols.index.intersection(second.protocols.index, sort=False):
        one, two = (
            pd.Series(half.flagged[:, half.protocols.index.get_loc(name)], half.row_ids) for half in (first, second)
        )
        both = np.stack([one, two.reindex(one.index)], axis=1)
        lines.append({"protocol": name} | _again(both, first.cluster, confidence))
    return lines


def across_runs(flags: Mapping[str, pd.DataFrame], cluster: pd.Series, confidence: float = 0.95) -> list[Line]:
    """The same rows under the same protocol (or rule) in several runs: {"protocol", "runs", "n", "kappa", "low",
    "high", "jaccard", "least", "most"}, kappa and Jaccard means over the pairs of runs, `least` and `most` of a pair.

    `flags`: a run's name -> a line a row (index), a column a protocol, 1, 0 or NaN. `cluster`: row -> the number of
    its question. n counts rows that every run judges under the protocol; null where no two sets of flags vary.
    """
    shared = [name for name in next(iter(flags.values())) if all(name in one for one in flags.values())]
    lines = []
    for name in shared:
        table = pd.concat([one[name] for one in flags.values()], axis=1, join="inner").dropna()
        values, own = table.to_numpy(float), cluster.reindex(table.index).to_numpy(int)
        if len(table):
            lines.append({"protocol": name, "runs": len(flags)} | _between(values, own, confidence))
    return lines


def run_pairs(flags: Mapping[str, pd.DataFrame]) -> list[Line]:
    """Rows of every two runs: {"a", "b", "shared", "only_a", "only_b"}."""
    lines = []
    for a, b in combinations(flags, 2):
        shared = len(flags[a].index.intersection(flags[b].index))
        alone = {"only_a": len(flags[a]) - shared, "only_b": len(flags[b]) - shared}
        lines.append({"a": a, "b": b, "shared": shared} | alone)
    return lines


def _again(both: Float[np.ndarray, "row 2"], cluster: Int[np.ndarray, " row"], confidence: float) -> Line:
    known = np.isfinite(both).all(axis=1)
    shares = both[known].mean(axis=0) if known.any() else np.full(2, np.nan)
    told = _between(both[known], cluster[known], confidence)
    kept = {key: told[key] for key in ("n", "kappa", "low", "high")}
    return kept | {"first": shares[0], "second": shares[1]}


def _between(values: Float[np.ndarray, "row run"], cluster: Int[np.ndarray, " row"], confidence: float) -> Line:
    """Mean kappa over the pairs of columns, its interval by drawing rows, and the least and the most of a pair."""
    first, second = np.triu_indices(values.shape[1])
    sums, drawn = pair_sums(values, np.ones((1, len(values)))), pair_sums(values, cluster_weights(cluster))
    of_pairs, resampled = kappa(sums)[0], kappa(drawn)
    known = (first != second) & np.isfinite(of_pairs)
    shared = jaccard(sums)[0, first != second]
    told: Line = {"n": len(values), "kappa": None, "low": None, "high": None, "least": None, "most": None}
    told["jaccard"] = shared[np.isfinite(shared)].mean() if np.isfinite(shared).any() else None
    if known.any():
        low, high = interval(resampled[:, known].mean(axis=1), confidence)
        told |= {"kappa": of_pairs[known].mean(), "low": low, "high": high}
        told |= {"least": of_pairs[known].min(), "most": of_pairs[known].max()}
    return told
