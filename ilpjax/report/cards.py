"""The row table's data: a short line for every row shown, a card with everything for as many as the page can carry."""

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ilpjax.diagnose import CLASSES, WHAT_TO_DO
from ilpjax.report.contradictions import judges
from ilpjax.report.frame import Judged
from ilpjax.report.numbers import clean
from ilpjax.report.tables import Tables

LINES = 25_000  # rows in the table; past that a page is the wrong tool
LINE_BYTES = 8 << 20  # all lines together
CARD_BYTES = 8 << 20  # all cards together; about 2000 rows of chat length
TEXT = 4000  # characters of a prompt, a response or an option on a card
SNIPPET = 120  # characters of a text in a line
VISITS = 200  # points of a training curve

# Bits of a line's flags; rows.js reads the same.
UNLEARNED, CORRECTED, PLUMBING, SEVERE, LOST, NO_VERDICT = 1, 2, 4, 8, 16, 32


def page_data(tables: Tables, judged: Judged) -> dict[str, Any]:
    """The "lines" and "cards" as JSON texts, the "names" that lines point into, and counts of what is shown and carded.

    Worst first: unlearned in paper mode by severity, then in corrected mode only, then plumbing, then the rest.
    JSON texts are safe inside <script type="application/json">.
    """
    rows = _ordered(tables, judged).head(LINES)
    causes = sorted(set(rows["cause"]) - {""})
    datasets = sorted(rows["dataset"].unique().tolist())
    problems = sorted({kind for kinds in rows["problems"] for kind in kinds})
    lines, shown = _within((_line(row, datasets, problems, causes) for row in rows.to_dict("records")), LINE_BYTES)
    cards, carded = _within(_cards(rows.head(shown), tables, judged), CARD_BYTES)
    unlearned = rows["unlearned"].to_numpy(bool)
    return {
        "names": {"datasets": datasets, "problems": problems, "causes": causes},
        "lines": lines,
        "cards": cards,
        "shown": shown,
        "carded": carded,
        "unlearned_shown": int(unlearned[:shown].sum()),
        "unlearned_carded": int(unlearned[:carded].sum()),
        "of": len(tables.rows),
    }


