"""The mesh and the start-up of several processes."""

import os
from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from ilpjax.config import MeshConfig
from ilpjax.errors import InputError

MESH_AXES = ("data", "fsdp", "tensor")


def make_mesh(cfg: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over `devices` (default: all devices of all processes), axes ("data", "fsdp", "tensor").

    Raises InputError when the axes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    count, model = len(devices), cfg.fsdp * cfg.tensor
    data = count // model if cfg.data == -1 else cfg.data
    if data * model != count or data < 1:
        asked = f"data={cfg.data} x fsdp={cfg.fsdp} x tensor={cfg.tensor}"
        fits = (
            "fsdp * tensor must divide it"
            if cfg.data == -1
            else "the product must equal it; data=-1 takes what is left"
        )
        raise InputError(f"mesh: {asked} does not fit the device count {count}; {fits}")
    shape = (data, cfg.fsdp, cfg.tensor)
    # Along the torus of a TPU slice where that works out; fsdp=8 on 4x4 chips has to split one of its axes.
    grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    # Auto axes: shardings are stated on the arrays, the compiler places the collectives.
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def start() -> None:
    """Joins the other processes when the environment says that there are several; harmless for one.

    Told by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or found on a TPU pod or under SLURM
    by JAX itself. Call it before the first use of a device. Raises InputError when only some variables are set.
    """
    if jax.distributed.is_initialized():
        return
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = {name: os.environ[name] for name in names if os.environ.get(name)}
    if given and len(given) < len(names):
        missing = ", ".join(name for name in names if name not in given)
        raise InputError(f"{missing}: not set, but {', '.join(given)} is; several processes need all three")
    if given:
        address, count, process = given.values()
        if not (count.isdigit() and process.isdigit() and int(process) < int(count)):
            raise InputError(f"JAX_PROCESS_ID={process}, JAX_NUM_PROCESSES={count}: need numbers, 0 <= id < processes")
        if int(count) > 1:
            jax.distributed.initialize(address, int(count), int(process))
    elif _several_hosts():
        jax.distributed.initialize()


def _several_hosts() -> bool:
    slurm = int(os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS") or 1)
    in_step = "SLURM_PROCID" in os.environ and "SLURM_STEP_NODELIST" in os.environ
    pod = len([host for host in os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if host])
    return (in_step and slurm > 1) or pod > 1
