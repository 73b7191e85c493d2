"""Files of tensors: read a slice at a time, written a tensor at a time. No torch, no pickle."""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from ilpjax.errors import InputError
from ilpjax.rundir import write_json

_INDEX = "model.safetensors.index.json"
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
SHARD_BYTES = 5_000_000_000  # what transformers splits at


class Checkpoint:
    """The tensors of a folder by name. A context manager: the files stay open (mapped) inside it.

    Raises InputError when there is no safetensors file, one is missing or truncated, or a dtype is not a float.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self._files: dict[str, Any] = {}

    def __enter__(self) -> "Checkpoint":
        try:
            for path in _paths(self.folder):
                self._open(path)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: Any) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """This slice and no more comes off the disk, in the dtype on disk."""
        return self._slice(name)[index]

    def same(self, a: str, b: str, rows: int = 1024) -> bool:
        """Whether two tensors are equal, a block of rows at a time."""
        if self.shape(a) != self.shape(b):
            return False
        total = self.shape(a)[0]
        blocks = (slice(start, min(start + rows, total)) for start in range(0, total, rows))
        return all(np.array_equal(self.read(a, (block,)), self.read(b, (block,))) for block in blocks)

    def _slice(self, name: str) -> Any:
        return self._files[name].get_slice(name)

    def _open(self, path: Path) -> None:
        try:
            file = self._stack.enter_context(safe_open(path, framework="numpy"))
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: not a whole safetensors file ({error}); fetch it again") from None
        for name in file.keys():  # noqa: SIM118  (not a dict)
            if name.endswith("position_ids"):  # numbers from 0 up, which old BERT checkpoints carry: no weight
                continue
            dtype = file.get_slice(name).get_dtype()
            if dtype not in _DTYPES:
                raise InputError(f"{path}: tensor {name} is {dtype}; supported: {', '.join(_DTYPES)}")
            self._files[name] = file


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises InputError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path.parent}: no {path.name}; expected a Hugging Face checkpoint folder") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object")
    return value


def _paths(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{index}: not an index of safetensors files; expected weight_map") from None
        for name in names:
            if not (folder / name).is_file():
                raise InputError(f"{folder / name}: missing, but {_INDEX} names it")
        return [folder / name for name in names]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern))
    if pickles:
        raise InputError(f"{folder / pickles[0]}: a pickle, which is never opened; save the model as safetensors")
    raise InputError(f"{folder}: no model.safetensors and no {_INDEX}")


class Plan:
    """Which tensor goes to which file: names in order, with shape and dtype."""

    def __init__(self, tensors: dict[str, tuple[tuple[int, ...], np.dtype]], shard_bytes: int | None = None):
        limit = SHARD_BYTES if shard_bytes is None else shard_bytes
        self.tensors = tensors
        self.shards: list[list[str]] = []
        room = 0
        for name in tensors:
            if self.size(name) > room:
                self.shards.append([])
                room = limit
            self.shards[-1].append(name)
            room -= self.size(name)

    def size(self, name: str) -> int:
        shape, dtype = self.tensors[name]
        return math.prod(shape) * dtype.itemsize

    def file(self, shard: int) -> str:
        count = len(self.shards)
        return "model.safetensors" if count == 1 else f"model-{shard + 1:05}-of-{count:05}.safetensors"

    def header(self, shard: int) -> bytes:
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in self.shards[shard]:
            shape, dtype = self.tensors[name]
            start, end = end, end + self.size(name)
            code = next(code for code, kind in _DTYPES.items() if kind == dtype.name)
            entries[name] = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the data begins aligned
        return len(text).to_bytes(8, "little") + text


def write_shards(folder: Path, plan: Plan, tensors: Iterator[np.ndarray]) -> None:
    """Takes the tensors in the plan's order, one in memory at a time (safetensors' own writer wants a file's worth)."""
    for shard, names in enumerate(plan.shards):
        with open(folder / plan.file(shard), "wb") as file:
            file.write(plan.header(shard))
            for name in names:
                file.write(_bytes(name, plan, next(tensors)))  # no name holds it while the next one is made
    if len(plan.shards) > 1:
        places = {name: plan.file(shard) for shard, names in enumerate(plan.shards) for name in names}
        total = sum(plan.size(name) for name in plan.tensors)
        write_json(folder / _INDEX, {"metadata": {"total_size": total}, "weight_map": places})


def _bytes(name: str, plan: Plan, array: np.ndarray) -> memoryview:
    if (array.shape, array.dtype) != plan.tensors[name]:
        raise ValueError(f"{name}: {array.dtype}{array.shape}, planned {plan.tensors[name]}")
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
