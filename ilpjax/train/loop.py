"""The training loop: batches in, metrics one step late, a checkpoint now and then."""

import hashlib
import sys
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ilpjax.config import TrainConfig
from ilpjax.data import Example, Loader
from ilpjax.errors import InputError, TrainingError
from ilpjax.models import Model, Params, compute_dtype, describe_attention
from ilpjax.parallel import put_batch
from ilpjax.rundir import RunDir, fingerprint
from ilpjax.train.checkpoints import Checkpoints, sync
from ilpjax.train.journal import Journal
from ilpjax.train.optimizer import make_optimizer
from ilpjax.train.step import State, abstract_state, init_state, make_step, state_shardings


def fit(
    model: Model,
    params: Params,
    examples: Sequence[Example],
    row_ids: Sequence[str],
    cfg: TrainConfig,
    *,
    mesh: Mesh,
    seed: int,
    out: RunDir,
    name: str,
    made_from: Sequence[Any] = (),
    blocks: Sequence[int] | None = None,
    edges: Sequence[tuple[int, int]] = (),
) -> Params:
    """Trains, and returns the new parameters; `params` are consumed (their buffers are given to the first step).

    Continues from the last checkpoint under OUT/checkpoints/NAME, to the bit as if it had never stopped, when that
    was made from the same examples, settings, seed and `made_from` (what else fixes the result: the base's folder).
    Writes OUT/dynamics.parquet (see `merge_dynamics`), OUT/train_log.parquet (step, from 1; epoch; loss, nats a
    target token; lr; grad_norm; tokens, without padding; targets; real_fraction; seconds) and TensorBoard under
    OUT/tb. An example's row is `row_ids[example.row]`, its block `blocks[n]` (for
    order="blocks"). No step holds both examples of one of `edges`, which is checked before the first step.

    Raises InputError when a batch cannot be cut as asked, TrainingError on a loss that is not finite, OSError on a
    full disk.
    """
    check_batch(cfg, mesh)
    say_attention(model, cfg, mesh)
    loader = Loader(
        examples,
        seq_len=cfg.seq_len,
        batch=cfg.batch,
        epochs=cfg.epochs,
        order=cfg.order,
        seed=seed,
        blocks=blocks,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        edges=edges,
    )
    say_buckets(loader, edges)
    # How often and how many checkpoints are kept changes nothing in what they hold.
    settings = cfg.model_dump(mode="json", exclude={"save_every", "keep"})
    key = fingerprint(name, settings, seed, model.spec.to_config(), digest(examples, row_ids), edges, *made_from)
    names = [row_ids[example.row] for example in examples]
    with closing(loader), closing(Checkpoints(out / "checkpoints" / name, key, cfg.keep)) as checkpoints:
        done = checkpoints.latest or 0
        state = _start(model, params, cfg, mesh, loader, checkpoints)
        step = make_step(model, cfg, loader.steps, mesh, jax.tree.map(lambda x: x.sharding, state))
        with closing(Journal(out, name, cfg, model, names, loader, done)) as journal:
            for n, batch in enumerate(loader, start=done + 1):
                state, metrics = step(state, put_batch(mesh, batch))
                journal.tell(n, metrics)
                if n % cfg.save_every == 0 or n == loader.steps:
                    journal.flush(n)  # a loss that is not finite is found here, and never saved
                    checkpoints.save(n, state, loader.state())
            checkpoints.wait()
            journal.merge()
        sync("trained")
    return state.params


def _start(
    model: Model, params: Params, cfg: TrainConfig, mesh: Mesh, loader: Loader, checkpoints: Checkpoints
) -> State:
    """The state to go on from, with the loader at its place."""
    optimizer = make_optimizer(cfg, loader.steps)
    shardings = state_shardings(model, mesh, params, optimizer)
    if checkpoints.latest is None:
        return init_state(params, optimizer, shardings)
    like = abstract_state(params, optimizer, shardings)
    for weight in jax.tree.leaves(params):
        weight.delete()  # the checkpoint takes their place
    state, position = checkpoints.restore(like)
    loader.restore(position)
    return state


def check_batch(cfg: TrainConfig, mesh: Mesh) -> None:
    """Raises InputError unless every micro-batch divides over the devices, and the devices over the processes."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if cfg.batch % (cfg.micro_batches * ways):
        raise InputError(
            f"batch: {cfg.batch} sequences cannot be cut into {cfg.micro_batches} micro-batches over {ways} devices "
            f"(mesh data x fsdp); a multiple of {cfg.micro_batches * ways} can"
        )
    if ways % jax.process_count():
        raise InputError(
            f"mesh: data x fsdp is {ways}, for {jax.process_count()} processes; each process needs its own share"
        )


def say_buckets(loader: Loader, edges: Sequence[tuple[int, int]]) -> None:
    """Raises TrainingError where a step would hold two rows that contradict each other."""
    if found := loader.together(edges):
        raise TrainingError(f"conflicts: step {found[0][0]} holds both rows of a pair, and of {len(found) - 1} more")
    if edges and jax.process_index() == 0:
        told = f"conflicts: {len(edges)} pairs in {loader.buckets} buckets"
        print(f"{told}; checked: none of {loader.steps} steps holds both rows of a pair", file=sys.stderr, flush=True)


def say_attention(model: Model, cfg: TrainConfig, mesh: Mesh) -> None:
    """Prints which attention a run uses. Raises InputError where the platform or the shape cannot have it."""
    dtype = compute_dtype(cfg.dtype)
    used = describe_attention(cfg.attention, cfg.seq_len, model.spec.head_dim, dtype, mesh=mesh, packed=True)
    if jax.process_index() == 0:
        print(used, file=sys.stderr, flush=True)


def digest(examples: Sequence[Example], row_ids: Sequence[str]) -> str:
    """A hash of what is trained on, in order."""
    total = hashlib.sha256()
    for example in examples:
        tokens = np.asarray(example.tokens, np.int32)
        total.update(f"{row_ids[example.row]}\0{len(tokens)}\0".encode())
        total.update(tokens.tobytes())
        total.update(np.asarray(example.target_mask, bool).tobytes())
    return total.hexdigest()
