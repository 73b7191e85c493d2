"""Which logical axis of an array is cut over which mesh axis."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from ilpjax.errors import InputError

# Everything a model or a batch is cut along. None: every device holds the whole axis.
RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "replicas": "data",  # sequences, where fsdp cuts another axis
    "seq": None,
    "layers": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "norm": None,
}


def named_sharding(mesh: Mesh, axes: Sequence[str | None], shape: Sequence[int]) -> NamedSharding:
    """The sharding of an array whose dimensions carry these logical names.

    A rule is dropped where the size does not divide (2 KV heads over tensor=4) or the mesh axis is taken already.
    """
    spec: list[str | tuple[str, ...] | None] = []
    taken: set[str] = set()
    for name, size in zip(axes, shape, strict=True):
        rule = RULES[name] if name else None
        over = (rule,) if isinstance(rule, str) else rule or ()
        ways = math.prod(mesh.shape[axis] for axis in over)
        fits = bool(over) and size % ways == 0 and not taken.intersection(over)
        spec.append(rule if fits else None)
        taken.update(over if fits else ())
    return NamedSharding(mesh, PartitionSpec(*spec))


def constrain(x: jax.Array, mesh: Mesh | None, axes: Sequence[str | None]) -> jax.Array:
    """Inside a jitted function: tells the compiler how this intermediate is cut."""
    if mesh is None or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, named_sharding(mesh, axes, x.shape))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over ("data", "fsdp"), the rest whole."""
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def put_batch(mesh: Mesh, batch: Any) -> Any:
    """A tree of this process's rows (np arrays, leading axis the batch) -> a tree of global jax.Arrays.

    Every process gives the same number of rows. Raises InputError when they do not divide over the devices.
    """
    sharding, ways = batch_sharding(mesh), mesh.shape["data"] * mesh.shape["fsdp"]

    def put(local: np.ndarray) -> jax.Array:
        rows = local.shape[0] * jax.process_count()
        if rows % ways:
            raise InputError(f"batch: {rows} sequences do not divide over {ways} devices (mesh data x fsdp)")
        return jax.make_array_from_process_local_data(sharding, np.asarray(local))

    return jax.tree.map(put, batch)
