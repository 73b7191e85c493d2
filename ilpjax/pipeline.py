"""The stages in order, each resumable: prepare, score the base, sft, score the tuned model, detect, diagnose,
report."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import pandas as pd
import yaml

from ilpjax import conflicts, data, detect, diagnose, models, parallel, report, robust, scoring, train
from ilpjax.config import (
    ConflictConfig,
    ConflictsJob,
    ConvertJob,
    CPTJob,
    DataConfig,
    DiagnoseJob,
    MeshConfig,
    PrepareJob,
    RobustnessJob,
    RunJob,
    SampleJob,
    SFTJob,
)
from ilpjax.errors import InputError
from ilpjax.rundir import RunDir, fingerprint, read_table, write_table


class Study:
    """A finished run: its tables, and the report."""

    def __init__(self, run: RunDir, scratch: tempfile.TemporaryDirectory[str] | None = None):
        self.run = run
        self._scratch = scratch  # holds the folder alive where the user named none

    @property
    def rows(self) -> pd.DataFrame:
        """A line a row: row_id, dataset, prompt, response, learned, pass_at_n, base_pass_at_n, cause, evidence ..."""
        return read_table(self.run / "verdicts.parquet")

    def __str__(self) -> str:
        return f"{summary(self.rows, 'dataset')}\nreport: {self.run / 'report.html'}"

    def save(self, folder: str | Path) -> None:
        """Copies report.html, report.json and verdicts.parquet to `folder`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name in ("report.html", "report.json", "verdicts.parquet"):
            shutil.copy(self.run / name, folder)


def study(
    rows: str | Sequence[str], *, base: str, tuned: str | None = None, out: str | None = None, **keys: Any
) -> Study:
    """Which rows of `rows` did the model not learn? The `run` job as a function.

    `keys` are the other keys of the job, sections as dicts: `sft={"epochs": 3}`. Without `out` the tables live in
    a temporary folder until `save`. Raises InputError as the command line would.
    """
    scratch = tempfile.TemporaryDirectory(prefix="ilpjax-") if out is None else None
    names = rows if isinstance(rows, str) else list(rows)
    folder = out or (scratch.name if scratch else "")
    return run(RunJob.make({"rows": names, "base": base, "tuned": tuned, "out": folder, **keys}), scratch)


def run(job: RunJob, scratch: tempfile.TemporaryDirectory[str] | None = None) -> Study:
    """From a base, a file and (if there is one) a tuned checkpoint to report.html. Finished stages are not rerun."""
    run = RunDir(job.out)
    diagnose.check_settings(job.diagnose)
    conflicts.check_settings(job.conflicts, run)
    train.check_conflicts(job.sft)
    base, tuned = models.resolve(job.base), models.resolve(job.tuned) if job.tuned else None
    prepare(run, job.rows, base, tuned, job.data, job.seed)
    run.start(job)  # not before the rows are known to be right: a refusal leaves nothing
    _score(run, "base", base, job)
    if tuned is None:
        # The rows as prepared, so that training and detection cannot disagree about them; the limit was a file's.
        sft = SFTJob(
            base=job.base,
            rows=str(run / "rows.parquet"),
            out=job.out,
            seed=job.seed,
            data=job.data.model_copy(update={"limit": None}),
            sft=job.sft,
            mesh=job.mesh,
        )
        _sft(run, sft)
        tuned = run / "tuned"
    _score(run, "tuned", tuned, job)
    _conflicts(run, job.conflicts, job.data, job.mesh)
    _judge(run, base, job)
    return Study(run, scratch)


def _judge(run: RunDir, base: Path, job: RunJob) -> None:
    """From scores to causes, verdicts and the report."""
    inputs = diagnose.stage_inputs(run, base, job)
    _stage(run, "diagnose", inputs, diagnose.OUTPUTS, lambda: diagnose.run_stage(run, base, job))
    inputs = [run / f"{name}.parquet" for name in ("rows", "plumbing", "detect", "detect_base", "diagnose")]
    found = lambda: write_table(run / "verdicts.parquet", verdicts(run))
    _stage(run, "verdicts", inputs, ["verdicts.parquet"], found)
    _report(run, job.title)


def _report(run: RunDir, title: str) -> None:
    scores = ("verdicts", "scores_base", "scores_tuned", "plumbing", "dynamics", "train_log")
    names = [f"{name}.parquet" for name in (*scores, "diagnose", "conflicts", "robust_rows")]
    inputs = [run / name for name in ("config.yaml", "conflicts.json", "robustness.json", *names)]
    inputs = [path for path in inputs if path.is_file()]
    _stage(run, "report", inputs, ["report.html", "report.json"], lambda: report.write_report(run, title))


