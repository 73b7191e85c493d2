"""The train step: loss, gradients, AdamW and every row's dynamics, in one jitted function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from ilpjax.config import TrainConfig
from ilpjax.models import Model, Params, compute_dtype, param_shardings, weighted_nats
from ilpjax.parallel import batch_sharding, replicated
from ilpjax.train.optimizer import make_optimizer, schedule

Batch = dict[str, Array]
# What a row's visit adds up to, in the last axis of `row_sums`.
NLL, P_RIGHT, GREEDY, TOKENS = range(4)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """All that a step changes: fp32 master weights, Adam's moments, the number of steps done."""

    params: Params
    opt_state: optax.OptState
    step: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Metrics:
    """What a step tells, over the global batch, whole on every process. `loss` in nats a target token."""

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    lr: Float[Array, ""]
    targets: Float[Array, ""]  # sum of the weights
    rows: Int[Array, "batch slots"]  # index of the example in each slot, -1: none
    row_sums: Float[Array, "batch slots 4"] | None  # NLL, P_RIGHT, GREEDY, TOKENS; None without dynamics


def state_shardings(model: Model, mesh: Mesh, params: Params, optimizer: optax.GradientTransformation) -> State:
    """Where a state lives: parameters as the model says, moments like their parameters, counters everywhere."""
    shardings = param_shardings(model, mesh)
    opt_state = optax.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, params),
        shardings,
        transform_non_params=lambda _: replicated(mesh),
    )
    step: Any = replicated(mesh)  # a State of shardings: the same tree with other leaves
    return State(params=shardings, opt_state=opt_state, step=step)


def init_state(params: Params, optimizer: optax.GradientTransformation, shardings: State) -> State:
    """A state at step 0. `params` are donated: they live on inside the state."""
    return jax.jit(_first_state(optimizer), out_shardings=shardings, donate_argnums=0)(params)


def abstract_state(params: Params, optimizer: optax.GradientTransformation, shardings: State) -> State:
    """The shapes, dtypes and places of a state, to restore one into."""
    shapes = jax.eval_shape(_first_state(optimizer), params)
    like = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return jax.tree.map(like, shapes, shardings)


def _first_state(optimizer: optax.GradientTransformation) -> Callable[[Params], State]:
    return lambda params: State(params=params, opt_state=optimizer.init(params), step=jnp.zeros((), jnp.int32))


def row_sums(
    logprob: Float[Array, "batch seq"],
    greedy: Bool[Array, "batch seq"],
    weights: Float[Array, "batch seq"],
    slots: Int[Array, "batch seq"],
    count: int,
) -> Float[Array, "batch count 4"]:
    """Sums over each row's target tokens: nats lost, probability of the right token, greedy hits, tokens.

    A token counts where its weight is above 0 and its slot is one of the `count`.
    """
    ones = jnp.ones_like(logprob)
    seen = jnp.stack([-logprob, jnp.exp(logprob), greedy.astype(logprob.dtype), ones], axis=-1)
    # Out-of-range targets of a segment sum are dropped only above the range: -1 would wrap to the last slot.
    slots = jnp.where((weights > 0) & (slots >= 0), slots, count)
    return jax.vmap(lambda s, i: jax.ops.segment_sum(s, i, num_segments=count + 1)[:count])(seen, slots)


def batch_sums(
    model: Model, cfg: TrainConfig, params: Params, batch: Batch
) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Float[Array, "batch slots 4"] | None]]:
    """Sum of weighted nats, and beside it the sum of the weights and the row sums."""
    hidden = model.hidden(
        params,
        batch["tokens"],
        batch["positions"],
        batch["subtree_end"],
        dtype=compute_dtype(cfg.dtype),
        remat=cfg.remat,
        impl=cfg.attention,
        packed=True,
    )
    weights = batch["weights"]
    nats, logprob, greedy = weighted_nats(
        hidden, model.head(params), batch["targets"], weights, chunk=cfg.loss_chunk, mesh=model.mesh
    )
    rows = None
    if cfg.dynamics:
        rows = row_sums(logprob, greedy, weights, batch["slots"], count=batch["rows"].shape[-1])
    return nats, (jnp.sum(weights), rows)


def loss_and_grads(
    model: Model, cfg: TrainConfig, params: Params, batch: Batch, mesh: Mesh
) -> tuple[Float[Array, ""], Params, Float[Array, ""], Float[Array, "batch slots 4"] | None]:
    """Mean nats a target over the whole batch, its gradient, the sum of the weights, the row sums.

    With `micro_batches` the parts' numerators and denominators are summed and divided once: a mean of means would
    give a row with few targets in its part more weight.
    """
    parts = cfg.micro_batches
    shardings = param_shardings(model, mesh)
    micro_sharding = NamedSharding(mesh, PartitionSpec(None, *batch_sharding(mesh).spec))

    def sums(params: Params, part: Batch) -> tuple[Any, Any]:
        (nats, (weight, rows)), grads = jax.value_and_grad(lambda p: batch_sums(model, cfg, p, part), has_aux=True)(
            params
        )
        return (nats, weight, jax.lax.with_sharding_constraint(grads, shardings)), rows

    def split(x: Array) -> Array:
        # Strided, so that every part takes its sequences from all devices and none has to move.
        x = x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(x, micro_sharding)

    def add(total: Any, part: Batch) -> tuple[Any, Any]:
        more, rows = sums(params, part)
        return jax.tree.map(jnp.add, total, more), rows

    if parts == 1:
        (nats, weight, grads), rows = sums(params, batch)
    else:
        zero = jnp.zeros((), jnp.float32)
        start = zero, zero, jax.lax.with_sharding_constraint(jax.tree.map(jnp.zeros_like, params), shardings)
        (nats, weight, grads), rows = jax.lax.scan(add, start, jax.tree.map(split, batch))
        rows = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), rows)
    weight = jnp.where(weight > 0, weight, 1.0)
    return nats / weight, jax.tree.map(lambda g: g / weight, grads), weight, rows


def make_step(
    model: Model, cfg: TrainConfig, steps: int, mesh: Mesh, shardings: State
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """The jitted step of a run of `steps`. The state is donated; a batch is what `ilpjax.data.Loader` yields."""
    optimizer, rate = make_optimizer(cfg, steps), schedule(cfg, steps)

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        loss, grads, targets, rows = loss_and_grads(model, cfg, state.params, batch, mesh)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics = Metrics(
            loss=loss,
            grad_norm=optax.global_norm(grads),
            lr=rate(state.step),
            targets=targets,
            rows=batch["rows"],
            row_sums=rows,
        )
        params = optax.apply_updates(state.params, updates)
        return State(params=params, opt_state=opt_state, step=state.step + 1), metrics

    # The metrics are small, and whole on every process: no gathering afterwards.
    return jax.jit(
        step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
