"""Batches over Grain: the same plan on every process, each taking its share, resumed exactly."""

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from ilpjax.data.buckets import Edge, buckets, colour, together
from ilpjax.data.examples import Example
from ilpjax.data.packing import Batch, Order, pack, plan_epoch
from ilpjax.errors import InputError


class Loader:
    """Packed batches of a whole run, one process's share of each.

    An epoch is cut into steps of at most `batch` sequences, as even as they come; no step holds two epochs.
    `epochs=2.5` is two whole ones and a prefix, half of the steps (at least one), of the third. With order="blocks" the
    examples of a block (`blocks[n]`: example n's) get all their epochs before those of the next one, by first
    appearance. With `edges` (places in `examples`) no step holds both ends of one, over all processes: rows are packed
    within buckets, one a colour of the graph; sequences without a row of an edge fill up any step; the steps are
    shuffled.

    steps: int            steps of the run
    steps_per_epoch: list[int]   with blocks, of each block's epochs in turn
    slots: int            rows a sequence can hold, R of the batches: the most that any sequence of the run does
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        seq_len: int,
        batch: int,
        epochs: float,
        order: Order = "shuffle",
        seed: int,
        blocks: Sequence[int] | None = None,
        process_index: int = 0,
        process_count: int = 1,
        start_step: int = 0,
        edges: Sequence[Edge] = (),
    ):
        if edges and order != "shuffle":
            raise InputError(f"order: {order}, but buckets of contradicting rows are shuffled; order=shuffle is right")
        if batch % process_count:
            raise InputError(f"batch: {batch} sequences cannot be shared by {process_count} processes")
        lengths = np.fromiter((len(example) for example in examples), np.int64, len(examples))
        self._plan: list[list[list[int]]] = []  # step -> sequence -> examples
        self.steps_per_epoch: list[int] = []
        self._epochs: list[int] = []
        colours = colour(len(lengths), edges)
        self.buckets = max(1, int(colours.max(initial=-1)) + 1)
        for block in _blocks(len(lengths), blocks if order == "blocks" else None):
            for epoch in range(int(np.ceil(epochs))):
                packed: list[list[list[int]]] = []  # bucket -> sequence -> examples
                for members in buckets(colours[block], lengths[block], seed=seed, epoch=epoch):
                    own = block[members]
                    local = plan_epoch(lengths[own], seed=seed, epoch=epoch, seq_len=seq_len, order=order)
                    packed.append([own[sequence].tolist() for sequence in local])
                steps = _cut(packed[0], batch)
                if edges:
                    steps = _cut_apart(packed, colours >= 0, batch)
                    drawn = np.random.default_rng([seed % 2**64, epoch, len(steps)]).permutation(len(steps))
                    steps = [steps[n] for n in drawn]
                part = min(1.0, epochs - epoch)
                self._plan += steps[: max(1, round(part * len(steps)))]
                self.steps_per_epoch.append(len(self._plan) - sum(self.steps_per_epoch))
                self._epochs.append(epoch)
        self.steps = len(self._plan)
        self.slots = max(len(sequence) for step in self._plan for sequence in step)
        self._lengths = lengths
        self._shape = (batch, seq_len)
        self._key = _fingerprint(examples, self._plan, self._shape)
        share = batch // process_count
        mine = slice(process_index * share, (process_index + 1) * share)
        source = _Steps(self._plan, examples, seq_len, self.slots, mine)
        # Two threads pack ahead while the device works; the arrays are small.
        reading = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
        self._batches = iter(grain.MapDataset.source(source).to_iter_dataset(reading))
        if start_step:
            self._batches.set_state({"next_index": start_step})

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._batches)

    @property
    def step(self) -> int:
        """Batches handed out so far."""
        return self._batches.get_state()["next_index"]

    def state(self) -> dict[str, Any]:
        """Where the iterator stands, for a checkpoint; plain JSON, and the same for every process."""
        return {"batches": self._batches.get_state(), "plan": self._key}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on exactly behind the last batch handed out when `state` was taken, also with other processes.

        Raises InputError when the state belongs to other rows or other settings of seed, epochs, batch or seq_len.
        """
        if state["plan"] != self._key:
            raise InputError(
                "the checkpoint was made with other rows, or another seed, epochs, order, batch or seq_len; "
                "resume with the same ones, or choose a new out"
            )
        self._batches.set_state(state["batches"])

    def epoch_of(self, step: int) -> int:
        """The 0-based epoch (of its block) that a 0-based step belongs to."""
        return self._epochs[int(np.searchsorted(np.cumsum(self.steps_per_epoch), step, side="right"))]

    def real_tokens(self, step: int) -> int:
        """Tokens of a step, over all processes, that are not padding."""
        return int(sum(self._lengths[sequence].sum() for sequence in self._plan[step]))

    def real_fraction(self, step: int) -> float:
        return self.real_tokens(step) / (self._shape[0] * self._shape[1])

    def together(self, edges: Sequence[Edge]) -> list[tuple[int, int, int]]:
        """(step, a, b) for every edge both of whose examples one step holds, over all processes."""
        return together(([n for sequence in step for n in sequence] for step in self._plan), edges)

    def close(self) -> None:
        """Stops the reading threads."""
        self._batches.close()


