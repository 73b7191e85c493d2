"""`world`: make one, evaluate the attribution on several, or calibrate it."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from ilpjax import diagnose, worlds
from ilpjax.config import WorldJob
from ilpjax.diagnose import CAUSES, LEAST, Calibration
from ilpjax.errors import InputError
from ilpjax.evaluate.examine import Examined, examine, posterior_of, shares, signals_of_a_random_base
from ilpjax.evaluate.kills import kill_tests
from ilpjax.evaluate.pictures import write_picture
from ilpjax.evaluate.score import compare, decoys, doses, judged, summary
from ilpjax.rundir import write_json, write_table

IGNORANT = 8  # rows a calibration world that are asked of an untrained base


def run_world(job: WorldJob) -> None:
    {"make": worlds.run_world, "evaluate": run_evaluate, "calibrate": run_calibrate}[job.what](job)


def run_calibrate(job: WorldJob) -> None:
    """OUT/calibration.json, fitted on a world a seed, and OUT/calibration_rows.parquet, what it was fitted on."""
    examined = [examine(job, seed) for seed in job.seeds]
    ignorant = [_of_an_ignorant_base(job, world) for world in examined]
    made_by = {
        "command": f"python tools/world.py calibrate seeds={','.join(map(str, job.seeds))} size={job.size}",
        "seeds": job.seeds,
        "size": job.size,
        "family": job.family,
        "rows": _counts(examined),
        "rows_of_untrained_bases": sum(map(len, ignorant)),
        "signals": sorted(diagnose.SIGNALS),
    }
    rows = pd.concat([*(w.rows.assign(seed=w.seed) for w in examined), *ignorant], ignore_index=True)
    made_by["leave_one_world_out"] = _left_out(examined, rows) if len(examined) > 1 else None
    calibration = _fit(rows, made_by)
    write_table(Path(job.out) / "calibration_rows.parquet", rows)
    calibration.save(Path(job.out) / "calibration.json")
    print(f"{Path(job.out) / 'calibration.json'}: {len(rows)} rows of {len(examined)} worlds")


def _of_an_ignorant_base(job: WorldJob, world: Examined) -> pd.DataFrame:
    """A few rows of the world with a base that was never trained: the highest dose of missing knowledge."""
    signals = signals_of_a_random_base(job, world.folder, world.seed)
    few = signals.sample(min(IGNORANT, len(signals)), random_state=world.seed)
    return few.assign(seed=world.seed, truth="missing_knowledge", planted="untrained_base")


def _left_out(examined: list[Examined], rows: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """Each world judged by a fit on the others: macro_f1 and ece by the posterior from which on a cause is named."""
    fits = {world.seed: _fit(rows[rows["seed"] != world.seed].reset_index(drop=True), {}) for world in examined}
    found = {}
    for least in (0.0, 0.25, LEAST, 0.5):
        told = summary([judged(world, posterior_of(world.rows, fits[world.seed]), least) for world in examined])
        found[str(least)] = {"macro_f1": told["macro_f1"]["mean"], "ece": told["ece"]["mean"]}
    return found


def _fit(rows: pd.DataFrame, made_by: dict[str, Any]) -> Calibration:
    if lacking := [c for c in CAUSES if not rows["truth"].str.split("+").map(lambda parts, c=c: c in parts).any()]:
        raise InputError(f"seeds: no row of these worlds was proven {', '.join(lacking)}; more seeds would be right")
    return diagnose.fit(rows, shares(rows["truth"]), made_by)


def _counts(examined: list[Examined]) -> dict[str, int]:
    counts = pd.concat([world.rows for world in examined])["truth"].value_counts()
    return {str(name): int(n) for name, n in counts.items()}


def run_evaluate(job: WorldJob) -> None:
    """Worlds that the calibration never saw: OUT/evaluation.json and .png, and a table (or the JSON) on standard
    output."""
    calibration = diagnose.load_calibration(job.calibration)
    if seen := sorted(set(job.seeds) & set(calibration.made_by.get("seeds", []))):
        raise InputError(f"seeds: the calibration was fitted on {', '.join(map(str, seen))}; others would be right")
    examined = [examine(job, seed) for seed in job.seeds]
    if not sum(cause in truth for world in examined for truth in world.rows["truth"] for cause in CAUSES):
        raise InputError("seeds: no plant of these worlds took, there is nothing to name; harder worlds would be right")
    told: dict[str, Any] = {"seeds": job.seeds, "size": job.size}
    told |= {"family": job.family, "hidden": job.hidden, "layers": job.layers}
    told |= compare(examined, calibration)
    told |= {"decoys_blamed": decoys(examined), "doses": doses(examined)}
    told |= {"counts": _counts(examined), "kill_tests": kill_tests(job, examined, calibration)}
    write_json(Path(job.out) / "evaluation.json", told)
    write_picture(Path(job.out) / "evaluation.png", told)
    print(json.dumps(told) if job.json_ else table(told))


def _span(value: dict[str, float | None]) -> str:
    mean, *ends = (value[key] for key in ("mean", "low", "high"))
    return "none" if mean is None else f"{mean:.3f}" + ("" if None in ends else f" ({ends[0]:.3f} to {ends[1]:.3f})")


def table(told: dict[str, Any]) -> str:
    """What a person reads."""
    lines = [
        f"{told['rows']} rows of known cause in {len(told['seeds'])} worlds; mean and 95 % interval over worlds",
        "",
    ]
    lines += [f"{'':22s}{'macro-F1':26s}calibration error, all rows together"]
    for name, one in {"ours": told, "ours, no training seen": told["without_training"], **told["baselines"]}.items():
        if "macro_f1" in one:
            lines.append(f"{name:22s}{_span(one['macro_f1']):26s}{_span(one['ece'])}")
    orders = told["baselines"]["cascade_orders"]
    lines.append(f"cascade, 120 orders    best {orders['best']:.3f}, median {orders['median']:.3f}")
    lines += ["", "AUROC", *(f"  {cause:20s}{_span(value)}" for cause, value in told["auroc"].items())]
    confusion = pd.DataFrame(told["confusion"], index=told["classes"], columns=told["classes"])
    lines += ["", "truth (down), named (across)", confusion.loc[list(CAUSES)].to_string()]
    lines += ["", f"decoys given a cause: {len(told['decoys_blamed'])}", ""]
    for name, one in told["kill_tests"].items():
        lines.append(f"kill test {name}: {one['says']}: {'null' if one['null'] else 'NOT NULL'}")
    return "\n".join(lines)
