"""Log-probs of given tokens without the logits of all tokens at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ilpjax.models.attention import precision


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
) -> tuple[Float[Array, "*tokens"], Bool[Array, "*tokens"]]:
    """(log-prob of each target in nats, float32; whether it is the argmax).

    `hidden` is [tokens, embed] or [batch, seq, embed], in the compute dtype; `head` is cast to it.
    Logits exist for about `chunk` tokens at a time, forward and backward, counted over all devices: the loop goes
    along seq, so that a batch cut over devices stays where it is. The gradient multiplies in the compute dtype and
    sums the head's gradient in float32.
    """
    if hidden.ndim == 2:
        logprob, is_argmax = target_logprobs(hidden[None], head, targets[None], chunk=chunk)
        return logprob[0], is_argmax[0]
    batch, seq = targets.shape
    step = max(1, min(chunk // batch, seq))
    steps = -(-seq // step)
    pad = ((0, 0), (0, steps * step - seq))

    def cut(x: Array) -> Array:
        """[batch, seq, ...] -> [steps, batch, step, ...]"""
        x = jnp.pad(x, (*pad, *((0, 0),) * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(batch, steps, step, *x.shape[2:]), 1, 0)

    def join(x: Array) -> Array:
        return jnp.moveaxis(x, 0, 1).reshape(batch, steps * step)[:, :seq]

    logprob, is_argmax = _chunks(cut(hidden), head, cut(targets))
    return join(logprob), join(is_argmax)


def _logits(x: Array, head: Array) -> Array:
    return jnp.einsum("...d,vd->...v", x, head, precision=precision(x.dtype), preferred_element_type=jnp.float32)


def _at_target(logits: Array, targets: Array) -> Array:
    """A mask, not a gather: it fuses, and a vocabulary cut over devices stays cut."""
    return jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) == targets[..., None]


@jax.custom_vjp
def _chunks(hidden: Array, head: Array, targets: Array) -> tuple[Array, Array]:
    return _forward(hidden, head, targets)[0]


def _forward(hidden: Array, head: Array, targets: Array):
    weights = head.astype(hidden.dtype)

    def body(_, chunk):
        x, target = chunk
        logits = _logits(x, weights)
        lse = jax.nn.logsumexp(logits, -1)
        at_target = jnp.sum(jnp.where(_at_target(logits, target), logits, 0), -1)
        return None, (at_target - lse, jnp.argmax(logits, -1) == target, lse)

    _, (logprob, is_argmax, lse) = jax.lax.scan(body, None, (hidden, targets))
    return (logprob, is_argmax), (hidden, head, targets, lse)


def _backward(saved, cotangents):
    hidden, head, targets, lse = saved
    weights, exact = head.astype(hidden.dtype), precision(hidden.dtype)
    dot = functools.partial(jnp.einsum, precision=exact, preferred_element_type=jnp.float32)

    def body(dhead, chunk):
        x, target, lse, dlogprob = chunk
        logits = _logits(x, weights)
        dlogits = jnp.where(_at_target(logits, target), 1.0, 0.0) - jnp.exp(logits - lse[..., None])
        dlogits = (dlogits * dlogprob[..., None]).astype(x.dtype)
        dx = dot("bsv,vd->bsd", dlogits, weights).astype(x.dtype)
        return dhead + dot("bsv,bsd->vd", dlogits, x), dx

    zero = jnp.zeros(head.shape, jnp.float32)
    dhead, dhidden = jax.lax.scan(body, zero, (hidden, targets, lse, cotangents[0]))
    return dhidden, dhead.astype(head.dtype), np.zeros(targets.shape, jax.dtypes.float0)


_chunks.defvjp(_forward, _backward)
