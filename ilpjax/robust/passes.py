"""The forward passes of a grid: what each asks, what it costs, and its table, which a finished one keeps."""

import contextlib
import io
import tempfile
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ilpjax import data, models, parallel, scoring
from ilpjax.config import RobustnessJob, RunJob, SampleConfig, ScoreConfig
from ilpjax.robust.design import TEMPERATURE, Pass
from ilpjax.rows import Item, Row
from ilpjax.rundir import RunDir, fingerprint

COUNTED = 256  # items whose tokens are counted; the rest is taken to be like them
TIMED = 32  # items of the short timing
BEAMS = 4


@dataclass(frozen=True, eq=False)
class Planned:
    """A pass and its rows. `own`: the run's scores_tuned.parquet is its table, and nothing is run."""

    one: Pass
    rows: Sequence[Item | Row]
    own: bool
    cfg: ScoreConfig | SampleConfig
    reads: int  # tokens, about
    writes: int  # tokens, at most


@dataclass
class Tuned:
    """The tuned model, loaded when it is first needed and once."""

    folder: Path
    run: RunJob
    job: RobustnessJob

    @cached_property
    def template(self) -> data.Template:
        return data.Template.from_tokenizer(data.load_tokenizer(str(self.folder)), self.run.data.template)

    @cached_property
    def stamp(self) -> str:
        return fingerprint(self.folder)

    @cached_property
    def loaded(self) -> tuple[Any, models.Model, models.Params]:
        mesh = parallel.make_mesh(self.run.mesh)
        return mesh, *models.load_model(str(self.folder), mesh)

    def write(self, planned: "Planned", rows: Sequence[Any], out: Path, stamp: str | None) -> None:
        """The pass over these rows. Option orders are drawn by the run's seed, as its own are; answers by the job's."""
        (mesh, model, params), cfg = self.loaded, planned.cfg
        if isinstance(cfg, ScoreConfig):
            score, seed = scoring.score_items, self.run.seed
            score(model, params, self.template, rows, cfg, mesh=mesh, seed=seed, out=out, stamp=stamp)
        else:
            sample, seed, stop = scoring.sample_rows, self.job.seed, scoring.stop_ids(self.template, self.folder)
            sample(model, params, self.template, rows, cfg, mesh=mesh, seed=seed, out=out, stop=stop, stamp=stamp)


def config_of(one: Pass, run: RunJob, job: RobustnessJob) -> ScoreConfig | SampleConfig:
    """How the pass is run. Its control is scored where a protocol may read it: it is the same for every wording."""
    if one.kind == "free":
        how = one.decoding if one.decoding in ("greedy", "beam") else "sample"
        return SampleConfig(
            samples=BEAMS if how == "beam" else 1 if how == "greedy" else job.samples,
            new_tokens=job.new_tokens,
            decode=how,
            temperature=TEMPERATURE.get(one.decoding, 1.0),
            top_p=job.top_p if one.decoding == "top_p" else 1.0,
            batch=run.score.batch,
            metric="em",
            dtype=one.dtype,
        )
    control = one.wording == "train" and one.kind in ("cloze", run.score.protocol)
    changes = {"protocol": one.kind, "orders": one.orders, "normalise": "raw", "control": control, "texts": False}
    return run.score.model_copy(update=changes | {"dtype": one.dtype})


def plan(one: Pass, rows: Sequence[Item | Row], own: bool, tuned: Tuned) -> Planned:
    cfg = config_of(one, tuned.run, tuned.job)
    some = rows[:COUNTED]
    reads = sum(_tokens(row, cfg, tuned) for row in some) * len(rows) // max(len(some), 1)
    writes = len(rows) * cfg.samples * cfg.new_tokens if isinstance(cfg, SampleConfig) else 0
    return Planned(one, rows, own, cfg, reads, writes)


def _tokens(row: Item | Row, cfg: ScoreConfig | SampleConfig, tuned: Tuned) -> int:
    """Tokens of the row's tree, or of its prompt."""
    template = tuned.template
    if isinstance(row, Row):
        return len(template.encode_options(template.prompt_text(row.messages[:-1]), [""]).shared)
    assert isinstance(cfg, ScoreConfig)
    roots = []
    for order in range(cfg.orders if cfg.protocol == "letter" else 1):
        asked = scoring.ask(row, template, cfg.protocol, order, tuned.run.seed)
        prompts = [asked.prompt_text, *([asked.control_text] if cfg.control else [])]
        roots += template.encode_many([(prompt, asked.option_texts) for prompt in prompts])
    return len(scoring.grow(roots).tokens)


def table_of(run: RunDir, planned: Planned) -> Path:
    return run / "scores_tuned.parquet" if planned.own else run / f"robustness/{planned.one.name}.parquet"


def _stage(planned: Planned, tuned: Tuned) -> tuple[str, list[Any], list[str]]:
    rows = fingerprint([astuple(row) for row in planned.rows])
    seed = tuned.run.seed if isinstance(planned.cfg, ScoreConfig) else tuned.job.seed
    inputs = [astuple(planned.one), planned.cfg, rows, tuned.stamp, tuned.run.data.template, seed]
    return f"robustness_{planned.one.name}", inputs, [f"robustness/{planned.one.name}.parquet"]


def is_done(run: RunDir, planned: Planned, tuned: Tuned) -> bool:
    return planned.own or run.is_done(*_stage(planned, tuned))


def make(run: RunDir, planned: Planned, tuned: Tuned) -> float | None:
    """The table of the pass, unless it is there already. Returns the seconds it took."""
    if planned.own:
        return None
    name, inputs, outputs = _stage(planned, tuned)
    started = time.monotonic()
    work = lambda: tuned.write(planned, planned.rows, table_of(run, planned), fingerprint(*inputs))
    return time.monotonic() - started if run.stage(name, inputs, outputs, work) else None


def estimate(todo: Sequence[Planned], tuned: Tuned) -> tuple[float, float]:
    """(seconds of work, seconds of compiling) that the passes will take, from a few rows of the longest that scores and
    of the longest that samples. That the other dtype has another speed it does not know."""
    seconds = compiling = 0.0
    _ = tuned.loaded  # not while the clock runs
    work = lambda planned: planned.writes or planned.reads
    for sampling in (False, True):
        if kind := [planned for planned in todo if bool(planned.writes) == sampling]:
            longest = max(kind, key=work)
            first, again = _timed(longest, tuned), _timed(longest, tuned)
            seconds += again / (work(longest) * min(1, TIMED / len(longest.rows))) * sum(map(work, kind))
            compiling += max(first - again, 0.0) * len(kind)
    return seconds, compiling


def _timed(planned: Planned, tuned: Tuned) -> float:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        started = time.monotonic()
        tuned.write(planned, planned.rows[:TIMED], Path(folder) / "timed.parquet", None)
        return time.monotonic() - started
