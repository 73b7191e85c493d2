"""Which factor of the protocol moves the verdict: variance components of rows crossed with factors.

    y[row, protocol] = mean + row + sum over factors of (effect of its level + effect of its level on this row) + rest

A factor moves all rows alike (`all_rows`) or each row its own way (`by_row`: some up, others down, the mean may stay).
"""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats
from scipy.optimize import nnls

from ilpjax.robust.agreement import holm
from ilpjax.robust.votes import CHUNK, PairSums, Votes, Weights, interval, pair_sums

NOTHING = {"share": None, "low": None, "high": None}
ROUNDING = 1e-12
DEPENDENT = 1e-9  # of the largest variance


def variance(found: Votes, measure: str, weights: Weights, confidence: float = 0.95) -> dict[str, Any]:
    """Components of `measure` ("p_pass" or "flagged"; the latter as a linear probability) as shares of their sum.

    {"measure", "n", "protocols", "total", "row", "rest", "factors": [{"factor", "levels", "df", "all_rows", "by_row",
    "change", "flips", "p", "p_holm"}]}: row, rest, all_rows and by_row are {"share", "low", "high"}. Over protocols
    that differ in this factor alone (null where there are none): flips, the share of rows whose verdict differs;
    change, the largest difference of means between two levels: {"lowest", "highest", "mean", "low", "high"}; p, that
    no level shifts the mean (Wald, covariance from the resamples), Holm over factors. The factor that moves most comes
    first; a share that the design cannot tell from other factors' is null. `n` counts rows that at least one protocol
    judges.

    all_rows: variance of least-squares level effects, rows absorbed, levels weighing alike. The others: moment
    estimates from the covariances of the protocols (MINQUE(0), Rao 1971; on a balanced full product the same as
    ANOVA's), none below 0.
    """
    values = getattr(found, measure)
    design, once = _Design(found.protocols), np.ones((1, len(values)))
    effects, drawn = design.effects(values, once), design.effects(values, weights)
    sums, sums_drawn = pair_sums(values, once), pair_sums(values, weights)
    parts, parts_drawn = design.parts(effects, sums), design.parts(drawn, sums_drawn)
    ends = interval(_shares(parts_drawn), confidence)
    told = [{"share": s, "low": low, "high": high} for s, low, high in zip(_shares(parts)[0], *ends, strict=True)]
    flips = (pair_sums(found.flagged, once), pair_sums(found.flagged, weights), confidence)
    factors: list[dict[str, Any]] = []
    for k, name in enumerate(design.names):
        factors.append({"factor": name, "levels": len(design.levels[k]), "df": len(design.levels[k]) - 1})
        factors[-1] |= {"all_rows": NOTHING, "by_row": NOTHING, "change": None, "p": None}
        factors[-1] |= {"flips": design.flips(k, *flips)}
        if design.alone(k, sums).any():
            factors[-1] |= {"change": design.change(k, sums, sums_drawn, confidence)}
            factors[-1] |= {"p": design.p_of_no_change(k, sums, sums_drawn)}
        if name not in design.aliased:
            factors[-1] |= {"all_rows": told[k], "by_row": told[len(design.names) + 1 + k]}
    moves = lambda factor: sum(np.nan_to_num(factor[part]["share"] or 0) for part in ("all_rows", "by_row"))
    factors.sort(key=moves, reverse=True)
    for factor, p in zip(factors, holm(pd.Series([f["p"] for f in factors], dtype=float)), strict=True):
        factor["p_holm"] = p
    whole = {"measure": measure, "n": int(np.isfinite(values).any(axis=1).sum()), "protocols": len(found.protocols)}
    whole |= {"total": parts[0].sum(), "row": told[len(design.names)], "rest": told[-1]}
    return whole | {"factors": factors}


def _shares(parts: Float[np.ndarray, "resample part"]) -> Float[np.ndarray, "resample part"]:
    """NaN where nothing varies."""
    total = parts.sum(axis=1, keepdims=True)
    return np.divide(parts, total, out=np.full_like(parts, np.nan), where=total > 0)


