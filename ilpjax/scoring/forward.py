"""Log-probs of options, from the token tree."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from ilpjax.data import OptionTokens
from ilpjax.models import Model, Params, target_logprobs
from ilpjax.parallel import constrain, put_batch, replicated
from ilpjax.scoring.tree import Tree, next_power, stack

CHUNK = 1024  # targets whose logits exist at a time
GROUP = 1024  # tokens a device works on at a time


def option_scores(
    model: Model, params: Params, batch: dict[str, Int[Array, "batch _"]], dtype: Any
) -> Float[Array, "batch targets"]:
    """Log-prob of each option in nats, float32, summed over its tokens; columns beyond the options are 0.

    `batch` is what `tree.stack` makes. Logits exist for targets only, never for other positions.
    """
    hidden = model.hidden(params, batch["tokens"], batch["positions"], batch["subtree_end"], dtype=dtype)
    predictors = jnp.take_along_axis(hidden, batch["index"][..., None], axis=1)
    logprob, _ = target_logprobs(predictors, model.head(params), batch["target"], chunk=CHUNK)
    columns = batch["target"].shape[1]
    add = lambda values, option: jax.ops.segment_sum(values, option, num_segments=columns + 1)[:columns]
    return jax.vmap(add)(logprob, batch["option"])


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
        width = next_power(size, 32)
        padded = jnp.asarray(np.pad(sequence, (0, width - size)))[None]
        logits = _logits(model, params, padded, jnp.arange(width)[None], jnp.full((1, width), width), dtype=dtype)
        logprob = np.asarray(jax.nn.log_softmax(logits[0]))
        scores.append(sum(float(logprob[n - 1, sequence[n]]) for n in range(first, size)))
    return np.array(scores)


_logits = jax.jit(Model.logits, static_argnums=0, static_argnames="dtype")


def group(shape: tuple[int, int]) -> int:
    """Trees of this shape that a device works on at a time.

    It does not depend on the batch size: a matrix product may round otherwise when it has other dimensions.
    """
    return max(1, GROUP // shape[0])


# Jitted once for the process: the tuned model of a run has the base's shapes, and compiles nothing anew.
@partial(jax.jit, static_argnums=(0, 1, 2))
def _in_groups(model: Model, dtype: Any, mesh: Mesh, params: Params, batch: dict[str, Array]) -> Array:
    """`option_scores` of a large batch: each device's trees a group at a time."""
    trees, length = batch["tokens"].shape
    ways, size = mesh.shape["data"] * mesh.shape["fsdp"], group((length, 0))
    steps = trees // (ways * size)

    def cut(x: Array) -> Array:
        """[ways * steps * size, ...] -> [steps, ways * size, ...]: every tree stays on its device."""
        return x.reshape(ways, steps, size, -1).swapaxes(0, 1).reshape(steps, ways * size, -1)

    def one(part: dict[str, Array]) -> Array:
        part = {name: constrain(x, mesh, ("batch", "seq")) for name, x in part.items()}
        return option_scores(model, params, part, dtype)

    scores = jax.lax.map(one, {name: cut(x) for name, x in batch.items()})
    scores = scores.reshape(steps, ways, size, -1).swapaxes(0, 1).reshape(trees, -1)
    # Replicated: every process reads all scores, the first one writes them.
    return jax.lax.with_sharding_constraint(scores, replicated(mesh))


class Scorer:
    """Scores trees in batches of one shape each. `shapes` are those met so far: one compilation each."""

    def __init__(self, model: Model, params: Params, mesh: Mesh, *, batch: int, dtype: Any):
        self._ways = mesh.shape["data"] * mesh.shape["fsdp"]
        self.shapes: set[tuple[int, int]] = set()
        self._mesh, self._params, self._batch = mesh, params, batch
        self._run = partial(_in_groups, model, dtype, mesh)

    def batch(self, shape: tuple[int, int]) -> int:
        """Trees a call: what was asked for, rounded up to whole groups on every device."""
        whole = group(shape) * self._ways
        return -(-self._batch // whole) * whole

    def submit(self, trees: Sequence[Tree]) -> list[tuple[list[int], jax.Array]]:
        """Starts the work and returns at once: (which trees, their scores to come)."""
        groups: dict[tuple[int, int], list[int]] = {}
        for n, tree in enumerate(trees):
            groups.setdefault(tree.shape, []).append(n)
        pending = []
        for shape, members in sorted(groups.items()):
            self.shapes.add(shape)
            batch = self.batch(shape)
            for start in range(0, len(members), batch):
                part = members[start : start + batch]
                arrays = stack([trees[n] for n in part], batch, shape)
                pending.append((part, self._run(self._params, put_batch(self._mesh, self._mine(arrays)))))
        return pending

    def collect(
        self, trees: Sequence[Tree], pending: list[tuple[list[int], jax.Array]]
    ) -> list[Float[np.ndarray, " options"]]:
        """Waits for `submit`; a tree's option log-probs each, in the order of `trees`."""
        scores: list[np.ndarray] = [np.empty(0)] * len(trees)
        for members, result in pending:
            for n, row in zip(members, np.asarray(result), strict=False):
                scores[n] = row[: trees[n].options]
        return scores

    def _mine(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """This process's rows of the batch."""
        share = len(arrays["tokens"]) // jax.process_count()
        rows = slice(share * jax.process_index(), share * (jax.process_index() + 1))
        return {name: array[rows] for name, array in arrays.items()}
