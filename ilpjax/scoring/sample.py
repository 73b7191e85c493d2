"""Rows in, N answers a row out as Parquet: streamed, in the order of the rows."""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
from jax.sharding import Mesh

from ilpjax import parallel
from ilpjax.config import SampleConfig, SampleJob
from ilpjax.data import OptionTokens, Template, check_tokenizer, load_tokenizer, read_items, read_rows
from ilpjax.errors import InputError
from ilpjax.models import Model, Params, load_model, resolve
from ilpjax.progress import progress
from ilpjax.rows import Item, Message, Row
from ilpjax.rundir import fingerprint
from ilpjax.scoring.matching import choose_metric, match, named_option
from ilpjax.scoring.protocols import ask
from ilpjax.scoring.sampler import Answer, Prompt, Sampler
from ilpjax.scoring.table import Shards
from ilpjax.scoring.tree import cut_left

WINDOW = 512  # rows in memory at a time, and in a shard
SAMPLES = pa.schema(
    [
        ("row_id", pa.string()),
        ("sample", pa.int32()),
        ("text", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("logprob", pa.float32()),
        ("confidence", pa.float32()),
        ("finished", pa.string()),
        ("reference", pa.string()),
        ("predicted", pa.int32()),
        ("score", pa.float32()),
        ("correct", pa.bool_()),
        ("truncated", pa.int32()),
    ]
)


@dataclass(frozen=True)
class _Question:
    """A prompt to sample from, and what its answers are compared with."""

    prompt: Prompt
    reference: str
    options: tuple[str, ...]
    answer: int
    truncated: int
    labels: tuple[str, ...] = ()  # letter: what the allowed tokens say, in the order of the options


def sample_rows(
    model: Model,
    params: Params,
    template: Template,
    rows: Iterable[Row | Item],
    cfg: SampleConfig,
    *,
    mesh: Mesh,
    seed: int,
    out: Path | str,
    stop: Sequence[int] | None = None,
    stamp: str | None = None,
) -> None:
    """Writes a line an answer to `out` (Parquet), in the order of the rows and samples.

    Rows are answered freely; items, with cfg.protocol letter, by one of their labels. Columns: row_id, sample, text
    (without what ends it), tokens (with the token that ends it), logprob (nats, summed over the tokens, temperature 1
    and nothing truncated; for letter, among the labels), confidence (logprob a token), finished (stop: an
    end token, or a label; text: one of cfg.stop; length), reference, predicted (the option the answer gives, -1 for
    none; null without options), score (cfg.metric, 0 to 1), correct (score at least cfg.threshold), truncated (prompt
    tokens cut from the left because prompt and answer together have more than the model's context).

    A text in cfg.stop cuts the answer before it; the tokens and log-probs kept are those up to its last token. That is
    done after sampling: the device knows only the end tokens, `stop` (default: the template's, see `stop_ids`).
    Every draw is keyed by (seed, row_id, sample, position), so a row's answers depend on no other row. Memory is
    bounded by 512 rows. With a `stamp` (see `score_items`) a run that was stopped goes on after its last shard.
    Raises InputError for a prompt or cfg that leaves nothing to sample.
    """
    letter = cfg.protocol == "letter"
    if letter and cfg.decode == "beam":
        raise InputError("decode: beam, but a label is one token; sample or greedy would be right for protocol=letter")
    check_tokenizer(template.tokenizer, model.spec.vocab)
    stop = stop_ids(template) if stop is None else stop
    samples = 1 if cfg.decode == "greedy" and not letter else cfg.orders if cfg.decode == "greedy" else cfg.samples
    lanes = -(-samples // cfg.orders) if letter else samples
    own = cfg.model_copy(update={"samples": lanes, "new_tokens": 1 if letter else cfg.new_tokens})
    vocab = max(template.tokenizer.get_vocab().values()) + 1
    sampler = Sampler(model, params, mesh, own, seed=seed, stop=stop, vocab=vocab)
    ask_row = _Questions(template, cfg, seed, samples, sampler.limit)
    total = len(rows) if isinstance(rows, Sized) else None
    started, tokens = time.monotonic(), 0
    with Shards(out, SAMPLES, stamp) as shards, progress("sample", total, "rows") as advance:
        done = shards.done // samples
        if done:
            _say(f"sample: {done:,} rows are there already")
            advance(done)
        source = islice(rows, done, None)
        while window := list(islice(source, WINDOW)):
            asked = [list(ask_row(row)) for row in window]
            found = iter(sampler([question.prompt for questions in asked for question in questions]))
            lines: list[dict[str, Any]] = []
            for questions in asked:
                mine = [line for question in questions for line in _lines(question, next(found), template, cfg, stop)]
                lines += sorted(mine, key=lambda line: line["sample"])
            shards.write(pa.Table.from_pylist(lines, schema=SAMPLES))
            tokens += sum(len(line["tokens"]) for line in lines)
            advance(len(window))
    rate = tokens / max(time.monotonic() - started, 1e-9)
    _say(f"sample: {sampler}; {tokens:,} tokens, {rate:,.1f} tokens/s with compiling")


def run_sample(job: SampleJob) -> None:
    """Rows or items from a file, a model by name or folder -> Parquet at job.out. Raises InputError."""
    letter = job.protocol == "letter"
    rows: Iterable[Row | Item] = read_items(job.rows, job.data, job.seed) if letter else read_rows(job.rows, job.data)
    folder = resolve(job.model)
    template = Template.from_tokenizer(load_tokenizer(job.model), job.data.template)
    mesh = parallel.make_mesh(job.mesh)
    model, params = load_model(folder, mesh)
    source = Path(job.rows) if Path(job.rows).is_file() else job.rows
    stamp = fingerprint(folder, source, job.model_copy(update={"out": ""}), jax.device_count())
    stop = stop_ids(template, folder)
    sample_rows(model, params, template, rows, job, mesh=mesh, seed=job.seed, out=job.out, stop=stop, stamp=stamp)


def stop_ids(template: Template, folder: Path | None = None) -> list[int]:
    """Ids that end an answer: the tokenizer's EOS, what ends the template's assistant turn, and the eos_token_id of
    the checkpoint's config.json and generation_config.json."""
    tokenizer = template.tokenizer
    found = {tokenizer.eos_token_id}
    messages = (Message("user", "a"), Message("assistant", "b"))
    encoded = template.encode(Row(row_id="", messages=messages, dataset="", position=0, source="the chat template"))
    if encoded.ends:
        found.add(int(encoded.tokens[encoded.target_mask][-1]))
    for name in ("config.json", "generation_config.json") if folder else ():
        path = folder / name  # type: ignore[operator]
        ends = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
        found.update(ends if isinstance(ends, list) else [] if ends is None else [ends])
    return sorted(found)


@dataclass(frozen=True)
class _Questions:
    """The prompts of a row: one, or for letter one an option order. Run r draws under order r mod R, as in detect."""

    template: Template
    cfg: SampleConfig
    seed: int
    samples: int
    limit: int

    def __call__(self, row: Row | Item) -> Iterator[_Question]:
        if isinstance(row, Item):
            for order in range(min(self.cfg.orders, self.samples)):
                yield self._letter(row, order)
        else:
            yield self._free(row)

    def _free(self, row: Row) -> _Question:
        text = self.template.prompt_text(row.messages[:-1])
        shared, truncated = cut_left(self.template.encode_options(text, [""]), self.limit - 1)
        prompt = Prompt(row.row_id, shared.shared, tuple(range(self.samples)))
        return _Question(prompt, row.response, row.options, row.answer, truncated)

    def _letter(self, item: Item, order: int) -> _Question:
        """The draw is among the label tokens, behind the tokens that `score` puts before them."""
        asked = ask(item, self.template, "letter", order, self.seed)
        tokens, truncated = cut_left(self.template.encode_options(asked.prompt_text, asked.option_texts), self.limit)
        lead, labels = _labels(tokens)
        if len(set(labels)) < len(item.options):
            raise InputError(
                f"row_id {item.row_id}: a label takes several tokens with this tokenizer; protocol=free would be right"
            )
        runs = tuple(range(order, self.samples, self.cfg.orders))
        prompt = Prompt(item.row_id, np.concatenate([tokens.shared, lead]), runs, labels)
        texts = tuple(text.strip() for text in asked.option_texts)
        return _Question(prompt, item.options[item.answer], item.options, item.answer, truncated, texts)


def _labels(tokens: OptionTokens) -> tuple[np.ndarray, tuple[int, ...]]:
    """(tokens that all labels begin with, the one token of each that tells it apart); no labels where one has more."""
    lead = 0
    while len({tuple(option[: lead + 1]) for option in tokens.options}) == 1 and len(tokens.options[0]) > lead + 1:
        lead += 1
    if any(len(option) != lead + 1 for option in tokens.options) or any(tokens.prompt_tail):
        return tokens.options[0][:0], ()
    return tokens.options[0][:lead], tuple(int(option[lead]) for option in tokens.options)


def _lines(
    question: _Question, answers: Sequence[Answer], template: Template, cfg: SampleConfig, stop: Sequence[int]
) -> Iterator[dict[str, Any]]:
    metric = choose_metric(cfg.metric, question.reference, question.options)
    for answer in answers:
        tokens, logprobs = answer.tokens, answer.logprobs
        predicted = None
        if question.labels:
            predicted = question.prompt.allowed.index(int(tokens[0]))
            text, finished = question.labels[predicted], "stop"
            score = float(predicted == question.answer)
        else:
            text, finished, kept = _text(tokens, template, cfg.stop, stop)
            tokens, logprobs = tokens[:kept], logprobs[:kept]
            score = match(text, question.reference, metric, question.options, question.answer)
            predicted = named_option(text, question.options) if question.options else None
        yield {
            "row_id": question.prompt.row_id,
            "sample": answer.sample,
            "text": text,
            "tokens": tokens,
            "logprob": float(np.sum(logprobs, dtype=np.float64)),
            "confidence": float(np.mean(logprobs, dtype=np.float64)),
            "finished": finished,
            "reference": question.reference,
            "predicted": predicted,
            "score": score,
            "correct": score >= (1.0 if metric in ("em", "choice") else cfg.threshold),
            "truncated": question.truncated,
        }


def _text(tokens: np.ndarray, template: Template, texts: Sequence[str], stop: Sequence[int]) -> tuple[str, str, int]:
    """(the answer's text, how it ended, tokens kept): cut before the first of the stop texts, whose tokens are kept
    as an end token is."""
    decode = lambda count: str(template.tokenizer.decode(tokens[:count].tolist(), skip_special_tokens=True))
    ended = bool(len(tokens)) and int(tokens[-1]) in stop
    text = decode(len(tokens))
    places = [place for place in map(text.find, texts) if place >= 0]
    if not places:
        return text.strip(), "stop" if ended else "length", len(tokens)
    kept = next(n for n in range(1, len(tokens) + 1) if any(end in decode(n) for end in texts) or n == len(tokens))
    return text[: min(places)].strip(), "text", kept


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)
