"""The TPU kernels compiled for real chips, on a machine without one."""

import importlib.util
import os

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies

from ilpjax.config import MeshConfig
from ilpjax.models import attention
from ilpjax.parallel import make_mesh, named_sharding

pytestmark = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")


def compiled(chips: str, heads: tuple[int, int], impl: str, *, grad: bool, seq: int = 4096, dim: int = 128, dtype=None):
    """The executable over all chips of the slice, tensor=2; two sequences a chip."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip is opened, so test workers need no turns
    devices = topologies.get_topology_desc(platform="tpu", topology_name=chips).devices
    mesh = make_mesh(MeshConfig(fsdp=len(devices) // 2, tensor=2), devices)

    def shape(size: tuple[int, ...], *axes: str | None, dtype=dtype or jnp.bfloat16) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(size, dtype, sharding=named_sharding(mesh, axes, size))

    batch = len(devices)
    names = ("heads", "kv", "kv")
    qkv = [shape((batch, seq, heads[n > 0], dim), "batch", None, name, None) for n, name in enumerate(names)]
    ends = shape((batch, seq), "batch", None, dtype=jnp.int32)
    forward = lambda q, k, v, ends: attention(q, k, v, ends, impl, mesh=mesh, packed=impl != "tree")
    loss = lambda *args: forward(*args).astype(jnp.float32).sum()
    return jax.jit(jax.grad(loss, (0, 1, 2)) if grad else forward).lower(*qkv, ends).compile()


@pytest.mark.parametrize("heads", [(12, 2), (32, 8)])
@pytest.mark.parametrize("chips", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_kernels_compile_and_hold_no_scores(chips: str, heads: tuple[int, int]):
    """Scores live in VMEM, a block at a time: HBM holds copies of queries, keys and values at most."""
    for impl, grad, kernels in (("tree", False, 1), ("splash", False, 1), ("splash", True, 3)):
        program = compiled(chips, heads, impl, grad=grad)
        assert program.as_text().count('custom_call_target="tpu_custom_call"') == kernels
        queries = 2 * 4096 * heads[0] // 2 * 128 * 2  # bytes on a chip; their scores in float32 are 64 times that
        assert program.memory_analysis().temp_size_in_bytes < 8 * queries


# Small models' heads, one KV head for all, float32, lengths that no block divides, one sequence longer than most.
@pytest.mark.parametrize(
    ("heads", "seq", "dim", "dtype"),
    [
        ((14, 2), 640, 64, "bfloat16"),
        ((4, 1), 100, 16, "bfloat16"),
        ((8, 4), 300, 80, "float32"),
        ((64, 1), 1024, 128, "bfloat16"),
        ((2, 2), 32768, 128, "bfloat16"),
    ],
)
def test_tree_kernel_compiles_for_any_shape(heads: tuple[int, int], seq: int, dim: int, dtype: str):
    compiled("v5e:2x2", heads, "tree", grad=False, seq=seq, dim=dim, dtype=jnp.dtype(dtype))


def test_gradient_of_the_tree_kernel_compiles():
    program = compiled("v5e:2x2", (12, 2), "tree", grad=True, seq=1024)
    assert "tpu_custom_call" in program.as_text()
