"""Records from files (JSONL, JSON, Parquet, text; plain or .gz) and from hub data sets."""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from ilpjax.errors import InputError

KINDS = (".jsonl", ".json", ".parquet", ".txt")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[\w.-]+)?")


@dataclass(frozen=True)
class Source:
    """A file or hub set that was read. `records`: (1-based line or record number, record)."""

    name: str  # as the user gave it
    dataset: str  # the file's stem or the hub name
    unit: str  # "line" or "record"
    records: list[tuple[int, dict[str, Any]]]

    def at(self, number: int) -> str:
        """Where a record is, for a message to the user: `train.jsonl, line 17`."""
        return f"{self.name}, {self.unit} {number}"


def kind_of(path: Path) -> str:
    """`.jsonl` for `train.jsonl.gz`; InputError for a kind that is not read."""
    kind = Path(path.name.removesuffix(".gz")).suffix.lower()
    if kind not in KINDS:
        raise InputError(f"{path}: {kind or 'no ending'} is not read; {', '.join(KINDS)} are, plain or with .gz")
    return kind


def find(name: str) -> Path | None:
    """The file that `name` means, or None when it must be a hub set.

    A run directory stands for its rows.parquet. Raises InputError for what is neither a file nor looks like a hub name.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / "rows.parquet").is_file():
            return path / "rows.parquet"
        raise InputError(f"{name}: a folder; a file in it, or a run directory with rows.parquet, would be right")
    if path.is_file():
        return path
    if Path(name.removesuffix(".gz")).suffix.lower() in KINDS or not _HUB_NAME.fullmatch(name):
        raise InputError(
            f"{name}: no such file (and no name of a hub data set, which would be owner/name or owner/name:config)"
        )
    return None


def read_source(name: str, split: str) -> Source:
    """All records of a file or hub set, `text` files excepted. Raises InputError with the file and the line."""
    path = find(name)
    if path is None:
        return _hub(name, split)
    kind = kind_of(path)
    if kind == ".txt":
        raise InputError(f"{name}: rows are read from {', '.join(KINDS[:3])}; a .txt is text to pre-train on")
    stem = path.name.removesuffix(".gz")[: -len(kind)]
    data = read_bytes(path)
    if kind == ".parquet":
        return Source(name, stem, "record", list(enumerate(_parquet(name, data), 1)))
    text = decode(name, data)
    if kind == ".json" and not _one_a_line(text):
        return Source(name, stem, "record", list(enumerate(_array(name, text), 1)))
    return Source(name, stem, "line", list(_lines(name, text)))


def read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: not a whole gzip file ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def decode(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{name}, line {line}: not UTF-8 text; convert the file to UTF-8") from None


def _lines(name: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not splitlines(): JSON strings may hold U+2028 and its like as they are.
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if line.strip():
            yield number, _object(f"{name}, line {number}", _json(f"{name}, line {number}", line))


def _one_a_line(text: str) -> bool:
    """Many a .json is JSONL in truth: its first line is an object by itself."""
    first = text.lstrip().partition("\n")[0].strip()
    return first.startswith("{") and first.endswith("}")


def _array(name: str, text: str) -> Iterator[dict[str, Any]]:
    value = _json(name, text)
    if not isinstance(value, list):
        raise InputError(f"{name}: one JSON value, not a list of objects; a list, or one object a line, is right")
    for number, record in enumerate(value, 1):
        yield _object(f"{name}, record {number}", record)


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise InputError(f"{where}: not JSON ({error.msg} at {place}); a JSON object is right") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: JSON that cannot be read ({error})") from None


def _object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f'{where}: not a JSON object; {{"prompt": ..., "response": ...}}, say, is right')
    return value


def _parquet(name: str, data: bytes) -> list[dict[str, Any]]:
    try:
        return pq.read_table(pa.BufferReader(data)).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{name}: not a Parquet file ({str(error).splitlines()[0]})") from None


def _hub(name: str, split: str) -> Source:
    repo, _, config = name.partition(":")
    try:
        loaded = datasets.load_dataset(repo, config or None, split=split)
    except Exception as error:  # the hub, the network, the loader: every one of them has its own kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(" .")
        raise InputError(
            f"{name}: no such file, and as a hub data set it cannot be loaded, split {split} ({reason})"
        ) from None
    return Source(name, name, "record", list(enumerate(loaded, 1)))
