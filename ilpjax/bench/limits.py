"""What this device does at best: the rate of a matrix product, the speed of a copy."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ilpjax.train import peak_flops

TRIES = 7


def measure() -> dict[str, float | None]:
    """FLOP/s of a large square product in the compute dtype, bytes/s read and written by a copy; beside them what the
    vendor's sheet says (bf16 FLOP/s, None where it is not known)."""
    cpu = jax.default_backend() == "cpu"
    size, dtype = (2048, jnp.float32) if cpu else (8192, jnp.bfloat16)
    x = jnp.ones((size, size), dtype)
    large = jnp.ones((2**26 if cpu else 2**30,), jnp.uint8)
    return {
        "matmul_rate": 2 * size**3 / _seconds(lambda x: x @ x, x),
        "peak": peak_flops(jax.devices()[0].device_kind),
        "copy_rate": 2 * large.nbytes / _seconds(lambda x: x + jnp.uint8(1), large),
    }


def _seconds(of: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
    run = jax.jit(of)
    run(x).block_until_ready()
    times = []
    for _ in range(TRIES):
        start = time.perf_counter()
        run(x).block_until_ready()
        times.append(time.perf_counter() - start)
    return min(times)
