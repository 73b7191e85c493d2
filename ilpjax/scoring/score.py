"""Items in, option log-probs out as Parquet: streamed, in the order of the items."""

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from ilpjax import parallel
from ilpjax.config import ScoreConfig, ScoreJob
from ilpjax.data import Template, check_tokenizer, load_tokenizer, read_items
from ilpjax.errors import InputError
from ilpjax.models import Model, Params, compute_dtype, load_model
from ilpjax.rows import Item
from ilpjax.rundir import replacing
from ilpjax.scoring.forward import Scorer
from ilpjax.scoring.progress import Advance, progress
from ilpjax.scoring.protocols import Ask, ask, option_probabilities
from ilpjax.scoring.tree import Tree, cut_left, grow

WINDOW = 1024  # items in memory at a time; their trees are grouped by shape
SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("order", pa.int32()),
        ("protocol", pa.string()),
        ("option_logprob", pa.list_(pa.float32())),
        ("option_tokens", pa.list_(pa.int32())),
        ("option_bytes", pa.list_(pa.int32())),
        ("control_logprob", pa.list_(pa.float32())),
        ("p", pa.list_(pa.float64())),
        ("control_p", pa.list_(pa.float64())),
        ("predicted", pa.int32()),
        ("answer", pa.int32()),
        ("correct", pa.bool_()),
        ("truncated", pa.int32()),
    ]
)
TEXTS = [pa.field("prompt_text", pa.string()), pa.field("option_texts", pa.list_(pa.string()))]


@dataclass(frozen=True)
class _Job:
    item: Item
    order: int
    ask: Ask
    tree: Tree
    tokens: np.ndarray  # scored tokens of each option
    truncated: int


def score_items(
    model: Model,
    params: Params,
    template: Template,
    items: Iterable[Item],
    cfg: ScoreConfig,
    *,
    mesh: Mesh,
    seed: int,
    out: Path | str,
) -> None:
    """Writes a line an item and option order to `out` (Parquet), in the order of the items.

    Columns: row_id, order, protocol, option_logprob (nats, summed over the option's tokens), option_tokens,
    option_bytes (of the option itself, or its label), control_logprob (the same without the question; null with
    control=false), p (softmax of the score that cfg.normalise names), control_p (the control's, normalised for length
    as p is), predicted (argmax of p, the first of equals), answer, correct, truncated (prompt tokens cut from the left
    because the model sees at most its max_position_embeddings; 0 otherwise). With cfg.texts also prompt_text and
    option_texts: `prompt_text + option_texts[k]` is what was scored, behind what the tokenizer puts before a text
    (and less what was cut).
    Lists are in the item's own option order. Letter's label is always scored raw: it has one length.

    Memory is bounded by 2 x 1024 items, whatever their number. A row's numbers depend on no other row.
    Raises InputError: pmi without control, more options than labels, an option longer than the model's context.
    """
    if cfg.normalise == "pmi" and not cfg.control and cfg.protocol == "cloze":
        raise InputError("normalise: pmi needs the control; control=true would be right")
    check_tokenizer(template.tokenizer, model.spec.vocab)
    scorer = Scorer(model, params, mesh, batch=cfg.batch, dtype=compute_dtype(cfg.dtype))
    total = len(items) if isinstance(items, Sized) else None
    with _table(Path(out), cfg.texts) as write, progress("score", total) as advance:
        waiting: tuple[list[_Job], Any] | None = None
        for window in _windows(items):
            jobs = [job for item in window for job in _jobs(item, template, cfg, seed, model.spec.max_positions)]
            ahead = jobs, scorer.submit([job.tree for job in jobs])
            _finish(waiting, scorer, cfg, write, advance)  # while the device is busy with the window just submitted
            waiting = ahead
        _finish(waiting, scorer, cfg, write, advance)


def run_score(job: ScoreJob) -> None:
    """Items from a file, a model by name or folder -> Parquet at job.out. Raises InputError."""
    items = read_items(job.items, job.data, job.seed)
    template = Template.from_tokenizer(load_tokenizer(job.model), job.data.template)
    mesh = parallel.make_mesh(job.mesh)
    model, params = load_model(job.model, mesh)
    score_items(model, params, template, items, job, mesh=mesh, seed=job.seed, out=job.out)


def _jobs(item: Item, template: Template, cfg: ScoreConfig, seed: int, limit: int) -> Iterator[_Job]:
    """The trees of an item: one for cloze, where the order of options changes nothing, one an order for letter."""
    for order in range(1 if cfg.protocol == "cloze" else cfg.orders):
        question = ask(item, template, cfg.protocol, order, seed)
        prompts = [question.prompt_text, *([question.control_text] if cfg.control else [])]
        try:
            roots = [cut_left(template.encode_options(text, question.option_texts), limit) for text in prompts]
        except ValueError as error:
            raise InputError(f"row_id {item.row_id}: {error}; a shorter option would be right") from None
        first = roots[0][0]
        tokens = np.array([len(o) - tail for o, tail in zip(first.options, first.prompt_tail, strict=True)])
        yield _Job(item, order, question, grow([root for root, _ in roots]), tokens, roots[0][1])


def _finish(
    waiting: tuple[list[_Job], Any] | None, scorer: Scorer, cfg: ScoreConfig, write: Any, advance: Advance
) -> None:
    if waiting is None:
        return
    jobs, pending = waiting
    scores = scorer.collect([job.tree for job in jobs], pending)
    write([line for job, score in zip(jobs, scores, strict=True) for line in _lines(job, score, cfg)])
    advance(sum(job.order == 0 for job in jobs))


def _lines(job: _Job, score: np.ndarray, cfg: ScoreConfig) -> Iterator[dict[str, Any]]:
    own, control = score[: len(job.tokens)], score[len(job.tokens) :] if cfg.control else None
    nbytes = np.array(job.ask.option_bytes)
    kind = cfg.normalise if cfg.protocol == "cloze" else "raw"
    p = option_probabilities(own, job.tokens, nbytes, control, kind)
    control_p = None
    if control is not None:
        control_p = option_probabilities(control, job.tokens, nbytes, None, "raw" if kind == "pmi" else kind)
    predicted = int(np.argmax(p))
    line = {
        "row_id": job.item.row_id,
        "order": job.order,
        "protocol": cfg.protocol,
        "option_logprob": own,
        "option_tokens": job.tokens,
        "option_bytes": nbytes,
        "control_logprob": control,
        "p": p,
        "control_p": control_p,
        "predicted": predicted,
        "answer": job.item.answer,
        "correct": predicted == job.item.answer,
        "truncated": job.truncated,
        "prompt_text": job.ask.prompt_text,
        "option_texts": list(job.ask.option_texts),
    }
    repeats = cfg.orders if cfg.protocol == "cloze" else 1
    yield from (line | {"order": job.order + n} for n in range(repeats))


def _windows(items: Iterable[Item]) -> Iterator[list[Item]]:
    source = iter(items)
    while window := list(islice(source, WINDOW)):
        yield window


@contextmanager
def _table(out: Path, texts: bool) -> Iterator[Any]:
    """Yields a function that appends lines; the file appears at `out` when all are written. One process writes."""
    schema = SCHEMA
    for field in TEXTS if texts else ():
        schema = schema.append(field)
    if jax.process_index() != 0:
        yield lambda lines: None
    else:
        with replacing(out) as part, pq.ParquetWriter(part, schema) as writer:
            yield lambda lines: writer.write_table(pa.Table.from_pylist(lines, schema=schema))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"scored {out.name}")
