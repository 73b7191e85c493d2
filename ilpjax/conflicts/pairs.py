"""All pairs of vectors that are alike, exactly: blocked matrix products with a running top-k, each product done once.

A tile holds the cosines of one block of rows with another. The highest value in every slice of a row says whether
anything there is new to that row's top-k; only such slices are looked into, from the row's side and from the column's.
"""

import functools
import json
import shutil
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Float, Int

from ilpjax.parallel import replicated
from ilpjax.progress import progress
from ilpjax.rundir import replacing

BLOCK = {"cpu": 2048}  # rows a tile has on each side: the tile stays in the cache
BLOCK_ELSEWHERE = 16_384
SLICE = 512  # cosines looked through at a time
CHUNK = 64  # rows whose top-k is renewed at a time
IN_FLIGHT = 2  # tiles given to the device before the first is waited for
KEPT_EVERY = 30.0  # seconds between copies of the running top-k, which a killed run goes on from


class Best(NamedTuple):
    """The running top-k of some rows, highest first; the value just under the threshold and id -1 fill it up."""

    values: Float[Any, "*rows k"]
    ids: Int[Any, "*rows k"]


def similar_pairs(
    vectors: Float[np.ndarray, "row dim"],
    *,
    threshold: float,
    most: int,
    mesh: Mesh,
    folder: Path,
    stamp: str = "",
    block: int | None = None,
) -> pd.DataFrame:
    """Pairs a < b (row numbers) whose cosine is at least `threshold` and among the `most` highest of either row.

    `vectors` has unit rows. A memory-mapped file stays on the disk, and so does the running top-k (8 bytes x `most` a
    row, in `folder`): memory is set by the block. Every device multiplies its share of a block's columns. Sorted by
    similarity, highest first. With the same `stamp` a killed run goes on from its last copy of the top-k; `folder` is
    empty afterwards. Raises ValueError for a threshold of 0 or less, or for no `most`.
    """
    if threshold <= 0 or most < 1:
        raise ValueError(f"threshold={threshold}, most={most}: both must be above 0")
    unit = SLICE * mesh.size
    block = block or BLOCK.get(mesh.devices.flat[0].platform, BLOCK_ELSEWHERE)
    block = min(-(-block // unit), -(-len(vectors) // unit)) * unit
    floor = np.nextafter(np.float32(threshold), np.float32(0))
    running = _Running(folder, (len(vectors), most), floor, f"{stamp} {vectors.shape} {threshold} {most} {block}")
    blocks = _Blocks(mesh, vectors, running.best, block, floor)
    starts = range(0, len(vectors), block)
    with progress("pairs", len(starts), "blocks of rows", done=running.done) as advance:
        for n in range(running.done, len(starts)):
            _one_row(blocks, starts[n:], mesh)
            running.finished(n + 1)
            advance(1)
    found = _found(running.best, threshold)
    running.close()
    return found


def similar_pairs_reference(vectors: Float[np.ndarray, "row dim"], *, threshold: float, most: int) -> pd.DataFrame:
    """`similar_pairs` in plain numpy, everything in memory."""
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -np.inf)
    nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :most]
    return _found(Best(np.take_along_axis(cosine, nearest, axis=1), nearest), threshold)


def pair_table(rows: np.ndarray, others: np.ndarray, values: np.ndarray) -> pd.DataFrame:
    """a < b, similarity: each pair once, highest first, whoever of the two found the other."""
    table = pd.DataFrame({"a": np.minimum(rows, others), "b": np.maximum(rows, others), "similarity": values})
    table = table.astype({"a": np.int64, "b": np.int64, "similarity": np.float32})
    table = table.sort_values(["similarity", "a", "b"], ascending=[False, True, True], kind="stable")
    return table.drop_duplicates(["a", "b"], ignore_index=True)


