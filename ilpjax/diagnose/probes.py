"""What the base is asked about a row: its question in several wordings, and the facts in it.

Whether the base knows the answer must not hang on one wording; and a row may hold more facts than its answer.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ilpjax.diagnose.neighbours import plain
from ilpjax.errors import InputError
from ilpjax.knowledge import Triple
from ilpjax.rows import Item

# For rows that bring no paraphrases: the question is as it was, what stands around it is not.
FRAMES = ("Question: {q}\nAnswer:", "{q} Answer in a few words.", "Please answer: {q}")
RIVALS = 3  # wrong options of a fact that is not the row's answer
COLUMNS = ("row_id", "kind", "number", "question", "options", "answer")
Facts = Mapping[str, Sequence[Triple]]  # row_id -> the triples of the row


def make_probes(items: Sequence[Item], file: Path | str | None, facts: Facts) -> pd.DataFrame:
    """A line a probe: row_id, kind (`wording` or `fact`), number (of the wording, 0 being the row's own; of the row's
    triple), question, options, answer (index).

    `file` holds {"row_id", "question"} lines; rows that it does not name, and all rows without one, are asked in
    frames. A triple is asked for its object: against the item's options where the object is the answer, else against
    objects that other rows have for the same relation; where there are none, it is not asked.

    Raises InputError for a line of `file` that is not that.
    """
    own = read_probes(Path(file)) if file else {}
    objects = _objects(facts)
    lines = []
    for item in items:
        for n, wording in enumerate([item.question, *wordings(item, own)]):
            lines.append((item.row_id, "wording", n, wording, list(item.options), item.answer))
        for n, triple in enumerate(facts.get(item.row_id, ())):
            if options := _fact_options(item, triple, objects):
                asked = f"{triple.subject} {triple.relation}"
                lines.append((item.row_id, "fact", n, asked, *options))
    return pd.DataFrame(lines, columns=list(COLUMNS))


def wordings(item: Item, own: Mapping[str, Sequence[str]]) -> list[str]:
    """Other ways to ask the item's question: its own from a file of probes, else the frames."""
    return list(own.get(item.row_id, ())) or [frame.format(q=item.question) for frame in FRAMES]


def probe_items(probes: pd.DataFrame) -> list[Item]:
    """The probes as items, to be scored; an item's row_id is its line in `probes`."""
    asked = zip(probes["question"], probes["options"], probes["answer"], strict=True)
    return [Item(row_id=str(n), question=q, options=tuple(o), answer=int(a)) for n, (q, o, a) in enumerate(asked)]


def _objects(facts: Facts) -> dict[str, list[str]]:
    """Relation -> the different objects that the rows give it."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for triples in facts.values():
        for triple in triples:
            found[triple.relation.casefold()][triple.object] = None
    return {relation: list(objects) for relation, objects in found.items()}


def _fact_options(item: Item, triple: Triple, objects: Mapping[str, Sequence[str]]) -> tuple[list[str], int] | None:
    if plain(triple.object) == plain(item.options[item.answer]):
        return list(item.options), item.answer
    others = [o for o in objects[triple.relation.casefold()] if plain(o) != plain(triple.object)]
    # The same rivals in any order of the file, and no favourites.
    order = lambda o: hashlib.sha256(f"{item.row_id}\0{o}".encode(errors="surrogatepass")).digest()
    rivals = sorted(others, key=order)[:RIVALS]
    return ([triple.object, *rivals], 0) if rivals else None


def read_probes(path: Path) -> dict[str, list[str]]:
    """row_id -> wordings. Raises InputError naming the line."""
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
