"""N answers of a prompt from one prefill.

A slot is a prompt at work, with N lanes. `prefill` fills slots, `decode` extends all lanes on the device until enough
slots are done; the host takes those out, fills them with waiting prompts and goes on.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int32

from ilpjax.config import SampleConfig
from ilpjax.errors import InputError
from ilpjax.models import Model, Params, compute_dtype
from ilpjax.parallel import replicated
from ilpjax.scoring.decoding import Choice, row_key
from ilpjax.scoring.generate import SampleShape, State, decode, new_state, prefill, state_shardings, ways_of
from ilpjax.scoring.tree import SHORTEST, next_power

GROUP = 1024  # prompt tokens a device works on at a time
_new_state = jax.jit(new_state, static_argnums=(0, 1, 2))


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


def _batch(
    prompts: Sequence[Prompt], slots: Sequence[int], shape: SampleShape, mesh: Mesh, seed: int
) -> dict[str, Any]:
    """Arrays for `prefill`. `slots` are numbered over all devices; a device has `group / ways` places in a batch."""
    each, share = shape.slots // ways_of(mesh), shape.group // ways_of(mesh)
    out = {
        "tokens": np.zeros((shape.group, shape.prompt), np.int32),
        "length": np.ones(shape.group, np.int32),
        "slot": np.full(shape.group, each, np.int32),
        "key": np.zeros((shape.group, 2), np.uint32),
        "sample": np.full((shape.group, shape.lanes), -1, np.int32),
        "allowed": np.full((shape.group, shape.allowed), -1, np.int32),
    }
    free = {way: way * share for way in range(ways_of(mesh))}
    for prompt, slot in zip(prompts, slots, strict=True):
        way, place = divmod(slot, each)
        n, free[way] = free[way], free[way] + 1
        out["tokens"][n, : len(prompt.tokens)] = prompt.tokens
        out["length"][n], out["slot"][n], out["key"][n] = len(prompt.tokens), place, row_key(seed, prompt.row_id)
        out["sample"][n, : len(prompt.samples)] = prompt.samples
        out["allowed"][n, : len(prompt.allowed)] = prompt.allowed
    return out


def sample_specs(
    model: Model, mesh: Mesh, shape: SampleShape, stops: int = 1
) -> tuple[State, dict[str, Any], Any, Any]:
    """(state, batch, stop, enough) as `jax.ShapeDtypeStruct`s, to lower `prefill` and `decode` without a device."""
    state = jax.eval_shape(lambda: new_state(model, mesh, shape))
    place = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    whole = lambda x: place(x, replicated(mesh))
    batch = jax.tree.map(whole, _batch([], [], shape, mesh, 0))
    stop, enough = jax.ShapeDtypeStruct((stops,), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
    return jax.tree.map(place, state, state_shardings(mesh, state)), batch, whole(stop), whole(enough)


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
        ways, dtype = ways_of(mesh), compute_dtype(cfg.dtype)
        self._model, self._mesh, self._cfg, self._seed = model, mesh, cfg, seed
        self._slots = -(-cfg.batch // ways) * ways
        self._how = Choice(cfg.decode, min(vocab or model.spec.vocab, model.spec.vocab), cfg.temperature, cfg.top_p)
        self._dtype, self._params = dtype, params if dtype == jnp.float32 else _narrow(params, dtype)
        self._stop = np.array(sorted(stop) or [-1], np.int32)
        self.shapes: set[SampleShape] = set()
        self.compiling = 0.0  # seconds

    def __str__(self) -> str:
        return f"{len(self.shapes)} prompt lengths (two compilations each), {self.compiling:.0f} s"

    def shape(self, prompt: Prompt) -> SampleShape:
        """It depends on this prompt only: 32, 48, 64, 96, 128, ... tokens."""
        length = next_power(len(prompt.tokens), SHORTEST)
        if length > SHORTEST and len(prompt.tokens) <= length * 3 // 4:
            length = length * 3 // 4
        ways = ways_of(self._mesh)
        group = min(self._slots, max(1, GROUP // length) * ways)
        new, allowed = (1, next_power(len(prompt.allowed), 4)) if prompt.allowed else (self._cfg.new_tokens, 0)
        lanes = self._cfg.samples if self._cfg.decode != "greedy" else 1
        return SampleShape(self._slots, lanes, length, new, group, self._dtype, self._how, allowed)

    def __call__(self, prompts: Sequence[Prompt]) -> list[list[Answer]]:
        """The answers of each prompt, in order. They depend on no other prompt, but for the rounding of a matrix
        product of another size.

        A prompt has at most as many samples as there are lanes (cfg.samples; 1 for greedy), and at most
        `limit` tokens. Raises ValueError where it has more, or no token.
        """
        groups: dict[SampleShape, list[int]] = {}
        for n, prompt in enumerate(prompts):
            shape = self.shape(prompt)
            if not 0 < len(prompt.tokens) <= self.limit or not 0 < len(prompt.samples) <= shape.lanes:
                raise ValueError(f"row_id {prompt.row_id}: {len(prompt.tokens)} tokens, {len(prompt.samples)} samples")
            self._model.spec.check_positions(len(prompt.tokens) + shape.new_tokens - 1)
            groups.setdefault(shape, []).append(n)
        answers: list[list[Answer]] = [[] for _ in prompts]
        for shape, members in sorted(groups.items(), key=lambda group: group[0].prompt):
            if shape not in self.shapes:
                self._compile(shape)
            for n, found in self._run(shape, [prompts[n] for n in members]):
                answers[members[n]] = found
        return answers

    def _compile(self, shape: SampleShape) -> None:
        """Runs both programs on empty slots, so that what compiling took can be told apart."""
        started = time.monotonic()
        state = _new_state(self._model, self._mesh, shape)
        batch = self._put(_batch([], [], shape, self._mesh, self._seed))
        state = prefill(self._model, self._mesh, shape, self._params, state, batch, self._put(self._stop))
        args = self._put(self._stop), self._put(np.int32(0))
        jax.block_until_ready(decode(self._model, self._mesh, shape, self._params, state, *args))
        self.shapes.add(shape)
        self.compiling += time.monotonic() - started

    def _run(self, shape: SampleShape, prompts: Sequence[Prompt]) -> Iterator[tuple[int, list[Answer]]]:
        """Yields (which prompt, its answers) as slots finish. The host waits for the device once a refill."""
        state = _new_state(self._model, self._mesh, shape)
        waiting, busy = deque(range(len(prompts))), dict[int, int]()  # busy: slot -> prompt
        refill = max(ways_of(self._mesh), shape.slots // 4)
        while waiting or busy:
            free = _spread([slot for slot in range(shape.slots) if slot not in busy], shape.slots, ways_of(self._mesh))
            taken = free[: len(waiting)]
            busy |= {slot: waiting.popleft() for slot in taken}
            for slots in _shares(taken, shape, self._mesh):
                batch = _batch([prompts[busy[slot]] for slot in slots], slots, shape, self._mesh, self._seed)
                args = self._put(batch), self._put(self._stop)
                state = prefill(self._model, self._mesh, shape, self._params, state, *args)
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


def _shares(taken: Sequence[int], shape: SampleShape, mesh: Mesh) -> list[list[int]]:
    """Slots to fill, cut into what one `prefill` takes: at most group / ways of every device."""
    ways = ways_of(mesh)
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
