"""TPU chips and slices: what a chip can do, and the devices of a topology without having one."""

import importlib.util
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import jax
from jax.experimental import topologies

from ilpjax.errors import InputError


@dataclass(frozen=True)
class Chip:
    """Peak rates of one chip, not of one device: a TPU7x chip shows as two devices."""

    kind: str
    flops: float  # bf16 FLOP/s
    hbm: float  # bytes a program may use, as the compiler has it: a little under what is soldered on
    hbm_rate: float  # bytes/s
    link: float  # ICI bytes/s, one link, one direction
    torus: int  # the chips of an axis are closed to a ring where its length is a multiple of this


GIB = 2**30
# FLOP/s, HBM and its rate: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}. HBM soldered on is 32, 16, 95, 32 and 192
# GiB; what is left to a program is the compiler's own figure (its message when a program needs more, libtpu 0.0.42).
# Links: jax-ml.github.io/scaling-book/tpus, a tenth under the pages' nominal figures; TPU7x has v5p's nominal 1200 GB/s
# over six ports. Rings: the same chapter; a v5e or v6e axis closes at 16, the others' in whole cubes of 4.
CHIPS = {
    "v4": Chip("v4", 275e12, 30.75 * GIB, 1.2e12, 45e9, 4),
    "v5e": Chip("v5e", 197e12, 15.75 * GIB, 819e9, 45e9, 16),
    "v5p": Chip("v5p", 459e12, 95.74 * GIB, 2765e9, 90e9, 4),
    "v6e": Chip("v6e", 918e12, 31.25 * GIB, 1638e9, 90e9, 16),
    "tpu7x": Chip("tpu7x", 2307e12, 189.5 * GIB, 7380e9, 90e9, 4),
}
_ALIASES = {"v7x": "tpu7x", "v5litepod": "v5e"}


@dataclass(frozen=True)
class Slice:
    """A topology: its chip, its shape and its devices, which compile but do not run."""

    name: str
    chip: Chip
    shape: tuple[int, ...]
    devices: Sequence[jax.Device]

    @property
    def chips(self) -> int:
        return len({tuple(device.coords) for device in self.devices})

    @property
    def share(self) -> float:
        """Of a chip, what one device has."""
        return self.chips / len(self.devices)


def find_slice(topology: str) -> Slice:
    """The slice called `v5e:4x4`, `v5p:4x4x4`, ... Needs libtpu, and no TPU.

    Raises InputError: libtpu is missing, no such chip, a shape that the chip does not come in.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)+)", topology)
    kind = match and _ALIASES.get(match[1], match[1])
    if not match or kind not in CHIPS:
        kinds = ", ".join(CHIPS)
        raise InputError(f"topology: {topology} is not a TPU slice; v5e:4x4 or v5p:4x4x4 would be right ({kinds})")
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            f"topology: {topology} needs the compiler for TPUs, and libtpu is not installed; "
            "pip install 'ilpjax[tpu]' would be right"
        )
    _quiet()
    # A v4 chip's two cores act as one device, as they do on a real one; the newer kinds know that by themselves.
    more = {"chip_config_name": "megacore"} if kind == "v4" else {}
    try:
        found = topologies.get_topology_desc(f"{kind}:{match[2]}", platform="tpu", **more)
    except Exception as error:  # what is raised is not the same in all versions
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"topology: {topology} cannot be had ({why}); v5e:4x4 or v5p:4x4x4 would be right") from None
    return Slice(topology, CHIPS[kind], tuple(map(int, match[2].split("x"))), found.devices)


def _quiet() -> None:
    """libtpu asks the cloud's metadata server who it is, which off the cloud means minutes of retries and warnings.

    It also lets one process in, since it expects to own the chips; compiling owns none, so several may.
    """
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
