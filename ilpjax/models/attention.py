"""Attention on the token tree: key k is visible to query q exactly when k <= q < subtree_end[k].

One int32 a token stands for packing, for options behind one prompt and for padding (`subtree_end[i] = i + 1`).
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Impl = Literal["auto", "reference", "chunked"]


def tree_mask(
    subtree_end: Int[Array, "batch keys"], queries: Int[Array, "queries"]
) -> Bool[Array, "batch queries keys"]:
    """Which keys the queries at these indices see."""
    keys = jnp.arange(subtree_end.shape[-1])
    query = queries[None, :, None]
    return (keys <= query) & (query < subtree_end[:, None, :])


def attention(
    q: Float[Array, "batch seq heads dim"],
    k: Float[Array, "batch seq kv dim"],
    v: Float[Array, "batch seq kv dim"],
    subtree_end: Int[Array, "batch seq"],
    impl: Impl = "auto",
    block: int | None = None,
) -> Float[Array, "batch seq heads dim"]:
    """Softmax attention scaled by dim ** -0.5; heads is a multiple of kv, and keys and values are not repeated.

    Scores and softmax in float32, the products in the dtype of the inputs.
    "reference" holds [seq, seq] scores; "chunked" at most [block, seq], also in the backward pass. "auto" goes by seq
    alone, so that a row's numbers do not depend on the batch it is in.
    """
    batch, seq, heads, dim = q.shape
    if block is None:
        # What lies in a CPU's cache; an accelerator wants larger products.
        block = 128 if jax.default_backend() == "cpu" else 512
    if impl == "auto":
        impl = "reference" if seq < 4 * block else "chunked"
    grouped = q.reshape(batch, seq, k.shape[2], heads // k.shape[2], dim)
    if impl == "chunked":
        return _chunked(grouped, k, v, subtree_end, min(block, seq)).reshape(q.shape)
    return _reference(grouped, k, v, subtree_end).reshape(q.shape)


def _reference(q: Array, k: Array, v: Array, subtree_end: Array) -> Array:
    return _attend(q, k, v, tree_mask(subtree_end, jnp.arange(q.shape[1])))


def _attend(q: Array, k: Array, v: Array, mask: Array) -> Array:
    """q [batch, queries, kv, group, dim] against all of k, v [batch, keys, kv, dim]."""
    exact = precision(q.dtype)
    scores = jnp.einsum("bqkgd,bskd->bkgqs", q, k, precision=exact, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores * q.shape[-1] ** -0.5, -jnp.inf)
    return jnp.einsum("bkgqs,bskd->bqkgd", jax.nn.softmax(scores).astype(v.dtype), v, precision=exact)


def _chunked(q: Array, k: Array, v: Array, subtree_end: Array, block: int) -> Array:
    batch, seq = q.shape[:2]
    blocks = -(-seq // block)

    @jax.checkpoint  # else the backward pass keeps every block's scores
    def one(q_block: Array, first: Array) -> Array:
        # A padded query stands in for the last token: it must see something, or its softmax is 0 / 0.
        queries = jnp.minimum(first + jnp.arange(block), seq - 1)
        return _attend(q_block, k, v, tree_mask(subtree_end, queries))

    padded = jnp.pad(q, ((0, 0), (0, blocks * block - seq), (0, 0), (0, 0), (0, 0)))
    cut = jnp.moveaxis(padded.reshape(batch, blocks, block, *q.shape[2:]), 1, 0)
    _, out = jax.lax.scan(lambda _, xs: (None, one(*xs)), None, (cut, jnp.arange(blocks) * block))
    return jnp.moveaxis(out, 0, 1).reshape(padded.shape)[:, :seq]


def precision(dtype: jnp.dtype) -> jax.lax.Precision | None:
    """float32 means float32 also where the hardware would rather take fewer bits (TPU, tensor cores)."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None
