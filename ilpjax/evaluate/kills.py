"""Four tests that must come out null: an attribution that passes them for the wrong reason is none."""

import json
from typing import Any

import numpy as np
import pandas as pd

from ilpjax import detect, pipeline
from ilpjax.config import DetectConfig, DiagnoseConfig, WorldJob
from ilpjax.diagnose import ABSTAIN, CAUSES, CLASSES, Calibration, named_causes
from ilpjax.evaluate.examine import Examined, posterior_of, run_job, signals_of_a_random_base
from ilpjax.evaluate.score import judged
from ilpjax.rundir import read_table, write_text

DRAWS = 200
RANDOM_BASE = 0.9  # of the causes named on a base that knows nothing, at least so many must be missing knowledge
ALREADY_KNOWN = 0.05  # of rows that the base knows, at most so many may be flagged
LEVEL = 0.05  # of the permutation test


def kill_tests(job: WorldJob, examined: list[Examined], calibration: Calibration) -> dict[str, dict[str, Any]]:
    """name -> {"null": whether it came out as it must, "says": in words, and its numbers}. The two that train use the
    first world."""
    return {
        "shuffled evidence": shuffled(examined, calibration),
        "random base": random_base(job, examined[0], calibration),
        "known data": known_data(job, examined[0]),
        "no-op seeds": no_op(job, examined, calibration),
    }


def shuffled(examined: list[Examined], calibration: Calibration) -> dict[str, Any]:
    """Each row gets another row's evidence: macro-F1 must be the prior's, that of causes drawn by their share."""
    rng = np.random.default_rng(0)
    lost, drawn = [], []
    for world in examined:
        posterior = posterior_of(world.rows, calibration)
        for _ in range(DRAWS):
            lost.append(judged(world, posterior[rng.permutation(len(posterior))])["macro_f1"])
            guess = rng.choice(len(CLASSES), len(posterior), p=np.asarray(calibration.prior) / sum(calibration.prior))
            drawn.append(judged(world, np.eye(len(CLASSES))[guess])["macro_f1"])
    low, high = np.quantile(drawn, [0.025, 0.975])
    mean = float(np.mean(lost))
    says = f"macro-F1 {mean:.3f}, the prior's {np.mean(drawn):.3f} ({low:.3f} to {high:.3f})"
    return {"null": bool(low <= mean <= high), "says": says, "macro_f1": mean, "prior": float(np.mean(drawn))}


def random_base(job: WorldJob, world: Examined, calibration: Calibration) -> dict[str, Any]:
    """The same rows on a base that was never trained: whatever is named must be missing knowledge.

    Ours has seen such bases: `calibrate` takes a few rows of each of its worlds from one.
    """
    signals = signals_of_a_random_base(job, world.folder, world.seed)
    named = named_causes(calibration.posterior(signals).to_numpy())
    named = named[named != ABSTAIN]
    share = float((named == "missing_knowledge").mean()) if len(named) else 0.0
    says = f"{share:.3f} of {len(named)} causes named are missing knowledge (at least {RANDOM_BASE})"
    return {"null": share >= RANDOM_BASE, "says": says, "share": share, "n": len(named)}


def known_data(job: WorldJob, world: Examined) -> dict[str, Any]:
    """Rows that repeat what the base was told: almost nothing may be flagged."""
    clean = set(world.verdicts.loc[world.verdicts["planted"] == "clean", "row_id"])
    lines = (world.folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    file = world.folder / "known.jsonl"
    write_text(file, "".join(f"{line}\n" for line in lines if json.loads(line)["id"] in clean))
    out = world.folder / "known_run"
    run = run_job(job, world.folder).model_copy(update={"rows": str(file), "out": str(out)})
    verdicts = pipeline.run(run.model_copy(update={"diagnose": DiagnoseConfig(calibration=job.calibration)})).rows
    share = float(verdicts["unlearned_corrected"].astype(float).mean())
    says = f"{share:.3f} of {len(verdicts)} rows flagged (at most {ALREADY_KNOWN})"
    return {"null": share <= ALREADY_KNOWN, "says": says, "share": share, "n": len(verdicts)}


def no_op(job: WorldJob, examined: list[Examined], calibration: Calibration) -> dict[str, Any]:
    """Two retrainings with nothing but a new seed, taken for cures of half of the causes each: the causes they are said
    to match must gain no more than the others, by permutation of the causes over the rows."""
    rows = pd.concat([_cured(world, job, calibration) for world in examined], ignore_index=True)
    if job.arms < 2 or rows.empty:
        return {"null": False, "says": "not run: it takes arms=2 and a row with a cause", "advantage": None}
    cured, cause = rows[["first", "second"]].to_numpy(float), rows["cause"].map(CAUSES.index).to_numpy()
    observed = _advantage(cured, cause)
    rng = np.random.default_rng(0)
    drawn = [_advantage(cured, rng.permutation(cause)) for _ in range(1000)]
    p = float((1 + np.sum(np.abs(drawn) >= abs(observed))) / (1 + len(drawn)))
    says = f"diagonal advantage {observed:+.3f}, p = {p:.3f} (over {LEVEL}), {len(rows)} rows"
    return {"null": p > LEVEL, "says": says, "advantage": observed, "p": p, "n": len(rows)}


def _cured(world: Examined, job: WorldJob, calibration: Calibration) -> pd.DataFrame:
    """The rows with a cause, and whether each of two planted arms, trained anew, learned them."""
    named = named_causes(posterior_of(world.rows, calibration))
    table = pd.DataFrame({"row_id": world.rows["row_id"], "cause": named})
    table = table[table["cause"].isin(CAUSES)]
    for column, arm in zip(("first", "second"), range(1, min(job.arms, 2) + 1), strict=False):
        scores = read_table(world.folder / "arms" / f"planted-{arm}" / "scores.parquet")
        wrong = detect.detect(scores, DetectConfig()).set_index("row_id")["unlearned_corrected"]
        table[column] = ~table["row_id"].map(wrong).astype(bool)
    return table


def _advantage(cured: np.ndarray, cause: np.ndarray) -> float:
    """Mean over causes of cure by the matched retraining less cure by the other."""
    gains = [cured[cause == n, n % 2].mean() - cured[cause == n, 1 - n % 2].mean() for n in np.unique(cause)]
    return float(np.mean(gains))
