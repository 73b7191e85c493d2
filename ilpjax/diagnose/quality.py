"""How good an attribution is, where the causes are known: macro-F1, AUROC, calibration, risk against coverage."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats
from sklearn.metrics import f1_score, roc_auc_score

from ilpjax.diagnose.attribute import CAUSES, CLASSES, LEAST, named_causes

BINS = 10  # of the calibration error, equal width


def quality(
    truth: Sequence[str] | np.ndarray, posterior: Float[np.ndarray, "row class"], least: float = LEAST
) -> dict[str, Any]:
    """`truth` is one of CLASSES for every row. macro_f1 over the causes there are (to abstain on one is to
    miss it; null where there is none), auroc a
    cause (null where a world has none, or nothing else), confusion (truth down, CLASSES across), risk_coverage: [share
    named, share of those wrong] from the surest row on."""
    labels = np.asarray(truth, dtype=object)
    named = named_causes(posterior, least)
    present = [cause for cause in CAUSES if (labels == cause).any()]
    score = lambda: float(f1_score(labels, named, labels=present, average="macro", zero_division=0))
    return {
        "rows": len(labels),
        "macro_f1": score() if present else None,
        "auroc": {cause: _auroc(labels == cause, posterior[:, n]) for n, cause in enumerate(CAUSES)},
        "confusion": [[int(((labels == truth) & (named == said)).sum()) for said in CLASSES] for truth in CLASSES],
        "risk_coverage": _risk_coverage(labels, posterior),
    }


def calibration_error(sure: Float[np.ndarray, " row"], right: np.ndarray) -> float:
    """Expected calibration error (arXiv:1706.04599): |share right - mean posterior| a bin, weighted by rows."""
    bins = calibration_bins(sure, right)
    return sum(n * abs(share - mean) for mean, share, n in bins) / len(sure) if len(sure) else 0.0


def calibration_bins(sure: Float[np.ndarray, " row"], right: np.ndarray) -> list[tuple[float, float, int]]:
    """(mean posterior, share right, rows) of each bin of equal width that holds rows."""
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    within = [place == k for k in np.unique(place)]
    return [(float(sure[k].mean()), float(right[k].mean()), int(k.sum())) for k in within]


def interval(values: Sequence[float | None], confidence: float = 0.95) -> dict[str, float | None]:
    """mean, low, high: over worlds, with Student's interval. Of a single world no interval is known: null."""
    known = np.array([v for v in values if v is not None], float)
    if len(known) < 2:
        return {"mean": float(known[0]) if len(known) else None, "low": None, "high": None}
    reach = stats.t.ppf((1 + confidence) / 2, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known))
    return {"mean": float(known.mean()), "low": float(known.mean() - reach), "high": float(known.mean() + reach)}


def _auroc(is_cause: np.ndarray, score: np.ndarray) -> float | None:
    return float(roc_auc_score(is_cause, score)) if 0 < is_cause.sum() < len(is_cause) else None


def _risk_coverage(labels: np.ndarray, posterior: Float[np.ndarray, "row class"]) -> list[list[float]]:
    causes = posterior[:, : len(CAUSES)]
    order = np.argsort(-causes.max(axis=1), kind="stable")
    wrong = labels[order] != np.asarray(CAUSES, dtype=object)[causes.argmax(axis=1)][order]
    count = np.arange(1, len(order) + 1)
    risk = np.cumsum(wrong) / count
    at = np.unique(np.linspace(0, len(order) - 1, 20).astype(int)) if len(order) else np.array([], int)
    return [[float(count[n] / len(order)), float(risk[n])] for n in at]
