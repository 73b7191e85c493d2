"""What a job computes in a step: how to lower it at a batch size, and its FLOPs, counted from the model."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ilpjax.config import PlanJob
from ilpjax.data import OptionTokens
from ilpjax.models import ModelSpec, Params, define, describe_attention, param_shapes, param_shardings
from ilpjax.parallel import batch_sharding
from ilpjax.scoring import (
    Prompt,
    Sampler,
    batch_shapes,
    choose_base,
    decode,
    fill,
    grow,
    prefill,
    sample_specs,
    score_batch,
)
from ilpjax.train import abstract_state, check_batch, make_optimizer, make_step, state_shardings

STEPS = 1000  # of the run whose step is compiled: the learning rate's schedule needs a number
ROWS = 16  # rows a packed sequence holds
CONTROL = 8  # tokens of a prompt without its question


@dataclass(frozen=True)
class Part:
    """One compiled function of a step, run `times`.

    `flops` are the model's, over all devices; `again` those that the hardware does beside them: recomputation, padding.
    `loop`: how often a loop turns whose length is not in the program (decoding, until all answers have ended).
    """

    name: str
    lowered: jax.stages.Lowered
    flops: float
    again: float = 0.0
    times: float = 1.0
    loop: float = 1.0


@dataclass(frozen=True)
class Work:
    """A job's step at any batch size: `unit` x n. `counts` are what it gets done: {"tokens": ...}."""

    key: str  # of the config that sets the batch
    batch: int
    unit: int
    parts: Callable[[int], list[Part]]
    counts: Callable[[int], dict[str, float]]
    attention: str  # which one is compiled


def forward_flops(spec: ModelSpec, tokens: float, pairs: float, logits: float) -> float:
    """2 a matmul weight and token, 4 a query that meets a key in each head's dimension, 2 a weight of the head."""
    head = spec.vocab * spec.embed
    layers = spec.flops_per_token(0) / 6 - head
    return 2 * layers * tokens + 4 * spec.layers * spec.heads * spec.head_dim * pairs + 2 * head * logits


def find_work(job: PlanJob, spec: ModelSpec, mesh: Mesh) -> Work:
    """Raises InputError when the batch does not divide over the mesh."""
    return {"sft": _sft, "score": _score, "sample": _sample}[job.job](job, spec, mesh)


def _ways(mesh: Mesh) -> int:
    return mesh.shape["data"] * mesh.shape["fsdp"]


def _sft(job: PlanJob, spec: ModelSpec, mesh: Mesh) -> Work:
    cfg = job.sft.model_copy(update={"dtype": "bfloat16"} if job.sft.dtype == "auto" else {})
    check_batch(cfg, mesh)
    model, seq = define(spec, mesh), cfg.seq_len
    optimizer, shapes = make_optimizer(cfg, STEPS), param_shapes(model)
    shardings = state_shardings(model, mesh, shapes, optimizer)
    state = abstract_state(shapes, optimizer, shardings)

    def parts(batch: int) -> list[Part]:
        array = lambda width, dtype=jnp.int32: jax.ShapeDtypeStruct(
            (batch, width), dtype, sharding=batch_sharding(mesh)
        )
        names = ("tokens", "positions", "subtree_end", "targets", "slots")
        arrays = {name: array(seq) for name in names} | {"weights": array(seq, jnp.float32), "rows": array(ROWS)}
        sized = cfg.model_copy(update={"batch": batch})
        step: Any = make_step(model, sized, STEPS, mesh, shardings)
        tokens = batch * seq
        again = forward_flops(spec, tokens, tokens * seq / 2, 0) if cfg.remat else 0.0
        return [Part("step", step.lower(state, arrays), tokens * spec.flops_per_token(seq), again)]

    counts = lambda batch: {"sequences": float(batch), "tokens": float(batch * seq)}
    used = describe_attention(cfg.attention, seq, spec.head_dim, jnp.dtype(cfg.dtype), mesh=mesh, packed=True)
    return Work("sft.batch", cfg.batch, _ways(mesh) * cfg.micro_batches, parts, counts, used)


