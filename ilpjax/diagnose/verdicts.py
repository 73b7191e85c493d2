"""Causes with their evidence, a line a row."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ilpjax.diagnose.attribute import CAUSES, Calibration, decide
from ilpjax.diagnose.cascade import cascade
from ilpjax.diagnose.signals import FROM_TRAINING
from ilpjax.rows import Item, Row

WHAT_TO_DO = {
    "missing_knowledge": "The base does not know this. Continue pre-training on documents about it, then tune again; "
    "more epochs teach the row, not the fact.",
    "prior_conflict": "The base believes something else. Check which is right; if the row is, continue pre-training on "
    "documents that say so, then tune again.",
    "data_conflict": "Another row says otherwise. Decide which of the two is right and drop the other; if both are, "
    "keep them out of one batch.",
    "forgetting": "It was learned, and later rows overwrote it. Shuffle the file, or show the row again late.",
    "undertrained": "The base could answer; training saw too little of this form. Train longer, or add rows like it.",
    "abstain": "The signals do not single out a cause.",
}


def diagnose(
    signals: pd.DataFrame,
    near: pd.DataFrame,
    rows: Sequence[Row],
    items: Sequence[Item],
    calibration: Calibration,
    facts: Mapping[str, Sequence[Mapping[str, Any]]],
) -> pd.DataFrame:
    """A line a row of `signals`: row_id, cause (one of CAUSES or `abstain`), causes (list, the likeliest first),
    posterior_<cause> and posterior_abstain (sum to 1), score_<cause> (log-odds of the posterior, nats), cascade (what
    the paper's sequence of tests says), evidence (JSON, see `_evidence`, and the row's `facts`)."""
    posterior = calibration.posterior(signals)
    odds = np.log(posterior.clip(1e-9, 1 - 1e-9)) - np.log1p(-posterior.clip(1e-9, 1 - 1e-9))
    table = pd.concat([signals[["row_id"]].reset_index(drop=True), decide(posterior)], axis=1)
    table = table.join(posterior.add_prefix("posterior_")).join(odds[list(CAUSES)].add_prefix("score_"))
    table["cascade"] = cascade(signals).to_numpy()
    by_id, views = {row.row_id: row for row in rows}, {item.row_id: item for item in items}
    partner = near[near["conflicts"].astype(bool)].drop_duplicates("row_id").set_index("row_id").to_dict("index")
    table["evidence"] = [
        json.dumps(
            _evidence(line, views[line["row_id"]], partner.get(line["row_id"]), by_id)
            | {"facts": list(facts.get(line["row_id"], ()))},
            ensure_ascii=False,
        )
        for line in signals.to_dict("records")
    ]
    return table


def _evidence(
    signal: dict[str, Any], item: Item, partner: dict[str, Any] | None, rows: dict[str, Row]
) -> dict[str, Any]:
    """What a person can check: what the base says, over its probes; the row that contradicts; how training went; and
    which signals did not exist. Probabilities over the item's options; losses in nats a token."""
    number = lambda name: round(float(signal[name]), 4)
    told: dict[str, Any] = {
        "base": {
            "right": number("base_right"),
            "wrong": number("base_wrong"),
            "probe_right": number("probe_right"),
            "probe_wrong": number("probe_wrong"),
            "agree": number("probe_agree"),
            "blind": number("blind"),
            "exists": bool(signal["exist"]),
        },
        "tuned": {name: number(f"tuned_{name}") for name in ("right", "wrong")} | {"jsd": number("jsd")},
    }
    if partner is not None:
        other = rows[partner["partner"]]
        told["partner"] = {
            "row_id": other.row_id,
            "prompt": other.prompt,
            "response": other.response,
            "similarity": number("conflict"),
            "tuned": number("pull"),
            "against": int(signal["against"]),
            "option": item.options[partner["rival"]] if partner["rival"] >= 0 else None,
            "verdict": partner["verdict"] or None,
        }
    if missing := [name for name in FROM_TRAINING if np.isnan(signal[name])]:
        told["missing"] = missing
    else:
        names = ("loss_first", "loss_least", "loss_last", "loss_final", "slope", "forgot", "learned_step", "place")
        told["training"] = {name: None if np.isnan(signal[name]) else number(name) for name in names}
    return told
