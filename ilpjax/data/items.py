"""Items from a file: in item form as a stream, of any length; rows are read whole, for their distractors."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np

from ilpjax.config import DataConfig
from ilpjax.data.choices import make_items, native_item
from ilpjax.data.files import Source, find, kind_of, stem, stream, streams
from ilpjax.data.formats import ITEM, BadRecord, is_item, read_record
from ilpjax.data.sources import own_id, read_rows, row_of
from ilpjax.data.tables import ITEM_COLUMNS, item_from_record
from ilpjax.errors import InputError
from ilpjax.rows import Item, Row, content_hash


def read_items(path: str | Path, cfg: DataConfig, seed: int = 0) -> Collection[Item]:
    """Items of a file: `{"id","question","options","answer"}`, an items.parquet, native multiple-choice records, or
    free-form rows, which get distractors (`seed`).

    A JSONL or Parquet file in one of the first two forms is checked once from end to end and then read anew whenever
    the items are gone through, one at a time: it may have any length (8 bytes a record are kept meanwhile, to see that
    no id comes twice). Whatever else is held whole: a row's distractors are answers of other rows. Raises InputError
    with the file and the line.
    """
    name = str(path)
    file = find(name)
    if file is not None and kind_of(file) != ".txt" and streams(file):
        items = Items.of(Source(name, stem(file), "record" if kind_of(file) == ".parquet" else "line", []), file, cfg)
        if items is not None:
            return items
    return make_items(read_rows(name, cfg), cfg.options, seed)


class Items(Collection[Item]):
    """Items of a file, made as they are gone through.

    `table`: the file is one that `items_table` made. Otherwise an item has its own id (`own_ids`), or a hash of its
    content, with a suffix where it is one of the `repeated`.
    """

    def __init__(self, source: Source, file: Path, count: int, *, table: bool, own_ids: bool, repeated: frozenset[int]):
        self._source, self._file, self._count = source, file, count
        self._table, self._own_ids, self._repeated = table, own_ids, repeated

    @classmethod
    def of(cls, source: Source, file: Path, cfg: DataConfig) -> Self | None:
        """None where a record is not in item form: the file is one of rows, or a wrong one. Raises InputError."""
        records = lambda: (record for _, record in stream(source.name, file))
        keys, count, table, own_ids = array("Q"), 0, True, True
        for number, record in stream(source.name, file):
            here = set(ITEM_COLUMNS) <= set(record)
            table = table if count else here
            if here != table or not (here or is_item(record)):
                return None
            if count < (cfg.limit or count + 1):  # a wrong record is told before any is used
                item_from_record(record, source.name) if table else _row(source, number, record)
            own = None if table else own_id(record)
            own_ids = own_ids and own is not None
            keys.append(_key(own or ""))
            count += 1
        if not count:
            return None
        own_ids = own_ids and not _same(_repeated(keys), map(own_id, records()))
        repeated: frozenset[int] = frozenset()
        if not own_ids and not table:
            rows = (_row(source, number, record) for number, record in stream(source.name, file))
            repeated = _repeated(array("Q", (int(_content(row), 16) for row in islice(rows, cfg.limit))))
        return cls(source, file, min(count, cfg.limit or count), table=table, own_ids=own_ids, repeated=repeated)

    def __iter__(self) -> Iterator[Item]:
        copies: Counter[str] = Counter()
        for number, record in islice(stream(self._source.name, self._file), self._count):
            if self._table:
                yield item_from_record(record, self._source.name)
                continue
            row = _row(self._source, number, record)
            row_id = str(own_id(record)) if self._own_ids else _content(row)
            if not self._own_ids and int(row_id, 16) in self._repeated:
                copies[row_id] += 1
                row_id += f"-{copies[row_id]}" if copies[row_id] > 1 else ""
            yield native_item(replace(row, row_id=row_id))

    def __len__(self) -> int:
        return self._count

    def __contains__(self, item: object) -> bool:
        return any(item == one for one in self)


def _row(source: Source, number: int, record: dict[str, Any]) -> Row:
    try:
        return row_of(source, number, record, read_record(record, ITEM))
    except BadRecord as error:
        raise InputError(f"{source.at(number)}: {error}") from None


def _content(row: Row) -> str:
    return content_hash(row.messages, row.options)


def _key(own: str) -> int:
    return int.from_bytes(hashlib.blake2b(own.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _repeated(keys: "array[int]") -> frozenset[int]:
    """The values that come more than once."""
    values = np.frombuffer(keys, np.uint64) if keys else np.zeros(0, np.uint64)
    values.sort()
    return frozenset(values[1:][values[1:] == values[:-1]].tolist())


def _same(suspects: frozenset[int], ids: Iterable[str | None]) -> bool:
    """Whether one of the ids with these hashes really comes twice: two ids may have one hash."""
    seen: set[str] = set()
    for own in ids if suspects else ():
        if own is not None and _key(own) in suspects:
            if own in seen:
                return True
            seen.add(own)
    return False
