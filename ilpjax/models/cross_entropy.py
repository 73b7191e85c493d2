"""Cross-entropy without the logits of all tokens at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from ilpjax.models.attention import precision
from ilpjax.parallel import constrain

Sums = tuple[Float[Array, ""], Float[Array, "batch seq"], Bool[Array, "batch seq"]]


def weighted_nats_reference(
    hidden: Float[Array, "batch seq embed"],
    head: Float[Array, "vocab embed"],
    targets: Int[Array, "batch seq"],
    weights: Float[Array, "batch seq"],
) -> Sums:
    """What `weighted_nats` computes, plainly: holds float32 [batch, seq, vocab]."""
    logits = _logits(hidden, head.astype(hidden.dtype))
    at_target = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    logprob = at_target - jax.nn.logsumexp(logits, -1)
    counts = weights > 0
    nats = -jnp.sum(weights * logprob)
    return nats, jnp.where(counts, jax.lax.stop_gradient(logprob), 0), counts & (at_target >= jnp.max(logits, -1))


def weighted_nats(
    hidden: Float[Array, "batch seq embed"],
    head: Float[Array, "vocab embed"],
    targets: Int[Array, "batch seq"],
    weights: Float[Array, "batch seq"],
    *,
    chunk: int,
    mesh: Mesh | None = None,
) -> Sums:
    """(sum of weight times nats, each target's log-prob in nats, whether no token is likelier).

    `hidden` is in the compute dtype, and `head` is cast to it; the statistics and the sums are float32. Only tokens of
    a weight above 0 count: the others' log-prob is 0, and no logits are computed for them. Logits exist for `chunk`
    tokens of a device at a time. The gradient, of the sum alone, is made beside it from the same logits: nothing is
    computed twice. With `mesh` each device takes its own tokens, and the head's gradient is added up once, after the
    loop. No gradient for `weights`.
    """
    batch, seq = targets.shape
    parts = mesh.shape["data"] * mesh.shape["fsdp"] if mesh is not None else 1
    parts = 1 if batch % parts else parts
    tokens = batch // parts * seq
    chunk = min(chunk, tokens)
    steps = -(-tokens // chunk)
    # Those that count first, so that the loop can end behind them.
    weights = jax.lax.stop_gradient(weights).astype(jnp.float32)
    order = jnp.argsort(weights.reshape(parts, tokens) <= 0, axis=1, stable=True)

    def cut(x: Array) -> Array:
        """[batch, seq, ...] -> [steps, parts, chunk, ...]"""
        x = x.reshape(parts, tokens, *x.shape[2:])
        x = jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), axis=1)
        x = jnp.pad(x, ((0, 0), (0, steps * chunk - tokens), *((0, 0),) * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(parts, steps, chunk, *x.shape[2:]), 1, 0)

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 1).reshape(parts, steps * chunk)
        return jnp.take_along_axis(x, jnp.argsort(order, axis=1), axis=1).reshape(batch, seq)

    nats, logprob, is_best = _chunks(mesh, cut(hidden), head, cut(targets), cut(weights))
    return nats, join(logprob), join(is_best)


def _logits(x: Array, head: Array) -> Array:
    return jnp.einsum("...d,vd->...v", x, head, precision=precision(x.dtype), preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunks(mesh: Mesh | None, hidden: Array, head: Array, targets: Array, weights: Array) -> tuple[Array, ...]:
    """hidden [steps, parts, tokens, embed], targets and weights [steps, parts, tokens]; the parts lie on different
    devices."""
    return _loop(mesh, hidden, head, targets, weights, gradient=False)[0]


def _loop(mesh: Mesh | None, hidden: Array, head: Array, targets: Array, weights: Array, gradient: bool):
    """The sums, and their gradients for hidden and head (None without)."""
    # Gathered here, or the compiler does it anew in every turn of the loop.
    matrix = constrain(head.astype(hidden.dtype), mesh, ("vocab", None))
    dot = functools.partial(jnp.einsum, precision=precision(hidden.dtype), preferred_element_type=jnp.float32)

    def apart(x: Array) -> Array:
        return constrain(x, mesh, ("batch", "vocab", None))

    def one(dhead: Array | None, chunk: tuple[Array, Array, Array]):
        x, target, weight = chunk
        logits = _logits(x, matrix)
        highest = jnp.max(logits, -1, keepdims=True)
        total = jnp.sum(jnp.exp(logits - highest), -1, keepdims=True)
        # A mask, not a gather: it fuses, and a vocabulary cut over devices stays cut.
        is_target = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) == target[..., None]
        at_target = jnp.sum(jnp.where(is_target, logits, 0), -1)
        normaliser = highest + jnp.log(total)
        counts = weight > 0
        logprob = jnp.where(counts, at_target - normaliser[..., 0], 0)
        told = logprob, counts & (at_target >= highest[..., 0])
        if dhead is None:
            return None, (told, None)
        dlogits = jnp.exp(logits - normaliser) - jnp.where(is_target, 1.0, 0.0)
        dlogits = (dlogits * weight[..., None]).astype(x.dtype)
        dx = dot("ptv,vd->ptd", dlogits, matrix).astype(x.dtype)
        return apart(dhead + dot("ptv,ptd->pvd", dlogits, x)), (told, dx)

    def body(dhead: Array | None, step: tuple[Array, tuple[Array, Array, Array]]):
        needed, chunk = step
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, dhead, chunk)[1])
        return jax.lax.cond(needed, one, lambda dhead, _: (dhead, nothing), dhead, chunk)

    needed = jnp.any(weights > 0, axis=(1, 2))  # before the loop: it asks all devices
    start = apart(jnp.zeros((hidden.shape[1], *head.shape), jnp.float32)) if gradient else None
    dhead, ((logprob, is_best), dhidden) = jax.lax.scan(body, start, (needed, (hidden, targets, weights)))
    if dhead is not None:
        dhead = _added(mesh, dhead).astype(head.dtype)
    return (-jnp.sum(weights * logprob), logprob, is_best), (dhidden, dhead)


def _added(mesh: Mesh | None, dhead: Float[Array, "parts vocab embed"]) -> Float[Array, "vocab embed"]:
    """Cut as the head is: scattered over fsdp, and what is left added over data. Said in two steps, or the compiler
    adds up the whole head on every device and keeps a part."""
    if mesh is not None and len(dhead) == mesh.shape["data"] * mesh.shape["fsdp"]:
        dhead = dhead.reshape(mesh.shape["data"], mesh.shape["fsdp"], *dhead.shape[1:]).sum(1)
        dhead = constrain(dhead, mesh, ("replicas", "vocab", "embed"))
    return constrain(dhead.sum(0), mesh, ("vocab", "embed"))


def _forward(mesh: Mesh | None, hidden: Array, head: Array, targets: Array, weights: Array):
    sums, grads = _loop(mesh, hidden, head, targets, weights, gradient=True)
    return sums, (grads, weights)


def _backward(mesh: Mesh | None, saved, cotangents):
    (dhidden, dhead), weights = saved
    scale = cotangents[0]
    no_target = np.zeros(weights.shape, jax.dtypes.float0)
    return (scale * dhidden).astype(dhidden.dtype), scale * dhead, no_target, jnp.zeros_like(weights)


_chunks.defvjp(_forward, _backward)