class _Steps:
    """Random access for Grain: a batch is a pure function of its step."""

    def __init__(self, plan: list[list[list[int]]], examples: Sequence[Example], seq_len: int, slots: int, mine: slice):
        self._plan, self._examples, self._seq_len, self._slots, self._mine = plan, examples, seq_len, slots, mine

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, step: int) -> Batch:
        sequences = self._plan[step]
        here = range(self._mine.start, self._mine.stop)
        packed = [
            pack(sequences[n] if n < len(sequences) else [], self._examples, self._seq_len, self._slots) for n in here
        ]
        return {name: np.stack([one[name] for one in packed]) for name in packed[0]}


def _blocks(count: int, blocks: Sequence[int] | None) -> list[np.ndarray]:
    """Which examples are planned together, in turn."""
    if blocks is None:
        return [np.arange(count)]
    member = np.asarray(blocks)
    return [np.flatnonzero(member == block) for block in dict.fromkeys(member.tolist())]


def _cut(sequences: list[list[int]], batch: int) -> list[list[list[int]]]:
    """As few steps as possible, and as even: 17 sequences in batches of 16 are 8 and 9, not 16 and 1."""
    steps = -(-len(sequences) // batch)
    edges = [n * len(sequences) // steps for n in range(steps + 1)]
    return [sequences[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def _cut_apart(packed: list[list[list[int]]], bound: np.ndarray, batch: int) -> list[list[list[int]]]:
    """Steps of which none holds `bound` rows of two buckets: as few as can be, and as even."""
    steps: list[list[list[int]]] = []
    loose = []
    for sequences in packed:
        steps += _cut([sequence for sequence in sequences if bound[sequence].any()], batch)
        loose += [sequence for sequence in sequences if not bound[sequence].any()]
    count = sum(map(len, steps)) + len(loose)
    steps += [[] for _ in range(-(-count // batch) - len(steps))]
    emptiest = [(len(step), n) for n, step in enumerate(steps)]
    heapq.heapify(emptiest)
    for sequence in loose:
        size, n = emptiest[0]
        steps[n].append(sequence)
        heapq.heapreplace(emptiest, (size + 1, n))
    return steps


def _fingerprint(examples: Sequence[Example], plan: list[list[list[int]]], shape: tuple[int, int]) -> str:
    digest = hashlib.sha256(repr(shape).encode())
    for example in examples:
        digest.update(example.tokens.tobytes())
        digest.update(example.target_mask.tobytes())
    for step in plan:
        digest.update(repr(step).encode())
    return digest.hexdigest()[:16]
