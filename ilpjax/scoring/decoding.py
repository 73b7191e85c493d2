"""Which token comes next: drawn, the best, or the next of several beams.

A lane is one answer of one prompt. Lanes are a dict of arrays, so that their state goes through `jax.lax.while_loop`:
tokens, logprobs [slots, lanes, new_tokens], count (tokens so far), done, token (the last one) and key [slots, lanes];
beams have more, see `Beams`.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

Lanes = dict[str, Array]
BLOCK = 128  # ids a block; a draw picks a block, then an id in it


@dataclass(frozen=True)
class Choice:
    """How a token is chosen. `vocab`: the ids below it may be chosen, what a model has beyond them is padding."""

    decode: Literal["sample", "greedy", "beam"]
    vocab: int
    temperature: float = 1.0
    top_p: float = 1.0


def row_key(seed: int, row_id: str) -> UInt32[np.ndarray, "2"]:
    """The key of a row's draws: 64 bits of a hash, so that no place in a file or batch can change it."""
    digest = hashlib.sha256(f"{seed}\0{row_id}".encode()).digest()
    return np.frombuffer(digest[:8], "<u4").astype(np.uint32)


def lane_keys(rows: UInt32[Array, "slots 2"], samples: Int[Array, "slots lanes"]) -> UInt32[Array, "slots lanes 2"]:
    fold = lambda row, sample: jax.random.key_data(jax.random.fold_in(_key(row), sample))
    return jax.vmap(jax.vmap(fold, (None, 0)))(rows, samples)


def uniforms(keys: UInt32[Array, "slots lanes 2"], position: Int[Array, "slots"]) -> Float[Array, "slots lanes 2"]:
    """Two numbers in [0, 1) for the token at `position` of an answer, keyed by (seed, row_id, sample, position)."""
    draw = lambda key, position: jax.random.uniform(jax.random.fold_in(_key(key), position), (2,))
    return jax.vmap(jax.vmap(draw, (0, None)))(keys, position)


def _key(data: Array) -> Array:
    return jax.random.wrap_key_data(data, impl="threefry2x32")


def pick(logits: Float[Array, "slots #lanes vocab"], u: Float[Array, "slots lanes 2"]) -> Int[Array, "slots lanes"]:
    """An id with probability softmax(logits), by inverse CDF: the first uniform picks a block of ids, the second an id
    in it, so that rare ids are not below the resolution of one float32. An id with logit -inf is never picked.

    Where the noise of a Gumbel draw costs a random number an id, this costs two a token.
    """
    short = -logits.shape[-1] % BLOCK
    if short:
        logits = jnp.pad(logits, ((0, 0), (0, 0), (0, short)), constant_values=-jnp.inf)
    peak = jnp.max(logits, -1, keepdims=True)
    blocks = logits.reshape(*logits.shape[:2], -1, BLOCK)
    block = _first(jnp.exp(blocks - peak[..., None]).sum(-1), u[..., 0])
    inside = jnp.take_along_axis(blocks, block[..., None, None], 2)[:, :, 0]
    return block * BLOCK + _first(jnp.exp(inside - peak), u[..., 1])


def _first(weights: Float[Array, "slots #lanes n"], u: Float[Array, "slots lanes"]) -> Int[Array, "slots lanes"]:
    """The first place where the cumulative share passes u; one of weight 0 never is."""
    reached = jnp.cumsum(weights, -1)
    passed = (reached > u[..., None] * reached[..., -1:]) & (weights > 0)
    return jnp.where(passed.any(-1), jnp.argmax(passed, -1), jnp.argmax(weights, -1))


def nucleus(logits: Float[Array, "slots lanes vocab"], top_p: float) -> Float[Array, "slots lanes vocab"]:
    """-inf for all but the most probable ids that together have `top_p` (arXiv:1904.09751); ties stay together.

    The threshold is searched among the 2^30 float32 between 0 and 1, bit by bit: 30 sums instead of a sort.
    """
    weight = jnp.exp(logits - jnp.max(logits, -1, keepdims=True))
    wanted = top_p * weight.sum(-1)
    bits = jax.lax.bitcast_convert_type(weight, jnp.int32)  # positive floats order as their bits do

    def narrow(n: Array, least: Array) -> Array:
        higher = least | (1 << (29 - n))
        mass = jnp.where(bits >= higher[..., None], weight, 0).sum(-1)
        return jnp.where(mass >= wanted, higher, least)

    least = jax.lax.fori_loop(0, 30, narrow, jnp.zeros(wanted.shape, jnp.int32))
    return jnp.where(bits >= jnp.maximum(least, 1)[..., None], logits, -jnp.inf)


def choose(
    logits: Float[Array, "slots #lanes vocab"],
    keys: UInt32[Array, "slots lanes 2"],
    position: Int[Array, "slots"],
    how: Choice,
) -> tuple[Int[Array, "slots lanes"], Float[Array, "slots lanes"]]:
    """(ids, their log-probs in nats at temperature 1 among all of `logits`). Draws as `how` says, or the argmax."""
    allowed = _without_padding(logits, how)
    if how.decode == "greedy":
        token = jnp.broadcast_to(jnp.argmax(allowed, -1), keys.shape[:2])
    else:
        scaled = allowed / how.temperature
        token = pick(nucleus(scaled, how.top_p) if how.top_p < 1 else scaled, uniforms(keys, position))
    chosen = jnp.take_along_axis(logits, token[..., None], -1)[..., 0]
    return token.astype(jnp.int32), chosen - jax.nn.logsumexp(logits, -1)


