"""Rows that contradict each other: the conflict graph in numbers, and its most similar pairs with their texts."""

from typing import Any

from ilpjax.conflicts import KINDS
from ilpjax.report.tables import Tables

MOST = 50  # pairs shown
KIND = {
    "choice": "another option",
    "yes-no": "yes against no",
    "number": "numbers differ",
    "list": "lists differ",
    "name": "names differ",
    "negation": "one denies it",
    "text": "texts differ",
}
VERDICT = {
    "a": "the first is right",
    "b": "the second is right",
    "both": "both are right",
    "neither": "neither is right",
    "undecided": "undecided",
    "unjudged": "not judged",
}


def count_conflicts(tables: Tables) -> dict[str, Any] | None:
    """What conflicts.json says, with `left` (pairs that a step left to those after it; null where they contradict each
    other), `verdicts` by judge, most first, and `shown`: the MOST pairs most similar."""
    table = tables.conflicts
    if table is None:
        return None
    left, steps = tables.graph["pairs"], []
    for step in tables.graph["steps"]:
        against = step["step"] in KINDS
        left -= 0 if against else step["n"]
        steps.append(step | {"left": None if against else left})
    counts = table.value_counts(["judge", "verdict"]).sort_index().sort_values(ascending=False, kind="stable")
    verdicts = [{"judge": judge, "verdict": verdict, "n": int(n)} for (judge, verdict), n in counts.items()]
    nearest = table.sort_values("similarity", ascending=False, kind="stable").head(MOST)
    shown = nearest[["row_a", "row_b", "similarity", "kind", "verdict", "judge"]].to_dict("records")
    return tables.graph | {"steps": steps, "verdicts": verdicts, "shown": shown}


def pair_texts(numbers: dict[str, Any], tables: Tables) -> list[dict[str, Any]]:
    """The pairs of `count_conflicts` with both rows (row_id, source, prompt, response), kind and verdict in words."""
    if numbers["conflicts"] is None:
        return []
    rows = tables.rows.set_index("row_id", drop=False)[["row_id", "source", "prompt", "response"]]
    return [
        pair
        | {"rows": [rows.loc[pair["row_a"]].to_dict(), rows.loc[pair["row_b"]].to_dict()]}
        | {"kind": KIND.get(pair["kind"], pair["kind"]), "verdict": VERDICT.get(pair["verdict"], pair["verdict"])}
        for pair in numbers["conflicts"]["shown"]
    ]


def judges(tables: Tables) -> dict[frozenset[str], str]:
    """Two row_ids -> who ruled on the pair; empty for nobody."""
    table = tables.conflicts
    if table is None:
        return {}
    return {frozenset(pair): judge for *pair, judge in table[["row_a", "row_b", "judge"]].itertuples(index=False)}
