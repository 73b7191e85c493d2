"""The TPU kernels, interpreted on a CPU, against the reference."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import Tree, trees

from ilpjax.config import MeshConfig
from ilpjax.models import attention, attention_tpu, tree_mask
from ilpjax.models.attention_tpu import block_table
from ilpjax.parallel import make_mesh, named_sharding

SIZE, BLOCK = 29, 8  # four blocks, the last one padded


@pytest.fixture(autouse=True, scope="module")
def interpreted() -> Iterator[None]:
    attention_tpu.INTERPRET = True
    yield
    attention_tpu.INTERPRET = False


def draw(seed: int, seq: int, heads: int, kv: int, dtype: str = "float32", dim: int = 8, batch: int = 1) -> list:
    random = np.random.default_rng(seed)
    sizes = (heads, kv, kv)
    return [jnp.asarray(random.standard_normal((batch, seq, n, dim)), dtype) for n in sizes]


@functools.partial(jax.jit, static_argnames=("impl", "block", "mesh"))
def value_and_grad(qkv: list, end: jax.Array, impl: str, block: int | None = BLOCK, mesh=None) -> list:
    def loss(qkv: list) -> tuple:
        out = attention(*qkv, end, impl, block, mesh=mesh, packed=impl == "splash")
        weights = jnp.cos(jnp.arange(out.size)).reshape(out.shape)
        return jnp.sum(out.astype(jnp.float32) * weights), out

    grads, out = jax.grad(loss, has_aux=True)(qkv)
    return [x.astype(jnp.float32) for x in (out, *grads)]


def assert_equal(qkv: list, end: np.ndarray, impl: str, block: int | None = BLOCK, mesh=None) -> None:
    ours = value_and_grad(qkv, end, impl, block, mesh)
    wide = [x.astype(jnp.float32) for x in qkv]
    near = 2e-5 if qkv[0].dtype == jnp.float32 else 0.03  # of the largest value
    for one, other in zip(ours, value_and_grad(wide, end, "reference"), strict=True):
        np.testing.assert_allclose(one, other, atol=near * max(1, np.abs(other).max()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("heads", [(2, 2), (4, 2), (6, 1)])
@given(tree=trees(SIZE), seed=st.integers(0, 99))
def test_tree_kernel_equals_reference(heads: tuple[int, int], dtype: str, tree: Tree, seed: int):
    """Output and gradients; trees smaller than the sequence leave padding, their roots make a forest."""
    assert_equal(draw(seed, SIZE, *heads, dtype), tree.padded(SIZE)[1], "tree")


@pytest.mark.parametrize("seq", [640, 300])
def test_tree_kernel_at_its_own_block_sizes(seq: int):
    ends = np.full((1, seq), seq, np.int32)
    for first, last in ((150, 200), (200, 280), (290, seq)):  # a stem and three branches
        ends[0, first:last] = last
    assert_equal(draw(0, seq, 6, 1), np.maximum(ends, np.arange(seq) + 1), "tree", None)


def test_large_batches_go_through_scalar_memory_row_by_row(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention_tpu, "_TABLE", 1)
    ends = np.maximum([[SIZE] * SIZE, [12] * 12 + [SIZE] * (SIZE - 12)], 1).astype(np.int32)
    jax.clear_caches()
    assert_equal(draw(0, SIZE, 4, 2, batch=2), ends, "tree")
    jax.clear_caches()


@given(trees(24), st.sampled_from([(4, 4), (4, 8), (8, 4)]))
def test_blocks_that_nobody_sees_are_skipped(tree: Tree, sizes: tuple[int, int]):
    """A step computes exactly where some query sees some key, and memory holds only what is needed next."""
    rows, keys = sizes
    ends = tree.padded(24)[1]
    held = np.asarray(block_table(jnp.asarray(ends), rows, keys))[0]
    seen = np.asarray(tree_mask(jnp.asarray(ends), jnp.arange(24)))[0]
    seen = seen.reshape(24 // rows, rows, 24 // keys, keys).any((1, 3))
    step = np.arange(24 // keys)
    computed = (held == step) & (step * keys < rows * (1 + np.arange(24 // rows)[:, None]))
    np.testing.assert_array_equal(computed, seen)
    fetches = 1 + np.count_nonzero(np.diff(held.reshape(-1)))
    assert fetches <= seen.sum() + 1


def test_skipped_blocks_are_not_read():
    """NaN in the first row's keys and values: the second row, in blocks of its own, doesn't notice."""
    q, k, v = draw(0, 32, 4, 2)
    ends = np.where(np.arange(32) < 16, 16, 32)[None].astype(np.int32)
    poisoned = [x.at[:, :16].set(jnp.nan) for x in (k, v)]
    out = value_and_grad([q, *poisoned], ends, "tree")[0][:, 16:]
    np.testing.assert_array_equal(out, value_and_grad([q, k, v], ends, "tree")[0][:, 16:])
    assert np.isfinite(out).all()


def packing(cuts: list[int], seq: int) -> np.ndarray:
    """Rows that end at these cuts, then padding."""
    ends = np.arange(seq) + 1
    for first, last in zip([0, *cuts], cuts, strict=False):
        ends[first:last] = last
    return ends[None].astype(np.int32)


@given(st.lists(st.integers(1, 256), max_size=6, unique=True), st.integers(0, 99))
def test_splash_equals_reference_on_packed_rows(cuts: list[int], seed: int):
    assert_equal(draw(seed, 256, 4, 2, dim=64), packing(sorted(cuts), 256), "splash", 128)


# KV heads divide over tensor=2; one KV head that both halves share; three that they share in part.
@pytest.mark.parametrize("heads", [(4, 2), (6, 1), (12, 3)])
@pytest.mark.parametrize("impl", ["tree", "splash"])
def test_eight_devices_compute_what_one_does(heads: tuple[int, int], impl: str):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), jax.devices()[:8])
    seq, block, dim = (32, 8, 8) if impl == "tree" else (128, 128, 64)
    qkv = draw(0, seq, *heads, batch=4, dim=dim)
    ends = np.concatenate([packing([n, seq], seq) for n in (5, 8, 17, 30)])
    axes = [("batch", None, name, None) for name in ("heads", "kv", "kv")]
    cut = [jax.device_put(x, named_sharding(mesh, names, x.shape)) for x, names in zip(qkv, axes, strict=True)]
    many = value_and_grad(cut, ends, impl, block, mesh)
    assert len(many[0].sharding.device_set) == 8
    for one, other in zip(many, value_and_grad(qkv, ends, "reference"), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * max(1, np.abs(other).max()))
