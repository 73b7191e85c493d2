"""Log-probs of options, from the token tree."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from ilpjax.config import AttentionImpl
from ilpjax.data import OptionTokens
from ilpjax.models import Model, Params, describe_attention
from ilpjax.parallel import batch_sharding, constrain, put_batch, replicated
from ilpjax.scoring.pack import Row, Shape, stack
from ilpjax.scoring.tree import SHORTEST, next_power

CHUNK = 1024  # places of a device whose logits exist at a time


def option_scores(
    model: Model,
    params: Params,
    batch: dict[str, Int[Array, "batch ..."]],
    dtype: Any,
    impl: AttentionImpl = "auto",
    mesh: Mesh | None = None,
) -> Float[Array, "batch targets"]:
    """Log-prob of each option in nats, float32, summed over its tokens; columns beyond the options are 0.

    `batch` is what `stack` makes. Logits exist where something is predicted from, never at other positions, and for
    `CHUNK` places of a device at a time.
    """
    inputs = (batch["nodes"][:, n] for n in range(3))  # tokens, positions, subtree_end
    at, target, option = (batch["targets"][:, n] for n in range(3))
    # A sequence of several trees may be longer than the model's context, its paths are not.
    hidden = model.hidden(params, *inputs, dtype=dtype, impl=impl, longest=model.spec.max_positions)
    head = model.head(params).astype(dtype)
    pick = lambda x, index: jnp.take_along_axis(x, index[..., None], axis=1)
    at_places = pick(hidden, batch["places"])
    predictors = pick(at_places, at)
    # A target's own logit is one row of the head: cheaper than looking it up among all logits of its place.
    logits = jnp.sum(predictors.astype(jnp.float32) * head[target].astype(jnp.float32), axis=-1)
    logprob = logits - jnp.take_along_axis(_log_normaliser(at_places, head, mesh), at, axis=1)
    columns = target.shape[1]
    add = lambda values, option: jax.ops.segment_sum(values, option, num_segments=columns + 1)[:columns]
    return jax.vmap(add)(logprob, option)


def _log_normaliser(
    x: Float[Array, "batch places embed"], head: Float[Array, "vocab embed"], mesh: Mesh | None
) -> Float[Array, "batch places"]:
    """log sum exp of the logits, a part of each sequence's places at a time, so that a batch cut over devices stays."""
    batch, places, _ = x.shape
    ways = mesh.shape["data"] * mesh.shape["fsdp"] if mesh is not None else 1
    steps = -(-batch * places // (CHUNK * ways))

    def one(part: Array) -> Array:
        exact = jax.lax.Precision.HIGHEST if part.dtype == jnp.float32 else None
        logits = jnp.einsum("bpd,vd->bpv", part, head, precision=exact, preferred_element_type=jnp.float32)
        return jax.nn.logsumexp(logits, axis=-1)

    if steps == 1:  # not a loop of one: a CPU runs what is inside a loop on one core
        return one(x)
    step = -(-places // steps)
    padded = jnp.pad(x, ((0, 0), (0, steps * step - places), (0, 0)))
    parts = jnp.moveaxis(padded.reshape(batch, steps, step, -1), 1, 0)
    return jnp.moveaxis(jax.lax.map(one, parts), 0, 1).reshape(batch, -1)[:, :places]


def option_scores_reference(
    model: Model, params: Params, tokens: OptionTokens, dtype: Any = jnp.float32
) -> Float[np.ndarray, " options"]:
    """What `option_scores` computes, plainly: one sequence an option, all logits.

    Sequences are padded on the right to a few lengths, which a causal model cannot see, so that compiles are few.
    """
    scores = []
    for option, tail in zip(tokens.options, tokens.prompt_tail, strict=True):
        sequence = np.concatenate([tokens.shared, option])
        size, first = len(sequence), len(tokens.shared) + tail
        width = next_power(size, SHORTEST)
        padded = jnp.asarray(np.pad(sequence, (0, width - size)))[None]
        logits = _logits(model, params, padded, jnp.arange(width)[None], jnp.full((1, width), width), dtype=dtype)
        logprob = np.asarray(jax.nn.log_softmax(logits[0]))
        scores.append(sum(float(logprob[n - 1, sequence[n]]) for n in range(first, size)))
    return np.array(scores)


_logits = jax.jit(Model.logits, static_argnums=0, static_argnames="dtype")


# Jitted once for the process: the tuned model of a run has the base's shapes, and compiles nothing anew.
@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def score_batch(
    model: Model,
    dtype: Any,
    mesh: Mesh,
    impl: AttentionImpl,
    params: Params,
    batch: dict[str, Int[Array, "batch ..."]],
) -> Float[Array, "batch targets"]:
    """`option_scores` over the devices of a mesh: the batch cut over data x fsdp, the scores whole on every device.

    To compile it for a topology, give shapes for arrays: `score_batch.lower(model, dtype, mesh, impl, params_shapes,
    batch_shapes(mesh, rows, shape))`.
    """
    batch = {name: constrain(x, mesh, ("batch", *[None] * (x.ndim - 1))) for name, x in batch.items()}
    scores = option_scores(model, params, batch, dtype, impl, mesh)
    # Replicated: every process reads all scores, the first one writes them.
    return jax.lax.with_sharding_constraint(scores, replicated(mesh))


def batch_shapes(mesh: Mesh, rows: int, shape: Shape) -> dict[str, jax.ShapeDtypeStruct]:
    """The `batch` of `score_batch` as shapes: `rows` packed sequences over all devices."""
    sharding = batch_sharding(mesh)
    arrays = stack([], rows, shape)
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) for name, x in arrays.items()}


class Scorer:
    """Scores packed sequences, `rows` a pass. `shapes` are those met so far: one compilation each.

    `compiling`: seconds that first calls took, which is the time of compiling where nothing was compiled before.
    """

    def __init__(
        self, model: Model, params: Params, mesh: Mesh, *, batch: int, dtype: Any, impl: AttentionImpl = "auto"
    ):
        ways = mesh.shape["data"] * mesh.shape["fsdp"]
        self.rows = -(-batch // ways) * ways
        self.shapes: set[Shape] = set()
        self.compiling = 0.0
        self.platform = mesh.devices.flat[0].platform
        self._mesh, self._impl, self._dtype, self._head_dim = mesh, impl, dtype, model.spec.head_dim
        self._run = partial(score_batch, model, dtype, mesh, impl, params)

    def __str__(self) -> str:
        shapes = ", ".join(map(str, sorted(self.shapes)))
        return f"{len(self.shapes)} shape{'s' * (len(self.shapes) > 1)} ({shapes}), compiled in {self.compiling:.1f} s"

    def describe(self, shape: Shape) -> str:
        """How attention is computed in sequences of this shape."""
        return describe_attention(self._impl, shape.length, self._head_dim, self._dtype, mesh=self._mesh)

    def arrays(self, rows: Sequence[Row], shape: Shape) -> dict[str, np.ndarray]:
        """This process's share of a batch."""
        arrays = stack(rows, self.rows, shape)
        share = self.rows // jax.process_count()
        mine = slice(share * jax.process_index(), share * (jax.process_index() + 1))
        return {name: array[mine] for name, array in arrays.items()}

    def submit(self, arrays: dict[str, np.ndarray], shape: Shape) -> jax.Array:
        """Starts the work and returns at once: scores [rows, targets] to come, for `unstack`."""
        start = time.monotonic()
        scores = self._run(put_batch(self._mesh, arrays))
        if shape not in self.shapes:
            self.shapes.add(shape)
            self.compiling += time.monotonic() - start
        return scores
