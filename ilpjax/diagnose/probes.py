"""The same question in other words: whether the base knows the answer must not hang on one wording."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ilpjax.errors import InputError
from ilpjax.rows import Item

# For rows that bring no paraphrases: the question is as it was, what stands around it is not.
FRAMES = ("Question: {q}\nAnswer:", "{q} Answer in a few words.", "Please answer: {q}")
COLUMNS = ("row_id", "probe", "question")


def make_probes(items: Sequence[Item], file: Path | str | None) -> pd.DataFrame:
    """A line a probe: row_id, probe (from 0), question. `file` holds {"row_id", "question"} lines; rows that it does
    not name, and all rows without one, are asked in frames. Raises InputError for a line that is not that."""
    own = _read(Path(file)) if file else {}
    lines = []
    for item in items:
        wordings = own.get(item.row_id) or [frame.format(q=item.question) for frame in FRAMES]
        lines += [(item.row_id, n, wording) for n, wording in enumerate(wordings)]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def probe_items(probes: pd.DataFrame, items: Sequence[Item]) -> list[Item]:
    """The probes as items, to be scored; an item's row_id is its line in `probes`."""
    by_id = {item.row_id: item for item in items}
    asked = []
    for n, (row_id, question) in enumerate(zip(probes["row_id"], probes["question"], strict=True)):
        item = by_id[row_id]
        asked.append(Item(row_id=str(n), question=question, options=item.options, answer=item.answer))
    return asked


def _read(path: Path) -> dict[str, list[str]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file of probes")
    found: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            row_id, question = record["row_id"], record["question"]
        except (ValueError, TypeError, KeyError):
            row_id = question = None
        if not isinstance(row_id, str) or not isinstance(question, str) or not question.strip():
            raise InputError(f'{path}:{number}: not a probe; {{"row_id": ..., "question": ...}} would be right')
        found.setdefault(row_id, []).append(question)
    return found
