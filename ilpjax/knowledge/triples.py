"""A fact as a triple, and what every extractor does (arXiv:2604.10079 section 3.2.1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ilpjax.rows import Row

Source = Literal["question", "sentence", "endpoint"]


@dataclass(frozen=True, slots=True)
class Triple:
    subject: str
    relation: str
    object: str
    source: Source  # question: the prompt asks, the response is the object; sentence: one sentence says it all


class Extractor(Protocol):
    def __call__(self, rows: Sequence[Row]) -> list[list[Triple]]:
        """The facts of each row, in the order of `rows`; an empty list where none was found."""
        ...
