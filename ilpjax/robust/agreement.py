"""Do the protocols flag the same rows? Kappa and Jaccard of every two, the core that nearly all flag, and the rim."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa
from statsmodels.stats.multitest import multipletests

from ilpjax.robust.votes import CONTROL, PairSums, Votes, Weights, interval, pair_sums, verdicts, votes

CORE = 0.8  # share of the protocols that flag a row of the core
ROUNDING = 1e-9
GROUPS = ("core", "rim", "never")


def agreement(found: Votes, weights: Weights, confidence: float = 0.95) -> dict[str, Any]:
    """pairs: a line for every two protocols {a, b, n (rows that both judge), jaccard, kappa, each with _low, _high, p,
    p_holm}; kappa is null where a protocol flags all or none of them, Jaccard where neither flags any. p: that kappa
    is 0 (Wald, its error from `weights`, so that rows of a question count once), Holm over all pairs. Intervals:
    percentiles over `weights`.
    n, protocols: rows, and the names of the protocols; constant: those that flag all or none.
    kappa_mean, jaccard_mean: over the pairs. fleiss: over all protocols, of the rows that every one judges."""
    first, second = np.triu_indices(found.flagged.shape[1])
    other = first != second
    sums, drawn = pair_sums(found.flagged, np.ones((1, len(found.flagged)))), pair_sums(found.flagged, weights)
    table = pd.DataFrame({"a": found.protocols.index[first], "b": found.protocols.index[second]})
    table["n"] = sums.n[0].astype(int)
    measures = {"kappa": (kappa(sums), kappa(drawn)), "jaccard": (jaccard(sums), jaccard(drawn))}
    for name, (value, resampled) in measures.items():
        table[name] = value[0]
        ends = np.where(np.isfinite(value[0]), interval(resampled, confidence), np.nan)
        table[f"{name}_low"], table[f"{name}_high"] = ends
    table["p"] = p_of_none(*measures["kappa"])
    table = table[other].reset_index(drop=True)
    table["p_holm"] = holm(table["p"])
    means = {
        name: _mean(value[:, other], resampled[:, other], confidence) for name, (value, resampled) in measures.items()
    }
    return {
        "n": len(found.flagged),
        "protocols": list(found.protocols.index),
        "constant": [
            name for name, flags in zip(found.protocols.index, found.flagged.T, strict=True) if _constant(flags)
        ],
        **{f"{name}_mean": mean for name, mean in means.items()},
        "fleiss": _fleiss(found.flagged, weights, confidence),
        "pairs": table.to_dict("records"),
    }


def kappa(sums: PairSums) -> Float[np.ndarray, "resample pair"]:
    """Cohen's kappa of two sets of flags; NaN where one of them is constant."""
    with np.errstate(invalid="ignore", divide="ignore"):
        left, right = sums.left / sums.n, sums.right / sums.n
        chance = left * right + (1 - left) * (1 - right)
        value = (1 - left - right + 2 * sums.both / sums.n - chance) / (1 - chance)
    varied = (sums.left > 0) & (sums.left < sums.n) & (sums.right > 0) & (sums.right < sums.n)
    return np.where(varied, value, np.nan)


def p_of_none(
    value: Float[np.ndarray, "1 pair"], drawn: Float[np.ndarray, "resample pair"]
) -> Float[np.ndarray, " pair"]:
    """Two-sided p that each value is 0, by the spread of its resamples; NaN where there is no value."""
    known = np.isfinite(drawn)
    count = np.maximum(known.sum(axis=0), 1)
    centred = np.where(known, drawn - np.where(known, drawn, 0.0).sum(axis=0) / count, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 2 * stats.norm.sf(np.abs(value[0]) / np.sqrt((centred**2).sum(axis=0) / count))


def jaccard(sums: PairSums) -> Float[np.ndarray, "resample pair"]:
    """Rows that both flag, of those that either does; NaN where neither flags any."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums.left + sums.right > 0, sums.both / (sums.left + sums.right - sums.both), np.nan)


def holm(p: pd.Series) -> Float[np.ndarray, " test"]:
    """Holm's step-down adjustment over the tests there are; NaN stays NaN."""
    adjusted, known = np.full(len(p), np.nan), p.notna().to_numpy()
    if known.any():
        adjusted[known] = multipletests(p[known], method="holm")[1]
    return adjusted


def core_and_rim(grid: pd.DataFrame, own: pd.Series) -> pd.DataFrame:
    """A line a row of the grid: row_id, votes (protocols that flag it), n (that judge it), share, own, group, artefact.

    Protocols under which the model is no better than guessing have no vote, and the others vote by the corrected rule
    where it applies (see `verdicts`).
    group: `core` where at least CORE of the protocols flag the row, `rim` where fewer do but some, or the run's own
    verdict (`own`: row_id -> unlearned in paper mode), `never` else. artefact: most of the controls, which see no
    question, flag it too.
    """
    table, voted = pd.DataFrame({"row_id": votes(grid).row_ids}), verdicts(grid)
    table["votes"] = np.nansum(voted, axis=1).astype(int)
    table["n"] = np.isfinite(voted).sum(axis=1)
    table["share"] = table["votes"] / table["n"].where(table["n"] > 0)
    table["own"] = table["row_id"].map(own).astype("boolean").fillna(False).astype(bool)
    some = (table["votes"] > 0) | table["own"]
    table["group"] = np.select([table["share"] >= CORE - ROUNDING, some], GROUPS[:2], GROUPS[2])
    controls = grid[(grid["scoring"] == CONTROL) & (grid["half"] == 0)]
    blind = controls["flagged"].astype(float).groupby(controls["row_id"]).mean()
    table["artefact"] = some & (table["row_id"].map(blind) > 0.5)
    return table


def _constant(flags: np.ndarray) -> bool:
    return len(np.unique(flags[np.isfinite(flags)])) < 2


def _mean(value: np.ndarray, drawn: np.ndarray, confidence: float) -> dict[str, Any]:
    """The mean over the pairs that have a value, and how many those are."""
    known = np.isfinite(value[0])
    if not known.any():
        return {"value": None, "low": None, "high": None, "pairs": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a resample in which no pair has a value
        low, high = interval(np.nanmean(drawn[:, known], axis=1), confidence)
    return {"value": value[0, known].mean(), "low": low, "high": high, "pairs": int(known.sum())}


def _fleiss(flagged: Float[np.ndarray, "row protocol"], weights: Weights, confidence: float) -> dict[str, Any]:
    whole = np.isfinite(flagged).all(axis=1)
    if flagged.shape[1] < 2 or _constant(flagged[whole]):
        return {"value": None, "low": None, "high": None, "n": int(whole.sum())}
    table, _ = aggregate_raters(flagged[whole].astype(int))
    low, high = interval(_fleiss_of(flagged[whole], weights[:, whole]), confidence)
    return {"value": float(fleiss_kappa(table)), "low": low, "high": high, "n": int(whole.sum())}


def _fleiss_of(flagged: Float[np.ndarray, "row protocol"], weights: Weights) -> Float[np.ndarray, " resample"]:
    """Fleiss' kappa of weighted rows; the same as statsmodels' where all weigh 1."""
    raters, rows = flagged.shape[1], weights.sum(axis=1)
    yes = flagged.sum(axis=1)
    alike = (yes * (yes - 1) + (raters - yes) * (raters - yes - 1)) / (raters * (raters - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = weights @ yes / (rows * raters)
        chance = share**2 + (1 - share) ** 2
        return np.where(chance < 1, (weights @ alike / rows - chance) / (1 - chance), np.nan)