class _Design:
    """The factors that vary, as 0/1 columns against each one's commonest level."""

    def __init__(self, protocols: pd.DataFrame):
        self.names = [name for name in protocols if protocols[name].nunique() > 1]
        # The commonest level comes first: the reference, which has no dummy.
        self.levels = [protocols[name].value_counts().index.tolist() for name in self.names]
        named = zip(self.names, self.levels, strict=True)
        self.coded = [np.array([levels.index(one) for one in protocols[name]]) for name, levels in named]
        columns = [np.eye(len(levels))[own] for own, levels in zip(self.coded, self.levels, strict=True)]
        ends = np.cumsum([len(levels) - 1 for levels in self.levels])
        self.at = [slice(end - len(levels) + 1, end) for end, levels in zip(ends, self.levels, strict=True)]
        self.dummies = np.concatenate([np.zeros((len(protocols), 0)), *(own[:, 1:] for own in columns)], axis=1)
        self.pairs = first, second = np.triu_indices(len(protocols))
        alike = [(own[first] * own[second]).sum(axis=1) for own in columns]  # 1 where a pair has the same level
        self.alike = np.array(alike).reshape(len(self.names), len(first))
        self.same = first == second
        self.aliased = [name for k, name in enumerate(self.names) if self._aliased(k)]

    def _aliased(self, factor: int) -> bool:
        centred = self.dummies - self.dummies.mean(axis=0)
        others = np.delete(centred, np.r_[self.at[factor]], axis=1)
        rank = np.linalg.matrix_rank
        if rank(centred) - rank(others) < len(self.levels[factor]) - 1:
            return True
        covariance = self._regressors()
        return bool(rank(covariance) == rank(np.delete(covariance, 1 + factor, axis=1)))

    def _regressors(self) -> Float[np.ndarray, "pair component"]:
        """What each component adds to the covariance of a pair: row, every factor where the level is the same, rest."""
        return np.stack([np.ones(len(self.same)), *self.alike, self.same.astype(float)], axis=1)

    def parts(self, effects: np.ndarray, sums: PairSums) -> Float[np.ndarray, "resample part"]:
        """`spread` of every factor, then `components`; what is no more than rounding is 0."""
        parts = np.concatenate([self.spread(effects), self.components(sums)], axis=1)
        return np.where(parts > ROUNDING, parts, 0.0)

    def components(self, sums: PairSums) -> Float[np.ndarray, "resample component"]:
        """Variances: row, row by factor for each factor, rest. Least squares over the whole covariance matrix."""
        with np.errstate(invalid="ignore", divide="ignore"):
            covariance = (sums.both - sums.left * sums.right / sums.n) / (sums.n - 1)
        known = np.isfinite(covariance)
        weight = np.where(self.same, 1.0, np.sqrt(2.0))  # a pair stands in the matrix twice
        kept = [0, *(1 + k for k, name in enumerate(self.names) if name not in self.aliased), len(self.names) + 1]
        regressors = self._regressors()[:, kept] * weight[:, None]
        solved = np.zeros((len(covariance), len(self.names) + 2))
        for there in np.unique(known, axis=0):  # nearly always one: every pair has a covariance
            same = (known == there).all(axis=1)
            q, r = np.linalg.qr(regressors[there])
            moments = (covariance[same] * weight)[:, there] @ q
            solved[np.ix_(same, kept)] = [nnls(r, own)[0] for own in moments]
        return solved

    def effects(
        self, values: Float[np.ndarray, "row protocol"], weights: Weights
    ) -> Float[np.ndarray, "resample dummy"]:
        """Least-squares effects of the levels against the commonest, rows absorbed (Frisch-Waugh-Lovell)."""
        width = self.dummies.shape[1]
        gram, moment = np.zeros((len(weights), width * width)), np.zeros((len(weights), width))
        step = max(1, CHUNK // max(width * max(width, len(self.dummies)), 1))
        for start in range(0, len(values), step):
            own, drawn = values[start : start + step], weights[:, start : start + step]
            there = np.isfinite(own).astype(float)
            filled, count = np.where(there > 0, own, 0.0), np.maximum(there.sum(axis=1, keepdims=True), 1)
            x = there[:, :, None] * (self.dummies - (there @ self.dummies / count)[:, None, :])
            gram += drawn @ np.einsum("rpi,rpj->rij", x, x).reshape(len(own), -1)
            moment += drawn @ np.einsum("rpi,rp->ri", x, filled)
        inverse = np.linalg.pinv(gram.reshape(len(weights), width, width), hermitian=True)
        return np.einsum("bij,bj->bi", inverse, moment)

    def _of_levels(self, factor: int, effects: np.ndarray) -> Float[np.ndarray, "resample level"]:
        return np.pad(effects[:, self.at[factor]], ((0, 0), (1, 0)))

    def spread(self, effects: Float[np.ndarray, "resample dummy"]) -> Float[np.ndarray, "resample factor"]:
        """Variance of each factor's level effects; 0 for one that cannot be told from others."""
        spread = [
            self._of_levels(k, effects).var(axis=1) * (name not in self.aliased) for k, name in enumerate(self.names)
        ]
        return np.stack(spread or [np.zeros((0, len(effects)))], axis=-1).reshape(len(effects), len(self.names))

    def alone(self, factor: int, sums: PairSums) -> np.ndarray:
        """Which pairs of protocols differ in this factor alone and judge rows in common."""
        others = np.delete(self.alike, factor, axis=0)
        return (self.alike[factor] == 0) & (others == 1).all(axis=0) & (sums.n[0] > 0)

    def differences(
        self, factor: int, sums: PairSums, alone: np.ndarray
    ) -> tuple[list[tuple[int, int]], Float[np.ndarray, "resample joined"]]:
        """Pairs of levels, and the second's mean less the first's, over the pairs of protocols that join them."""
        left, right = (self.coded[factor][side[alone]] for side in self.pairs)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = (sums.right - sums.left)[:, alone] / sums.n[:, alone]
        ordered = found * np.where(left < right, 1.0, -1.0)
        joined = list(zip(np.minimum(left, right).tolist(), np.maximum(left, right).tolist(), strict=True))
        levels = sorted(set(joined))
        own = np.array([[pair == one for one in levels] for pair in joined], float)
        return levels, ordered @ (own / own.sum(axis=0))

    def change(self, factor: int, sums: PairSums, drawn: PairSums, confidence: float) -> dict[str, Any]:
        alone = self.alone(factor, sums)
        (pairs, found), (_, resampled) = (self.differences(factor, one, alone) for one in (sums, drawn))
        largest = int(np.abs(found[0]).argmax())
        sign = -1.0 if found[0, largest] < 0 else 1.0
        lowest, highest = (self.levels[factor][level] for level in pairs[largest][:: int(sign)])
        low, high = interval(sign * resampled[:, largest], confidence)
        mean = sign * found[0, largest]
        return {"lowest": lowest, "highest": highest, "mean": mean, "low": low, "high": high}

    def p_of_no_change(self, factor: int, sums: PairSums, drawn: PairSums) -> float:
        alone = self.alone(factor, sums)
        (_, found), (_, resampled) = (self.differences(factor, one, alone) for one in (sums, drawn))
        covariance = np.atleast_2d(np.cov(resampled, rowvar=False))
        # Differences hang together (c - a is b - a and c - b), and some are the same in every resample.
        rank = int(np.linalg.matrix_rank(covariance, rtol=DEPENDENT, hermitian=True))
        if not rank:
            return float(np.allclose(found[0], 0.0))
        inverse = np.linalg.pinv(covariance, rtol=DEPENDENT, hermitian=True)
        return float(stats.chi2.sf(found[0] @ inverse @ found[0], rank))

    def flips(self, factor: int, sums: PairSums, drawn: PairSums, confidence: float) -> dict[str, Any] | None:
        alone = self.alone(factor, sums)
        if not alone.any():
            return None
        share, resampled = (_differ(s, alone) for s in (sums, drawn))
        low, high = interval(resampled, confidence)
        return {"share": share[0], "low": low, "high": high, "pairs": int(alone.sum())}


def _differ(sums: PairSums, pairs: np.ndarray) -> Float[np.ndarray, " resample"]:
    """The share of rows whose two verdicts differ, over these pairs."""
    differ = sums.left[:, pairs] + sums.right[:, pairs] - 2 * sums.both[:, pairs]
    return differ.sum(axis=1) / sums.n[:, pairs].sum(axis=1)
