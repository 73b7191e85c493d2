"""Records from files (JSONL, JSON, Parquet, text; plain or .gz) and from hub data sets."""

import contextlib
import gzip
import io
import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from ilpjax.errors import InputError

BATCH = 2048  # records of a Parquet file in memory at a time
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
    dataset, unit = stem(path), "line" if kind != ".parquet" else "record"
    if streams(path):
        return Source(name, dataset, unit, list(stream(name, path)))
    return Source(name, dataset, "record", list(enumerate(_array(name, decode(name, read_bytes(path))), 1)))


def stem(path: Path) -> str:
    """`train` for `train.jsonl.gz`."""
    return path.name.removesuffix(".gz")[: -len(kind_of(path))]


def streams(path: Path) -> bool:
    """Whether `stream` reads it: all kinds but a .json that is one list."""
    if kind_of(path) != ".json":
        return kind_of(path) != ".txt"
    with _reading(path):
        first = next((line for line in _text(path) if line.strip()), "").strip()
    return first.startswith("{") and first.endswith("}")  # many a .json is JSONL in truth


def stream(name: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(1-based line or record number, record) of a JSONL or Parquet file, one in memory at a time (Parquet: a few
    thousand). Raises InputError with the file and the line."""
    with _reading(path):
        yield from _parquet(name, path) if kind_of(path) == ".parquet" else _lines(name, path)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: not a whole gzip file ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def read_bytes(path: Path) -> bytes:
    with _reading(path), _open(path) as file:
        return file.read()


def decode(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{name}, line {line}: not UTF-8 text; convert the file to UTF-8") from None


def _text(path: Path) -> Iterator[str]:
    # Lines as a text file has them, not splitlines(): JSON strings may hold U+2028 and its like as they are.
    with _open(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape") as text:
        yield from text


def _lines(name: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_text(path), 1):
        if not line.isascii():
            try:
                line.encode()
            except UnicodeEncodeError:  # an escaped byte: what could not be decoded
                raise InputError(f"{name}, line {number}: not UTF-8 text; convert the file to UTF-8") from None
        if line.strip():
            yield number, _object(f"{name}, line {number}", _json(f"{name}, line {number}", line))


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


def _parquet(name: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with tempfile.TemporaryFile() as plain:
        if path.suffix == ".gz":  # Parquet is read from its end: unpacked first, on disk
            with _open(path) as packed:
                shutil.copyfileobj(packed, plain)
        number = 0
        try:
            with pq.ParquetFile(plain if path.suffix == ".gz" else path) as file:
                for batch in file.iter_batches(batch_size=BATCH):
                    for record in batch.to_pylist():
                        number += 1
                        yield number, record
        except pa.ArrowException as error:
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
