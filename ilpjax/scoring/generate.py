"""Prefill and decode on the device: a prompt's keys and values are kept once, each answer keeps only its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from ilpjax.models import Model, Params, attention
from ilpjax.parallel import constrain, named_sharding, replicated
from ilpjax.scoring.decoding import Choice, Lanes, extend, lane_keys, new_lanes

State = dict[str, Any]
_PREFIX = ("layers", "batch", "kv", "seq", "head_dim")
_SUFFIX = ("layers", "batch", None, "kv", "seq", "head_dim")


@dataclass(frozen=True)
class SampleShape:
    """What one compilation is for: static under `jax.jit`.

    `group`: prompts a `prefill` takes. `allowed`: how many ids an answer may be chosen from; 0: all.
    """

    slots: int
    lanes: int
    prompt: int
    new_tokens: int
    group: int
    dtype: Any
    how: Choice
    allowed: int = 0

    @property
    def columns(self) -> int:
        """Keys a lane keeps. The last token is never fed back, so it needs none."""
        return max(1, self.new_tokens - 1)


def new_state(model: Model, mesh: Mesh, shape: SampleShape) -> State:
    """Empty slots. Keys and values: prefix [layers, slots, kv, prompt, dim], suffix [layers, slots, lanes, kv, columns,
    dim]. length, step [slots]: tokens of the prompt, and of its answers so far."""
    spec, lanes = model.spec, (shape.slots, shape.lanes)
    prefix = (spec.layers, shape.slots, spec.kv_heads, shape.prompt, spec.head_dim)
    suffix = (spec.layers, *lanes, spec.kv_heads, shape.columns, spec.head_dim)
    state = {
        "prefix": [jnp.zeros(prefix, shape.dtype) for _ in "kv"],
        "suffix": [jnp.zeros(suffix, shape.dtype) for _ in "kv"],
        "length": jnp.zeros(shape.slots, jnp.int32),
        "step": jnp.zeros(shape.slots, jnp.int32),
        "column": jnp.int32(0),
        "lanes": new_lanes(jnp.zeros((*lanes, 2), jnp.uint32), jnp.zeros(lanes, bool), shape.new_tokens, shape.how),
    }
    return _placed(mesh, state)


def _placed(mesh: Mesh, state: State) -> State:
    """As it came, so that no program is compiled again for another placement."""
    return jax.tree.map(jax.lax.with_sharding_constraint, state, state_shardings(mesh, state))


def state_shardings(mesh: Mesh, state: State) -> State:
    """Slots over data x fsdp, heads over tensor: no step moves a key or a value between devices."""

    def one(path: Any, x: Array) -> jax.sharding.NamedSharding:
        axes: Sequence[str | None] = ("batch", *(None,) * (x.ndim - 1)) if x.ndim else ()
        return named_sharding(mesh, {"prefix": _PREFIX, "suffix": _SUFFIX}.get(path[0].key, axes), x.shape)

    return jax.tree_util.tree_map_with_path(one, state)


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def prefill(
    model: Model,
    mesh: Mesh,
    shape: SampleShape,
    params: Params,
    state: State,
    batch: dict[str, Array],
    stop: Int[Array, "s"],
) -> State:
    """Reads prompts into slots and chooses the first token of every lane.

    batch: tokens [group, prompt], right-padded; length, slot [group] (the place among the slots of its device; one too
    high for padding, which goes nowhere); key [group, 2]; sample [group, lanes], -1 where a lane has nothing to do;
    allowed [group, allowed], -1 for padding.
    """
    ways = ways_of(mesh)
    tokens = constrain(batch["tokens"], mesh, ("batch", "seq"))
    ends = jnp.full_like(tokens, shape.prompt)  # causal: the padding comes after all that may not see it
    positions = jnp.broadcast_to(jnp.arange(shape.prompt), tokens.shape)

    def attend(q: Array, k: Array, v: Array, cache: list[Array], layer: Array) -> tuple[Array, list[Array]]:
        put = lambda buffer, x: _put(buffer, x.swapaxes(1, 2), batch["slot"], ways, layer)
        return attention(q, k, v, ends, mesh=mesh, packed=True), [
            put(buffer, x) for buffer, x in zip(cache, (k, v), strict=True)
        ]

    hidden, prefix = model.cached(params, tokens, positions, attend, state["prefix"], dtype=shape.dtype)
    last = jnp.take_along_axis(hidden, (batch["length"] - 1)[:, None, None], axis=1)
    logits = _logits(model, params, mesh, last)
    samples = batch["sample"]
    lanes = new_lanes(lane_keys(batch["key"], jnp.maximum(samples, 0)), samples >= 0, shape.new_tokens, shape.how)
    start = jnp.zeros(shape.group, jnp.int32)
    if shape.allowed:
        allowed = batch["allowed"][:, None]
        few = jnp.take_along_axis(logits, jnp.maximum(allowed, 0), -1)
        how = replace(shape.how, vocab=shape.allowed)
        lanes, _ = extend(lanes, jnp.where(allowed >= 0, few, -jnp.inf), start, jnp.full(1, -1), how)
        lanes["tokens"] = jnp.take_along_axis(allowed, lanes["tokens"], -1)
    else:
        lanes, _ = extend(lanes, logits, start, stop, shape.how)
    new = {"length": batch["length"], "step": start + 1, "lanes": lanes}
    put = lambda buffer, x: _put(buffer, x, batch["slot"], ways)
    return _placed(mesh, state | {"prefix": prefix} | jax.tree.map(put, {name: state[name] for name in new}, new))


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def decode(
    model: Model,
    mesh: Mesh,
    shape: SampleShape,
    params: Params,
    state: State,
    stop: Int[Array, "s"],
    enough: Int[Array, ""],
) -> tuple[State, Lanes]:
    """Extends all lanes until `enough` slots are done; an empty slot is done.

    Returns the state, and what the host wants to know: tokens, logprobs, count and done of every lane, on every
    process.
    """

    def unfinished(state: State) -> Array:
        return state["lanes"]["done"].all(1).sum() < enough

    def step(state: State) -> State:
        return _step(model, mesh, shape, params, state, stop)

    state = _placed(mesh, jax.lax.while_loop(unfinished, step, state))
    seen = {name: state["lanes"][name] for name in ("tokens", "logprobs", "count", "done")}
    return state, {name: jax.lax.with_sharding_constraint(x, replicated(mesh)) for name, x in seen.items()}


def _step(model: Model, mesh: Mesh, shape: SampleShape, params: Params, state: State, stop: Array) -> State:
    """Feeds every lane's last token and chooses the next one.

    The suffix is a ring: all lanes write the same column, whenever their slot was filled, so that the write is one
    slice. A slot's own columns are the last `step` ones.
    """
    column, count, prefix = state["column"], state["step"], state["prefix"]
    age = (column - jnp.arange(shape.columns)) % shape.columns
    in_prompt = jnp.arange(shape.prompt) < state["length"][:, None]
    in_answer = age < jnp.maximum(count, 1)[:, None]

    def attend(q: Array, k: Array, v: Array, cache: list[Array], layer: Array) -> tuple[Array, list[Array]]:
        write = lambda buffer, x: constrain(
            jax.lax.dynamic_update_slice(buffer, x[None, ..., None, :], (layer, 0, 0, 0, column, 0)), mesh, _SUFFIX
        )
        cache = [write(buffer, x) for buffer, x in zip(cache, (k, v), strict=True)]
        pk, pv, sk, sv = (jax.lax.dynamic_index_in_dim(x, layer, keepdims=False) for x in (*prefix, *cache))
        return shared_prefix_attention(q, pk, pv, sk, sv, in_prompt, in_answer), cache

    lanes = state["lanes"]
    positions = jnp.broadcast_to((state["length"] + count - 1)[:, None], lanes["token"].shape)
    hidden, suffix = model.cached(params, lanes["token"], positions, attend, state["suffix"], dtype=shape.dtype)
    live = ~lanes["done"].all(1)
    lanes, origin = extend(lanes, _logits(model, params, mesh, hidden), count, stop, shape.how)
    if origin is not None:
        suffix = [jnp.take_along_axis(x, origin[None, :, :, None, None, None], 2) for x in suffix]
    return state | {
        "suffix": suffix,
        "lanes": lanes,
        "step": count + live,
        "column": (column + 1) % shape.columns,
    }


def shared_prefix_attention(
    q: Float[Array, "slots lanes heads dim"],
    prefix_k: Float[Array, "slots kv prompt dim"],
    prefix_v: Float[Array, "slots kv prompt dim"],
    suffix_k: Float[Array, "slots lanes kv columns dim"],
    suffix_v: Float[Array, "slots lanes kv columns dim"],
    in_prompt: Array,
    in_answer: Array,
) -> Float[Array, "slots lanes heads dim"]:
    """One softmax over a prompt that all lanes of a slot share and over each lane's own keys (arXiv:2402.05099).

    in_prompt [slots, prompt] and in_answer [slots, columns] say which keys are there; scores and softmax in float32.
    """
    slots, lanes, heads, dim = q.shape
    kv = prefix_k.shape[1]
    dot = partial(jnp.einsum, precision=_precision(q.dtype), preferred_element_type=jnp.float32)
    q = q.reshape(slots, lanes, kv, heads // kv, dim)
    together = lambda x: x.swapaxes(1, 2).reshape(slots, kv, -1, x.shape[-1])  # all lanes as rows of one product
    apart = lambda x: x.reshape(slots, kv, lanes, -1, x.shape[-1]).swapaxes(1, 2)
    before = dot("bkqd,bkpd->bkqp", together(q), prefix_k) * dim**-0.5
    own = dot("bnkgd,bnkcd->bnkgc", q, suffix_k) * dim**-0.5
    before = jnp.where(in_prompt[:, None, None], before, -1e30)
    own = jnp.where(in_answer[:, None, None, None], own, -1e30)
    peak = jnp.maximum(apart(before.max(-1, keepdims=True)), own.max(-1, keepdims=True))
    before, own = jnp.exp(before - together(peak)), jnp.exp(own - peak)
    total = apart(before.sum(-1, keepdims=True)) + own.sum(-1, keepdims=True)
    out = apart(dot("bkqp,bkpd->bkqd", before.astype(q.dtype), prefix_v))
    out += dot("bnkgc,bnkcd->bnkgd", own.astype(q.dtype), suffix_v)
    return (out / total).astype(q.dtype).reshape(slots, lanes, heads, dim)


def _precision(dtype: Any) -> jax.lax.Precision | None:
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


def _logits(model: Model, params: Params, mesh: Mesh, hidden: Array) -> Float[Array, "slots lanes vocab"]:
    head = model.head(params).astype(hidden.dtype)
    exact = _precision(hidden.dtype)
    logits = jnp.einsum("bnd,vd->bnv", hidden, head, precision=exact, preferred_element_type=jnp.float32)
    # Made with the vocabulary cut over `tensor`, read with the lanes cut over it: a choice needs a lane's whole row.
    return constrain(constrain(logits, mesh, ("batch", None, "vocab")), mesh, ("batch", "heads", None))


def _put(buffer: Array, values: Array, slot: Int[Array, "group"], ways: int, layer: Array | None = None) -> Array:
    """buffer[(layer,) slot] = values; each device's values go to its own slots."""
    axis = 0 if layer is None else 1
    cut = buffer.reshape(*buffer.shape[:axis], ways, -1, *buffer.shape[axis + 1 :])

    def one(buffer: Array, values: Array, slot: Array) -> Array:
        where = (slot,) if layer is None else (layer, slot)
        return buffer.at[where].set(values, mode="drop")

    parts = values.reshape(ways, -1, *values.shape[1:]), slot.reshape(ways, -1)
    return jax.vmap(one, (axis, 0, 0), axis)(cut, *parts).reshape(buffer.shape)


def ways_of(mesh: Mesh) -> int:
    return mesh.shape["data"] * mesh.shape["fsdp"]