def _found(best: Best, threshold: float) -> pd.DataFrame:
    rows = np.repeat(np.arange(len(best.ids)), best.ids.shape[1])
    keep = (best.ids.ravel() >= 0) & (best.values.ravel() >= np.float32(threshold))
    return pair_table(rows[keep], best.ids.ravel()[keep], best.values.ravel()[keep])


def _one_row(blocks: "_Blocks", starts: range, mesh: Mesh) -> None:
    """The tiles of one block of rows with itself and all later ones."""
    first, flying = starts[0], deque[tuple[int, Best]]()
    x, left = blocks.rows(first), blocks.left(first)
    for start in starts:
        left, right = _fold(left, blocks.right(start), x, blocks.columns(start), first, start, mesh=mesh)
        if start != first:  # of itself, a block has seen everything from the rows' side
            flying.append((start, right))
        if len(flying) > IN_FLIGHT:
            blocks.keep(*flying.popleft())
    for start, right in flying:
        blocks.keep(start, right)
    blocks.keep(first, _merged(left))


@functools.partial(jax.jit, static_argnames=("mesh",), donate_argnums=(0, 1))
def _fold(
    left: Best,
    right: Best,
    x: Float[jax.Array, "rows dim"],
    y: Float[jax.Array, "cols dim"],
    first_row: Int[jax.Array, ""],
    first_col: Int[jax.Array, ""],
    *,
    mesh: Mesh,
) -> tuple[Best, Best]:
    """One tile, taken into the top-k of its rows (`left`, one a device) and of its columns (`right`)."""

    def one(left: Best, right: Best, x: jax.Array, y: jax.Array, first_row: Any, first_col: Any) -> tuple[Best, Best]:
        rows = first_row + jnp.arange(len(x), dtype=jnp.int32)
        shard = jax.lax.axis_index(mesh.axis_names) * len(y)
        cols = first_col + shard + jnp.arange(len(y), dtype=jnp.int32)
        cosine = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
        sliced, turned = cosine.reshape(len(x), -1, SLICE), cosine.reshape(-1, SLICE, len(y))
        mine = jax.tree.map(lambda part: part[0], left)
        mine = _renew(mine, rows, cols, sliced.max(2).T, lambda s, at: sliced[at, s])
        theirs = _renew(right, cols, rows, turned.max(1), lambda s, at: turned[s, :, at])
        return jax.tree.map(lambda part: part[None], mine), theirs

    cut, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    specs = (cut, cut, whole, cut, whole, whole)
    mapped = jax.shard_map(one, mesh=mesh, in_specs=specs, out_specs=(cut, cut), check_vma=False)
    return mapped(left, right, x, y, first_row, first_col)


def _renew(
    best: Best,
    own: Int[jax.Array, " rows"],
    others: Int[jax.Array, " others"],
    tops: Float[jax.Array, "slices rows"],
    take: Callable[[Any, Any], Float[jax.Array, "chunk slice"]],
) -> Best:
    """`best` of the rows `own` with what the slices of `others` hold. `tops` is the highest value of each slice,
    `take(s, at)` the values of slice s for the rows at these places."""
    slices = others.reshape(-1, SLICE)
    count, k = best.values.shape

    def renew(best: Best, pending: Bool[jax.Array, " rows"], s: Any) -> tuple[Best, Bool[jax.Array, " rows"]]:
        at = jnp.nonzero(pending, size=CHUNK, fill_value=count)[0]
        inside = jnp.minimum(at, count - 1)  # a place beyond the last is read as the last, and not written
        ids = jnp.broadcast_to(slices[s], (CHUNK, SLICE))
        found = jnp.where(ids == own[inside][:, None], -jnp.inf, take(s, inside))  # no row is its own partner
        values, picked = jax.lax.top_k(jnp.concatenate([best.values[inside], found], axis=1), k)
        ids = jnp.take_along_axis(jnp.concatenate([best.ids[inside], ids], axis=1), picked, axis=1)
        best = Best(best.values.at[at].set(values, mode="drop"), best.ids.at[at].set(ids, mode="drop"))
        return best, pending.at[at].set(False, mode="drop")

    def one_slice(s: Any, best: Best) -> Best:
        state = best, tops[s] > best.values[:, -1]
        return jax.lax.while_loop(lambda state: jnp.any(state[1]), lambda state: renew(*state, s), state)[0]

    return jax.lax.fori_loop(0, len(slices), one_slice, best)