def script_json(value: Any) -> str:
    """JSON that no HTML parser can mistake for markup: <, >, & and the line separators of JavaScript as escapes."""
    text = json.dumps(clean(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def clip(text: str, most: int = TEXT) -> str:
    """Head and tail: the question often stands at the end of a long prompt."""
    if len(text) <= most:
        return text
    tail = most // 4
    left_out = len(text) - most
    return f"{text[: most - tail]}\n[… {left_out:,} characters left out; rows.parquet has them …]\n{text[-tail:]}"


def _ordered(tables: Tables, judged: Judged) -> pd.DataFrame:
    extra = judged.rows.columns.difference(tables.rows.columns).tolist()
    rows = tables.rows.merge(judged.rows[["row_id", *extra]].assign(at=np.arange(len(judged.rows))), "left", "row_id")
    kinds = tables.plumbing.groupby("row_id")["problem"].agg(lambda found: tuple(sorted(set(found))))
    rows["problems"] = rows["row_id"].map(kinds).map(lambda found: found if isinstance(found, tuple) else ())
    rows["no_verdict"] = rows["at"].isna()
    named = pd.Series(dtype=object) if tables.diagnose is None else tables.diagnose.set_index("row_id")["cause"]
    rows["cause"] = rows["row_id"].map(named).fillna("")
    for column in ("unlearned", "unlearned_corrected", "base_unlearned", "severe"):
        rows[column] = rows[column].astype("boolean").fillna(False).astype(bool)
    rank = np.select([rows["unlearned"], rows["unlearned_corrected"], rows["problems"].map(bool)], [0, 1, 2], 3)
    severity = -rows["severity"].astype(float).fillna(-1)
    return rows.iloc[np.lexsort((rows["position"], severity, rank))].reset_index(drop=True)


def _line(row: dict[str, Any], datasets: list[str], problems: list[str], causes: list[str]) -> list[Any]:
    flags = UNLEARNED * row["unlearned"] | CORRECTED * row["unlearned_corrected"] | PLUMBING * bool(row["problems"])
    lost = row["unlearned"] and not row["base_unlearned"]
    flags |= SEVERE * (row["severe"] and row["unlearned"]) | LOST * lost | NO_VERDICT * row["no_verdict"]
    numbers = ("base_p", "tuned_p", "pass_at_n", "p_flag", "skill", "severity")
    return [
        row["row_id"],
        datasets.index(row["dataset"]),
        row["source"],
        _snippet(row["prompt"]),
        _snippet(row["response"]),
        int(flags),
        [problems.index(kind) for kind in row["problems"]],
        *(_round(row[name]) for name in numbers),
        causes.index(row["cause"]) if row["cause"] else -1,
    ]


def _cards(rows: pd.DataFrame, tables: Tables, judged: Judged) -> Iterator[dict[str, Any]]:
    items = tables.items.set_index("row_id")
    sources = tables.rows.set_index("row_id")["source"]
    visits = _visits(tables.dynamics)
    robust = {} if tables.robust_rows is None else tables.robust_rows.set_index("row_id").to_dict("index")
    causes = {} if tables.diagnose is None else tables.diagnose.set_index("row_id").to_dict("index")
    ruled = judges(tables)
    notes = {row_id: own for row_id, own in tables.plumbing.groupby("row_id")[["problem", "detail"]]}
    for row in rows.to_dict("records"):
        row_id = row["row_id"]
        card: dict[str, Any] = {
            "prompt": clip(row["prompt"]),
            "response": clip(row["response"]),
            "context": _context(row.get("messages")),
            "notes": notes[row_id].to_numpy().tolist() if row_id in notes else [],
            "curve": visits(row_id),
            "options": [],
            "why": _why(row_id, causes[row_id], ruled) if row_id in causes else None,
            "robust": _robust(robust[row_id]) if row_id in robust else None,
        }
        if not row["no_verdict"]:
            at = int(row["at"])
            card |= _verdict(row, judged) | _options(items.loc[row_id], judged.base[at], judged.tuned[at], sources)
        yield card


def _verdict(row: dict[str, Any], judged: Judged) -> dict[str, Any]:
    names = ("accuracy", "bon_correct", "skill_low", "skill_high", "jsd", "base_pass_at_n", "base_p_flag", "base_skill")
    numbers = {name: _round(row[name]) for name in names}
    if judged.tuned_orders > 1:
        numbers["spread"] = _round(row["tuned_spread"])
    if judged.control:
        numbers["control"] = _round(row["control_accuracy"])
    return numbers | {"length": int(row["length"]), "place": int(row["place"])}


def _why(row_id: str, found: dict[str, Any], ruled: dict[frozenset[str], str]) -> dict[str, Any]:
    """The cause and its evidence, see `diagnose.diagnose`; who judged between the row and its partner."""
    evidence = json.loads(found["evidence"])
    if partner := evidence.get("partner"):
        partner |= {name: clip(partner[name] or "", TEXT // 4) for name in ("prompt", "response", "option")}
        partner["judge"] = ruled.get(frozenset((row_id, partner["row_id"])), "")
    posterior = {name: _round(found[f"posterior_{name}"]) for name in CLASSES}
    named = {"cause": found["cause"], "cascade": found["cascade"], "what_to_do": WHAT_TO_DO[found["cause"]]}
    return named | {"posterior": posterior, "evidence": evidence}


def _robust(found: dict[str, Any]) -> dict[str, Any]:
    """How many protocols flag the row: see `robust.core_and_rim`."""
    numbers = {name: int(found[name]) for name in ("votes", "n")}
    return numbers | {"group": found["group"], "artefact": bool(found["artefact"])}


def _options(item: pd.Series, base: np.ndarray, tuned: np.ndarray, sources: pd.Series) -> dict[str, Any]:
    origins = list(item["option_sources"]) or [""] * len(item["options"])
    options = [
        [clip(text), _round(base[k]), _round(tuned[k]), origin, sources.get(origin, "")]
        for k, (text, origin) in enumerate(zip(item["options"], origins, strict=True))
    ]
    return {"options": options, "right": int(item["answer"])}


def _visits(dynamics: pd.DataFrame | None) -> Any:
    """row_id -> [[step, epoch, loss, p_right], ...] in step order."""
    if dynamics is None:
        return lambda row_id: []
    dynamics = dynamics.sort_values("step", kind="stable")
    values = dynamics[["step", "epoch", "loss", "p_right"]].to_numpy(float)
    places = dynamics.groupby("row_id").indices

    def of_row(row_id: str) -> list[list[Any]]:
        at = places.get(row_id, np.array([], int))
        if len(at) > VISITS:
            at = at[np.unique(np.linspace(0, len(at) - 1, VISITS).astype(int))]
        return [[int(step), *map(_round, rest)] for step, *rest in values[at]]

    return of_row


def _context(messages: Any) -> list[list[str]]:
    """[[role, text], ...] of what stood before the prompt: a system message, earlier turns."""
    if not isinstance(messages, str):
        return []
    return [[message["role"], clip(message["content"], TEXT // 4)] for message in json.loads(messages)[:-2]]


def _within(values: Iterator[Any], budget: int) -> tuple[str, int]:
    """A JSON list of as many values, from the first, as fit into `budget` bytes of UTF-8."""
    texts: list[str] = []
    for value in values:
        text = script_json(value)
        budget -= len(text.encode()) + 1
        if budget < 0:
            break
        texts.append(text)
    return f"[{','.join(texts)}]", len(texts)


def _snippet(text: str) -> str:
    flat = " ".join(text[: SNIPPET * 4].split())
    return flat if len(flat) <= SNIPPET and len(text) <= SNIPPET * 4 else flat[: SNIPPET - 1] + "…"


def _round(value: Any) -> float | None:
    """Four decimals: what the page can show. report.json keeps all of them."""
    return None if value is None or not math.isfinite(value) else round(float(value), 4)
