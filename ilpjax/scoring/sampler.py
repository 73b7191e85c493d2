"""N answers of a prompt from one prefill: its keys and values are kept once, each answer keeps only its own.

A slot is a prompt at work, with N lanes. `prefill` fills slots, `decode` extends all lanes on the device until enough
slots are done; the host takes those out, fills them with waiting prompts and goes on.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Int32

from ilpjax.config import SampleConfig
from ilpjax.errors import InputError
from ilpjax.models import Model, Params, attention, compute_dtype
from ilpjax.parallel import constrain, named_sharding, replicated
from ilpjax.scoring.decoding import Choice, Lanes, extend, lane_keys, new_lanes, row_key
from ilpjax.scoring.tree import SHORTEST, next_power

GROUP = 1024  # prompt tokens a device works on at a time
State = dict[str, Any]
_PREFIX = ("layers", "batch", "kv", "seq", "head_dim")
_SUFFIX = ("layers", "batch", None, "kv", "seq", "head_dim")


@dataclass(frozen=True)
class Prompt:
    """`samples`: which of the row's draws are wanted. `allowed`: the answer is one of these ids, no more."""

    row_id: str
    tokens: Int32[np.ndarray, " n"]
    samples: tuple[int, ...]
    allowed: tuple[int, ...] = ()


@dataclass(frozen=True)
class Answer:
    """`logprobs`: nats, at temperature 1 among all ids (among the allowed ones where those are given)."""

    sample: int
    tokens: Int32[np.ndarray, " n"]
    logprobs: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Shape:
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


def new_state(model: Model, mesh: Mesh, shape: Shape) -> State:
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
    return jax.tree.map(jax.lax.with_sharding_constraint, state, state_shardings(mesh, state))


def state_shardings(mesh: Mesh, state: State) -> State:
    """Slots over data x fsdp, heads over tensor: no step moves a key or a value between devices."""

    def one(path: Any, x: Array) -> jax.sharding.NamedSharding:
        axes: Sequence[str | None] = ("batch", *(None,) * (x.ndim - 1)) if x.ndim else ()
        return named_sharding(mesh, {"prefix": _PREFIX, "suffix": _SUFFIX}.get(path[0].key, axes), x.shape)

    return jax.tree_util.tree_map_with_path(one, state)


