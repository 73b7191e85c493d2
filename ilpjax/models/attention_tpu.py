"""Attention kernels for TPU: our own for token trees, JAX's splash attention for packed rows."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas.ops.tpu import splash_attention as splash_ops
from jaxtyping import Array, Float, Int

from ilpjax.models.attention_chunked import chunked_backward, default_block, precision

INTERPRET = False  # tests set it: the kernels run on any platform, slowly
LANES = 128
_NEVER = -1e30  # the score of a key that is not seen; finite, so that a block without one gives no nan
_TABLE = 1 << 16  # entries of the block table: it lies in scalar memory, 1 MiB on the smallest chip


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def tree(
    q: Float[Array, "batch kv group seq dim"],
    k: Float[Array, "batch kv seq dim"],
    v: Float[Array, "batch kv seq dim"],
    subtree_end: Int[Array, "batch seq"],
    block: int | None = None,
) -> Float[Array, "batch kv group seq dim"]:
    """Softmax attention on the token tree; `q` is scaled already. Statistics in float32, any seq.

    Blocks of keys that no query of a block sees are neither fetched nor computed. The gradient is chunked XLA's,
    from this kernel's log-sum-exp: trees are scored, packed rows are trained on, and those have `splash`.
    """
    return _forward(q, k, v, subtree_end, block, False)[0]


def _save(q: Array, k: Array, v: Array, subtree_end: Array, block: int | None) -> tuple[Array, Any]:
    out, lse = _forward(q, k, v, subtree_end, block, True)
    return out, (q, k, v, subtree_end, out, lse)


def _backward(block: int | None, saved: Any, dout: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, subtree_end, out, lse = saved
    return *chunked_backward(q, k, v, subtree_end, out, lse, dout, min(block or default_block("tpu"), q.shape[3])), None


tree.defvjp(_save, _backward)


def blocks_of(seq: int, group: int) -> tuple[int, int]:
    """(queries, keys) a block: powers of two that divide seq, a multiple of 128; their scores fill 2 MiB of VMEM."""
    sizes = [size for size in (512, 256, LANES, 64, 32, 16) if seq % size == 0]
    rows = next((size for size in sizes if size * group <= 1024), 16)
    return rows, next(size for size in sizes if size == LANES or size * rows * group <= 1 << 19)


def block_table(
    subtree_end: Int[Array, "batch seq"], rows: int, keys: int
) -> Int[Array, "batch query_blocks key_blocks"]:
    """Which block of keys is in memory at each step of the grid; it is computed with where that is the step's own.

    A step that is not needed holds the next block that is, so that its fetch has begun: in this block of queries, or
    the first one of the next.
    """
    batch, seq = subtree_end.shape
    reach = jnp.max(subtree_end.reshape(batch, 1, -1, keys), axis=-1)
    first = np.arange(0, seq, rows)[:, None]
    step = np.arange(seq // keys)
    # Exact: a block that begins among the queries has one that sees itself, others have only earlier keys.
    needed = (step * keys < first + rows) & (reach > first)
    ahead = jax.lax.cummin(jnp.where(needed, step, len(step)), axis=2, reverse=True)
    after = jnp.concatenate([ahead[:, 1:, :1], np.full((batch, 1, 1), len(step) - 1)], axis=1)
    return jnp.where(ahead < len(step), ahead, after).astype(jnp.int32)


def _forward(
    q: Array, k: Array, v: Array, subtree_end: Array, block: int | None, save: bool
) -> tuple[Array, Float[Array, "batch kv group seq 1"] | None]:
    batch, kv, group, seq, dim = q.shape
    unit = block or LANES
    extra = -seq % unit
    if extra:  # padding sees itself alone, and no token sees it
        pad = lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, extra), (0, 0)])
        q, k, v = pad(q), pad(k), pad(v)
        alone = jnp.broadcast_to(jnp.arange(seq, seq + extra, dtype=subtree_end.dtype) + 1, (batch, extra))
        subtree_end = jnp.concatenate([subtree_end, alone], axis=1)
    rows, keys = (block, block) if block else blocks_of(seq + extra, group)
    entries = ((seq + extra) // rows) * ((seq + extra) // keys)
    if batch > 1 and batch * entries > _TABLE:
        one = lambda xs: _call(xs[0][None], xs[1][None], xs[2][None], xs[3][None], rows, keys, save)
        out, lse = jax.tree.map(lambda x: x[:, 0], jax.lax.map(one, (q, k, v, subtree_end)))
    else:
        out, lse = _call(q, k, v, subtree_end, rows, keys, save)
    if lse is not None:  # [batch, kv, query blocks, 1, group * rows]
        lse = jnp.moveaxis(lse.reshape(batch, kv, -1, group, rows), 2, 3).reshape(batch, kv, group, -1, 1)
        lse = lse[:, :, :, :seq]
    return out[:, :, :, :seq], lse


def _call(
    q: Array, k: Array, v: Array, subtree_end: Array, rows: int, keys: int, save: bool
) -> tuple[Array, Array | None]:
    batch, kv, group, seq, dim = q.shape
    grid = batch, kv, seq // rows, seq // keys
    table = block_table(subtree_end, rows, keys).reshape(-1)  # one dimension: others are padded in scalar memory

    def held(b: Any, i: Any, j: Any, table: Any) -> Any:
        return table[(b * grid[2] + i) * grid[3] + j]

    of_queries = pl.BlockSpec((1, 1, group, rows, dim), lambda b, h, i, j, table: (b, h, 0, i, 0))
    of_keys = pl.BlockSpec((1, 1, keys, dim), lambda b, h, i, j, table: (b, h, held(b, i, j, table), 0))
    of_ends = pl.BlockSpec((1, 1, keys), lambda b, h, i, j, table: (b, 0, held(b, i, j, table)))
    out_specs, out_shape = [of_queries], [jax.ShapeDtypeStruct(q.shape, q.dtype)]
    if save:
        out_specs.append(pl.BlockSpec((1, 1, 1, 1, group * rows), lambda b, h, i, j, table: (b, h, i, 0, 0)))
        out_shape.append(jax.ShapeDtypeStruct((batch, kv, grid[2], 1, group * rows), jnp.float32))
    statistic = pltpu.VMEM((group * rows, LANES), jnp.float32)
    outs = pl.pallas_call(
        functools.partial(_kernel, grid=grid),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid,
            in_specs=[of_queries, of_keys, of_keys, of_ends],
            out_specs=out_specs,
            scratch_shapes=[statistic, statistic, pltpu.VMEM((group * rows, dim), jnp.float32)],
        ),
        out_shape=out_shape,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary"),
        ),
        interpret=INTERPRET,
        name="tree_attention",
    )(table, q, k, v, subtree_end[:, None])
    return outs[0], outs[1] if save else None


def _kernel(table: Any, q: Any, k: Any, v: Any, end: Any, out: Any, *rest: Any, grid: tuple[int, ...]) -> None:
    """One block of queries against one block of keys: online softmax (arXiv:2205.14135, algorithm 1)."""
    *lse, top, total, sums = rest
    group, rows, dim = q.shape[2:]
    keys = k.shape[2]
    b, i, j = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    exact = precision(q.dtype)

    @pl.when(j == 0)
    def _() -> None:
        top[...] = jnp.full(top.shape, _NEVER, jnp.float32)
        total[...] = jnp.zeros(total.shape, jnp.float32)
        sums[...] = jnp.zeros(sums.shape, jnp.float32)

    @pl.when((table[(b * grid[2] + i) * grid[3] + j] == j) & (j * keys < (i + 1) * rows))
    def _() -> None:
        query = i * rows + jax.lax.broadcasted_iota(jnp.int32, (rows, keys), 0)
        key = j * keys + jax.lax.broadcasted_iota(jnp.int32, (rows, keys), 1)
        mask = (key <= query) & (query < end[0])
        contract = functools.partial(jax.lax.dot_general, precision=exact, preferred_element_type=jnp.float32)
        scores = contract(q[0, 0].reshape(group * rows, dim), k[0, 0], (((1,), (1,)), ((), ())))
        scores = jnp.where(mask[None], scores.reshape(group, rows, keys), _NEVER).reshape(group * rows, keys)
        before = top[:, :1]
        now = jnp.maximum(before, jnp.max(scores, axis=1, keepdims=True))
        # A query that has seen nothing yet adds up nonsense here, which its first real score wipes out.
        p = jnp.exp(scores - now)
        shrink = jnp.exp(before - now)
        total[...] = jnp.broadcast_to(total[:, :1] * shrink + jnp.sum(p, axis=1, keepdims=True), total.shape)
        sums[...] = sums[...] * shrink + contract(p.astype(v.dtype), v[0, 0], (((1,), (0,)), ((), ())))
        top[...] = jnp.broadcast_to(now, top.shape)

    @pl.when(j == grid[3] - 1)
    def _() -> None:
        out[0, 0] = (sums[...] / total[:, :1]).astype(out.dtype).reshape(group, rows, dim)
        for ref in lse:
            ref[0, 0, 0] = (top[...] + jnp.log(total[...])).T[:1]


def splash_refusal(seq: int, dim: int, dtype: Any) -> str | None:
    """What splash attention cannot do here, and what would be right; None: nothing."""
    if seq % LANES:
        return f"splash needs a sequence that is a multiple of {LANES}, this one has {seq} tokens"
    if dim % 64:
        return f"splash needs heads of a multiple of 64, these have {dim}"
    if jnp.dtype(dtype).itemsize != 2 and not INTERPRET:
        return f"splash multiplies in bfloat16, the dtype is {jnp.dtype(dtype).name}"
    return None


def splash(
    q: Float[Array, "batch kv group seq dim"],
    k: Float[Array, "batch kv seq dim"],
    v: Float[Array, "batch kv seq dim"],
    segments: Int[Array, "batch seq"],
    block: int | None = None,
) -> Float[Array, "batch kv group seq dim"]:
    """Causal attention within segments, each one run of tokens; forward and gradient. `q` is scaled already."""
    batch, kv, group, seq, dim = q.shape
    size = block or next(size for size in (512, 256, LANES) if seq % size == 0)
    sizes = splash_ops.BlockSizes(
        block_q=size,
        block_kv=size,
        block_q_dkv=size,
        block_kv_dkv=size,
        block_q_dq=size,
        block_kv_dq=size,
    )
    mask = splash_ops.MultiHeadMask([splash_ops.CausalMask((seq, seq))] * (kv * group))
    with jax.ensure_compile_time_eval():  # the table of blocks is a constant, also under a trace
        kernel = splash_ops.make_splash_mha(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=INTERPRET)
    one = lambda q, k, v, s: kernel(q, k, v, segment_ids=splash_ops.SegmentIds(s, s))
    return jax.vmap(one)(q.reshape(batch, kv * group, seq, dim), k, v, segments).reshape(q.shape)
