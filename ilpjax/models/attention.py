"""Attention on the token tree: key k is visible to query q exactly when k <= q < subtree_end[k].

One int32 a token stands for packing, for options behind one prompt and for padding (`subtree_end[i] = i + 1`).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from ilpjax.config import AttentionImpl
from ilpjax.errors import InputError
from ilpjax.models import attention_tpu
from ilpjax.models.attention_chunked import chunked, default_block, precision, tree_mask
from ilpjax.parallel import named_sharding

_NAMES = {
    "reference": "plain XLA",
    "chunked": "chunked XLA",
    "tree": "tree kernel",
    "splash": "splash kernel",
    "cudnn": "cuDNN, the tree as a dense mask",
}


def attention(
    q: Float[Array, "batch seq heads dim"],
    k: Float[Array, "batch seq kv dim"],
    v: Float[Array, "batch seq kv dim"],
    subtree_end: Int[Array, "batch seq"],
    impl: AttentionImpl = "auto",
    block: int | None = None,
    *,
    mesh: Mesh | None = None,
    packed: bool = False,
) -> Float[Array, "batch seq heads dim"]:
    """Softmax attention scaled by dim ** -0.5; heads is a multiple of kv, and keys and values are not repeated.

    Scores and softmax in float32, the products in the dtype of the inputs. `packed` is the caller's promise that every
    tree is a path, so that `subtree_end` serves as segment ids. `block` is in tokens; None: by platform.
    reference: [seq, seq] scores; any platform.
    chunked: at most [block, seq] of them, in the backward pass too; any platform.
    tree: our TPU kernel; its backward pass is chunked XLA.
    splash: JAX's TPU kernel, forward and backward; packed rows in bfloat16.
    cudnn: GPU, bfloat16 or float16. Not yet run on a GPU, so auto takes chunked there.
    auto: by platform, seq, dtype and `packed`, never by the batch: a row's numbers do not depend on its neighbours.

    The platform is that of the mesh's devices where there is a mesh. Raises InputError for what it cannot run.
    """
    seq, dim = q.shape[1], q.shape[3]
    platform = _platform(mesh)
    impl = choose_attention(impl, platform, seq, dim, q.dtype, packed)
    if impl == "cudnn":
        return dense(q, k, v, subtree_end, "cudnn")
    if impl == "reference":
        return _reference(q, k, v, subtree_end)
    if impl == "chunked":
        size = min(block or default_block(platform), seq)
        return _by_heads(lambda *xs: chunked(*xs, size), q, k, v, subtree_end)
    kernel: Any = attention_tpu.tree if impl == "tree" else attention_tpu.splash
    return _sharded(lambda *xs: _by_heads(lambda *ys: kernel(*ys, block), *xs), mesh, q, k, v, subtree_end)


def choose_attention(impl: AttentionImpl, platform: str, seq: int, dim: int, dtype: Any, packed: bool) -> AttentionImpl:
    """What "auto" stands for; else `impl` itself. Raises InputError where the platform or the shape cannot have it."""
    refused = attention_tpu.splash_refusal(seq, dim, dtype)
    if impl == "auto":
        if platform == "tpu":
            return "splash" if packed and refused is None else "tree"
        return "reference" if seq < 128 else "chunked"
    on = {"tree": "tpu", "splash": "tpu", "cudnn": "gpu"}.get(impl, platform)
    if platform != on and not (attention_tpu.INTERPRET and on == "tpu"):
        raise InputError(f"attention: {impl} runs on a {on.upper()}, this is a {platform.upper()}; auto would be right")
    if impl == "splash" and not packed:
        raise InputError("attention: splash drops the tree, and these are not packed rows; auto or tree would be right")
    if impl == "splash" and refused is not None:
        raise InputError(f"attention: {refused}; auto or tree would be right")
    if impl == "cudnn" and jnp.dtype(dtype).itemsize != 2:
        raise InputError(f"attention: cudnn needs bfloat16, the dtype is {jnp.dtype(dtype).name}; auto would be right")
    return impl


def describe_attention(
    impl: AttentionImpl, seq: int, dim: int, dtype: Any, *, mesh: Mesh | None = None, packed: bool = False
) -> str:
    """A line for the start of a job: "attention: tree kernel (tpu, seq 4096)". Raises InputError as `attention`."""
    platform = _platform(mesh)
    return f"attention: {_NAMES[choose_attention(impl, platform, seq, dim, dtype, packed)]} ({platform}, seq {seq})"


def dense(q: Array, k: Array, v: Array, subtree_end: Array, implementation: Any) -> Array:
    """`jax.nn.dot_product_attention` with the tree as a mask: [batch, 1, seq, seq] of it."""
    mask = tree_mask(subtree_end, jnp.arange(q.shape[1]))[:, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=implementation)


def _platform(mesh: Mesh | None) -> str:
    return mesh.devices.flat[0].platform if mesh is not None else jax.default_backend()


def _reference(q: Array, k: Array, v: Array, subtree_end: Array) -> Array:
    exact = precision(q.dtype)
    grouped = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[3])
    mask = tree_mask(subtree_end, jnp.arange(q.shape[1]))
    scores = jnp.einsum("bqkgd,bskd->bkgqs", grouped, k, precision=exact, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores * q.shape[-1] ** -0.5, -jnp.inf)
    out = jnp.einsum("bkgqs,bskd->bqkgd", jax.nn.softmax(scores).astype(v.dtype), v, precision=exact)
    return out.reshape(q.shape)


def _by_heads(kernel: Any, q: Array, k: Array, v: Array, subtree_end: Array) -> Array:
    """Calls a kernel on scaled queries [batch, kv, group, seq, dim] and keys and values [batch, kv, seq, dim]."""
    batch, seq, heads, dim = q.shape
    scaled = (q.astype(jnp.float32) * dim**-0.5).astype(q.dtype)
    grouped = jnp.moveaxis(scaled.reshape(batch, seq, k.shape[2], -1, dim), 1, 3)
    out = kernel(grouped, jnp.moveaxis(k, 1, 2), jnp.moveaxis(v, 1, 2), subtree_end)
    return jnp.moveaxis(out, 3, 1).reshape(q.shape)


def _sharded(kernel: Any, mesh: Mesh | None, q: Array, k: Array, v: Array, subtree_end: Array) -> Array:
    """A kernel over all devices, cut as `RULES` cuts batch and heads: the compiler cannot cut a kernel by itself."""
    if mesh is None or mesh.size == 1:
        return kernel(q, k, v, subtree_end)
    spec = lambda x, *axes: named_sharding(mesh, (*axes, *[None] * (x.ndim - len(axes))), x.shape).spec
    queries, keys = spec(q, "batch", None, "heads"), spec(k, "batch", None, "kv")

    def local(q: Array, k: Array, v: Array, subtree_end: Array) -> Array:
        if queries[2] != keys[2]:  # heads are cut, the fewer KV heads are whole on every device
            k, v = (_own(x, q.shape[2], mesh.shape["tensor"]) for x in (k, v))
        return kernel(q, k, v, subtree_end)

    specs = queries, keys, keys, PartitionSpec(queries[0])
    # Kernels do not say over which axes their outputs vary.
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=queries, check_vma=False)(q, k, v, subtree_end)


def _own(x: Float[Array, "batch seq kv dim"], heads: int, ways: int) -> Float[Array, "batch seq own dim"]:
    """The KV heads of this device's `heads` query heads: one where they share it, else one each."""
    group = heads * ways // x.shape[2]
    first = jax.lax.axis_index("tensor") * heads
    mine = first if group % heads == 0 else first + jnp.arange(heads)
    return jnp.take(x, jnp.atleast_1d(mine // group), axis=2)
