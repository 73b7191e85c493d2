"""What a compiled program moves, read from its text: collectives over the network, bytes to and from HBM.

`compiled.as_text()` is the scheduled program of one device. A loop's body stands in it once, so everything found in a
body counts as often as the loop turns.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "c64": 8, "c128": 16, "bf16": 2, "token": 0, "opaque": 0}
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
# Instructions that move nothing themselves. Of an asynchronous pair the start counts.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional", "iota"}
_FREE |= {"after-all", "partition-id", "replica-id", "opt-barrier", "async-update", "add-dependency", "domain"}
_SAME = ("bitcast", "reshape", "convert", "copy")


@dataclass(frozen=True)
class Instruction:
    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    text: str  # what stands behind the operands, and for a constant its value
    root: bool

    def called(self, *keys: str) -> Iterator[str]:
        for key in keys:
            if found := re.search(rf"\b{key}=(?:\{{([^}}]*)\}}|%?([\w.\-]+))", self.text):
                yield from (name.strip().lstrip("%") for name in (found[1] or found[2]).split(","))


@dataclass(frozen=True)
class Collective:
    """`count` is per step. `bytes` is the whole tensor of one: gathered, to be scattered, or a permute's message."""

    kind: str
    bytes: int
    count: float
    groups: tuple[tuple[int, ...], ...]  # devices that exchange; for a permute the pairs. Empty: all
    hidden: bool  # asynchronous: the compiler has put other work beside it

    @property
    def total(self) -> float:
        return self.bytes * self.count


