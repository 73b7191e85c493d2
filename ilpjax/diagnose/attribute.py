"""From signals to causes: a calibrated posterior over five causes and `abstain`.

A softmax over a few transformed signals, fitted on calibration worlds (`tools/world.py calibrate`) and kept as a JSON
file: every number in it can be read. Where signals do not exist, a head that was fitted without them answers, and what
it cannot tell apart goes to `abstain`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression

from ilpjax.diagnose.signals import FROM_TRAINING
from ilpjax.errors import InputError

CAUSES = ("missing_knowledge", "prior_conflict", "data_conflict", "forgetting", "undertrained")
ABSTAIN = "abstain"
CLASSES = (*CAUSES, ABSTAIN)
OF_TRAINING = ("forgetting", "undertrained")  # no telling these without a record of training
VERSION = 1
# A cause is named from this posterior on; below it the row abstains. Chosen on calibration worlds, each judged by a fit
# on the others: `leave_one_world_out` in calibration.json has the numbers for other choices.
LEAST = 0.35
SECOND = 0.25  # a posterior from which on a second cause is named, too
PACKAGED = Path(__file__).with_name("calibration.json")
FLOOR = 0.01  # a probability below it is as good as none

# What ours looks at: of the base, what the question adds. Probabilities enter as logarithms, losses as they are.
FULL = (
    *("probe_right", "probe_wrong", "probe_agree", "probe_spread"),
    *("tuned_right", "tuned_wrong", "tuned_entropy", "believes", "jsd", "conflict", "agreement", "against", "pull"),
    *("loss_first", "loss_least", "loss_last", "loss_final", "slope", "forgot", "learned_step", "place", "loss_spread"),
)
LOGARITHMIC = ("probe_right", "probe_wrong", "tuned_right", "tuned_wrong", "believes")
BASELINES = {
    "loss_only": ("loss_final", "loss_last"),
    "data_maps": ("confidence", "variability", "correctness"),
    "aum": ("margin",),
}


@dataclass(frozen=True)
class Head:
    """A softmax: features are `(transformed signal - mean) / scale`."""

    signals: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]  # a class each, of CLASSES
    bias: tuple[float, ...]

    def posterior(self, signals: pd.DataFrame) -> Float[np.ndarray, "row class"]:
        x = np.nan_to_num((_design(signals, self.signals) - self.mean) / self.scale)  # what is missing says nothing
        score = x @ np.asarray(self.weights).T + np.asarray(self.bias)
        weight = np.exp(score - score.max(axis=1, keepdims=True, initial=-np.inf))
        return weight / weight.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Calibration:
    """`full` wants every signal; `untrained` none of training's. `prior` (a share a class) and `baselines` are what
    they are compared with. `made_by`: the command, the worlds, the numbers."""

    full: Head
    untrained: Head
    prior: tuple[float, ...]
    baselines: dict[str, Head]
    made_by: dict[str, Any]
    version: int = VERSION

    def posterior(self, signals: pd.DataFrame) -> pd.DataFrame:
        """A column a class, in the order of `signals`; rows sum to 1."""
        whole = signals[list(FROM_TRAINING)].notna().all(axis=1).to_numpy()
        posterior = np.where(whole[:, None], self.full.posterior(signals), self.untrained.posterior(signals))
        return pd.DataFrame(posterior, columns=list(CLASSES))

    def save(self, path: Path | str) -> None:
        from ilpjax.rundir import write_json

        write_json(path, asdict(self))


def load_calibration(path: Path | str | None = None) -> Calibration:
    """The file that `calibrate` wrote; the packaged one by default. Raises InputError for anything else."""
    path = Path(path or PACKAGED)
    if not path.is_file():
        raise InputError(f"{path}: no such calibration")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["version"] != VERSION:
            raise InputError(f"{path}: calibration version {told['version']}; this ilpjax reads {VERSION}")
        baselines = {name: _head(head) for name, head in told["baselines"].items()}
        heads = _head(told["full"]), _head(told["untrained"])
        return Calibration(*heads, _tuples(told["prior"]), baselines, dict(told["made_by"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: not a calibration; `world calibrate` writes one") from None


def fit_head(
    signals: pd.DataFrame, truth: Float[np.ndarray, "row class"], names: tuple[str, ...], strength: float = 0.5
) -> Head:
    """`truth`: a row's share of each of CLASSES; of two causes at once half each. `strength` is sklearn's C."""
    x = _design(signals, names)
    mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
    row, label = np.nonzero(truth)
    model = LogisticRegression(C=strength, max_iter=5000)
    model.fit(((x - mean) / scale)[row], label, sample_weight=truth[row, label])
    weights, bias = np.zeros((len(CLASSES), len(names))), np.full(len(CLASSES), -30.0)
    if len(model.classes_) == 2:
        weights[model.classes_[1]], bias[model.classes_] = model.coef_[0], [0.0, model.intercept_[0]]
    else:
        weights[model.classes_], bias[model.classes_] = model.coef_, model.intercept_
    listed = lambda values: tuple(round(float(v), 6) for v in values)
    return Head(names, listed(mean), listed(scale), tuple(listed(w) for w in weights), listed(bias))


def fit(signals: pd.DataFrame, truth: Float[np.ndarray, "row class"], made_by: dict[str, Any]) -> Calibration:
    """Both heads. Without training's signals, what only those can tell is for `abstain`."""
    folded = truth.copy()
    for cause in OF_TRAINING:
        folded[:, -1] += folded[:, CAUSES.index(cause)]
        folded[:, CAUSES.index(cause)] = 0
    without = tuple(name for name in FULL if name not in FROM_TRAINING)
    return Calibration(
        full=fit_head(signals, truth, FULL),
        untrained=fit_head(signals, folded, without),
        prior=tuple(truth.mean(axis=0).round(6).tolist()),
        baselines={name: fit_head(signals, truth, names) for name, names in BASELINES.items()},
        made_by=made_by,
    )


def decide(posterior: pd.DataFrame) -> pd.DataFrame:
    """`cause`: the likeliest, or `abstain`; `causes`: it and every other cause from SECOND on."""
    best = named_causes(posterior[list(CLASSES)].to_numpy())
    several = [
        [c for c in sorted(CAUSES, key=lambda c: -row[c]) if c == top or row[c] >= SECOND] if top != ABSTAIN else []
        for top, row in zip(best, posterior.to_dict("records"), strict=True)
    ]
    return pd.DataFrame({"cause": best, "causes": several})


def named_causes(posterior: Float[np.ndarray, "row class"], least: float = LEAST) -> np.ndarray:
    """The likeliest cause where its posterior is at least `least`, else `abstain`: an array of CLASSES."""
    causes = posterior[:, : len(CAUSES)]
    likeliest = np.asarray(CAUSES, dtype=object)[causes.argmax(axis=1)]
    return np.where(causes.max(axis=1) >= least, likeliest, ABSTAIN)


def _design(signals: pd.DataFrame, names: tuple[str, ...]) -> Float[np.ndarray, "row feature"]:
    columns = [signals[name].to_numpy(float) for name in names]
    columns = [
        np.log(np.maximum(column, FLOOR)) if name in LOGARITHMIC else column
        for name, column in zip(names, columns, strict=True)
    ]
    return np.clip(np.stack(columns, axis=1), -20, 20)


def _head(told: dict[str, Any]) -> Head:
    return Head(**{key: _tuples(value) for key, value in told.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
