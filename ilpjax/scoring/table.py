"""The lines of a scores table, a shard of items at a time, and the shards that become one file."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jax.experimental import multihost_utils
from jaxtyping import Float, Int

from ilpjax.config import ScoreConfig
from ilpjax.errors import InputError
from ilpjax.rundir import replacing, write_json
from ilpjax.scoring.protocols import Ask, option_probabilities

_LIST = {kind: pa.list_(getattr(pa, kind)()) for kind in ("int32", "float32", "float64")}
_COLUMNS = {
    "row_id": pa.string(),
    "order": pa.int32(),
    "protocol": pa.string(),
    "option_logprob": _LIST["float32"],
    "option_tokens": _LIST["int32"],
    "option_bytes": _LIST["int32"],
    "control_logprob": _LIST["float32"],
    "p": _LIST["float64"],
    "control_p": _LIST["float64"],
    "predicted": pa.int32(),
    "answer": pa.int32(),
    "correct": pa.bool_(),
    "truncated": pa.int32(),
}
_TEXTS = {"prompt_text": pa.string(), "option_texts": pa.list_(pa.string())}


def schema(texts: bool) -> pa.Schema:
    return pa.schema(list((_COLUMNS | (_TEXTS if texts else {})).items()))


@dataclass(frozen=True, slots=True)
class Asked:
    """What a line says of an item in one option order, beside its scores."""

    row_id: str
    answer: int
    order: int
    ask: Ask | None  # with cfg.texts
    tokens: Int[np.ndarray, " options"]  # scored ones of each option
    nbytes: tuple[int, ...]
    truncated: int


def lines(asked: Sequence[Asked], scores: Sequence[Float[np.ndarray, " options"]], cfg: ScoreConfig) -> pa.Table:
    """A line each, `scores` being its options' log-probs and then the control's. Cloze repeats it over the orders."""
    counts = np.array([len(a.tokens) for a in asked], np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)])
    flat = np.concatenate([*scores, np.zeros(0, np.float32)])
    tokens = np.concatenate([*(a.tokens for a in asked), np.zeros(0, np.int32)])
    nbytes = np.array([n for a in asked for n in a.nbytes], np.int32)
    if cfg.control:  # [own, control, own, control, ...]
        own = np.repeat(np.tile([True, False], len(asked)), np.repeat(counts, 2))
        flat, control = flat[own], flat[~own]
    else:
        control = None
    kind = cfg.normalise if cfg.protocol == "cloze" else "raw"  # a label has one length
    p, control_p = np.zeros(len(flat)), np.zeros(len(flat))
    predicted = np.zeros(len(asked), np.int32)
    for count in np.unique(counts):  # lines with as many options are one matrix
        which = np.flatnonzero(counts == count)
        at = starts[which][:, None] + np.arange(count)
        options = None if control is None else control[at]
        p[at] = option_probabilities(flat[at], tokens[at], nbytes[at], options, kind)
        if options is not None:
            control_p[at] = option_probabilities(
                options, tokens[at], nbytes[at], None, "raw" if kind == "pmi" else kind
            )
        predicted[which] = np.argmax(p[at], axis=1)
    answers = np.array([a.answer for a in asked], np.int32)
    lists = lambda values, name: pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pa.array(values)).cast(
        _COLUMNS[name]
    )
    nothing = lambda name: pa.nulls(len(asked), _COLUMNS[name])
    columns = {
        "row_id": pa.array([a.row_id for a in asked], pa.string()),
        "order": pa.array([a.order for a in asked], pa.int32()),
        "protocol": pa.array([cfg.protocol] * len(asked), pa.string()),
        "option_logprob": lists(flat, "option_logprob"),
        "option_tokens": lists(tokens, "option_tokens"),
        "option_bytes": lists(nbytes, "option_bytes"),
        "control_logprob": nothing("control_logprob") if control is None else lists(control, "control_logprob"),
        "p": lists(p, "p"),
        "control_p": nothing("control_p") if control is None else lists(control_p, "control_p"),
        "predicted": pa.array(predicted),
        "answer": pa.array(answers),
        "correct": pa.array(predicted == answers),
        "truncated": pa.array([a.truncated for a in asked], pa.int32()),
    }
    if cfg.texts:
        asks = [a.ask for a in asked if a.ask]
        columns["prompt_text"] = pa.array([ask.prompt_text for ask in asks], pa.string())
        columns["option_texts"] = pa.array([list(ask.option_texts) for ask in asks], _TEXTS["option_texts"])
    table = pa.table(columns, schema(cfg.texts))
    return _repeated(table, cfg.orders) if cfg.protocol == "cloze" and cfg.orders > 1 else table


def _repeated(table: pa.Table, orders: int) -> pa.Table:
    """Each line once an order: for cloze the order of options changes nothing."""
    repeated = table.take(np.repeat(np.arange(len(table)), orders))
    order = pa.array(np.tile(np.arange(orders, dtype=np.int32), len(table)))
    return repeated.set_column(repeated.schema.get_field_index("order"), repeated.schema.field("order"), order)


class Shards:
    """A table that is written shard by shard into `OUT.parts/`, and becomes one file at `OUT` at the end.

    `stamp` says what makes the table: shards of a run that was stopped are taken over where it is the same, and
    `done` is the number of their lines; without a stamp, or with another, all begins anew. The folder goes when the
    table is there, when the user's input turns out wrong, and, without a stamp, in any case. One process writes.
    """

    def __init__(self, out: Path | str, schema: pa.Schema, stamp: str | None = None):
        self.out = Path(out)
        self.folder = self.out.with_name(f"{self.out.name}.parts")
        self.done = 0
        self._schema, self._stamp, self._count = schema, stamp, 0
        self._writes = jax.process_index() == 0

    def __enter__(self) -> Self:
        if self._writes:
            self._take_over()
        if jax.process_count() > 1:
            self.done = int(multihost_utils.broadcast_one_to_all(np.asarray(self.done)))
        return self

    def write(self, table: pa.Table) -> None:
        if self._writes:
            with replacing(self._shard(self._count)) as part:
                pq.write_table(table, part)
        self._count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._writes:
            with replacing(self.out) as part, pq.ParquetWriter(part, self._schema) as writer:
                for n in range(self._count):
                    with pq.ParquetFile(self._shard(n)) as file:
                        writer.write_table(file.read(use_threads=False))
                    pa.default_memory_pool().release_unused()  # or it keeps what each shard took
        if self._writes and (kind is None or self._stamp is None or issubclass(kind, InputError)):
            shutil.rmtree(self.folder, ignore_errors=True)
        if kind is None and jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"scored {self.out.name}")

    def _take_over(self) -> None:
        stamp = self.folder / "stamp.json"
        same = self._stamp is not None and stamp.is_file() and json.loads(stamp.read_text()) == self._said()
        if not same:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            write_json(stamp, self._said())
        while self._shard(self._count).is_file():
            self.done += pq.read_metadata(self._shard(self._count)).num_rows
            self._count += 1

    def _said(self) -> dict[str, Any]:
        return {"made_of": self._stamp}

    def _shard(self, n: int) -> Path:
        return self.folder / f"{n:06d}.parquet"