class Program:
    """A parsed program. Raises ValueError when the text has no entry computation."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        body: list[Instruction] = []
        for line in text.splitlines():
            if header := _HEADER.match(line):
                body = self.computations.setdefault(header[2], [])
                self.entry = header[2] if header[1] else self.entry
            elif found := _LINE.match(line):
                body.append(_instruction(bool(found[1]), found[2], found[3]))
        if not self.entry:
            raise ValueError("not the text of a compiled program")

    @cached_property
    def _at(self) -> dict[str, dict[str, Instruction]]:
        return {name: {one.name: one for one in body} for name, body in self.computations.items()}

    def trips(self, where: str, loop: Instruction) -> float | None:
        """How often a loop turns: as the compiler says, or from `counter < N` in its condition. None: not known."""
        if told := re.search(r'"?known_trip_count"?:?\s*=?\{"?n"?:?"?(\d+)', loop.text):
            return float(told[1])
        condition, body = (next(loop.called(key), "") for key in ("condition", "body"))
        root = next((one for one in self.computations.get(condition, []) if one.root), None)
        if root is None or root.opcode != "compare" or "direction=LT" not in root.text:
            return None
        counter, limit = (self._at[condition].get(name) for name in root.operands)
        end = _constant(limit)
        if counter is None or counter.opcode != "get-tuple-element" or end is None:
            return None
        index = int(re.search(r"index=(\d+)", counter.text)[1])  # type: ignore[index]
        start = _constant(self._element(where, loop.operands[0], index)) or 0
        return float(max(0, math.ceil((end - start) / (self._stride(body, index) or 1))))

    def _element(self, where: str, name: str, index: int) -> Instruction | None:
        at = self._at[where]
        made = at.get(name)
        if made is None or made.opcode != "tuple":
            return None
        one = at.get(made.operands[index])
        while one is not None and one.opcode in ("copy", "bitcast", "convert") and one.operands:
            one = at.get(one.operands[0])
        return one

    def _stride(self, body: str, index: int) -> int | None:
        root = next((one for one in self.computations.get(body, []) if one.root), None)
        step = self._element(body, root.name, index) if root is not None else None
        if step is None or step.opcode != "add":
            return None
        return next((n for name in step.operands if (n := _constant(self._at[body].get(name))) is not None), None)

    def run(self, unknown: float = 1) -> Iterator[tuple[str, Instruction, float]]:
        """Every instruction that is executed, with its computation and how often; fusions are not opened.

        A loop whose length is not in the text turns `unknown` times; of a conditional every branch is counted.
        """
        yield from self._walk(self.entry, 1.0, unknown)

    def _walk(self, where: str, times: float, unknown: float) -> Iterator[tuple[str, Instruction, float]]:
        for one in self.computations[where]:
            yield where, one, times
            if one.opcode == "while":
                trips = self.trips(where, one)
                inner = times * (unknown if trips is None else trips)
                for name in one.called("body", "condition"):
                    yield from self._walk(name, inner, unknown)
            elif one.opcode in ("call", "conditional"):
                keys = ("to_apply", "branch_computations", "true_computation", "false_computation")
                for name in one.called(*keys):
                    yield from self._walk(name, times, unknown)

    def collectives(self, unknown: float = 1) -> list[Collective]:
        """Equal ones are put together. Those inside a fusion too: TPUs run a collective's steps beside other work in
        fusions that all name the same channel, so a channel counts once, as often as its rarest part is run."""
        plain: list[Collective] = []
        channels: dict[str, Collective] = {}
        for _, one, times in self.run(unknown):
            if found := _collective(one, times):
                plain.append(found)
            elif one.opcode == "fusion" or one.opcode.startswith("async"):
                for inner in self._inside(one):
                    found = _collective(inner, times)
                    if found is None:
                        continue
                    if "all-reduce-scatter" in next(one.called("calls"), ""):
                        found = replace(found, kind="reduce-scatter")
                    channel = re.search(r"channel_id=(\d+)", inner.text)
                    key = channel[1] if channel else inner.name
                    asynchronous = "async_collective" in inner.text or "async" in next(one.called("calls"), "")
                    old = channels.get(key, replace(found, hidden=asynchronous))
                    channels[key] = replace(old, count=min(old.count, times), hidden=old.hidden or asynchronous)
        return _together([*plain, *channels.values()])

    def _inside(self, fusion: Instruction) -> Iterator[Instruction]:
        for name in fusion.called("calls", "called_computations"):
            for one in self.computations.get(name, []):
                yield one
                if one.opcode == "fusion" or one.opcode.startswith("async"):
                    yield from self._inside(one)

    def hbm_bytes(self, unknown: float = 1) -> float:
        """Bytes read and written in HBM a step: operands and results of every instruction and fusion.

        A slice taken or updated inside a fusion counts as the slice; what the compiler keeps in on-chip memory
        (a layout with S(1), ...) does not count.
        """
        return sum(self._moved(where, one) * times for where, one, times in self.run(unknown))

    def _moved(self, where: str, one: Instruction) -> float:
        if one.opcode in _FREE or one.opcode.endswith("-done"):
            return 0
        if one.opcode.endswith("-start"):
            return sum(in_hbm(shape) for shape in _parts(one.shape)[:2])
        reads = [self._at[where][name].shape if name in self._at[where] else "" for name in one.operands]
        writes = in_hbm(one.shape)
        if one.opcode in ("dynamic-slice", "gather", "slice"):
            return writes + min(writes or math.inf, in_hbm(reads[0]) if reads else 0)
        if one.opcode == "dynamic-update-slice":
            return 2 * in_hbm(reads[1])
        if one.opcode != "fusion":
            return writes + sum(map(in_hbm, reads))
        return self._fused(next(one.called("calls"), ""), reads, one.shape)

    def _fused(self, name: str, reads: list[str], shape: str) -> float:
        """A fusion's own parameters may be whole stacks of which one slice is touched."""
        body = self.computations.get(name, [])
        total = 0.0
        for number, read in enumerate(reads):
            if whole := in_hbm(read):
                total += min(whole, self._touched(_parameter(body, number), body))
        roots = [one for one in body if one.root]
        written = roots[0].operands if roots and roots[0].opcode == "tuple" else [one.name for one in roots]
        for part, result in zip(_parts(shape), written, strict=False):
            total += min(in_hbm(part), self._updated(name, result))
        return total

    def _touched(self, name: str, body: list[Instruction]) -> float:
        """Bytes read of a fusion's parameter: less than all of it where it is only sliced, or updated in place."""
        total = 0.0
        for user in body:
            for place, operand in enumerate(user.operands):
                if operand == name:
                    total += self._taken(user, place, body)
        return total

    def _taken(self, user: Instruction, place: int, body: list[Instruction]) -> float:
        if user.opcode in ("dynamic-slice", "gather") and place == 0:
            return size_of(user.shape)
        if user.opcode == "dynamic-update-slice" and place == 0:
            return 0.0
        if user.opcode in _SAME:
            return self._touched(user.name, body)
        if user.opcode == "fusion":
            inner = self.computations.get(next(user.called("calls"), ""), [])
            return self._touched(_parameter(inner, place), inner)
        return math.inf

    def _updated(self, where: str, name: str) -> float:
        """Bytes written of a fusion's result: less than all of it where it is updated in place."""
        made = self._at[where].get(name) if where in self._at else None
        while made is not None and made.opcode in _SAME and made.operands:
            made = self._at[where].get(made.operands[0])
        if made is not None and made.opcode == "dynamic-update-slice":
            return size_of(self._at[where][made.operands[1]].shape)
        if made is not None and made.opcode == "fusion":
            inner = next(made.called("calls"), "")
            root = next((one for one in self.computations.get(inner, []) if one.root), None)
            return self._updated(inner, root.name) if root is not None else math.inf
        return math.inf


