"""Hugging Face checkpoints in and out: safetensors, tensor by tensor, never the whole model in host memory."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
from huggingface_hub.errors import HfHubHTTPError
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from ilpjax.errors import InputError
from ilpjax.models.files import Checkpoint, Plan, read_json, write_shards
from ilpjax.models.model import Model, Params, define, param_shardings
from ilpjax.models.names import Weight, weights
from ilpjax.models.spec import ModelSpec
from ilpjax.parallel import named_sharding, replicated
from ilpjax.rundir import replacing, write_json

_PATTERNS = ["config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json"]
_TOKENIZER = ["tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "chat_template*"]
# Of a sentence encoder: what sentence-transformers writes beside the model, and its modules' folders (1_Pooling, ...).
_MODULES = ["modules.json", "*sentence_*.json", *(f"[0-9]_*/*.{kind}" for kind in ("json", "txt", "safetensors"))]


def resolve(name_or_path: str | Path, encoder: bool = False) -> Path:
    """The folder of a checkpoint: a local one, or a hub snapshot (downloaded, or from the cache when offline).

    A sentence encoder has more files, and may have its config.json in a folder of its own. Raises InputError when it
    is neither.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        modules = encoder and (path / "modules.json").is_file()
        if not modules and not (path / "config.json").is_file():
            raise InputError(f"{path}: no config.json; expected a Hugging Face checkpoint folder")
        return path
    if path.exists():
        raise InputError(f"{path}: a file; expected a Hugging Face checkpoint folder or a hub name")
    name = str(name_or_path)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise InputError(f"{path}: no such folder")
    try:
        patterns = _PATTERNS + _TOKENIZER + (_MODULES if encoder else [])
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, OSError, ValueError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name}: no such folder, and not to be had from the hub ({why})") from None


def read_spec(folder: Path) -> ModelSpec:
    """The spec in a checkpoint folder's config.json. Raises InputError."""
    path = folder / "config.json"
    return ModelSpec.from_config(read_json(path), str(path))


def load_model(name_or_path: str | Path, mesh: Mesh, dtype: Any = jnp.float32) -> tuple[Model, Params]:
    """A checkpoint's model and weights, each device holding its shard.

    Read slice by slice: beside what devices hold, host memory has at most two of the checkpoint's largest tensors.
    Raises InputError for a missing or truncated file, a missing or extra tensor, a wrong shape, a pickle.
    """
    folder = resolve(name_or_path)
    model = define(read_spec(folder), mesh)
    found = weights(model)
    with Checkpoint(folder) as checkpoint:
        _check(checkpoint, model, found)
        shardings = param_shardings(model, mesh)
        params: Params = {}
        for weight in found:
            _set(
                params,
                weight.path,
                _load(checkpoint, weight, _get(shardings, weight.path), mesh, jnp.dtype(dtype), model),
            )
    return model, params


def save_model(
    out_dir: str | Path, model: Model, params: Params, *, tokenizer: Any = None, dtype: Any = jnp.float32
) -> None:
    """A folder that `transformers` loads: config.json, safetensors and, when given, the tokenizer.

    Written beside `out_dir` and renamed. Every process must call it; the first one writes, one tensor at a time.
    Raises InputError when `out_dir` is a file, or a folder that holds something other than a checkpoint.
    """
    out = Path(out_dir)
    _check_target(out)
    dtype = jnp.dtype(dtype)
    plan = _plan(model, dtype)
    tensors = _tensors(model, params, dtype)
    if jax.process_index() == 0:
        config = {key: value for key, value in model.spec.to_config().items() if key not in ("dtype", "torch_dtype")}
        with replacing(out) as part:
            part.mkdir()
            write_json(part / "config.json", config | {"dtype": dtype.name})
            if tokenizer is not None:
                tokenizer.save_pretrained(part)
            write_shards(part, plan, tensors)
    else:
        for _ in tensors:  # the gathers need every process
            pass
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"saved {out}")


def _check(checkpoint: Checkpoint, model: Model, found: list[Weight]) -> None:
    wanted = _hf_shapes(model, found)
    tied = {"lm_head.weight"} if model.spec.tied else set()
    for name, shape in wanted.items():
        if name not in checkpoint:
            raise InputError(f"{checkpoint.folder}: tensor {name} is missing; config.json asks for it")
        if checkpoint.shape(name) != shape:
            raise InputError(
                f"{checkpoint.folder}: tensor {name} has shape {checkpoint.shape(name)}, config.json makes it {shape}"
            )
    for name in checkpoint:
        # Old LLaMA checkpoints carry RoPE's frequencies, which follow from config.json.
        if name not in wanted and name not in tied and not name.endswith("rotary_emb.inv_freq"):
            raise InputError(f"{checkpoint.folder}: tensor {name} has no place in a {model.spec.family} model")
    for name in tied.intersection(checkpoint):
        if not checkpoint.same(name, next(w.template for w in found if w.path == ("embedding",))):
            raise InputError(
                f"{checkpoint.folder}: tie_word_embeddings is true, but lm_head.weight differs from the embedding; "
                f"set it to false in config.json"
            )


