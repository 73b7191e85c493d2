"""Our side of a comparison: `python -m ilpjax.bench.ours`, a worker. It calls public functions only."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from ilpjax.bench import limits
from ilpjax.bench.sampling import Sampling
from ilpjax.bench.scoring import Scoring
from ilpjax.bench.sft import SFT
from ilpjax.bench.similarity import Similarity
from ilpjax.bench.worker import serve
from ilpjax.config import BenchJob

SIDES: dict[str, Callable[[BenchJob, Path], Any]] = {
    "scoring": Scoring,
    "sampling": Sampling,
    "sft": SFT,
    "similarity": Similarity,
}
compiled = 0.0  # seconds spent tracing and compiling so far


def _heard(event: str, duration_secs: float, **_: Any) -> None:
    global compiled
    compiled += duration_secs if event.startswith("/jax/core/compile/") else 0.0


def main() -> None:
    jax.monitoring.register_event_duration_secs_listener(_heard)
    side: Any = None

    def prepare(job: dict[str, Any], folder: str) -> dict[str, Any]:
        nonlocal side
        made = BenchJob.model_validate(job)
        side = SIDES[made.what](made, Path(folder))
        device = jax.devices()[0]
        return {"platform": device.platform, "kind": device.device_kind, "jax": jax.__version__}

    def run() -> dict[str, float]:
        before, start = compiled, time.perf_counter()
        work = side.run()
        return {"work": work, "seconds": time.perf_counter() - start, "compile": compiled - before}

    serve(
        {
            "prepare": prepare,
            "check": lambda: side.check(),
            "run": run,
            "more": lambda: {**limits.measure(), **side.more()},
        }
    )


if __name__ == "__main__":
    main()
