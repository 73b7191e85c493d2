"""Items in, option log-probs out as Parquet: streamed, in the order of the items."""

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ilpjax import parallel
from ilpjax.ahead import ahead
from ilpjax.config import MeshConfig, ScoreConfig, ScoreJob
from ilpjax.data import Template, check_tokenizer, load_tokenizer, read_items
from ilpjax.errors import InputError
from ilpjax.models import Model, Params, compute_dtype, load_model, resolve
from ilpjax.progress import progress
from ilpjax.rows import Item
from ilpjax.rundir import fingerprint
from ilpjax.scoring.forward import Scorer
from ilpjax.scoring.pack import Packer, Row, Shape, choose_base, unstack
from ilpjax.scoring.protocols import Ask, ask
from ilpjax.scoring.table import Asked, Shards, lines, schema
from ilpjax.scoring.tree import Tree, cut_left, grow

BLOCK = 256  # items tokenised at a time; the first block says which shapes there will be
SHARD = 1 << 19  # tokens of a shard: what a killed run may have to do again
IN_FLIGHT = 2  # passes given to the device before the first is waited for


@dataclass(frozen=True)
class _Pass:
    """One batch, ready for the device. A row's members know their tree's place in the shard."""

    shape: Shape
    rows: list[Row]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class _ShardEnd:
    """All passes of a shard are out: its lines."""

    asked: list[list[Asked]]  # an item each, of its option orders


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
    stamp: str | None = None,
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

    Memory is bounded by a shard, whatever the number of items. A row's numbers depend on no other row, to 1e-5 in
    float32. With a `stamp` (a fingerprint of the model, the items, the config and the seed) a run that was stopped
    goes on after its last whole shard, in `OUT.parts/`, and ends with the same file; `items` are then read again from
    the start. Raises InputError: pmi without control, more options than labels, an option longer than the model's
    context.
    """
    if cfg.normalise == "pmi" and not cfg.control and cfg.protocol == "cloze":
        raise InputError("normalise: pmi needs the control; control=true would be right")
    check_tokenizer(template.tokenizer, model.spec.vocab)
    scorer = Scorer(model, params, mesh, batch=cfg.batch, dtype=compute_dtype(cfg.dtype), impl=cfg.attention)
    total = len(items) if isinstance(items, Sized) else None
    started = time.monotonic()
    scored = 0
    with Shards(out, schema(cfg.texts), stamp) as shards:
        done = shards.done // cfg.orders
        if done:
            _say(f"score: {done:,} items are there already")
        with progress("score", total, done=done) as advance:
            for asked, scores in _scores(_passes(items, done, scorer, template, cfg, seed, model), scorer):
                shards.write(lines([line for orders in asked for line in orders], scores, cfg))
                advance(len(asked))
                scored += len(asked)
    if scored:
        _say(f"score: {scorer}, then {scored / max(time.monotonic() - started - scorer.compiling, 1e-9):,.1f} items/s")


def run_score(job: ScoreJob) -> None:
    """Items from a file, a model by name or folder -> Parquet at job.out. Raises InputError."""
    items = read_items(job.items, job.data, job.seed)
    source = Path(job.items) if Path(job.items).is_file() else job.items
    stamp = fingerprint(resolve(job.model), source, job.model_copy(update={"out": ""}), jax.device_count())
    score_with(
        job.model, items, job, template=job.data.template, mesh=job.mesh, seed=job.seed, out=job.out, stamp=stamp
    )


def score_with(
    name: Path | str,
    items: Iterable[Item],
    cfg: ScoreConfig,
    *,
    template: str,
    mesh: MeshConfig,
    seed: int,
    out: Path | str,
    stamp: str,
) -> None:
    """`score_items` by the model of that name or folder, in its own chat template."""
    form = Template.from_tokenizer(load_tokenizer(str(name)), template)
    devices = parallel.make_mesh(mesh)
    model, params = load_model(str(name), devices)
    score_items(model, params, form, items, cfg, mesh=devices, seed=seed, out=out, stamp=stamp)


def _passes(
    items: Iterable[Item], done: int, scorer: Scorer, template: Template, cfg: ScoreConfig, seed: int, model: Model
) -> Iterator[_Pass | _ShardEnd]:
    """What the device is to do, and where shards end. A shard's passes hold its items only, so that it does not
    depend on where a run was resumed; which shapes there are depends on the first items of all."""
    source = iter(items)
    first = list(islice(source, BLOCK))
    if not first:
        return
    prepare = lambda block: _prepare(block, template, cfg, seed, model.spec.max_positions)
    prepared = prepare(first)
    base = choose_base(
        [tree for _, tree in prepared],
        model.spec,
        scorer.rows,
        cfg.pack,
        cpu=scorer.platform == "cpu",
        whole=len(first) < BLOCK,
    )
    _say(f"score: {scorer.rows} sequences of {base.length} tokens a pass; {scorer.describe(base)}")
    again = map(prepare, _blocks(islice(chain(first, source), done, None)))
    blocks = again if done else chain([prepared], map(prepare, _blocks(source)))
    yield from _shards(blocks, Packer(base, scorer.rows, cfg.pack), scorer)


def _shards(
    blocks: Iterable[list[tuple[list[Asked], Tree]]], packer: Packer, scorer: Scorer
) -> Iterator[_Pass | _ShardEnd]:
    asked: list[list[Asked]] = []
    size = 0

    def passes(members: list[tuple[int, Tree]], last: bool = False) -> Iterator[_Pass]:
        for shape, rows in packer.add(members, last=last):
            yield _Pass(shape, rows, scorer.arrays(rows, shape))

    for block in blocks:
        yield from passes([(len(asked) + n, tree) for n, (_, tree) in enumerate(block)])
        asked += [lines for lines, _ in block]
        size += sum(16 + len(tree.tokens) for _, tree in block)
        if size >= SHARD:
            yield from passes([], last=True)
            yield _ShardEnd(asked)
            asked, size = [], 0
    if asked:
        yield from passes([], last=True)
        yield _ShardEnd(asked)


def _blocks(items: Iterable[Item]) -> Iterator[list[Item]]:
    source = iter(items)
    while block := list(islice(source, BLOCK)):
        yield block


def _scores(work: Iterator[_Pass | _ShardEnd], scorer: Scorer) -> Iterator[tuple[list[list[Asked]], list[np.ndarray]]]:
    """A shard's items and their scores, in order. The next passes are prepared while the device is busy."""
    pending: deque[tuple[_Pass | _ShardEnd, Any]] = deque()
    found: dict[int, np.ndarray] = {}

    def collect() -> Iterator[tuple[list[list[Asked]], list[np.ndarray]]]:
        step, result = pending.popleft()
        if isinstance(step, _Pass):
            found.update((n, np.array(score)) for n, score in unstack(step.rows, np.asarray(result)))
        else:
            yield step.asked, [found.pop(n) for n in range(len(step.asked))]

    for step in ahead(work, IN_FLIGHT):
        pending.append((step, scorer.submit(step.arrays, step.shape) if isinstance(step, _Pass) else None))
        while len(pending) > IN_FLIGHT:
            yield from collect()
    while pending:
        yield from collect()


