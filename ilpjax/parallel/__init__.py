"""The mesh, made in one place; which array axis goes over which mesh axis; several hosts."""

from ilpjax.parallel.mesh import MESH_AXES, make_mesh, start
from ilpjax.parallel.sharding import RULES, batch_sharding, constrain, named_sharding, put_batch, replicated

__all__ = [
    "MESH_AXES",
    "RULES",
    "batch_sharding",
    "constrain",
    "make_mesh",
    "named_sharding",
    "put_batch",
    "replicated",
    "start",
]
