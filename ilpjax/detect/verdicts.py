"""One verdict a row: the paper's rule, and beside it one that a guesser does not pass (arXiv:2604.10079 eq. 1)."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ilpjax.config import DetectConfig, DetectJob
from ilpjax.detect import closed_form
from ilpjax.detect.table import Chunk, parse_scores, read_scores
from ilpjax.errors import InputError
from ilpjax.rundir import write_table


def detect(scores: pd.DataFrame, cfg: DetectConfig) -> pd.DataFrame:
    """One line a row_id, in the order of the scores table.

    accuracy: share of option orders whose most probable option is right (of equals the first, as in `correct`).
    pass_at_n: E[pass@N], N = cfg.runs, one draw at temperature 1 a run, run r under order r mod R.
    p_flag: P(pass@N < T) over fresh draws. bon_correct: P(the most confident of N draws is right).
    skill: `(p - 1/K) / (1 - 1/K)`, mean over orders; skill_low, skill_high: t interval over the orders, cut to
    [-1/(K-1), 1]. With one order, or cloze where orders change nothing, there is no spread: low = high = skill.
    unlearned: pass_at_n < T, the paper's rule. unlearned_corrected: skill_high < cfg.skill_threshold.
    severity: P(two independent runs make the same mistake), 0 to 1; see `closed_form.error_consistency`.
    Where the choices-only control was scored: control_accuracy, control_skill, and artefact (see `_artefact`).

    Raises InputError, naming the row, for a table that `score` cannot have written.
    """
    parsed = parse_scores(scores)
    parts = [_verdicts(chunk, cfg) for chunk in parsed.chunks()]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return pd.DataFrame({"row_id": parsed.row_ids, **columns})


def _verdicts(chunk: Chunk, cfg: DetectConfig) -> dict[str, np.ndarray]:
    p, answer, options = chunk.p, chunk.answer, chunk.options
    right = closed_form.right_probability(p, answer)
    skill = closed_form.skill(right, options)
    low, high = closed_form.mean_interval(skill, cfg.confidence, floor=-1.0 / (options - 1))
    pass_at_n = closed_form.expected_pass(right, cfg.runs)
    columns = {
        "accuracy": _accuracy(p, answer),
        "pass_at_n": pass_at_n,
        "p_flag": closed_form.flag_probability(right, cfg.runs, cfg.threshold),
        "bon_correct": closed_form.best_of_n(p, answer, cfg.runs),
        "skill": skill.mean(axis=1),
        "skill_low": low,
        "skill_high": high,
        "unlearned": pass_at_n < cfg.threshold - closed_form.ROUNDING,
        "unlearned_corrected": high < cfg.skill_threshold - closed_form.ROUNDING,
        "severity": closed_form.error_consistency(p, answer),
    }
    if chunk.control is not None:
        control = closed_form.right_probability(chunk.control, answer)
        columns["control_accuracy"] = _accuracy(chunk.control, answer)
        columns["control_skill"] = closed_form.skill(control, options).mean(axis=1)
        columns["artefact"] = _artefact(
            columns, closed_form.expected_pass(control, cfg.runs), columns["control_skill"], options, cfg
        )
    return columns


def _accuracy(p: np.ndarray, answer: np.ndarray) -> np.ndarray:
    return (p.argmax(axis=2) == answer[:, None]).mean(axis=1)


def _artefact(
    verdict: dict[str, np.ndarray],
    control_pass: np.ndarray,
    control_skill: np.ndarray,
    options: np.ndarray,
    cfg: DetectConfig,
) -> np.ndarray:
    """The options alone, without the question, already give the verdict: it tells of the conversion, not the row.

    "Learned" is judged by the corrected rule and "unlearned" by the paper's with T at most 1/K: under those a
    guesser is never an artefact, so a control that knows nothing explains nothing.
    """
    given_away = ~verdict["unlearned_corrected"] & (control_skill >= cfg.skill_threshold)
    led_astray = verdict["unlearned"] & (control_pass < np.minimum(cfg.threshold, 1.0 / options) - closed_form.ROUNDING)
    return given_away | led_astray


def severe_set(verdicts: pd.DataFrame, k: int = 1000) -> pd.DataFrame:
    """The k unlearned rows (paper mode) whose errors are the most consistent, worst first; ties keep file order."""
    unlearned = verdicts[verdicts["unlearned"]]
    return unlearned.sort_values("severity", ascending=False, kind="stable").head(k).reset_index(drop=True)


def summarise(verdicts: pd.DataFrame, cfg: DetectConfig) -> dict[str, Any]:
    """Aggregates with intervals, JSON-able: shares as {"count", "of", "share", "low", "high"} (Wilson), means as
    {"mean", "low", "high"} (normal), expected_flagged as {"count", "low", "high"}: rows that one set of N draws
    would flag, its spread from the Poisson-binomial variance. `verdicts` may be any subset, an empty one too."""
    flag = verdicts["p_flag"].to_numpy()
    reach = stats.norm.ppf((1 + cfg.confidence) / 2) * np.sqrt(np.sum(flag * (1 - flag)))
    summary: dict[str, Any] = {
        name: wilson(int(verdicts[name].sum()), len(verdicts), cfg.confidence)
        for name in ("unlearned", "unlearned_corrected", "artefact")
        if name in verdicts
    }
    expected = float(flag.sum())
    summary["expected_flagged"] = {
        "count": expected,
        "low": max(0.0, expected - float(reach)),
        "high": min(float(len(flag)), expected + float(reach)),
    }
    means = ("accuracy", "pass_at_n", "bon_correct", "skill", "control_accuracy")
    return summary | {name: _mean(verdicts[name].to_numpy(), cfg) for name in means if name in verdicts}


def wilson(count: int, of: int, confidence: float = 0.95) -> dict[str, float]:
    """A share with its Wilson interval; with nothing counted the interval is 0 to 1."""
    if of == 0:
        return {"count": 0, "of": 0, "share": 0.0, "low": 0.0, "high": 1.0}
    interval = stats.binomtest(count, of).proportion_ci(confidence, method="wilson")
    return {"count": count, "of": of, "share": count / of, "low": float(interval.low), "high": float(interval.high)}


def _mean(values: np.ndarray, cfg: DetectConfig) -> dict[str, float]:
    if not len(values):
        return {"mean": 0.0, "low": 0.0, "high": 0.0}
    mean, error = float(values.mean()), 0.0
    if len(values) > 1:
        error = float(stats.norm.ppf((1 + cfg.confidence) / 2) * values.std(ddof=1) / np.sqrt(len(values)))
    return {"mean": mean, "low": mean - error, "high": mean + error}


def shift(base: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    """How far fine-tuning moved each row: row_id, jsd (nats, mean over orders), in the order of `tuned`.

    Both are scores tables. Raises InputError when they do not hold the same rows, orders and options.
    """
    before, after = parse_scores(base), parse_scores(tuned)
    place = pd.Index(before.row_ids).get_indexer(pd.Index(after.row_ids))
    if (place < 0).any():
        raise InputError(f"scores: row_id {after.row_ids[np.argmax(place < 0)]} is in one table only; score both alike")
    before = before.take(place)
    if before.orders != after.orders or not np.array_equal(before.options, after.options):
        raise InputError(
            "scores: the two tables differ in orders or options; score both with the same items and orders"
        )
    moved = [closed_form.jsd(b.p, t.p).mean(axis=1) for b, t in zip(before.chunks(), after.chunks(), strict=True)]
    return pd.DataFrame({"row_id": after.row_ids, "jsd": np.concatenate(moved)})


def run_detect(job: DetectJob) -> None:
    """scores Parquet -> verdicts Parquet. Raises InputError."""
    scores = read_scores(job.scores)
    try:
        verdicts = detect(scores, job)
    except InputError as error:
        raise InputError(f"{Path(job.scores)}: {error}") from None
    write_table(job.out, verdicts)
