"""The plan job: a model, a slice and a job -> what a step needs there and what it could reach."""

import json
from collections.abc import Iterator
from typing import Any

import jax

from ilpjax.config import PlanJob
from ilpjax.errors import InputError
from ilpjax.models import ModelSpec, read_spec, resolve
from ilpjax.parallel import make_mesh
from ilpjax.plan.chips import GIB, Slice, find_slice
from ilpjax.plan.estimate import Cost, TooLarge, compile_part
from ilpjax.plan.search import largest
from ilpjax.plan.work import Work, find_work

Plan = dict[str, Any]


def run_plan(job: PlanJob) -> None:
    """Prints the plan, as a table or with `json=true` as one JSON object. Raises InputError."""
    # A TPU of this machine is not touched, and where there is none JAX does not look for one.
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # a program without its devices cannot be read back
    found = make_plan(job)
    print(json.dumps(found) if job.json_ else "\n".join(table(found)))


def make_plan(job: PlanJob) -> Plan:
    """All numbers of a plan, JSON-like: bytes, seconds, FLOPs; memory and bytes a device, FLOPs of all devices.

    Compiles the job's real step for the slice. Raises InputError: the model, the slice, the mesh or the batch.
    """
    spec = _spec(job)
    where = find_slice(job.topology)
    mesh = make_mesh(job.mesh, where.devices)
    work = find_work(job, spec, mesh)
    known: dict[int, float] = {}
    costs, seconds = _compile(work, work.batch, where, mesh)
    known[work.batch // work.unit] = _peak(costs)
    sizes: list[int] = []

    def need(units: int) -> float:
        sizes.append(units * work.unit)
        return _peak(_compile(work, units * work.unit, where, mesh)[0])

    hbm = where.chip.hbm * where.share
    best = largest(need, hbm, work.batch // work.unit, job.search, known)
    plan = _head(job, spec, where, mesh.shape, work) | {"compile_s": round(seconds, 1)}
    plan["hbm"], plan["peak"] = hbm, _peak(costs)
    plan["fits"] = bool(plan["peak"] <= hbm)
    plan["largest_batch"] = best.fits * work.unit if job.search else None
    plan["largest_batch_is_exact"] = best.exact
    plan["search_compiled"] = sizes
    if all(isinstance(one, Cost) for one in costs):
        plan |= _numbers([one for one in costs if isinstance(one, Cost)], work, where)
    return plan


def _spec(job: PlanJob) -> ModelSpec:
    if (job.model is None) == (job.config is None):
        raise InputError("model, config: one of the two is needed: a hub name or folder, or config.json written out")
    return read_spec(resolve(job.model)) if job.model else ModelSpec.from_config(job.config or {}, "config")


def _compile(work: Work, batch: int, where: Slice, mesh: Any) -> tuple[list[Cost | TooLarge], float]:
    found = [compile_part(part, where, mesh) for part in work.parts(batch)]
    return [one for one, _ in found], sum(seconds for _, seconds in found)


def _peak(costs: list[Cost | TooLarge]) -> float:
    return max(one.memory.peak if isinstance(one, Cost) else one.peak for one in costs)


def _head(job: PlanJob, spec: ModelSpec, where: Slice, mesh: Any, work: Work) -> Plan:
    return {
        "job": job.job,
        "model": job.model or job.title or spec.family,
        "params": spec.num_params,
        "topology": where.name,
        "chip": where.chip.kind,
        "chips": where.chips,
        "devices": len(where.devices),
        "mesh": dict(mesh),
        "attention": work.attention,
        "batch": work.batch,
        "batch_unit": work.unit,
        "counts": work.counts(work.batch),
    }


def _numbers(costs: list[Cost], work: Work, where: Slice) -> Plan:
    total = lambda of: sum(of(one) * one.times for one in costs)
    step, flops = total(lambda one: one.seconds), total(lambda one: one.flops)
    counts = work.counts(work.batch)
    return {
        "model_flops": flops,
        "hardware_flops": flops + total(lambda one: one.again),
        "step_s": step,
        "mfu": flops / step / (where.chip.flops * where.chips),
        "rates": {f"{name}_s": count / step for name, count in counts.items()},
        "parts": [_part(one) for one in costs],
    }


def _part(cost: Cost) -> Plan:
    memory = cost.memory
    names = ("arguments", "outputs", "aliased", "temporaries", "program", "peak")
    return {
        "name": cost.name,
        "times": cost.times,
        "memory": {name: float(getattr(memory, name)) for name in names},
        "hbm_bytes": cost.bytes,
        "floors": {"compute_s": cost.compute_s, "memory_s": cost.memory_s, "network_s": cost.network_s},
        "network_exposed_s": cost.exposed_s,
        "bound": cost.bound,
        "seconds": cost.seconds,
        "collectives": [
            {
                "kind": one.kind,
                "devices": len(one.groups[0]) if one.groups else 0,
                "bytes": one.bytes,
                "count": one.count,
                "hidden": one.hidden,
            }
            for one in cost.collectives
        ],
    }


def table(plan: Plan) -> Iterator[str]:
    """The same for people."""
    gib = lambda bytes_: f"{bytes_ / GIB:.2f} GiB"
    mesh = " ".join(f"{axis}={size}" for axis, size in plan["mesh"].items())
    yield f"{plan['job']}  {plan['model']}  {plan['params'] / 1e9:.2f}B parameters"
    yield f"slice      {plan['topology']}: {plan['chips']} {plan['chip']} chips; mesh {mesh}"
    yield f"batch      {plan['batch']} (a multiple of {plan['batch_unit']}); compiled in {plan['compile_s']} s"
    yield plan["attention"]
    yield f"memory     {gib(plan['peak'])} of {gib(plan['hbm'])} a device: {'fits' if plan['fits'] else 'DOES NOT FIT'}"
    for part in plan.get("parts", ()):
        yield from _rows(part, gib)
    if "step_s" in plan:
        yield f"FLOPs      {plan['model_flops']:.3g} of the model, {plan['hardware_flops']:.3g} with recomputation"
        rates = ", ".join(f"{value:,.0f} {name.removesuffix('_s')}/s" for name, value in plan["rates"].items())
        yield f"at best    {plan['step_s']:.4g} s a step, MFU {plan['mfu']:.0%}; {rates}"
        yield "           an estimate: compute, memory and network overlap, each at its peak rate, and behind them"
        yield "           come the collectives that the compiler put no work beside. A real step takes longer."
    yield _searched(plan)


def _rows(part: Plan, gib: Any) -> Iterator[str]:
    memory, floors = part["memory"], part["floors"]
    name = part["name"] if part["times"] == 1 else f"{part['name']} x{part['times']:g}"
    yield f"{name:10s} " + ", ".join(f"{key} {gib(memory[key])}" for key in ("arguments", "outputs", "temporaries"))
    times = ", ".join(f"{key.removesuffix('_s')} {value:.4g} s" for key, value in floors.items())
    yield f"  floors   {times} ({part['network_exposed_s']:.4g} s not hidden); bound by {part['bound']}"
    yield f"  HBM      {part['hbm_bytes'] / 1e9:.1f} GB moved, counted from the compiled program, loops multiplied in"
    kinds: dict[str, tuple[float, float]] = {}
    for one in part["collectives"]:
        count, size = kinds.get(one["kind"], (0.0, 0.0))
        kinds[one["kind"]] = count + one["count"], size + one["bytes"] * one["count"]
    for kind, (count, size) in sorted(kinds.items(), key=lambda item: -item[1][1]):
        yield f"  {kind:18s} {count:6g} times, {gib(size)}"


def _searched(plan: Plan) -> str:
    if plan["largest_batch"] is None:
        return "largest    not searched (search=0)"
    tried = f"compiled {', '.join(map(str, plan['search_compiled'])) or 'no other'}"
    if not plan["largest_batch"]:
        return f"largest    no batch fits: {tried}"
    return f"largest    batch {'' if plan['largest_batch_is_exact'] else 'at least '}{plan['largest_batch']} ({tried})"
