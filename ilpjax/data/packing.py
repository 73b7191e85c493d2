"""Packing: which rows share a sequence, and the arrays of it. Both are pure functions."""

import bisect
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int

from ilpjax.data.examples import Example
from ilpjax.errors import InputError

Order = Literal["shuffle", "file", "blocks"]
Batch = dict[str, np.ndarray]
WINDOW = 4096  # rows packed together: large enough to fill sequences, small enough to plan a stream


def plan_epoch(
    lengths: Int[np.ndarray, " rows"], *, seed: int, epoch: int, seq_len: int, order: Order = "shuffle"
) -> list[list[int]]:
    """The sequences of one epoch, each a list of row indices: every row exactly once, none split.

    `shuffle`: rows are shuffled by (seed, epoch), windows of them are packed best-fit (longest first), and the
    sequences are shuffled again; `blocks` the same, of one block. `file`: rows in their order, a new sequence where the
    next does not fit.
    An epoch that is run in part is a prefix of this plan.

    Raises InputError when a row is longer than `seq_len` tokens.
    """
    lengths = np.asarray(lengths)
    if not len(lengths):
        raise InputError("nothing to train on: there is no row")
    if lengths.max() > seq_len:
        worst = int(np.argmax(lengths))
        raise InputError(
            f"row {worst} (counted from 0) has {lengths[worst]} tokens, and a packed sequence holds seq_len={seq_len}; "
            "data.max_tokens must be at most seq_len"
        )
    if order == "file":
        return _next_fit(lengths, seq_len)
    rng = np.random.default_rng([seed % 2**64, epoch])
    shuffled = rng.permutation(len(lengths))
    sequences = []
    for start in range(0, len(shuffled), WINDOW):
        sequences += _best_fit(shuffled[start : start + WINDOW], lengths, seq_len)
    return [sequences[n] for n in rng.permutation(len(sequences))]


def pack(rows: Sequence[int], examples: Sequence[Example], seq_len: int, slots: int) -> Batch:
    """One sequence on the token tree: rows side by side, each seeing only itself.

    Returns tokens, positions, subtree_end, targets, weights, slots (`[seq_len]`) and rows (`[slots]`): the token to
    be predicted *at* a position stands in `targets`, `slots` says whose it is, `rows` which example a slot holds.
    Padding sees only itself and has no target.
    """
    out: Batch = {
        "tokens": np.zeros(seq_len, np.int32),
        "positions": np.zeros(seq_len, np.int32),
        "subtree_end": np.arange(1, seq_len + 1, dtype=np.int32),
        "targets": np.zeros(seq_len, np.int32),
        "weights": np.zeros(seq_len, np.float32),
        "slots": np.full(seq_len, -1, np.int32),
        "rows": np.full(slots, -1, np.int32),
    }
    start = 0
    for slot, row in enumerate(rows):
        example = examples[row]
        end = start + len(example)
        if end > seq_len:
            raise ValueError(f"rows {list(rows)} have more than {seq_len} tokens")
        out["tokens"][start:end] = example.tokens
        out["positions"][start:end] = np.arange(len(example))
        out["subtree_end"][start:end] = end
        predicts = start + np.flatnonzero(example.target_mask[1:])
        out["targets"][predicts] = out["tokens"][predicts + 1]
        out["weights"][predicts] = 1
        out["slots"][predicts] = slot
        out["rows"][slot] = row
        start = end
    return out


def _next_fit(lengths: np.ndarray, seq_len: int) -> list[list[int]]:
    sequences: list[list[int]] = [[]]
    room = seq_len
    for row, length in enumerate(lengths.tolist()):
        if length > room:
            sequences.append([])
            room = seq_len
        sequences[-1].append(row)
        room -= length
    return sequences


def _best_fit(rows: np.ndarray, lengths: np.ndarray, seq_len: int) -> list[list[int]]:
    longest_first = rows[np.argsort(-lengths[rows], kind="stable")]
    sequences: list[list[int]] = []
    rooms: list[int] = []  # distinct, sorted: what is left in the open sequences
    open_at: dict[int, list[int]] = {}
    for row, length in zip(longest_first.tolist(), lengths[longest_first].tolist(), strict=True):
        at = bisect.bisect_left(rooms, length)
        if at == len(rooms):
            sequence, room = len(sequences), seq_len
            sequences.append([])
        else:
            room = rooms[at]
            sequence = open_at[room].pop()
            if not open_at[room]:
                del rooms[at], open_at[room]
        sequences[sequence].append(row)
        left = room - length
        if left not in open_at:
            bisect.insort(rooms, left)
            open_at[left] = []
        open_at[left].append(sequence)
    return sequences
