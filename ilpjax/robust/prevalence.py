"""How many rows are not learned: by data set, model and rule or protocol, and over data sets and training seeds."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy import stats

from ilpjax.config import PrevalenceJob
from ilpjax.detect import wilson
from ilpjax.errors import InputError
from ilpjax.robust.agreement import core_and_rim
from ilpjax.robust.retest import across_runs, run_pairs
from ilpjax.robust.show import plain, prevalence_text
from ilpjax.robust.votes import RESAMPLES, clusters, read_grid
from ilpjax.rundir import RunDir, read_table, write_json, write_table, write_text

RULES = {"unlearned": "paper", "unlearned_corrected": "corrected"}


@dataclass(frozen=True)
class Judged:
    """A finished run: what it was made from, its rows, and what each rule or protocol says of them."""

    name: str
    config: dict[str, Any]
    rows: pd.DataFrame  # row_id the index; dataset, prompt
    flags: pd.DataFrame  # row_id the index; a column a rule or protocol: 1, 0 or NaN

    @property
    def base(self) -> str:
        return str(self.config.get("base", "not recorded"))

    @property
    def model(self) -> str:
        """The base and, where one was brought, the tuned checkpoint."""
        return f"{self.base} -> {self.config['tuned']}" if self.config.get("tuned") else self.base


def read_run(run: RunDir, protocols: bool = False) -> Judged:
    """The two rules of verdicts.parquet and, on request, `core` and every protocol of robustness.parquet, the controls
    included. Raises InputError in one line for a folder that `run` (or `robustness`) did not fill."""
    path = run / "verdicts.parquet"
    if not path.is_file():
        raise InputError(f"runs: {run.path} holds no verdicts.parquet; a run directory that `run` made would be right")
    table = read_table(path)
    if lacking := [name for name in ("row_id", "dataset", "prompt", *RULES) if name not in table]:
        raise InputError(f"{path}: no column {', '.join(lacking)}; make the run again")
    table = table.set_index("row_id")
    flags = table[list(RULES)].astype("Float64").rename(columns=RULES)
    if protocols:
        grid = read_grid(run)
        groups = core_and_rim(grid, table["unlearned"]).set_index("row_id")["group"]
        whole = grid[grid["half"] == 0].pivot(index="row_id", columns="protocol", values="flagged")
        flags = flags.join((groups == "core").rename("core")).join(whole[grid["protocol"].unique()])
    return Judged(str(run.path), read_config(run), table[["dataset", "prompt"]], flags.astype("Float64").astype(float))


def read_config(run: RunDir) -> dict[str, Any]:
    """config.yaml, or nothing where tables were copied without it. Raises InputError where it is no mapping."""
    path = run / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except yaml.YAMLError:
        config = None
    if not isinstance(config, dict):
        raise InputError(f"{path}: not a mapping of keys to values; the one that `run` wrote would be right")
    return config


def prevalence(runs: Sequence[Judged], confidence: float = 0.95) -> pd.DataFrame:
    """A line a run, data set and rule: base, model, run, dataset, rule, n (rows judged), flagged, share, low, high
    (Wilson). Rows without a verdict do not count. Raises InputError where no row has one."""
    lines = []
    for run in runs:
        for dataset, own in run.flags.groupby(run.rows["dataset"], sort=True):
            made = {"base": run.base, "model": run.model, "run": run.name, "dataset": dataset}
            lines += [made | line for line in shares(own, confidence)]
    if not lines:
        raise InputError(f"runs: no row of {', '.join(run.name for run in runs)} has a verdict; see plumbing.parquet")
    return pd.DataFrame(lines)


def shares(flags: pd.DataFrame, confidence: float = 0.95) -> list[dict[str, Any]]:
    """{"rule", "n", "flagged", "share", "low", "high"} of each column that judges any row."""
    known = {rule: flags[rule].dropna() for rule in flags if flags[rule].notna().any()}
    told = {rule: wilson(int(own.sum()), len(own), confidence) for rule, own in known.items()}
    return [
        {"rule": rule, "n": one["of"], "flagged": one["count"]} | {name: one[name] for name in ("share", "low", "high")}
        for rule, one in told.items()
    ]


def over_datasets(table: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """A line a model and rule: datasets, n (rows, a data set's own once), mean, sd and se of the data sets' shares, low
    and high of the mean by drawing data sets (null for one). A data set's share is the mean over its runs.

    arXiv:2604.10079 section 3.1.4 writes "15.3 % +- 2.1 %" over ten sets without saying which of sd and se it is.
    """
    sets = table.groupby(["model", "rule", "dataset"], sort=False).agg(share=("share", "mean"), n=("n", "max"))
    lines = []
    for (model, rule), own in sets.groupby(["model", "rule"], sort=False):
        of_sets: dict[str, Any] = {"sd": None, "se": None, "low": None, "high": None}
        if len(own) > 1:
            options: Any = {"confidence_level": confidence, "n_resamples": RESAMPLES, "method": "percentile", "rng": 0}
            low, high = stats.bootstrap((own["share"].to_numpy(float),), np.mean, **options).confidence_interval
            of_sets = {"sd": own["share"].std(), "se": own["share"].sem(), "low": low, "high": high}
        counted = {"datasets": len(own), "n": int(own["n"].sum()), "mean": own["share"].mean()}
        lines.append({"model": model, "rule": rule} | counted | of_sets)
    return pd.DataFrame(lines)


def over_runs(table: pd.DataFrame) -> pd.DataFrame:
    """A line a base, data set and rule that several runs judge: runs, n (rows, of the largest), mean, sd (between
    runs), least, most."""
    groups = table.groupby(["base", "dataset", "rule"], sort=False)
    found = groups.agg(
        runs=("run", "nunique"),
        n=("n", "max"),
        mean=("share", "mean"),
        sd=("share", "std"),
        least=("share", "min"),
        most=("share", "max"),
    )
    return found[found["runs"] > 1].reset_index()


def agreement_of_runs(runs: Sequence[Judged], confidence: float = 0.95) -> list[dict[str, Any]]:
    """Runs of one base with rows in common (the same row_id and prompt), as training seeds have: {"base", "runs",
    "differ" (keys of their configs that do), "pairs" (see `run_pairs`), "rules" (see `across_runs`)} a group."""
    told = []
    for group in _groups(runs):
        rows = pd.concat([run.rows.set_axis(_key(run)) for run in group])
        rows = rows[~rows.index.duplicated()]
        cluster = pd.Series(clusters(rows["dataset"], rows["prompt"]), rows.index)
        flags = {run.name: run.flags.set_axis(_key(run)) for run in group}
        made = {"base": group[0].base, "runs": list(flags), "differ": _differ([run.config for run in group])}
        told.append(made | {"pairs": run_pairs(flags), "rules": across_runs(flags, cluster, confidence)})
    return told


def _groups(runs: Sequence[Judged]) -> list[list[Judged]]:
    groups: list[list[Judged]] = []
    for run in runs:
        for group in groups:
            if group[0].base == run.base and _key(group[0]).isin(_key(run)).any():
                group.append(run)
                break
        else:
            groups.append([run])
    return [group for group in groups if len(group) > 1]


def _key(run: Judged) -> pd.MultiIndex:
    """Files number their rows alike: what is the same row_id must be the same question, too."""
    return pd.MultiIndex.from_arrays([run.rows.index, run.rows["prompt"]])


def _differ(configs: Sequence[dict[str, Any]]) -> list[str]:
    """Dotted keys whose values are not the same in all, names of folders and titles aside. A key that one of them does
    not have is younger than that run."""
    flat = [pd.json_normalize(config).iloc[0].to_dict() for config in configs if config]
    keys = [key for key in (flat[0] if flat else {}) if key not in ("out", "title")]
    return [key for key in keys if all(key in one for one in flat) and len({repr(one[key]) for one in flat}) > 1]


def run_prevalence(job: PrevalenceJob) -> None:
    """Prints the tables of several runs, and writes them where the job names a file. Raises InputError."""
    if job.out and Path(job.out).suffix not in (".json", ".csv", ".parquet"):
        raise InputError(f"out: {job.out} has no known ending; .json, .csv or .parquet would be right")
    names = job.runs.split(",") if isinstance(job.runs, str) else job.runs
    runs = [read_run(RunDir(name), job.by == "protocol") for name in dict.fromkeys(names)]
    table = prevalence(runs, job.confidence)
    told = plain(
        {
            "prevalence": table.to_dict("records"),
            "over_datasets": over_datasets(table, job.confidence).to_dict("records"),
            "over_runs": over_runs(table).to_dict("records"),
            "runs": agreement_of_runs(runs, job.confidence),
            "confidence": job.confidence,
        }
    )
    _write(job.out, table, told)
    print(json.dumps(told, ensure_ascii=False) if job.json_ else prevalence_text(told))


def _write(out: str | None, table: pd.DataFrame, told: dict[str, Any]) -> None:
    """The line of every run, data set and rule; all tables where JSON is asked for."""
    if out and out.endswith(".json"):
        write_json(out, told)
    elif out and out.endswith(".csv"):
        write_text(out, table.to_csv(index=False))
    elif out:
        write_table(out, table)