def _without_padding(logits: Array, how: Choice) -> Array:
    if how.vocab >= logits.shape[-1]:
        return logits
    return jnp.where(jnp.arange(logits.shape[-1]) < how.vocab, logits, -jnp.inf)


def new_lanes(keys: UInt32[Array, "slots lanes 2"], active: Array, new_tokens: int, how: Choice) -> Lanes:
    """Lanes before their first token; those that are not `active` [slots, lanes] are done."""
    shape = keys.shape[:2]
    lanes = {
        "key": keys,
        "token": jnp.zeros(shape, jnp.int32),
        "tokens": jnp.zeros((*shape, new_tokens), jnp.int32),
        "logprobs": jnp.zeros((*shape, new_tokens), jnp.float32),
        "count": jnp.zeros(shape, jnp.int32),
        "done": ~active,
    }
    if how.decode != "beam":
        return lanes
    first = jnp.where(jnp.arange(shape[1]) == 0, 0.0, -jnp.inf)  # all beams begin alike, so one is enough
    return lanes | {
        "live_score": jnp.broadcast_to(first, shape),
        "live_tokens": lanes["tokens"],
        "live_logprobs": lanes["logprobs"],
        "score": jnp.full(shape, -jnp.inf),
    }


def extend(
    lanes: Lanes,
    logits: Float[Array, "slots #lanes vocab"],
    step: Int[Array, "slots"],
    stop: Int[Array, "s"],
    how: Choice,
) -> tuple[Lanes, Int[Array, "slots lanes"] | None]:
    """Every lane that is not done gets its token number `step`.

    Returns also the lane each one continues, where lanes change places (beams): its cache must follow.
    """
    if how.decode == "beam":
        return _extend_beams(lanes, logits, step, stop, how)
    token, logprob = choose(logits, lanes["key"], step, how)
    going = ~lanes["done"]
    here = going[..., None] & (jnp.arange(lanes["tokens"].shape[-1]) == step[:, None, None])
    return lanes | {
        "token": token,
        "tokens": jnp.where(here, token[..., None], lanes["tokens"]),
        "logprobs": jnp.where(here, logprob[..., None], lanes["logprobs"]),
        "count": lanes["count"] + going,
        "done": lanes["done"] | ends(token, stop) | (step[:, None] + 1 >= lanes["tokens"].shape[-1]),
    }, None


def ends(token: Array, stop: Int[Array, "s"]) -> Array:
    return (token[..., None] == stop).any(-1)


def _extend_beams(
    lanes: Lanes, logits: Array, step: Array, stop: Array, how: Choice
) -> tuple[Lanes, Int[Array, "slots lanes"]]:
    """Beam search by summed log-prob, as `transformers` does it with length_penalty 0.

    Of the best candidates, those that end go to the finished answers (which hold the `lanes` best), the others live
    on. A prompt is done when no living beam can still beat the worst answer: scores only fall.
    """
    width, length = lanes["tokens"].shape[1:]
    logprobs = _without_padding(jax.nn.log_softmax(logits), how)
    totals = lanes["live_score"][..., None] + logprobs
    # Enough that `width` remain when all that end are taken away.
    few = min(width * (1 + max(1, stop.size)), totals.shape[-1])
    best, ids = jax.lax.top_k(totals, few)
    total, place = jax.lax.top_k(best.reshape(len(best), -1), few)
    origin, token = place // few, jnp.take_along_axis(ids.reshape(len(ids), -1), place, 1)
    here = jnp.arange(length) == step[:, None, None]

    follow = lambda x: jnp.take_along_axis(x, origin.reshape(*origin.shape, *(1,) * (x.ndim - 2)), 1)
    tokens = jnp.where(here, token[..., None], follow(lanes["live_tokens"]))
    own = jnp.where(total > -jnp.inf, total - follow(lanes["live_score"]), 0.0)
    candidate = {"tokens": tokens, "logprobs": jnp.where(here, own[..., None], follow(lanes["live_logprobs"]))}

    ended, last = ends(token, stop), step[:, None] + 1 >= length
    finished = (ended | last) & (jnp.arange(total.shape[1]) < width)
    pool = {name: jnp.concatenate([lanes[name], candidate[name]], 1) for name in candidate}
    pool["count"] = jnp.concatenate([lanes["count"], jnp.broadcast_to(step[:, None] + 1, total.shape)], 1)
    answers = _best(jnp.concatenate([lanes["score"], jnp.where(finished, total, -jnp.inf)], 1), pool, width, "score")
    alive = candidate | {"token": token, "origin": origin}
    living = _best(jnp.where(ended, -jnp.inf, total), alive, width, "live_score")

    hopeless = answers["score"][:, -1] >= living["live_score"][:, 0]
    done = lanes["done"] | last | hopeless[:, None]
    new = answers | {"live_score": living["live_score"], "token": living["token"], "done": done}
    new |= {f"live_{name}": living[name] for name in candidate}
    over = lambda x: lanes["done"].reshape(*done.shape, *(1,) * (x.ndim - 2))
    return lanes | {name: jnp.where(over(x), lanes[name], x) for name, x in new.items()}, living["origin"]


def _best(score: Array, values: Lanes, width: int, name: str) -> Lanes:
    """The `width` entries of the highest score, and the score under `name`; fewer than that are filled with -inf."""
    short = max(0, width - score.shape[1])
    score = jnp.pad(score, ((0, 0), (0, short)), constant_values=-jnp.inf)
    top, which = jax.lax.top_k(score, width)
    which = jnp.minimum(which, score.shape[1] - 1 - short)
    take = lambda x: jnp.take_along_axis(x, which.reshape(*which.shape, *(1,) * (x.ndim - 2)), 1)
    return {key: take(x) for key, x in values.items()} | {name: top}
