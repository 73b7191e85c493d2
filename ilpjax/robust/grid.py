"""A finished run's rows under every protocol of the grid: RUN/robustness.parquet, and what it cost."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
import pandas as pd

from ilpjax import data, diagnose
from ilpjax.config import RobustnessJob, RunJob, SampleConfig
from ilpjax.errors import InputError
from ilpjax.robust import closed, passes
from ilpjax.robust.asked import asked, rows_reworded
from ilpjax.robust.design import COLUMNS, Pass, Protocol, design, own_protocol, pass_of
from ilpjax.robust.free import free_form
from ilpjax.robust.passes import Planned, Tuned
from ilpjax.robust.votes import is_blind
from ilpjax.rows import Item, Row
from ilpjax.rundir import RunDir, read_table, write_json, write_table

NEEDS = ("rows", "items", "scores_tuned", "detect")
Grid = dict[Planned, list[Protocol]]


def check_run(run: RunDir, folder: Path) -> None:
    """Raises InputError for a run that cannot be judged again."""
    needs = [*(run / f"{name}.parquet" for name in NEEDS), folder / "config.json"]
    if lacking := [path for path in needs if not path.is_file()]:
        raise InputError(f"run: {lacking[0]} is not there; a finished run, its tuned model kept, would be right")


def run_grid(run: RunDir, made: RunJob, folder: Path, job: RobustnessJob) -> bool:
    """robustness.parquet (see `COLUMNS`) and robustness.json: the protocols, the passes and their cost.

    `made`: the run's job; `folder`: its tuned model. Prints what it will cost before it starts, and with job.dry stops
    there: False. A pass that is there already is not run again. Raises InputError for wrong probes.
    """
    probes = _probes(made, job)
    own = own_protocol(made, run_dtype(run, made))
    items = judged(run, job.limit)
    tuned = Tuned(folder, made, job)
    grid = _planned(run, items, own, probes, tuned)
    todo = [planned for planned in grid if not passes.is_done(run, planned, tuned)]
    _say(_cost(grid, todo, len(items)))
    if todo:
        work, compiling = passes.estimate(todo, tuned)
        _say(f"estimated: {work / 60:.1f} minutes, and {compiling / 60:.1f} of compiling where nothing is cached")
    if job.dry:
        return False
    seconds = {}
    for n, planned in enumerate(grid, start=1):
        seconds[planned] = passes.make(run, planned, tuned)
        _say(f"pass {n} of {len(grid)}, {planned.one.name}: {'there already' if seconds[planned] is None else 'done'}")
    inputs = [*(passes.table_of(run, planned) for planned in grid), made.detect, job.seed, job.top_p, made.seed]
    names = [protocol.name for protocols in grid.values() for protocol in protocols]
    inputs += [COLUMNS, names, [item.row_id for item in items]]
    table = lambda: write_table(run / "robustness.parquet", judge(run, grid, own, items, tuned))
    run.stage("robustness", inputs, ["robustness.parquet"], table)
    _write_json(run, grid, own, seconds)
    return True


def _probes(made: RunJob, job: RobustnessJob) -> dict[str, list[str]]:
    file = job.probes or made.diagnose.probes
    if file and not job.probes and not Path(file).is_file():
        _say(f"{file}: the run's paraphrases are gone; frames around the question are used")
        file = None
    return diagnose.read_probes(Path(file)) if file else {}


def run_dtype(run: RunDir, made: RunJob) -> str:
    """What the run was computed in; auto is float32 where it was made on a CPU."""
    if made.score.dtype != "auto":
        return made.score.dtype
    file = run / "environment.json"
    devices = json.loads(file.read_text(encoding="utf-8")).get("devices", []) if file.is_file() else []
    return "float32" if any("cpu" in device.lower() for device in devices) else "bfloat16"


def judged(run: RunDir, limit: int | None) -> list[Item]:
    """The items of rows that detect judged: all, in order, or the first by a hash of their row_id."""
    known = set(read_table(run / "detect.parquet")["row_id"])
    items = [item for item in data.items_from_table(read_table(run / "items.parquet")) if item.row_id in known]
    lot = lambda item: sha256(item.row_id.encode("utf-8", "surrogatepass")).digest()
    kept = {item.row_id for item in sorted(items, key=lot)[:limit]}
    return [item for item in items if item.row_id in kept]


def _planned(run: RunDir, items: Sequence[Item], own: Protocol, probes: dict[str, list[str]], tuned: Tuned) -> Grid:
    """The passes that can be made, the run's own first, with the protocols that read each."""
    made, job = tuned.run, tuned.job
    readers: dict[Pass, list[Protocol]] = {}
    own_pass = pass_of(own, own, made, job)
    for protocol in design(made, job, own.dtype):
        control = pass_of(replace(protocol, wording="train"), own, made, job)
        if protocol.scoring in ("control", "cloze-pmi") and control == own_pass and not made.score.control:
            _say(f"{protocol.name}: left out, the run has no control (score.control=false)")
        else:
            readers.setdefault(pass_of(protocol, own, made, job), []).append(protocol)
    rows = data.rows_from_table(read_table(run / "rows.parquet"))
    everybody = data.items_from_table(read_table(run / "items.parquet"))
    datasets, wanted = {row.row_id: row.dataset for row in rows}, {item.row_id for item in items}
    free = [row for row in rows if row.row_id in wanted]
    grid: Grid = {}
    for one, protocols in readers.items():
        own_items = asked(one, items, everybody, datasets, probes, job.seed)
        asks: Sequence[Item | Row] = own_items
        if one.kind == "free":
            asks = free if one.wording == "train" else rows_reworded(free, own_items)
        if asks:
            grid[passes.plan(one, asks, one == own_pass, tuned)] = protocols
        else:
            _say(f"{one.name}: left out, no row can be asked so")
    return grid