def _hf_shapes(model: Model, found: list[Weight]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of the checkpoint, layer by layer."""
    once = [w for w in found if not w.stacked]
    layered = [w for w in found if w.stacked]
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, group in [(0, once), *((n, layered) for n in range(model.spec.layers))]:
        for weight in group:
            shape = weight.hf_shape
            shapes[weight.template.format(layer)] = (shape[0] * weight.parts, *shape[1:])
    return shapes


def _load(
    checkpoint: Checkpoint, weight: Weight, sharding: NamedSharding, mesh: Mesh, dtype: Any, model: Model
) -> jax.Array:
    """One of our arrays; a stacked one is filled layer by layer, in place."""
    shape = weight.hf_shape
    source = named_sharding(mesh, weight.hf_axes, shape)

    def read(layer: int) -> jax.Array:
        name, first, slices = weight.template.format(layer), weight.part * shape[0], {}

        def one(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            start, stop, _ = index[0].indices(shape[0])
            key = str(index)
            if key not in slices:  # devices that hold the same shard share the buffer
                slices[key] = checkpoint.read(name, (slice(first + start, first + stop), *index[1:]))
            return slices[key]

        return jax.make_array_from_callback(shape, source, one)

    if not weight.stacked:
        return _whole(read(0), weight=weight, sharding=sharding, dtype=dtype).block_until_ready()
    stack = jnp.zeros((model.spec.layers, *weight.shape), dtype, device=sharding)
    for layer in range(model.spec.layers):
        stack = _fill(stack, read(layer), layer, weight=weight, sharding=sharding)
        stack.block_until_ready()  # so that one tensor's buffers are gone before the next is read
    return stack


@functools.partial(jax.jit, static_argnames=("weight", "sharding", "dtype"))
def _whole(x: jax.Array, *, weight: Weight, sharding: NamedSharding, dtype: Any) -> jax.Array:
    return jax.lax.with_sharding_constraint(weight.to_ours(x).astype(dtype), sharding)


@functools.partial(jax.jit, static_argnames=("weight", "sharding"), donate_argnums=0)
def _fill(stack: jax.Array, x: jax.Array, layer: int, *, weight: Weight, sharding: NamedSharding) -> jax.Array:
    stack = jax.lax.dynamic_update_index_in_dim(stack, weight.to_ours(x).astype(stack.dtype), layer, 0)
    return jax.lax.with_sharding_constraint(stack, sharding)


def _check_target(out: Path) -> None:
    if out.is_dir():
        entries = list(out.iterdir())
        foreign = [e.name for e in entries if e.is_dir()]
        if entries and (foreign or not (out / "config.json").is_file()):
            raise InputError(f"{out}: holds something other than a checkpoint; give a new or an empty folder")
    elif out.exists():
        raise InputError(f"{out}: a file; expected a folder to write")


def _plan(model: Model, dtype: np.dtype) -> Plan:
    return Plan({name: (shape, dtype) for name, shape in _hf_shapes(model, weights(model)).items()})


def _tensors(model: Model, params: Params, dtype: np.dtype) -> Iterator[np.ndarray]:
    """Every tensor of the checkpoint, in the plan's order, gathered one by one."""
    by_name: dict[str, list[tuple[Weight, int]]] = {}
    found = weights(model)
    for weight in (w for w in found if not w.stacked):
        by_name[weight.template] = [(weight, 0)]
    for layer in range(model.spec.layers):
        for weight in (w for w in found if w.stacked):
            by_name.setdefault(weight.template.format(layer), []).append((weight, layer))
    for pieces in by_name.values():
        yield _gather(params, sorted(pieces, key=lambda piece: piece[0].part), dtype)


def _gather(params: Params, pieces: list[tuple[Weight, int]], dtype: np.dtype) -> np.ndarray:
    arrays = []
    for weight, layer in pieces:
        array = _get(params, weight.path)
        # Across processes the writer must hold every part; within one, the host puts the parts together.
        several = jax.process_count() > 1 and isinstance(array.sharding, NamedSharding)
        everywhere = replicated(array.sharding.mesh) if several else None
        arrays.append(_on_host(_take(array, layer, weight=weight, dtype=dtype, sharding=everywhere)))
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _on_host(x: jax.Array) -> np.ndarray:
    """Part by part: `np.asarray` of an array in parts may hold all of them on the host beside the whole."""
    if x.is_fully_replicated:
        return np.asarray(x)
    whole = np.empty(x.shape, x.dtype)
    for shard in x.addressable_shards:
        whole[shard.index] = np.asarray(shard.data)
    return whole


@functools.partial(jax.jit, static_argnames=("weight", "dtype", "sharding"))
def _take(x: jax.Array, layer: int, *, weight: Weight, dtype: np.dtype, sharding: NamedSharding | None) -> jax.Array:
    x = weight.to_hf(x[layer] if weight.stacked else x).astype(dtype)
    return x if sharding is None else jax.lax.with_sharding_constraint(x, sharding)


def _get(tree: Params, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _set(tree: Params, path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value
