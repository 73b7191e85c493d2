"""Ours and a peer in turn, on the same model, rows and dtype."""

from ilpjax.bench.run import run_bench

__all__ = ["run_bench"]
