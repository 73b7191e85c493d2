"""Rows and items: the currency of every stage, keyed by `row_id`."""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One training example. The last message is the assistant's response, the one before it the user's prompt."""

    row_id: str
    messages: tuple[Message, ...]
    dataset: str
    position: int  # 0-based place in the order given, over all files
    source: str  # "train.jsonl:17", for messages to the user
    options: tuple[str, ...] = ()  # native multiple-choice options; empty for a free-form row
    answer: int = -1  # index of the right option; -1 for a free-form row

    @property
    def prompt(self) -> str:
        return self.messages[-2].content

    @property
    def history(self) -> tuple[Message, ...]:
        """Everything before the prompt: a system message, earlier turns."""
        return self.messages[:-2]

    @property
    def response(self) -> str:
        return self.messages[-1].content


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """The multiple-choice view of a row. Only detection sees it; training sees the row."""

    row_id: str
    question: str
    options: tuple[str, ...]
    answer: int
    history: tuple[Message, ...] = ()
    option_sources: tuple[str, ...] = ()  # an option each: "native", "answer", or the row_id it was taken from


def content_hash(messages: tuple[Message, ...], options: tuple[str, ...] = ()) -> str:
    """A row's id where its file gives none: stable under reordering of the file. 16 hex digits."""
    text = json.dumps([[(m.role, m.content) for m in messages], list(options)], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_unique_ids(rows: list[Row]) -> list[Row]:
    """Repeats of a `row_id` get a suffix, so that a table keyed by it has one line a row.

    Exact copies share a content hash; they become `h`, `h-2`, `h-3` in file order.
    """
    seen: dict[str, int] = {}
    unique = []
    for row in rows:
        count = seen[row.row_id] = seen.get(row.row_id, 0) + 1
        unique.append(row if count == 1 else replace(row, row_id=f"{row.row_id}-{count}"))
    return unique