def size_of(shape: str) -> int:
    """Bytes of a shape as it stands in the text, a tuple's parts added up; without padding to tiles."""
    return sum(_size(kind, dims) for kind, dims, _ in _SHAPE.findall(shape))


def in_hbm(shape: str) -> int:
    """The same, without the parts that are kept on the chip: S(0), HBM, is not written."""
    return sum(_size(kind, dims) for kind, dims, layout in _SHAPE.findall(shape) if not re.search(r"S\([1-9]", layout))


def _size(kind: str, dims: str) -> int:
    if kind in _BYTES:
        width = float(_BYTES[kind])
    else:  # f32, s8, u16, f8e4m3fn: the first number is the bits
        bits = re.search(r"\d+", kind)
        width = int(bits[0]) / 8 if bits else 0
    return int(math.prod(int(n.lstrip("<=")) for n in dims.split(",") if n) * width)


def _parts(shape: str) -> list[str]:
    """The parts of a tuple, those of an inner tuple one by one."""
    return [found[0] for found in _SHAPE.finditer(shape)]


def _instruction(root: bool, name: str, rest: str) -> Instruction:
    shape, rest = _balanced(rest) if rest.startswith("(") else _until_space(rest)
    opcode, _, rest = rest.strip().partition("(")
    inside, rest = _balanced("(" + rest)
    names = tuple(_NAME.findall(inside))
    return Instruction(name, opcode, shape, names, rest if names or not inside[1:-1] else inside + rest, root)


def _balanced(text: str) -> tuple[str, str]:
    depth = 0
    for n, letter in enumerate(text):
        depth += (letter in "({") - (letter in ")}")
        if depth == 0:
            return text[: n + 1], text[n + 1 :]
    return text, ""


def _until_space(text: str) -> tuple[str, str]:
    head, _, rest = text.partition(" ")
    return head, rest


def _parameter(body: list[Instruction], number: int) -> str:
    found = (one.name for one in body if one.opcode == "parameter" and one.text.startswith(f"({number})"))
    return next(found, "")


def _constant(one: Instruction | None) -> int | None:
    found = re.match(r"\((-?\d+)\)", one.text) if one is not None and one.opcode == "constant" else None
    return int(found[1]) if found else None


def _collective(one: Instruction, times: float) -> Collective | None:
    kind = one.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    hidden = one.opcode.endswith("-start")
    parts = [size_of(part) for part in _parts(one.shape)]
    groups = device_groups(one.text)
    if kind == "collective-permute":
        size = parts[0]
    elif hidden and kind == "all-gather":
        size = max(parts)  # (operand, result, ...)
    else:
        size = sum(parts)
    if kind == "reduce-scatter":
        size = parts[0] * (len(groups[0]) if groups else 1)
    return Collective(kind, size, times, groups, hidden)


def device_groups(text: str) -> tuple[tuple[int, ...], ...]:
    """Who exchanges with whom, from any of the ways it is written. Empty: all devices in one group."""
    if found := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})\}", text):
        return tuple(tuple(map(int, group.split(","))) for group in re.findall(r"\{([\d, ]+)\}", found[1]))
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", text):
        shape = [int(n) for n in found[1].split(",")]
        return tuple(map(tuple, _iota(found[2]).reshape(shape).tolist()))
    if found := re.search(r"replica_groups=mesh\[([^\]]+)\](?:, device_ids=\(([^ ]+)\))? \{([^}]*)\}", text):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
        ids = _iota(found[2] or f"[{math.prod(sizes.values())}]").reshape(list(sizes.values()))
        names, inner = list(sizes), re.findall(r"'(\w+)'", found[3])
        outer = [name for name in names if name not in inner]
        moved = ids.transpose([names.index(name) for name in [*outer, *inner]])
        return tuple(map(tuple, moved.reshape(-1, math.prod(sizes[name] for name in inner)).tolist()))
    return ()


def _iota(text: str) -> np.ndarray:
    """The device numbers of "[8,64]T(1,0)": counted in the first shape, then transposed."""
    dims, _, order = text.partition("T")
    shape, axes = ([int(n) for n in re.findall(r"\d+", part)] for part in (dims, order))
    ids = np.arange(math.prod(shape)).reshape(shape)
    return ids.transpose(axes) if axes else ids


def _together(found: list[Collective]) -> list[Collective]:
    counts: dict[Collective, float] = {}
    for one in found:
        key = replace(one, count=0)
        counts[key] = counts.get(key, 0) + one.count
    merged = [replace(key, count=count) for key, count in counts.items() if count and key.bytes]
    return sorted(merged, key=lambda one: -one.total)
