"""From a compiled step to floors: memory against HBM, FLOPs, bytes and collectives against the chip's rates."""

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from ilpjax.plan.chips import GIB, Slice
from ilpjax.plan.hlo import Collective, Program
from ilpjax.plan.work import Part


@dataclass(frozen=True)
class Memory:
    """Bytes a device. `peak` must fit: arguments, results not written over them, temporaries, the program itself."""

    arguments: float
    outputs: float  # beyond those that reuse an argument's memory
    aliased: float
    temporaries: float
    program: float

    @property
    def peak(self) -> float:
        return self.arguments + self.outputs + self.temporaries + self.program


@dataclass(frozen=True)
class Cost:
    """One part of a step, once. Times in seconds, on a device that only does this one thing at its peak rate."""

    name: str
    times: float
    memory: Memory
    flops: float
    again: float
    bytes: float  # to and from HBM, a device
    collectives: list[Collective]
    compute_s: float
    memory_s: float
    network_s: float
    exposed_s: float  # of network_s, what the compiler put no other work beside

    @property
    def seconds(self) -> float:
        """The estimate: the slowest of three that overlap, and behind it the network time that nothing hides."""
        return max(self.compute_s, self.memory_s, self.network_s - self.exposed_s) + self.exposed_s

    @property
    def bound(self) -> str:
        floors = {"compute": self.compute_s, "memory": self.memory_s, "network": self.network_s}
        return max(floors, key=lambda name: floors[name])


@dataclass(frozen=True)
class TooLarge:
    """The compiler found that it does not fit. `peak`: bytes a device that it would need."""

    name: str
    peak: float


def compile_part(part: Part, where: Slice, mesh: Mesh) -> tuple[Cost | TooLarge, float]:
    """(what it costs, or that it does not fit; seconds that compiling took)."""
    start = time.monotonic()
    try:
        compiled = part.lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return TooLarge(part.name, _needed(str(error), where)), time.monotonic() - start
    seconds = time.monotonic() - start
    return cost(part, compiled, where, mesh), seconds


def cost(part: Part, compiled: jax.stages.Compiled, where: Slice, mesh: Mesh) -> Cost:
    stats: Any = compiled.memory_analysis()
    memory = Memory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes - stats.alias_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        program=stats.generated_code_size_in_bytes,
    )
    program = Program(compiled.as_text() or "")
    found = program.collectives(part.loop)
    moved = program.hbm_bytes(part.loop)
    chip, share = where.chip, where.share
    rate = chip.flops * share * len(where.devices)
    order = list(mesh.devices.flat)  # a program numbers the devices as its mesh has them
    each = [(one, one.count * network_seconds(one, where, order)) for one in found]
    return Cost(
        name=part.name,
        times=part.times,
        memory=memory,
        flops=part.flops,
        again=part.again,
        bytes=moved,
        collectives=found,
        compute_s=(part.flops + part.again) / rate,
        memory_s=moved / (chip.hbm_rate * share),
        network_s=sum(seconds for _, seconds in each),
        exposed_s=sum(seconds for one, seconds in each if not one.hidden),
    )


def network_seconds(one: Collective, where: Slice, order: Sequence[jax.Device]) -> float:
    """What one collective needs at least, all its links busy in both directions (the scaling book's chapter 3).

    n devices over a ring, V bytes in all: gathering and scattering V (n - 1) / n, reducing to all twice that, an
    all-to-all a quarter of V, each over the bandwidth of the torus axes that the group spans; a permute its message
    over one axis. An axis that is not closed to a ring gives half.
    """
    group = one.groups[0] if one.groups else tuple(range(len(order)))
    n, bandwidth = len(group), 2 * where.chip.link * where.share
    if one.kind == "collective-permute":
        return one.bytes / bandwidth
    coords = [tuple(order[member].coords) for member in group]
    axes = 0.0
    for axis, size in enumerate(where.shape):
        if len({at[axis] for at in coords}) > 1:
            axes += 1.0 if size % where.chip.torus == 0 else 0.5
    if n < 2 or one.bytes == 0:
        return 0.0
    factor = {"all-reduce": 2 * (n - 1) / n, "all-to-all": 0.25}.get(one.kind, (n - 1) / n)
    return one.bytes * factor / (bandwidth * (axes or 1.0))


def _needed(message: str, where: Slice) -> float:
    """From "(26.00G) exceeds available HBM (15.75G)" or "Used 20.01G of 15.75G hbm"; more than fits in any case."""
    found = re.search(r"\(([\d.]+)([KMGT]?)\) exceeds|Used ([\d.]+)([KMGT]?) of", message)
    if not found:
        return math.inf
    number, scale = (found[1], found[2]) if found[1] else (found[3], found[4])
    value = float(number) * 1024 ** " KMGT".index(scale or " ")
    return max(value, where.chip.hbm * where.share + GIB / 1024)
