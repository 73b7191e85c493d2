"""Log-probs of given tokens without the logits of all tokens at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from ilpjax.models.attention import precision
from ilpjax.parallel import constrain


def target_logprobs_reference(
    hidden: Float[Array, "*tokens embed"], head: Float[Array, "vocab embed"], targets: Int[Array, "*tokens"]
) -> tuple[Float[Array, "*tokens"], Bool[Array, "*tokens"]]:
    """What `target_logprobs` computes, plainly: holds float32 [tokens, vocab]."""
    logits = _logits(hidden, head.astype(hidden.dtype))
    logprob = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
    return logprob, jnp.argmax(logits, -1) == targets


def target_logprobs(
    hidden: Float[Array, "*tokens embed"],
    head: Float[Array, "vocab embed"],
    targets: Int[Array, "*tokens"],
    *,
    chunk: int,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "*tokens"], Bool[Array, "*tokens"]]:
    """(log-prob of each target in nats, float32; whether it is the argmax).

    `hidden` is [tokens, embed] or [batch, seq, embed], in the compute dtype; `head` is cast to it.
    Logits exist for about `chunk` tokens of a device at a time, forward and backward: the loop goes along seq, so that
    a batch cut over devices stays where it is. The gradient multiplies in the compute dtype and sums the head's
    gradient in float32; with `mesh` each device sums its own tokens and they are added up once, after the loop.
    """
    if hidden.ndim == 2:
        logprob, is_argmax = target_logprobs(hidden[None], head, targets[None], chunk=chunk)
        return logprob[0], is_argmax[0]
    batch, seq = targets.shape
    parts = mesh.shape["data"] * mesh.shape["fsdp"] if mesh is not None else 1
    if batch % parts:
        parts = 1
    step = max(1, min(chunk * parts // batch, seq))
    steps = -(-seq // step)
    pad = ((0, 0), (0, steps * step - seq))

    def cut(x: Array) -> Array:
        """[batch, seq, ...] -> [steps, parts, batch / parts * step, ...]"""
        x = jnp.pad(x, (*pad, *((0, 0),) * (x.ndim - 2)))
        x = x.reshape(parts, batch // parts, steps, step, *x.shape[2:])
        return jnp.moveaxis(x, 2, 0).reshape(steps, parts, batch // parts * step, *x.shape[4:])

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x.reshape(steps, parts, batch // parts, step), 0, 2)
        return x.reshape(batch, steps * step)[:, :seq]

    logprob, is_argmax = _chunks(mesh, cut(hidden), head, cut(targets))
    return join(logprob), join(is_argmax)


def _logits(x: Array, head: Array) -> Array:
    return jnp.einsum("...d,vd->...v", x, head, precision=precision(x.dtype), preferred_element_type=jnp.float32)


def _at_target(logits: Array, targets: Array) -> Array:
    """A mask, not a gather: it fuses, and a vocabulary cut over devices stays cut."""
    return jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) == targets[..., None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunks(mesh: Mesh | None, hidden: Array, head: Array, targets: Array) -> tuple[Array, Array]:
    """hidden [steps, parts, tokens, embed], targets [steps, parts, tokens]; the parts lie on different devices."""
    return _forward(mesh, hidden, head, targets)[0]


def _gathered(mesh: Mesh | None, head: Array, dtype: jnp.dtype) -> Array:
    """The head as a chunk multiplies with it. Said here, or the compiler gathers it anew in every turn of the loop."""
    return constrain(head.astype(dtype), mesh, ("vocab", None))


def _forward(mesh: Mesh | None, hidden: Array, head: Array, targets: Array):
    weights = _gathered(mesh, head, hidden.dtype)

    def body(_, chunk):
        x, target = chunk
        logits = _logits(x, weights)
        lse = jax.nn.logsumexp(logits, -1)
        at_target = jnp.sum(jnp.where(_at_target(logits, target), logits, 0), -1)
        return None, (at_target - lse, jnp.argmax(logits, -1) == target, lse)

    _, (logprob, is_argmax, lse) = jax.lax.scan(body, None, (hidden, targets))
    return (logprob, is_argmax), (hidden, head, targets, lse)


def _backward(mesh: Mesh | None, saved, cotangents):
    hidden, head, targets, lse = saved
    weights, exact = _gathered(mesh, head, hidden.dtype), precision(hidden.dtype)
    dot = functools.partial(jnp.einsum, precision=exact, preferred_element_type=jnp.float32)

    def apart(x: Array) -> Array:
        return constrain(x, mesh, ("batch", "vocab", None))

    def body(dhead, chunk):
        x, target, lse, dlogprob = chunk
        logits = _logits(x, weights)
        dlogits = jnp.where(_at_target(logits, target), 1.0, 0.0) - jnp.exp(logits - lse[..., None])
        dlogits = (dlogits * dlogprob[..., None]).astype(x.dtype)
        dx = dot("ptv,vd->ptd", dlogits, weights).astype(x.dtype)
        return apart(dhead + dot("ptv,ptd->pvd", dlogits, x)), dx

    zero = apart(jnp.zeros((hidden.shape[1], *head.shape), jnp.float32))
    dhead, dhidden = jax.lax.scan(body, zero, (hidden, targets, lse, cotangents[0]))
    # Cut as the head is: a reduce-scatter, not an all-reduce of which each device keeps a part.
    dhead = constrain(dhead.sum(0), mesh, ("vocab", "embed"))
    return dhidden, dhead.astype(head.dtype), np.zeros(targets.shape, jax.dtypes.float0)


_chunks.defvjp(_forward, _backward)
