"""Rows and items as pandas tables, and back."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ilpjax.errors import InputError
from ilpjax.rows import Item, Message, Row

ROW_COLUMNS = ("row_id", "dataset", "position", "source", "messages", "prompt", "response", "options", "answer")
ITEM_COLUMNS = ("row_id", "question", "options", "answer", "history", "option_sources")


def rows_table(rows: Sequence[Row]) -> pd.DataFrame:
    """Columns row_id, dataset, position, source, messages (JSON), prompt, response, options (list), answer."""
    lines = [
        (r.row_id, r.dataset, r.position, r.source, _dump(r.messages), r.prompt, r.response, list(r.options), r.answer)
        for r in rows
    ]
    return pd.DataFrame(lines, columns=list(ROW_COLUMNS))


def rows_from_table(table: pd.DataFrame, name: str = "rows.parquet") -> list[Row]:
    """The rows that `rows_table` was given. Raises InputError (`name` in it) when a column is missing."""
    _check(table, ROW_COLUMNS, name)
    return [
        Row(
            row_id=str(line["row_id"]),
            messages=_load(line["messages"], name),
            dataset=str(line["dataset"]),
            position=int(line["position"]),
            source=str(line["source"]),
            options=tuple(line["options"]),
            answer=int(line["answer"]),
        )
        for line in table.to_dict("records")
    ]


def items_table(items: Sequence[Item]) -> pd.DataFrame:
    """Columns row_id, question, options (list), answer, history (JSON), option_sources (list)."""
    lines = [(i.row_id, i.question, list(i.options), i.answer, _dump(i.history), list(i.option_sources)) for i in items]
    return pd.DataFrame(lines, columns=list(ITEM_COLUMNS))


def items_from_table(table: pd.DataFrame, name: str = "items.parquet") -> list[Item]:
    """The items that `items_table` was given. Raises InputError (`name` in it) when a column is missing."""
    _check(table, ITEM_COLUMNS, name)
    return [item_from_record(line, name) for line in table.to_dict("records")]


def item_from_record(line: Mapping[str, Any], name: str = "items.parquet") -> Item:
    """The item of one line of `items_table`."""
    return Item(
        row_id=str(line["row_id"]),
        question=line["question"],
        options=tuple(line["options"]),
        answer=_index(line, name),
        history=_load(line["history"], name),
        option_sources=tuple(line["option_sources"]),
    )


def _dump(messages: tuple[Message, ...]) -> str:
    return json.dumps([{"role": m.role, "content": m.content} for m in messages], ensure_ascii=False)


def _load(text: Any, name: str) -> tuple[Message, ...]:
    try:
        return tuple(Message(m["role"], m["content"]) for m in json.loads(text))
    except (TypeError, ValueError, KeyError):
        raise InputError(f'{name}: "{str(text)[:60]}" is no JSON list of messages') from None


def _index(line: Mapping[str, Any], name: str) -> int:
    answer, count = int(line["answer"]), len(line["options"])
    if not 0 <= answer < count:
        raise InputError(
            f"{name}: row_id {line['row_id']}: answer {answer} with {count} options; 0 to {count - 1} is right"
        )
    return answer


def _check(table: pd.DataFrame, columns: tuple[str, ...], name: str) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise InputError(f"{name}: column {missing[0]} is missing; it has {', '.join(columns)} when ilpjax wrote it")