def _merged(left: Best) -> Best:
    """The devices' top-k of the same rows as one, on the host."""
    values, ids = (np.concatenate(list(np.asarray(part)), axis=1) for part in left)
    order = np.argsort(-values, axis=1, kind="stable")[:, : left.values.shape[-1]]
    return Best(np.take_along_axis(values, order, axis=1), np.take_along_axis(ids, order, axis=1))


class _Blocks:
    """Blocks to the devices and their top-k back. The last block is filled up with zeros, which are like nothing."""

    def __init__(self, mesh: Mesh, vectors: np.ndarray, best: Best, block: int, floor: np.float32):
        self._vectors, self._best, self._block, self._empty = vectors, best, block, Best(floor, np.int32(-1))
        self._whole, self._cut = replicated(mesh), NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._devices = mesh.size

    def rows(self, start: int) -> jax.Array:
        return jax.device_put(self._part(self._vectors, start, np.float32(0)), self._whole)

    def columns(self, start: int) -> jax.Array:
        return jax.device_put(self._part(self._vectors, start, np.float32(0)), self._cut)

    def right(self, start: int) -> Best:
        return jax.device_put(Best(*map(lambda *p: self._part(p[0], start, p[1]), self._best, self._empty)), self._cut)

    def left(self, start: int) -> Best:
        """The block's top-k so far on the first device, nothing on the others."""
        parts = []
        for array, empty in zip(self._best, self._empty, strict=True):
            several = np.full((self._devices, self._block, array.shape[1]), empty)
            several[0] = self._part(array, start, empty)
            parts.append(several)
        return jax.device_put(Best(*parts), self._cut)

    def keep(self, start: int, best: Best) -> None:
        for array, part in zip(self._best, best, strict=True):
            array[start : start + self._block] = np.asarray(part)[: len(array) - start]

    def _part(self, array: np.ndarray, start: int, empty: Any) -> np.ndarray:
        part = np.asarray(array[start : start + self._block])
        return np.pad(part, ((0, self._block - len(part)), (0, 0)), constant_values=empty)


class _Running:
    """The top-k of all rows on the disk, and how many blocks of rows are done."""

    def __init__(self, folder: Path, shape: tuple[int, int], floor: np.float32, stamp: str):
        self._folder, self._stamp, self._kept = folder, stamp, time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        self._kept_at = folder / "kept"
        self.done = self._resume()
        fresh = not self.done
        mode = "w+" if fresh else "r+"
        self.best = Best(
            np.lib.format.open_memmap(folder / "values.npy", mode, np.float32, shape),
            np.lib.format.open_memmap(folder / "ids.npy", mode, np.int32, shape),
        )
        if fresh:
            self.best.values[:], self.best.ids[:] = floor, -1

    def finished(self, blocks: int) -> None:
        """A copy is kept now and then: what lies in the mapped files changes under a kill."""
        self.done = blocks
        if time.monotonic() - self._kept < KEPT_EVERY:
            return
        with replacing(self._kept_at) as part:
            part.mkdir()
            for name, array in zip(Best._fields, self.best, strict=True):
                np.save(part / f"{name}.npy", array)
            (part / "done.json").write_text(json.dumps({"stamp": self._stamp, "done": blocks}))
        self._kept = time.monotonic()

    def close(self) -> None:
        shutil.rmtree(self._folder)

    def _resume(self) -> int:
        told = self._kept_at / "done.json"
        if not told.is_file() or json.loads(told.read_text())["stamp"] != self._stamp:
            return 0
        for name in Best._fields:
            shutil.copy(self._kept_at / f"{name}.npy", self._folder / f"{name}.npy")
        return int(json.loads(told.read_text())["done"])