def prepare(
    run: RunDir, names: str | Sequence[str], base: Path, tuned: Path | None, settings: DataConfig, seed: int
) -> None:
    """rows.parquet, items.parquet and plumbing.parquet."""

    def work() -> None:
        rows = data.read_rows(list(names) if not isinstance(names, str) else names, settings)
        tokenizer = data.load_tokenizer(str(base))
        items = data.make_items(rows, settings.options, seed)
        problems = diagnose.check_plumbing(
            rows, items, tokenizer, settings, tuned=data.load_tokenizer(str(tuned)) if tuned else None
        )
        write_table(run / "rows.parquet", data.rows_table(rows))
        write_table(run / "items.parquet", data.items_table(items))
        write_table(run / "plumbing.parquet", problems)

    text = {".json", ".txt", ".model", ".jinja"}  # what tokenizers and chat templates are made of
    vocabularies = [f for folder in (base, tuned) if folder for f in sorted(folder.iterdir()) if f.suffix in text]
    inputs = [*_files(names), *vocabularies, settings, seed]
    _stage(run, "prepare", inputs, ["rows.parquet", "items.parquet", "plumbing.parquet"], work)


def verdicts(run: RunDir) -> pd.DataFrame:
    """The answer, a line a row. `cause` is `plumbing` where stage 0 found something, one of five or `abstain` for a row
    that was not learned, and empty for one that was; `evidence` is what the cause rests on."""
    rows = read_table(run / "rows.parquet").drop(columns=["messages", "options", "answer"])
    tuned, base = read_table(run / "detect.parquet"), read_table(run / "detect_base.parquet")
    problems = read_table(run / "plumbing.parquet").groupby("row_id")["problem"].agg(", ".join).rename("evidence")
    base = base[["row_id", "accuracy", "pass_at_n"]].add_prefix("base_").rename(columns={"base_row_id": "row_id"})
    table = rows.merge(tuned, "left", "row_id").merge(base, "left", "row_id").merge(problems, "left", "row_id")
    table.insert(4, "learned", ~table["unlearned"].astype("boolean"))
    table["cause"] = table["evidence"].map(lambda text: "plumbing", na_action="ignore")
    causes = read_table(run / "diagnose.parquet").set_index("row_id")
    for name in ("cause", "evidence"):
        table[name] = table[name].where(table[name].notna(), table["row_id"].map(causes[name]))
    return table


def summary(table: pd.DataFrame, by: str) -> str:
    """A line a group: rows, the share that each model gets right, the share unlearned by both rules, plumbing."""
    columns = {
        "base_accuracy": "base right",
        "accuracy": "tuned right",
        "unlearned": "unlearned",
        "unlearned_corrected": "corrected",
    }
    groups = table.astype({name: float for name in columns}).groupby(by)
    shares = groups[list(columns)].mean().rename(columns=columns)
    shares.insert(0, "rows", groups.size())
    shares["plumbing"] = groups["cause"].agg(lambda cause: (cause == "plumbing").sum())
    return shares.to_string(float_format=lambda share: f"{share:.2f}")


def run_and_tell(job: RunJob) -> None:
    print(run(job))


def run_diagnose(job: DiagnoseJob) -> None:
    """diagnose.parquet, verdicts.parquet and the report of a finished run, made anew."""
    run, made = _finished(job.run)
    made = made.model_copy(update={"diagnose": job.diagnose})
    base = models.resolve(made.base)
    diagnose.check_settings(made.diagnose)  # a refusal leaves the run as it was
    run.start(made)
    _judge(run, base, made)
    print(Study(run))


def run_robustness(job: RobustnessJob) -> None:
    """robustness.parquet and robustness.json of a finished run, what they say, and the report anew."""
    run, made = _finished(job.run)
    tuned = models.resolve(made.tuned) if made.tuned else run / "tuned"
    robust.check_run(run, tuned)
    if robust.run_grid(run, made, tuned, job):
        told = robust.tell(run)
        _report(run, made.title)
        if jax.process_index() == 0:
            print(told)


def _finished(folder: str) -> tuple[RunDir, RunJob]:
    """The run in that folder and its job. Raises InputError where there is none."""
    run, config = RunDir(folder), Path(folder) / "config.yaml"
    if not (run / "detect.parquet").is_file() or not config.is_file():
        raise InputError(f"run: {folder} holds no finished run; one that `run` made would be right")
    return run, RunJob.make({**yaml.safe_load(config.read_text(encoding="utf-8")), "out": folder}, f"{config}: ")


def run_prepare(job: PrepareJob) -> None:
    run = RunDir(job.out)
    base = models.resolve(job.model)
    prepare(run, job.rows, base, None, job.data, job.seed)
    run.start(job)


def run_sft(job: SFTJob) -> None:
    run = RunDir(job.out)
    train.check_conflicts(job.sft)
    run.start(job)
    _sft(run, job)


def run_cpt(job: CPTJob) -> None:
    run = RunDir(job.out)
    run.start(job)
    base = models.resolve(job.base) if job.base else None
    _stage(run, "cpt", [*_files(job.text), base, job], ["model"], lambda: train.run_cpt(job))