def _prepare(
    items: list[Item], template: Template, cfg: ScoreConfig, seed: int, limit: int
) -> list[tuple[list[Asked], Tree]]:
    """Each item's lines to be, and its tree: all option orders of letter, and for cloze, where they change nothing,
    one."""
    orders = range(1 if cfg.protocol == "cloze" else cfg.orders)
    asks = [[ask(item, template, cfg.protocol, order, seed) for order in orders] for item in items]
    prompts = lambda question: [question.prompt_text, *([question.control_text] if cfg.control else [])]
    encoded = iter(template.encode_many([(text, a.option_texts) for each in asks for a in each for text in prompts(a)]))
    prepared = []
    for item, questions in zip(items, asks, strict=True):
        roots, lines = [], []
        for order, question in enumerate(questions):
            try:
                cut = [cut_left(next(encoded), limit) for _ in prompts(question)]
            except ValueError as error:
                raise InputError(f"row_id {item.row_id}: {error}; a shorter option would be right") from None
            roots += [root for root, _ in cut]
            lines.append(_asked(item, order, question, cut[0][0], cut[0][1], cfg.texts))
        prepared.append((lines, grow(roots)))
    return prepared


def _asked(item: Item, order: int, question: Ask, root: Any, truncated: int, texts: bool) -> Asked:
    tokens = np.array([len(o) - tail for o, tail in zip(root.options, root.prompt_tail, strict=True)], np.int32)
    return Asked(item.row_id, item.answer, order, question if texts else None, tokens, question.option_bytes, truncated)


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)
