"""Rows, items and texts from wherever the user has them."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ilpjax.config import DataConfig
from ilpjax.data.files import KINDS, Source, decode, find, kind_of, read_bytes, read_source
from ilpjax.data.formats import SHAPES, BadRecord, Draft, Shape, choose_shape, decide_base, read_record, text_of
from ilpjax.data.tables import ROW_COLUMNS, rows_from_table
from ilpjax.errors import InputError
from ilpjax.rows import Row, content_hash, with_unique_ids

DOCUMENT = 2000  # characters that paragraphs of a .txt are gathered to


def read_rows(names: str | Sequence[str], cfg: DataConfig) -> list[Row]:
    """Rows of files and hub sets, in order. A run directory, or its rows.parquet, gives its rows back.

    A file's own ids are kept where every record has one and none occurs twice, in it or in another file; the rows of
    any other file get a hash of their content. Raises InputError with the file and the line.
    """
    sources = [read_source(name, cfg.split) for name in _names(names)]
    parts = [(source, *_read(source, cfg)) for source in sources]
    counts = Counter(own for _, ids, _ in parts for own in ids)
    rows: list[Row] = []
    for source, ids, part in parts:
        if not part:
            raise InputError(f"{source.name}: it holds no record")
        keep = all(own is not None and counts[own] == 1 for own in ids)
        for own, row in zip(ids, part, strict=False):
            row_id = own if keep else content_hash(row.messages, row.options)
            rows.append(replace(row, row_id=str(row_id), position=len(rows)))
    return with_unique_ids(rows)


def read_texts(names: str | Sequence[str], split: str = "train", limit: int | None = None) -> list[str]:
    """Documents: `{"text": ...}` records, hub sets with a `text` column, or .txt files, whose paragraphs (separated by
    blank lines) are gathered to documents of 2,000 characters or more. Blank documents are left out.

    limit: the first documents only, documents a file. Raises InputError with the file and the line.
    """
    texts: list[str] = []
    for name in _names(names):
        path = find(name)
        if path is not None and kind_of(path) == ".txt":
            found = _documents(decode(name, read_bytes(path)))
        else:
            found = [text for text in _texts(read_source(name, split)) if text.strip()]
        if not found:
            raise InputError(f"{name}: it holds no text")
        texts += found[:limit]
    return texts


def _names(names: str | Sequence[str]) -> list[str]:
    listed = [names] if isinstance(names, str) else [str(name) for name in names]
    if not listed:
        raise InputError(f"no file or hub set is given; files are {', '.join(KINDS)}, plain or with .gz")
    return listed


def _read(source: Source, cfg: DataConfig) -> tuple[list[str | None], list[Row]]:
    """(own ids or None, rows whose ids and positions are still to come)."""
    records = [record for _, record in source.records]
    if records and all(set(ROW_COLUMNS) <= set(record) for record in records):
        rows = rows_from_table(pd.DataFrame(records), source.name)
        return [row.row_id for row in rows], rows[: cfg.limit]
    shape = choose_shape(records)
    if records and shape is None:
        raise InputError(
            f"{source.name}: its records have {_fields(records)}, which is no known format; "
            f"accepted are {'; '.join(map(str, SHAPES))}"
        )
    drafts = _drafts(source, shape, cfg)
    rows = [row_of(source, number, r, draft) for (number, r), draft in zip(source.records, drafts, strict=False)]
    return [own_id(record) for record in records], rows


def row_of(source: Source, number: int, record: dict[str, Any], draft: Draft) -> Row:
    """The row of a record, its id and place still to come."""
    dataset = record.get("dataset")
    return Row(
        row_id="",
        messages=draft.messages,
        dataset=dataset if isinstance(dataset, str) and dataset else source.dataset,
        position=-1,
        source=f"{Path(source.name).name if source.unit == 'line' else source.name}:{number}",
        options=draft.options,
        answer=draft.answer,
    )


def _drafts(source: Source, shape: Shape | None, cfg: DataConfig) -> list[Draft]:
    if shape is None:
        return []
    base = 0
    if shape.open_base:
        values = [record.get(shape.open_base) for _, record in source.records]
        try:
            base = decide_base(values, shape.open_base, 4, cfg.answer_base)
        except InputError as error:
            raise InputError(f"{source.name}: {error}") from None
    drafts = []
    for number, record in source.records[: cfg.limit]:
        try:
            drafts.append(read_record(record, shape, base))
        except BadRecord as error:
            raise InputError(f"{source.at(number)}: {error}") from None
    return drafts


def own_id(record: dict[str, Any]) -> str | None:
    """The id that a record itself has."""
    own = record.get("id")
    return str(own) if isinstance(own, str | int) and not isinstance(own, bool) and str(own).strip() else None


def _fields(records: list[dict[str, Any]]) -> str:
    return "{" + ", ".join(list(records[0])[:12]) + "}"


def _texts(source: Source) -> list[str]:
    texts = []
    for number, record in source.records:
        try:
            texts.append(text_of(record, "text"))
        except BadRecord as error:
            raise InputError(f'{source.at(number)}: {error}; {{"text": ...}} is right') from None
    return texts


def _documents(text: str) -> list[str]:
    documents: list[str] = []
    gathered = ""
    for block in re.split(r"\n[^\S\n]*\n", text.replace("\r\n", "\n")):
        if not block.strip():
            continue
        gathered += ("\n\n" if gathered else "") + block.strip("\n")
        if len(gathered) >= DOCUMENT:
            documents.append(gathered)
            gathered = ""
    return [*documents, gathered] if gathered else documents
