"""Our side of each comparison: `python -m ilpjax.bench.ours`, a worker. Public functions only."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pyarrow.parquet as pq

from ilpjax.bench import texts
from ilpjax.bench.worker import serve
from ilpjax.config import BenchJob, MeshConfig, ScoreConfig
from ilpjax.data import Template, load_tokenizer
from ilpjax.models import load_model
from ilpjax.parallel import make_mesh
from ilpjax.rows import Item
from ilpjax.scoring import score_items

COMPILE = "/jax/core/compile/"
compiled = 0.0  # seconds spent tracing and compiling so far


def _heard(event: str, duration_secs: float, **_: Any) -> None:
    global compiled
    compiled += duration_secs if event.startswith(COMPILE) else 0.0


class Scoring:
    """Items from memory to a Parquet file."""

    def __init__(self, job: BenchJob, folder: Path):
        self._out = folder / "scores.parquet"
        self._mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
        tokenizer = load_tokenizer(str(folder / "model"))
        self._template = Template(tokenizer, "plain")
        made = texts.make_items(tokenizer, job, job.rows or 32)
        (folder / "items.json").write_text(json.dumps(made))
        self._items = [Item(row_id=str(n), answer=0, **item) for n, item in enumerate(made)]
        self._model, self._params = load_model(folder / "model", self._mesh)
        self._cfg = ScoreConfig(control=False)

    def check(self) -> list[float]:
        """Every option's log-prob, in nats."""
        self.run()
        return [x for row in pq.read_table(self._out)["option_logprob"].to_pylist() for x in row]

    def run(self) -> float:
        """Scores all items; how many."""
        score_items(
            self._model,
            self._params,
            self._template,
            self._items,
            self._cfg,
            mesh=self._mesh,
            seed=0,
            out=self._out,
        )
        return len(self._items)


SIDES: dict[str, Callable[[BenchJob, Path], Any]] = {"scoring": Scoring}


def main() -> None:
    jax.monitoring.register_event_duration_secs_listener(_heard)
    side: Any = None

    def prepare(job: dict[str, Any], folder: str) -> dict[str, Any]:
        nonlocal side
        made = BenchJob.model_validate(job)
        texts.make_model(made, Path(folder) / "model")
        side = SIDES[made.what](made, Path(folder))
        device = jax.devices()[0]
        return {"platform": device.platform, "kind": device.device_kind, "jax": jax.__version__}

    def run() -> dict[str, float]:
        before, start = compiled, time.perf_counter()
        work = side.run()
        return {"work": work, "seconds": time.perf_counter() - start, "compile": compiled - before}

    def check() -> dict[str, Any]:
        before = compiled
        return {"results": side.check(), "compile": compiled - before}

    serve({"prepare": prepare, "check": check, "run": run})


if __name__ == "__main__":
    main()