def abstract(model: Model, mesh: Mesh, shape: Shape, stops: int = 1) -> tuple[State, dict[str, Any], Any, Any]:
    """(state, batch, stop, enough) as `jax.ShapeDtypeStruct`s, to lower `prefill` and `decode` without a device."""
    state = jax.eval_shape(lambda: new_state(model, mesh, shape))
    place = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    whole = lambda x: place(x, replicated(mesh))
    batch = jax.tree.map(whole, _batch([], [], shape, mesh, 0))
    stop, enough = jax.ShapeDtypeStruct((stops,), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
    return jax.tree.map(place, state, state_shardings(mesh, state)), batch, whole(stop), whole(enough)


_new_state = jax.jit(new_state, static_argnums=(0, 1, 2))


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def prefill(
    model: Model, mesh: Mesh, shape: Shape, params: Params, state: State, batch: dict[str, Array], stop: Int[Array, "s"]
) -> State:
    """Reads prompts into slots and chooses the first token of every lane.

    batch: tokens [group, prompt], right-padded; length, slot [group] (the place among the slots of its device; one too
    high for padding, which goes nowhere); key [group, 2]; sample [group, lanes], -1 where a lane has nothing to do;
    allowed [group, allowed], -1 for padding.
    """
    ways = _ways(mesh)
    tokens = constrain(batch["tokens"], mesh, ("batch", "seq"))
    ends = jnp.full_like(tokens, shape.prompt)  # causal: the padding comes after all that may not see it
    positions = jnp.broadcast_to(jnp.arange(shape.prompt), tokens.shape)

    def attend(q: Array, k: Array, v: Array, cache: list[Array], layer: Array) -> tuple[Array, list[Array]]:
        put = lambda buffer, x: _put(buffer, x.swapaxes(1, 2), batch["slot"], ways, layer)
        return attention(q, k, v, ends), [put(buffer, x) for buffer, x in zip(cache, (k, v), strict=True)]

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
    return state | {"prefix": prefix} | jax.tree.map(put, {name: state[name] for name in new}, new)


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def decode(
    model: Model, mesh: Mesh, shape: Shape, params: Params, state: State, stop: Int[Array, "s"], enough: Int[Array, ""]
) -> tuple[State, Lanes]:
    """Extends all lanes until `enough` slots are done; an empty slot is done.

    Returns the state, and what the host wants to know: tokens, logprobs, count and done of every lane, on every
    process.
    """

    def unfinished(state: State) -> Array:
        return state["lanes"]["done"].all(1).sum() < enough

    def step(state: State) -> State:
        return _step(model, mesh, shape, params, state, stop)

    state = jax.lax.while_loop(unfinished, step, state)
    seen = {name: state["lanes"][name] for name in ("tokens", "logprobs", "count", "done")}
    return state, {name: jax.lax.with_sharding_constraint(x, replicated(mesh)) for name, x in seen.items()}


def _step(model: Model, mesh: Mesh, shape: Shape, params: Params, state: State, stop: Array) -> State:
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
    exact = jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None
    dot = partial(jnp.einsum, precision=exact, preferred_element_type=jnp.float32)
    q = q.reshape(slots, lanes, kv, heads // kv, dim)
    before = dot("bnkgd,bkpd->bnkgp", q, prefix_k) * dim**-0.5
    own = dot("bnkgd,bnkcd->bnkgc", q, suffix_k) * dim**-0.5
    before = jnp.where(in_prompt[:, None, None, None], before, -1e30)
    own = jnp.where(in_answer[:, None, None, None], own, -1e30)
    peak = jnp.maximum(before.max(-1, keepdims=True), own.max(-1, keepdims=True))
    before, own = jnp.exp(before - peak), jnp.exp(own - peak)
    total = before.sum(-1, keepdims=True) + own.sum(-1, keepdims=True)
    out = dot("bnkgp,bkpd->bnkgd", before.astype(q.dtype), prefix_v)
    out += dot("bnkgc,bnkcd->bnkgd", own.astype(q.dtype), suffix_v)
    return (out / total).astype(q.dtype).reshape(slots, lanes, heads, dim)


def _logits(model: Model, params: Params, mesh: Mesh, hidden: Array) -> Float[Array, "slots lanes vocab"]:
    head = model.head(params).astype(hidden.dtype)
    exact = jax.lax.Precision.HIGHEST if hidden.dtype == jnp.float32 else None
    logits = jnp.einsum("bnd,vd->bnv", hidden, head, precision=exact, preferred_element_type=jnp.float32)
    # Made with the vocabulary cut over `tensor`, read with the lanes cut over it: a choice needs a lane's whole row.
    return constrain(constrain(logits, mesh, ("batch", None, "vocab")), mesh, ("batch", "heads", None))


def _put(buffer: Array, values: Array, slot: Int[Array, "group"], ways: int, layer: Array | None = None) -> Array:
    """buffer[(layer,) slot] = values; each device's values go to its own slots."""
    axis = 0 if layer is None else 1
    cut = buffer.reshape(*buffer.shape[:axis], ways, -1, *buffer.shape[axis + 1 :])
    index = (slice(None),) * axis

    def one(buffer: Array, values: Array, slot: Array) -> Array:
        where = (slot,) if layer is None else (layer, slot)
        return buffer.at[where].set(values, mode="drop")

    parts = values.reshape(ways, -1, *values.shape[1:]), slot.reshape(ways, -1)
    return jax.vmap(one, (axis, 0, 0), axis)(cut, *parts)[index].reshape(buffer.shape)


def _ways(mesh: Mesh) -> int:
    return mesh.shape["data"] * mesh.shape["fsdp"]


def _batch(prompts: Sequence[Prompt], slots: Sequence[int], shape: Shape, mesh: Mesh, seed: int) -> dict[str, Any]:
    """Arrays for `prefill`. `slots` are numbered over all devices; a device has `group / ways` places in a batch."""
    each, share = shape.slots // _ways(mesh), shape.group // _ways(mesh)
    out = {
        "tokens": np.zeros((shape.group, shape.prompt), np.int32),
        "length": np.ones(shape.group, np.int32),
        "slot": np.full(shape.group, each, np.int32),
        "key": np.zeros((shape.group, 2), np.uint32),
        "sample": np.full((shape.group, shape.lanes), -1, np.int32),
        "allowed": np.full((shape.group, shape.allowed), -1, np.int32),
    }
    free = {way: way * share for way in range(_ways(mesh))}
    for prompt, slot in zip(prompts, slots, strict=True):
        way, place = divmod(slot, each)
        n, free[way] = free[way], free[way] + 1
        out["tokens"][n, : len(prompt.tokens)] = prompt.tokens
        out["length"][n], out["slot"][n], out["key"][n] = len(prompt.tokens), place, row_key(seed, prompt.row_id)
        out["sample"][n, : len(prompt.samples)] = prompt.samples
        out["allowed"][n, : len(prompt.allowed)] = prompt.allowed
    return out


class Sampler:
    """Answers prompts, `cfg.batch` at a time. `shapes` are those met so far: two compilations each."""

    def __init__(
        self,
        model: Model,
        params: Params,
        mesh: Mesh,
        cfg: SampleConfig,
        *,
        seed: int = 0,
        stop: Sequence[int] = (),
        vocab: int | None = None,
    ):
        """stop: ids that end an answer; none: every answer has cfg.new_tokens. vocab: ids from here on are padding.

        Raises InputError when cfg.new_tokens leaves no room in the model's context.
        """
        self.limit = model.spec.max_positions - cfg.new_tokens + 1
        if self.limit < 1:
            raise InputError(
                f"new_tokens: {cfg.new_tokens}, but the model sees at most {model.spec.max_positions} tokens; "
                f"less than that would be right"
            )
        ways, dtype = _ways(mesh), compute_dtype(cfg.dtype)
        self._model, self._mesh, self._cfg, self._seed = model, mesh, cfg, seed
        self._slots = -(-cfg.batch // ways) * ways
        self._how = Choice(cfg.decode, min(vocab or model.spec.vocab, model.spec.vocab), cfg.temperature, cfg.top_p)
        self._dtype, self._params = dtype, params if dtype == jnp.float32 else _narrow(params, dtype)
        self._stop = np.array(sorted(stop) or [-1], np.int32)
        self.shapes: set[Shape] = set()

    def shape(self, prompt: Prompt) -> Shape:
        """It depends on this prompt only: 32, 48, 64, 96, 128, ... tokens."""
        length = next_power(len(prompt.tokens), SHORTEST)
        if length > SHORTEST and len(prompt.tokens) <= length * 3 // 4:
            length = length * 3 // 4
        ways = _ways(self._mesh)
        group = min(self._slots, max(1, GROUP // length) * ways)
        new, allowed = (1, next_power(len(prompt.allowed), 4)) if prompt.allowed else (self._cfg.new_tokens, 0)
        lanes = self._cfg.samples if self._cfg.decode != "greedy" else 1
        return Shape(self._slots, lanes, length, new, group, self._dtype, self._how, allowed)

    def __call__(self, prompts: Sequence[Prompt]) -> list[list[Answer]]:
        """The answers of each prompt, in order. They depend on no other prompt, but for the rounding of a matrix
        product of another size.

        A prompt has at most as many samples as there are lanes (cfg.samples; 1 for greedy), and at most
        `limit` tokens. Raises ValueError where it has more, or no token.
        """
        groups: dict[Shape, list[int]] = {}
        for n, prompt in enumerate(prompts):
            shape = self.shape(prompt)
            if not 0 < len(prompt.tokens) <= self.limit or not 0 < len(prompt.samples) <= shape.lanes:
                raise ValueError(f"row_id {prompt.row_id}: {len(prompt.tokens)} tokens, {len(prompt.samples)} samples")
            self._model.spec.check_positions(len(prompt.tokens) + shape.new_tokens - 1)
            groups.setdefault(shape, []).append(n)
        answers: list[list[Answer]] = [[] for _ in prompts]
        for shape, members in sorted(groups.items(), key=lambda group: group[0].prompt):
            self.shapes.add(shape)
            for n, found in self._run(shape, [prompts[n] for n in members]):
                answers[members[n]] = found
        return answers

    def _run(self, shape: Shape, prompts: Sequence[Prompt]):
        """Yields (which prompt, its answers) as slots finish. The host waits for the device once a refill."""
        state = _new_state(self._model, self._mesh, shape)
        waiting, busy = deque(range(len(prompts))), dict[int, int]()  # busy: slot -> prompt
        refill = max(_ways(self._mesh), shape.slots // 4)
        while waiting or busy:
            free = _spread([slot for slot in range(shape.slots) if slot not in busy], shape.slots, _ways(self._mesh))
            taken = free[: len(waiting)]
            busy |= {slot: waiting.popleft() for slot in taken}
            for slots in _shares(taken, shape, self._mesh):
                batch = _batch([prompts[busy[slot]] for slot in slots], slots, shape, self._mesh, self._seed)
                state = prefill(self._model, self._mesh, shape, self._params, state, self._put(batch), self._put(self._stop))
            empty = shape.slots - len(busy)
            enough = min(shape.slots, empty + refill) if waiting else shape.slots
            args = self._put(self._stop), self._put(np.int32(enough))
            state, seen = decode(self._model, self._mesh, shape, self._params, state, *args)
            seen = {name: np.array(x) for name, x in seen.items()}
            for slot in [slot for slot in busy if seen["done"][slot].all()]:
                n = busy.pop(slot)
                yield n, _answers(prompts[n], {name: x[slot] for name, x in seen.items()})

    def _put(self, tree: Any) -> Any:
        return jax.device_put(tree, replicated(self._mesh))


def _answers(prompt: Prompt, seen: dict[str, np.ndarray]) -> list[Answer]:
    found = []
    for lane, sample in enumerate(prompt.samples):
        count = int(seen["count"][lane])
        if count:  # a search in few ids may find fewer beams than were asked for
            found.append(Answer(sample, seen["tokens"][lane, :count], seen["logprobs"][lane, :count]))
    return found


def _spread(free: list[int], slots: int, ways: int) -> list[int]:
    """In turn from every device's slots, so that all devices have work."""
    each = slots // ways
    return sorted(free, key=lambda slot: (slot % each, slot))


def _shares(taken: Sequence[int], shape: Shape, mesh: Mesh) -> list[list[int]]:
    """Slots to fill, cut into what one `prefill` takes: at most group / ways of every device."""
    ways = _ways(mesh)
    each, share = shape.slots // ways, shape.group // ways
    calls: list[list[int]] = []
    count = [0] * ways
    for slot in taken:
        call = count[slot // each] // share
        count[slot // each] += 1
        calls += [[]] * (call + 1 - len(calls))
        calls[call] = [*calls[call], slot]
    return calls


@partial(jax.jit, static_argnums=1)
def _narrow(params: Params, dtype: Any) -> Params:
    """Weights in the dtype they are multiplied in, so that no step reads them wider; norms stay in float32."""

    def one(path: Any, x: Array) -> Array:
        return x if path[-1].key == "scale" else x.astype(dtype)

    return jax.tree_util.tree_map_with_path(one, params)
