"""Tables over worlds: every attributor on the same rows, with intervals over the worlds."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from ilpjax import diagnose
from ilpjax.diagnose import (
    ABSTAIN,
    CAUSES,
    CLASSES,
    LEAST,
    OF_TRAINING,
    Calibration,
    calibration_bins,
    calibration_error,
    cascade,
    interval,
    quality,
)
from ilpjax.evaluate.examine import Examined, posterior_of, single

RESAMPLES = 1000  # of worlds, for an interval
WHENEVER = 1e-9  # baselines name a cause wherever they can: macro-F1 is taken over rows that have one
Attributor = Callable[[pd.DataFrame], Float[np.ndarray, "row class"]]


def judged(world: Examined, posterior: Float[np.ndarray, "row class"], least: float = LEAST) -> dict[str, Any]:
    """`quality` of an attributor on a world's rows whose cause is known; `sure` and `right` are of those without one,
    too: to name a cause there is to be wrong."""
    named = diagnose.named_causes(posterior, least)
    truth = single(world.rows["truth"], named)
    known = truth != ABSTAIN
    sure = posterior[np.arange(len(posterior)), [CLASSES.index(name) for name in named]]
    return quality(truth[known], posterior[known], least) | {"sure": sure, "right": truth == named}


def compare(worlds: Sequence[Examined], calibration: Calibration) -> dict[str, Any]:
    """What `evaluate` tells.

    macro_f1, auroc by cause: {"mean", "low", "high"} over worlds. ece: of all worlds' rows together (of few rows it is
    biased upwards), its interval by resampling worlds. confusion: sum over worlds, truth down, CLASSES across.
    risk_coverage, reliability: see `quality` and `calibration_bins`. by_seed. baselines: the same of each.
    without_training: the same where no record of training exists: three causes, and `abstain` is right for the others.
    """
    ours = [judged(world, posterior_of(world.rows, calibration)) for world in worlds]
    told: dict[str, Any] = {
        **summary(ours),
        "classes": list(CLASSES),
        "confusion": np.sum([one["confusion"] for one in ours], axis=0).tolist(),
        "risk_coverage": _risk(worlds, calibration),
        "by_seed": {str(world.seed): one["macro_f1"] for world, one in zip(worlds, ours, strict=True)},
        "rows": sum(one["rows"] for one in ours),
        "reliability": calibration_bins(*(np.concatenate([one[key] for one in ours]) for key in ("sure", "right"))),
        "without_training": summary([_untrained(world, calibration) for world in worlds]),
        "baselines": {},
    }
    for name, attributor in baselines(calibration).items():
        told["baselines"][name] = summary([judged(world, attributor(world.rows), WHENEVER) for world in worlds])
    told["baselines"]["cascade_orders"] = _cascade_orders(worlds)
    return told


def _untrained(world: Examined, calibration: Calibration) -> dict[str, Any]:
    known = world.rows.assign(truth=world.rows["truth"].replace(dict.fromkeys(OF_TRAINING, ABSTAIN)))
    return judged(replace(world, rows=known), calibration.untrained.posterior(known))


def baselines(calibration: Calibration) -> dict[str, Attributor]:
    """The prior, the paper's cascade, and softmaxes over loss, data maps and AUM, fitted where ours was."""
    prior = np.asarray(calibration.prior)
    return {
        "prior": lambda rows: np.tile(prior, (len(rows), 1)),
        "cascade": lambda rows: _named(cascade(rows)),
        **{name: head.posterior for name, head in calibration.baselines.items()},
    }


def _named(causes: pd.Series) -> Float[np.ndarray, "row class"]:
    return np.eye(len(CLASSES))[causes.map({name: n for n, name in enumerate(CLASSES)}).to_numpy(int)]


def _cascade_orders(worlds: Sequence[Examined]) -> dict[str, Any]:
    """macro-F1 of the paper's tests in every order of the five: the best, the median, the worst."""
    scores = {}
    for order in permutations(CAUSES):
        each = [judged(world, _named(cascade(world.rows, order)), WHENEVER)["macro_f1"] for world in worlds]
        scores[order] = interval(each)["mean"] or 0.0
    best = max(scores, key=lambda order: scores[order])
    values = list(scores.values())
    return {"best": scores[best], "best_order": list(best), "median": float(np.median(values)), "worst": min(values)}


def summary(each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of what `judged` found in each world: macro_f1, ece, auroc by cause, with intervals."""
    return {
        "macro_f1": interval([one["macro_f1"] for one in each]),
        "ece": _pooled_ece(each),
        "auroc": {cause: interval([one["auroc"][cause] for one in each]) for cause in CAUSES},
    }


def _pooled_ece(each: Sequence[dict[str, Any]]) -> dict[str, float]:
    rng = np.random.default_rng(0)

    def pool(worlds: Sequence[int] | np.ndarray) -> float:
        sure, right = (np.concatenate([each[n][key] for n in worlds]) for key in ("sure", "right"))
        return calibration_error(sure, right)

    drawn = [pool(rng.integers(0, len(each), len(each))) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"mean": pool(range(len(each))), "low": float(low), "high": float(high)}


def _risk(worlds: Sequence[Examined], calibration: Calibration) -> list[list[float]]:
    rows = pd.concat([world.rows[world.rows["truth"] != "abstain"] for world in worlds], ignore_index=True)
    posterior = posterior_of(rows, calibration)
    return quality(single(rows["truth"], diagnose.named_causes(posterior)), posterior)["risk_coverage"]


def decoys(worlds: Sequence[Examined]) -> list[str]:
    return [cause for world in worlds for cause in world.decoys]


def doses(worlds: Sequence[Examined]) -> list[dict[str, Any]]:
    """How many plants took, a cause and dose each."""
    table = pd.concat([world.counted for world in worlds]).groupby(["planted", "dose"])[["n", "took"]].sum()
    return [
        {"planted": planted, "dose": dose, "n": int(line["n"]), "took": int(line["took"])}
        for (planted, dose), line in table.iterrows()
    ]
