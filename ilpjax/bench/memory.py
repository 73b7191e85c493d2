"""Peak memory of scoring: `python -m ilpjax.bench.memory`, a worker that scores a stream of items."""

import dataclasses
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ilpjax.bench import texts
from ilpjax.bench.worker import Worker, serve
from ilpjax.config import BenchJob, MeshConfig, ScoreConfig
from ilpjax.data import Template
from ilpjax.models import ModelSpec, init_model
from ilpjax.parallel import make_mesh
from ilpjax.rows import Item
from ilpjax.scoring import score_items

FEW = 10_000
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def compare(job: BenchJob) -> dict[str, Any]:
    """Peak MiB of a process that scores 10,000 items, and of one that scores `job.rows`."""
    many, told = job.rows or 10 * FEW, []
    for count in (FEW, many):
        with Worker("ilpjax", [sys.executable, "-m", "ilpjax.bench.memory"], {}) as worker:
            told.append(worker.ask("score", count=count, seed=job.seed))
    few, more = told
    return {
        "what": "memory",
        "items": [FEW, many],
        "peak_mib": [few["peak"], more["peak"]],
        "ratio": more["peak"] / few["peak"],
        "items_per_second": more["rate"],
        "unit": "MiB",
        "device": more["device"],
    }


def score(count: int, seed: int) -> dict[str, Any]:
    tokenizer = texts.make_tokenizer(seed)
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    spec = ModelSpec.from_config(texts.CONFIG | TINY | {"num_key_value_heads": 1, "vocab_size": len(tokenizer)})
    model, params = init_model(spec, jax.random.key(seed), mesh)
    job = BenchJob(what="memory", prompt=16, option_tokens=2, seed=seed)
    made = [Item(row_id="", answer=0, **item) for item in texts.make_items(tokenizer, job, 1000)]

    def stream() -> Iterator[Item]:
        order = np.random.default_rng(seed).integers(0, len(made), count)
        yield from (dataclasses.replace(made[pick], row_id=str(n)) for n, pick in enumerate(order))

    with tempfile.TemporaryDirectory() as folder:
        start, out = time.perf_counter(), Path(folder) / "scores.parquet"
        cfg = ScoreConfig(control=False)
        score_items(model, params, Template(tokenizer, "plain"), stream(), cfg, mesh=mesh, seed=0, out=out)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"peak": peak, "rate": count / seconds, "device": jax.devices()[0].device_kind}


if __name__ == "__main__":
    serve({"score": score})
