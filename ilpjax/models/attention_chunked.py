"""Attention a block of queries at a time, in plain XLA: any platform, forward and gradient."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_CPU_BLOCK = 128  # what lies in a CPU's cache; an accelerator wants larger products


def tree_mask(
    subtree_end: Int[Array, "batch keys"], queries: Int[Array, "queries"]
) -> Bool[Array, "batch queries keys"]:
    """Which keys the queries at these indices see."""
    keys = jnp.arange(subtree_end.shape[-1])
    query = queries[None, :, None]
    return (keys <= query) & (query < subtree_end[:, None, :])


def precision(dtype: Any) -> jax.lax.Precision | None:
    """float32 means float32 also where the hardware would rather take fewer bits (TPU, tensor cores)."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def chunked(
    q: Float[Array, "batch kv group seq dim"],
    k: Float[Array, "batch kv seq dim"],
    v: Float[Array, "batch kv seq dim"],
    subtree_end: Int[Array, "batch seq"],
    block: int,
) -> Float[Array, "batch kv group seq dim"]:
    """Softmax attention on the token tree; `q` is scaled already. At most [block, seq] scores exist, backward too.

    Keys after a band of queries are not read: with as many bands as blocks that is the causal half.
    """
    return chunked_forward(q, k, v, subtree_end, block)[0]


def chunked_forward(
    q: Array, k: Array, v: Array, subtree_end: Array, block: int
) -> tuple[Float[Array, "batch kv group seq dim"], Float[Array, "batch kv group seq 1"]]:
    """What `chunked` gives, and the float32 log-sum-exp of each query's scores."""
    seq = q.shape[3]
    outs = []
    for first, keys, blocks in _bands(seq, block):
        part = k[:, :, :keys], v[:, :, :keys], subtree_end[:, :keys]

        def one(_: None, xs: tuple, k: Array, v: Array, end: Array) -> tuple[None, tuple[Array, Array]]:
            q, start = xs
            scores = _scores(q, k, end, start, seq)
            top = jnp.max(scores, axis=-1, keepdims=True)
            p = jnp.exp(scores - top)
            total = jnp.sum(p, axis=-1, keepdims=True)
            out = _dot("bkxs,bksd->bkxd", _flat(p).astype(v.dtype), v).reshape(q.shape)
            return None, ((out / total).astype(q.dtype), top + jnp.log(total))

        body = lambda carry, xs, part=part: one(carry, xs, *part)
        outs.append(_each(body, None, (_cut(q, first, blocks, block), _starts(first, blocks, block)))[1])
    out, lse = (_join([band[n] for band in outs], seq) for n in range(2))
    return out, lse


def chunked_backward(
    q: Array, k: Array, v: Array, subtree_end: Array, out: Array, lse: Array, dout: Array, block: int
) -> tuple[Array, Array, Array]:
    """(dq, dk, dv) from the output, its log-sum-exp and its cotangent (arXiv:2205.14135, algorithm 4)."""
    seq = q.shape[3]
    delta = jnp.sum(dout.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)
    dq, dk, dv = [], jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    for first, keys, blocks in _bands(seq, block):
        part = k[:, :, :keys], v[:, :, :keys], subtree_end[:, :keys]

        def one(sums: tuple[Array, Array], xs: tuple, k: Array, v: Array, end: Array) -> tuple[Any, Array]:
            q, lse, delta, dout, start = xs
            p = jnp.exp(_scores(q, k, end, start, seq) - lse)
            dp = _dot("bkxd,bksd->bkxs", _flat(dout), v).reshape(p.shape)
            ds = _flat((p * (dp - delta)).astype(q.dtype))
            dv = sums[1] + _dot("bkxs,bkxd->bksd", _flat(p).astype(v.dtype), _flat(dout))
            dk = sums[0] + _dot("bkxs,bkxd->bksd", ds, _flat(q))
            return (dk, dv), _dot("bkxs,bksd->bkxd", ds, k).reshape(q.shape).astype(q.dtype)

        body = lambda carry, xs, part=part: one(carry, xs, *part)
        xs = tuple(_cut(x, first, blocks, block) for x in (q, lse, delta, dout))
        sums = dk[:, :, :keys], dv[:, :, :keys]
        sums, band = _each(body, sums, (*xs, _starts(first, blocks, block)))
        dk, dv = dk.at[:, :, :keys].set(sums[0]), dv.at[:, :, :keys].set(sums[1])
        dq.append(band)
    return _join(dq, seq), dk.astype(k.dtype), dv.astype(v.dtype)


