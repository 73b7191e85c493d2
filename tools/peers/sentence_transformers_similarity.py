"""sentence-transformers mining near pairs of vectors; a worker of `tools/bench.py similarity`."""

import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers.util import dot_score, paraphrase_mining_embeddings

from ilpjax.bench.worker import serve

CHUNKS = {"query_chunk": 2_000, "corpus_chunk": 100_000}  # of the check


class Similarity:
    def prepare(self, job: dict[str, Any], folder: str, device: str) -> dict[str, str]:
        self.told = json.loads(Path(folder, "pairs.json").read_text())
        self.vectors = torch.from_numpy(np.load(Path(folder, "vectors.npy"))).to(device)
        return {name: version(name) for name in ("sentence-transformers", "torch")}

    def mine(self, vectors: torch.Tensor, query_chunk: int, corpus_chunk: int) -> list[tuple[int, int, float]]:
        """Pairs at or over the threshold: a < b, similarity. The vectors have unit length, so no cosine is needed."""
        mined = paraphrase_mining_embeddings(
            vectors,
            query_chunk_size=query_chunk,
            corpus_chunk_size=corpus_chunk,
            max_pairs=2 * self.told["pairs"] + 1,  # it counts (a, b) and (b, a), and keeps one less
            top_k=self.told["most"],
            score_function=dot_score,
        )
        return [(int(a), int(b), score) for score, a, b in mined if score >= self.told["threshold"]]

    def check(self) -> list[float]:
        """a, b (as shares of the rows: another row is a difference) and similarity of every pair, in order."""
        rows = len(self.vectors)
        return [x for a, b, score in sorted(self.mine(self.vectors, **CHUNKS)) for x in (a / rows, b / rows, score)]

    def run(self, threads: int, query_chunk: int, corpus_chunk: int, few: bool = False) -> dict[str, float]:
        torch.set_num_threads(threads)
        rows = len(self.vectors) // 2 if few else len(self.vectors)
        start = time.perf_counter()
        self.mine(self.vectors[:rows], query_chunk, corpus_chunk)  # ends with numbers on the host: nothing is pending
        return {"work": rows * (rows - 1) // 2, "seconds": time.perf_counter() - start}


if __name__ == "__main__":
    side = Similarity()
    serve({"prepare": side.prepare, "check": side.check, "run": side.run})