def run_sample(job: SampleJob) -> None:
    """The `sample` job, and a line that says how often the answers were right."""
    scoring.run_sample(job)
    if jax.process_index() == 0:
        found = detect.sample_summary(job.out)
        drawn, best = found["pass_at_n"], found["best_of_n"]
        name = job.decode if job.decode == "greedy" else f"pass@{drawn['n']:g}"
        print(
            f"{drawn['rows']:,} rows: {name} {drawn['mean']:.3f} ({drawn['low']:.3f} to {drawn['high']:.3f}), "
            f"most confident of {drawn['n']:g} right {best['share']:.3f} ({best['low']:.3f} to {best['high']:.3f})"
        )


def run_convert(job: ConvertJob) -> None:
    mesh = parallel.make_mesh(job.mesh)
    model, params = models.load_model(job.model, mesh)
    tokenizer = data.load_tokenizer(job.model)
    models.save_model(job.out, model, params, tokenizer=tokenizer, dtype=models.compute_dtype(job.dtype))


def run_conflicts(job: ConflictsJob) -> None:
    """rows.parquet, conflicts.parquet and conflicts.json; prints what each step left."""
    run = RunDir(job.out)
    if (run / "detect.parquet").is_file():
        raise InputError(f"out: {job.out} holds a run, which has a config of its own; another folder would be right")
    conflicts.check_settings(job, run)
    rows = lambda: write_table(run / "rows.parquet", data.rows_table(data.read_rows(job.rows, job.data)))
    _stage(run, "rows", [*_files(job.rows), job.data], ["rows.parquet"], rows)
    run.start(job)
    _conflicts(run, job, job.data, job.mesh)
    print(conflicts.tell(json.loads((run / "conflicts.json").read_text(encoding="utf-8"))))


def _conflicts(run: RunDir, cfg: ConflictConfig, settings: DataConfig, mesh: MeshConfig) -> None:
    """The conflict graph of rows.parquet."""
    likeness = conflicts.Likeness(cfg, mesh)
    rows = data.rows_from_table(read_table(run / "rows.parquet"))
    pairs = ["conflicts/pairs.parquet", "conflicts/search.json"]
    near = lambda: conflicts.find_pairs(run, rows, likeness, cfg)
    _stage(run, "pairs", [run / "rows.parquet", *likeness.made_of], pairs, near)
    inputs = [
        run / "rows.parquet",
        run / pairs[0],
        models.resolve(cfg.model) if cfg.model else None,
        cfg.judge,
        settings,
    ]
    judged = lambda: conflicts.judge_pairs(run, rows, likeness, cfg, mesh, settings)
    _stage(run, "conflicts", inputs, conflicts.OUTPUTS, judged)


def _sft(run: RunDir, job: SFTJob) -> None:
    graph = [Path(job.sft.conflicts)] if job.sft.conflicts and Path(job.sft.conflicts).is_file() else []
    inputs = [*_files(job.rows), models.resolve(job.base), job.sft, job.data, job.seed, *graph]
    _stage(run, "sft", inputs, ["tuned"], lambda: train.run_sft(job))


def _files(names: str | Sequence[str]) -> list[Path | str]:
    """Files, which a stage knows by their content, and names of hub sets."""
    return [Path(name) if Path(name).is_file() else name for name in ([names] if isinstance(names, str) else names)]


def _score(run: RunDir, which: str, folder: Path, job: RunJob) -> None:
    """scores_<which>.parquet and its verdicts: detect.parquet for the tuned model, detect_base.parquet for the base."""
    scores = run / f"scores_{which}.parquet"
    verdict = run / ("detect.parquet" if which == "tuned" else "detect_base.parquet")

    def work() -> None:
        items = data.items_from_table(read_table(run / "items.parquet"))
        if not items:
            raise InputError(
                f"{run / 'rows.parquet'}: no row could be made a multiple-choice item; see plumbing.parquet"
            )
        scoring.score_with(
            folder,
            items,
            job.score,
            template=job.data.template,
            mesh=job.mesh,
            seed=job.seed,
            out=scores,
            stamp=fingerprint(*inputs),
        )

    inputs = [run / "items.parquet", folder, job.score, job.data, job.seed]
    _stage(run, f"score_{which}", inputs, [scores.name], work)
    found = lambda: write_table(verdict, detect.detect(read_table(scores), job.detect))
    _stage(run, f"detect_{which}", [scores, job.detect], [verdict.name], found)


def _stage(run: RunDir, name: str, inputs: Sequence[Any], outputs: Sequence[str], work: Any) -> None:
    ran = run.stage(name, inputs, outputs, work)
    if jax.process_index() == 0:
        print(f"{name}: {'done' if ran else 'already done, nothing changed'}", flush=True)
