"""Trees packed into sequences of few shapes: several items a sequence, several sequences a pass."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ilpjax.models import ModelSpec
from ilpjax.scoring.tree import Tree

# Lengths a run may choose from, tokens: sixteen a doubling, so that a tree that fills one alone wastes little.
LENGTHS = tuple(step << scale for scale in range(1, 16) for step in range(16, 32))
LONG = 2048  # shortest on an accelerator, whose attention skips what no query sees
# What a pass costs on a CPU beside its matrix products, in the FLOPs that they would do meanwhile (measured, 4 cores).
SCORE_COST = 100  # a score of attention, softmax and mask
LAYER_COST = 30e6  # a layer of a pass, whatever it holds
PASS_COST = 700e6  # a pass: its arrays go to the device, its scores come back


class Shape(NamedTuple):
    """Of one packed sequence: tokens, places whose logits are computed, targets."""

    length: int
    places: int
    targets: int

    def holds(self, need: tuple[int, int, int]) -> bool:
        return all(have >= want for have, want in zip(self, need, strict=True))

    def doubled(self) -> "Shape":
        return Shape(*(2 * size for size in self))

    def __str__(self) -> str:
        return f"{self.length}x{self.places}"


Member = tuple[Any, Tree]  # whose tree it is, and the tree
Row = list[Member]


class Packer:
    """Gathers trees into batches of `rows` sequences.

    The first shape is `base`; a tree that it does not hold goes to the first of its doublings that does, so that a run
    compiles once a doubling it meets, at most 1 + log2(largest / base) times.
    """

    def __init__(self, base: Shape, rows: int, pack: bool):
        self._base, self._rows, self._pack = base, rows, pack
        self._waiting: dict[Shape, list[Member]] = {}

    def add(self, members: Sequence[Member], *, last: bool = False) -> Iterator[tuple[Shape, list[Row]]]:
        """Whole batches; trees that fill none wait for the next ones, or with `last` make a batch of their own."""
        for member in members:
            self._waiting.setdefault(shape_of(member[1].need, self._base), []).append(member)
        for shape, waiting in sorted(self._waiting.items()):
            rows = [[waiting[n] for n in row] for row in fill([tree.need for _, tree in waiting], shape, self._pack)]
            whole = len(rows) if last else len(rows) // self._rows * self._rows
            for start in range(0, whole, self._rows):
                yield shape, rows[start : min(start + self._rows, whole)]
            self._waiting[shape] = [member for row in rows[whole:] for member in row]


def shape_of(need: tuple[int, int, int], base: Shape) -> Shape:
    while not base.holds(need):
        base = base.doubled()
    return base


def fill(needs: Sequence[tuple[int, int, int]], shape: Shape, pack: bool) -> list[list[int]]:
    """Which trees share a sequence: the longest first, each into the first sequence with room. Deterministic."""
    if not pack:
        return [[n] for n in range(len(needs))]
    order = sorted(range(len(needs)), key=lambda n: (-needs[n][0], n))
    least = min((need[0] for need in needs), default=0)
    rows: list[list[int]] = []
    room: dict[int, tuple[int, int, int]] = {}  # left in the sequences that something still fits into
    for n in order:
        tokens, places, targets = needs[n]
        row = next(
            (r for r, left in room.items() if tokens <= left[0] and places <= left[1] and targets <= left[2]), -1
        )
        if row < 0:
            row = len(rows)
            rows.append([])
            room[row] = shape
        rows[row].append(n)
        left = room[row]
        room[row] = (left[0] - tokens, left[1] - places, left[2] - targets)
        if room[row][0] < least or room[row][2] <= 0:
            del room[row]
    return rows


def choose_base(trees: Sequence[Tree], spec: ModelSpec, rows: int, pack: bool, *, cpu: bool, whole: bool) -> Shape:
    """The cheapest base shape for these trees, the first of a run. `whole`: they are all there are.

    On a CPU attention costs what the length squared does, and padding costs matrix products; short sequences have no
    use for either. On an accelerator a sequence is long, and what no query sees is skipped.
    """
    needs = [tree.need for tree in trees]
    sizes = sorted(need[0] for need in needs)
    least = max(sizes[len(sizes) // 2], LENGTHS[0] if cpu else LONG)  # most trees fit, longer ones are the exception
    most = max(2 * least, 16 * sizes[-1] if cpu else 2 * sizes[-1])
    lengths = [n for n in LENGTHS if least <= n <= most]
    _, length = min((_cost(needs, length, spec, rows, pack, cpu, whole), length) for length in lengths)
    return _with_targets(needs, length, pack)


def _cost(needs: list, length: int, spec: ModelSpec, rows: int, pack: bool, cpu: bool, whole: bool) -> float:
    """FLOPs a layer that the trees take at this base length."""
    heads = spec.heads * spec.head_dim
    token = 2 * spec.embed * (2 * heads + 2 * spec.kv_heads * spec.head_dim + 3 * spec.mlp)
    score = 4 * heads + SCORE_COST * spec.heads if cpu else 0
    total, base = 0.0, Shape(length, 1 << 30, 1 << 30)
    by_shape: dict[Shape, list] = {}
    for need in needs:
        by_shape.setdefault(shape_of(need, base), []).append(need)
    for shape, members in by_shape.items():
        count = len(fill(members, shape, pack))
        if whole:
            count = -(-count // rows) * rows
        total += count * (shape.length * (token + shape.length * score) + (LAYER_COST + PASS_COST / spec.layers) / rows)
    return total * (1 + 0.1 * (len(by_shape) - 1))  # each shape more is a compilation more


def _with_targets(needs: list, length: int, pack: bool) -> Shape:
    """Room for the places and targets of nine in ten sequences, so that few are closed before they are full."""
    unbound = Shape(length, 1 << 30, 1 << 30)
    fits = [need for need in needs if unbound.holds(need)] or needs
    rows = fill(fits, unbound, pack)
    sums = np.array([np.sum([fits[n] for n in row], axis=0) for row in rows])
    places, targets = (int(-(-np.quantile(sums[:, n], 0.9) // 4) * 4) for n in (1, 2))
    return Shape(length, max(places, 4), max(targets, 4))


def stack(rows: Sequence[Row], batch: int, shape: Shape) -> dict[str, np.ndarray]:
    """Packed sequences as arrays: `nodes` [batch, 3, length] (tokens, positions, subtree_end), `places`
    [batch, places], `targets` [batch, 3, targets] (at, target, option; see `Tree`): few, each is a transfer.

    Options are numbered through a sequence's trees, in order. Padding sees only itself; a padded target counts for no
    option.
    """
    length, places, targets = shape
    out = {
        "nodes": np.zeros((batch, 3, length), np.int32),
        "places": np.zeros((batch, places), np.int32),
        "targets": np.zeros((batch, 3, targets), np.int32),
    }
    tokens, positions, subtree_end = np.moveaxis(out["nodes"], 1, 0)
    at, targeted, option_of = np.moveaxis(out["targets"], 1, 0)
    subtree_end[:] = np.arange(1, length + 1)
    option_of[:] = targets
    for n, row in enumerate(rows):
        token = place = target = option = 0
        for _, tree in row:
            here = slice(token, token + len(tree.tokens))
            tokens[n, here], positions[n, here], subtree_end[n, here] = (
                tree.tokens,
                tree.positions,
                tree.subtree_end + token,
            )
            out["places"][n, place : place + len(tree.places)] = tree.places + token
            here = slice(target, target + len(tree.target))
            at[n, here], targeted[n, here], option_of[n, here] = tree.at + place, tree.target, tree.option + option
            token, place = token + len(tree.tokens), place + len(tree.places)
            target, option = target + len(tree.target), option + tree.options
    return out


def unstack(rows: Sequence[Row], scores: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
    """(whose tree, its option log-probs) from the scores [batch, targets] of a stacked batch."""
    for row, line in zip(rows, scores, strict=False):
        option = 0
        for owner, tree in row:
            yield owner, line[option : option + tree.options]
            option += tree.options
