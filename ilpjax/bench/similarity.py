"""Our side of `bench similarity`: all near pairs of unit vectors on the disk.

`python -m ilpjax.bench.similarity` is a worker that looks for those of one large file alone.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from ilpjax.bench.worker import Worker, serve
from ilpjax.config import BenchJob, MeshConfig
from ilpjax.conflicts import similar_pairs
from ilpjax.errors import BenchError
from ilpjax.parallel import make_mesh

ROWS, LARGE, LARGER = 40_000, 100_000, 1_000_000
THRESHOLD, MOST = 0.75, 16  # least cosine, partners a row
PLANTED = (0.8, 1.0)  # cosines; all others are under 0.6 in 128 dimensions and more: no rounding changes the pairs
APART = 40  # rows for one planted pair: a row in 20 has a partner
MIB = 2**20


def make_vectors(
    rows: int, dims: int, seed: int
) -> tuple[Float[np.ndarray, "rows dims"], Int[np.ndarray, "planted 2"]]:
    """Random unit vectors, and the pairs among them that are near: a < b, in order."""
    rng = np.random.default_rng(seed)
    vectors = _unit(rng.standard_normal((rows, dims), dtype=np.float32))
    one, two = rng.permutation(rows)[: 2 * max(1, rows // APART)].reshape(2, -1)
    cosine = rng.uniform(*PLANTED, (len(one), 1)).astype(np.float32)
    along = np.sum(vectors[one] * vectors[two], axis=1, keepdims=True)
    across = _unit(vectors[two] - along * vectors[one])
    vectors[two] = _unit(cosine * vectors[one] + np.sqrt(1 - cosine**2) * across)
    planted = np.sort(np.stack([one, two], axis=1), axis=1)
    return vectors, planted[np.lexsort(planted.T[::-1])]


def _unit(vectors: Float[np.ndarray, "rows dims"]) -> Float[np.ndarray, "rows dims"]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Similarity:
    def __init__(self, job: BenchJob, folder: Path):
        self._job, self._folder = job, folder
        vectors, planted = make_vectors(job.rows or ROWS, job.dims, job.seed)
        np.save(folder / "vectors.npy", vectors)
        # The peer has to be told how many pairs to keep: it is told the very number.
        told = {"threshold": THRESHOLD, "most": MOST, "pairs": len(planted)}
        (folder / "pairs.json").write_text(json.dumps(told))
        self._vectors = np.load(folder / "vectors.npy", mmap_mode="r")

    def check(self) -> list[float]:
        """a, b (as shares of the rows: another row is a difference) and similarity of every pair, in order."""
        found = find(self._vectors, self._folder / "running").sort_values(["a", "b"])
        rows = len(self._vectors)
        return (found[["a", "b", "similarity"]].to_numpy() / [rows, rows, 1]).ravel().tolist()

    def run(self) -> int:
        """Finds all near pairs; the pairs looked at."""
        find(self._vectors, self._folder / "running")
        return looked_at(len(self._vectors))

    def more(self) -> dict[str, Any]:
        """FLOPs of a pair that is looked at; a large file, alone in a process of its own."""
        return {"flops": 2.0 * self._job.dims, "large": self._large(LARGE)}

    def _large(self, rows: int) -> dict[str, Any]:
        file = self._folder / "large.npy"
        vectors, planted = make_vectors(rows, self._job.dims, self._job.seed)
        np.save(file, vectors)
        del vectors
        with Worker("ilpjax", [sys.executable, "-m", "ilpjax.bench.similarity"], {}) as worker:
            told = worker.ask("large", file=str(file))
        if told.pop("found") != planted.tolist():
            raise BenchError(f"bench similarity: among {rows:,} rows, not the pairs that were planted")
        rate = looked_at(rows) / told["seconds"]
        return {"rows": rows, **told, "rate": rate, "estimated_rows": LARGER, "estimated_s": looked_at(LARGER) / rate}


def find(vectors: np.ndarray, folder: Path) -> pd.DataFrame:
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    return similar_pairs(vectors, threshold=THRESHOLD, most=MOST, mesh=mesh, folder=folder)


def looked_at(rows: int) -> int:
    return rows * (rows - 1) // 2


def large(file: str) -> dict[str, Any]:
    """The pairs found, seconds, and MiB of memory at the peak beyond what the process began with; `mapped_mib` of
    them may be pages of mapped files (vectors, running top-k), which the system takes back when it needs them."""
    vectors, folder = np.load(file, mmap_mode="r"), Path(file).with_suffix(".running")
    jax.devices()
    before = _peak()
    find(vectors[: len(vectors) // 4], folder)  # compiles
    start = time.perf_counter()
    found = find(vectors, folder)
    return {
        "found": found.sort_values(["a", "b"])[["a", "b"]].to_numpy().tolist(),
        "seconds": time.perf_counter() - start,
        "peak_mib": (_peak() - before) / MIB,
        "mapped_mib": (vectors.nbytes + 8 * MOST * len(vectors)) / MIB,
    }


def _peak() -> int:
    """Bytes. Not getrusage's, which starts from what the parent held."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    serve({"large": large})