def judge(run: RunDir, grid: Grid, own: Protocol, items: Sequence[Item], tuned: Tuned) -> pd.DataFrame:
    """Every protocol's lines, one a row and half."""
    parts = []
    control: closed.Scored | None = None
    for planned, protocols in grid.items():
        path = passes.table_of(run, planned)
        if isinstance(planned.cfg, SampleConfig):
            answers = read_table(path)
            answers = answers[answers["sample"] == 0] if planned.cfg.decode == "beam" else answers  # the best beam
            threshold = tuned.run.detect.threshold
            metrics = [protocol.scoring.removeprefix("free-") for protocol in protocols]
            found = [free_form(answers, items, metric, threshold) for metric in metrics]
        else:
            scored = closed.read_scored(path, [item.row_id for item in items], planned.one.orders)
            control = scored if planned.own else control
            if (
                planned.one.kind == "cloze"
                and planned.one.wording != "train"
                and control
                and control.control is not None
            ):
                scored = scored.controlled_by(control)
            found = [closed_form(scored, protocol, tuned) for protocol in protocols]
        for protocol, lines in zip(protocols, found, strict=True):
            parts.append(lines.assign(protocol=protocol.name, **asdict(protocol)))
    table = pd.concat(parts, ignore_index=True)
    table["flagged_corrected"] = table["flagged_corrected"].astype("boolean")
    return table[list(COLUMNS)]


def closed_form(scored: closed.Scored, protocol: Protocol, tuned: Tuned) -> pd.DataFrame:
    """A scored pass under one protocol: all, and two halves of the orders or, of one order, two sets of real draws."""
    job, cfg = tuned.job, tuned.run.detect
    if protocol.scoring == "letter-debiased":
        scored = closed.without_label_bias(scored, tuned.run.seed)
    if protocol.order == "own":
        scored = scored.take(slice(None), slice(1))
    shown = closed.show(scored, protocol.count, job.seed)
    p = closed.probabilities(scored, protocol.scoring, tuned.run.score.normalise, shown)
    p = closed.decode(p, protocol.decoding, job.top_p)
    lines = [closed.verdicts(scored, p, shown, cfg).assign(half=0)]
    if p.shape[1] > 1:
        lines += [closed.verdicts(scored, p[:, half - 1 :: 2], shown, cfg).assign(half=half) for half in (1, 2)]
    elif protocol.decoding != "greedy":
        lines += [closed.draws(scored, p[:, 0], half, cfg, job.seed).assign(half=half) for half in (1, 2)]
    table = pd.concat(lines, ignore_index=True)
    table["chance"] = table["row_id"].map(dict(zip(scored.row_ids, 1 / shown.sum(axis=1), strict=True)))
    if protocol.decoding == "greedy":  # a guesser's best option says nothing of how much was guessed
        table["flagged_corrected"] = None
    return table


def _cost(grid: Grid, todo: Sequence[Planned], rows: int) -> str:
    protocols, reads, writes = sum(map(len, grid.values())), sum(p.reads for p in todo), sum(p.writes for p in todo)
    return (
        f"robustness: {rows:,} rows under {protocols} protocols from {len(grid)} passes: {len(todo)} to run, "
        f"{len(grid) - len(todo)} reused; about {reads:,} tokens to read, at most {writes:,} to generate"
    )


def _write_json(run: RunDir, grid: Grid, own: Protocol, seconds: dict[Planned, float | None]) -> None:
    """The keys own, protocols and cost of robustness.json; what others keep there stays."""
    path = run / "robustness.json"
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    before = {one["name"]: one["seconds"] for one in told.get("cost", {}).get("passes", [])}
    table = read_table(run / "robustness.parquet")
    whole = dict(list(table[table["half"] == 0].groupby("protocol")))
    told["own"] = own.name
    told["protocols"] = [
        {"name": protocol.name, **asdict(protocol), "pass": planned.one.name, **_in_numbers(whole[protocol.name])}
        for planned, protocols in grid.items()
        for protocol in protocols
    ]
    costs = [
        {
            "name": planned.one.name,
            "table": str(passes.table_of(run, planned).relative_to(run.path)),
            "rows": len(planned.rows),
            "tokens_read": planned.reads,
            "tokens_generated_at_most": planned.writes,
            "reused": seconds[planned] is None,
            "seconds": before.get(planned.one.name) if seconds[planned] is None else round(seconds[planned] or 0, 2),
        }
        for planned in grid
    ]
    told["cost"] = {
        "passes": costs,
        "ran": sum(not cost["reused"] for cost in costs),
        "protocols": len(told["protocols"]),
    }
    write_json(path, told)


def _in_numbers(lines: pd.DataFrame) -> dict[str, Any]:
    """Of one protocol over all rows; blind: of a base that never saw lettered options, say."""
    means = {name: float(lines[name].mean()) for name in ("p_pass", "chance", "flagged")}
    return {"rows": len(lines), **means, "blind": is_blind(lines)}


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)