def _save(q: Array, k: Array, v: Array, subtree_end: Array, block: int) -> tuple[Array, Any]:
    out, lse = chunked_forward(q, k, v, subtree_end, block)
    return out, (q, k, v, subtree_end, out, lse)


def _backward(block: int, saved: Any, dout: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, subtree_end, out, lse = saved
    return *chunked_backward(q, k, v, subtree_end, out, lse, dout, block), None


chunked.defvjp(_save, _backward)


def default_block(platform: str) -> int:
    """Queries a block."""
    return _CPU_BLOCK if platform == "cpu" else 512


def _bands(seq: int, block: int) -> list[tuple[int, int, int]]:
    """(first query, keys that are read, blocks of queries) of each part of the sequence that is written out.

    More of them read fewer keys, and take longer to compile: on a TPU a minute for sixteen.
    """
    blocks, bands = -(-seq // block), 16 if block <= _CPU_BLOCK else 4
    cuts = sorted({n * blocks // bands for n in range(bands + 1)})
    return [(a * block, min(b * block, seq), b - a) for a, b in zip(cuts, cuts[1:], strict=False)]


def _scores(q: Array, k: Array, end: Array, start: Array, seq: int) -> Float[Array, "batch kv group block keys"]:
    # A padded query stands in for the last token: it must see something, or its softmax is 0 / 0.
    mask = tree_mask(end, jnp.minimum(start + jnp.arange(q.shape[3]), seq - 1))
    scores = _dot("bkxd,bksd->bkxs", _flat(q), k).reshape(*q.shape[:-1], -1)
    return jnp.where(mask[:, None, None], scores, -jnp.inf)


def _dot(subscripts: str, a: Array, b: Array) -> Array:
    return jnp.einsum(subscripts, a, b, precision=precision(a.dtype), preferred_element_type=jnp.float32)


def _flat(x: Array) -> Array:
    """Queries of a group are rows of one product: [batch, kv, group, block, n] -> [batch, kv, group * block, n]."""
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _cut(x: Array, first: int, blocks: int, block: int) -> Array:
    """A band's queries as [blocks, batch, kv, group, block, n], padded at the end of the sequence."""
    x = x[:, :, :, first : first + blocks * block]
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, blocks * block - x.shape[3]), (0, 0)))
    return jnp.moveaxis(x.reshape(*x.shape[:3], blocks, block, x.shape[-1]), 3, 0)


def _starts(first: int, blocks: int, block: int) -> Int[Array, " blocks"]:
    return first + block * jnp.arange(blocks)


def _each(body: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
    """lax.scan over the blocks of a band; a lone block is no loop, in which a CPU works with one thread."""
    if len(xs[-1]) > 1:
        return jax.lax.scan(body, carry, xs)
    carry, out = body(carry, jax.tree.map(lambda x: x[0], xs))
    return carry, jax.tree.map(lambda x: x[None], out)


def _join(bands: list[Array], seq: int) -> Array:
    """Bands of [blocks, batch, kv, group, block, n] -> [batch, kv, group, seq, n]."""
    whole = [jnp.moveaxis(x, 0, 3).reshape(*x.shape[1:4], -1, x.shape[-1]) for x in bands]
    return jnp.concatenate(whole, axis=3)[:, :, :, :seq]