def _params(spec: ModelSpec, mesh: Mesh, narrow: bool) -> Params:
    """Weights as the job holds them, in shapes alone; `narrow`: all but the norms in bfloat16."""
    model = define(spec, mesh)

    def one(path: Any, shape: jax.ShapeDtypeStruct, sharding: Any) -> jax.ShapeDtypeStruct:
        wide = not narrow or path[-1].key == "scale"
        return jax.ShapeDtypeStruct(shape.shape, jnp.float32 if wide else jnp.bfloat16, sharding=sharding)

    return jax.tree_util.tree_map_with_path(one, param_shapes(model), param_shardings(model, mesh))


def _score(job: PlanJob, spec: ModelSpec, mesh: Mesh) -> Work:
    cfg, ways = job.score, _ways(mesh)
    model, params = define(spec, mesh), _params(spec, mesh, narrow=False)
    dtype = jnp.dtype("bfloat16" if cfg.dtype == "auto" else cfg.dtype)
    root = lambda shared: OptionTokens(
        np.zeros(shared, np.int32), (np.zeros(job.option_tokens, np.int32),) * job.options, (0,) * job.options
    )
    tree = grow([root(job.prompt), *([root(CONTROL)] if cfg.control else [])])
    rows = -(-cfg.batch // ways) * ways
    shape = choose_base([tree] * 256, spec, rows, cfg.pack, cpu=False, whole=False)
    trees = max(map(len, fill([tree.need] * 256, shape, cfg.pack)))
    pairs = float((tree.positions + 1).sum())  # a token sees its branch, as many keys as it is deep

    def parts(batch: int) -> list[Part]:
        lowered = score_batch.lower(model, dtype, mesh, cfg.attention, params, batch_shapes(mesh, batch, shape))
        flops = batch * trees * forward_flops(spec, len(tree.tokens), pairs, tree.need[1])
        padding = forward_flops(spec, shape.length - trees * len(tree.tokens), 0, shape.places - trees * tree.need[1])
        return [Part("pass", lowered, flops, batch * padding)]

    counts = lambda batch: {"items": float(batch * trees), "tokens": float(batch * trees * len(tree.tokens))}
    used = describe_attention(cfg.attention, shape.length, spec.head_dim, dtype, mesh=mesh)
    return Work("score.batch", rows, ways, parts, counts, used)


def _sample(job: PlanJob, spec: ModelSpec, mesh: Mesh) -> Work:
    """A batch of prompts answered to the last token: prefills until all slots are full, then one long decode."""
    cfg, ways = job.sample, _ways(mesh)
    dtype = jnp.dtype("bfloat16" if cfg.dtype == "auto" else cfg.dtype)
    model, params = define(spec, mesh), _params(spec, mesh, narrow=dtype == jnp.bfloat16)
    prompt = Prompt("", np.zeros(job.prompt, np.int32), tuple(range(cfg.samples)))
    new = max(1, cfg.new_tokens - 1)  # the first one comes from the prefill

    def parts(batch: int) -> list[Part]:
        # In float32 a sampler takes weights as they are, and here there are none.
        sized = cfg.model_copy(update={"batch": batch, "dtype": "float32"})
        shape = replace(Sampler(model, {}, mesh, sized).shape(prompt), dtype=dtype)
        state, arrays, stop, enough = sample_specs(model, mesh, shape)
        answers, seen = batch * shape.lanes * new, job.prompt + new / 2
        reading = forward_flops(spec, job.prompt, job.prompt**2 / 2, 1)
        padding = forward_flops(spec, shape.prompt - job.prompt, (shape.prompt**2 - job.prompt**2) / 2, 0)
        first = prefill.lower(model, mesh, shape, params, state, arrays, stop)
        rest = decode.lower(model, mesh, shape, params, state, stop, enough)
        return [
            Part("prefill", first, shape.group * reading, shape.group * padding, times=batch / shape.group),
            Part("decode", rest, forward_flops(spec, answers, answers * seen, answers), loop=new),
        ]

    rows = -(-cfg.batch // ways) * ways
    counts = lambda batch: {"prompts": float(batch), "tokens": float(batch * cfg.samples * cfg.new_tokens)}
    used = describe_attention("auto", job.prompt, spec.head_dim, dtype, mesh=mesh, packed=True)
    return Work("sample.batch", rows, ways, parts, counts, f"{used}, then one softmax over prompt and answer")
