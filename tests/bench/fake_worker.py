"""A side of a bench that does no work: rates are given on the command line."""

import sys

from ilpjax.bench.worker import serve
from ilpjax.errors import InputError

results, rate, best = [float(x) for x in sys.argv[1].split(",")], float(sys.argv[2]), sys.argv[3:]


def run(threads: int = 0, batch: int = 0, few: bool = False) -> dict[str, float]:
    print("a library's chatter")
    here = rate if [str(threads), str(batch)] == best else rate / 2
    return {"work": 10, "seconds": 10 / here, "compile": 2.5}


def refuse() -> None:
    raise InputError("model: no such thing")


def fail() -> None:
    raise ZeroDivisionError("no way")


def die() -> None:
    print("out of memory", file=sys.stderr, flush=True)
    sys.exit(3)


def more() -> dict[str, object]:
    return {"matmul_rate": 1e12, "copy_rate": 1e10, "peak": None, "flops": 1e9, "dynamics": [1.01, 1.0, 1.02]}


serve(
    {
        "prepare": lambda job, folder, device=None: {"platform": "cpu", "kind": "cpu", "jax": "0", "peer": "1.2"},
        "check": lambda: results,
        "run": run,
        "more": more,
        "refuse": refuse,
        "fail": fail,
        "die": die,
    }
)
