"""What a scored pass says under other scorings, decodings and option counts, without another pass."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from ilpjax import detect, scoring
from ilpjax.config import DetectConfig, Normalise
from ilpjax.robust.design import SHOWN, TEMPERATURE
from ilpjax.robust.free import counted
from ilpjax.rundir import read_table

TIE = 1e-9


@dataclass(frozen=True)
class Scored:
    """A scores table as arrays, options padded to the widest item with such that have no token."""

    row_ids: np.ndarray
    options: Int[np.ndarray, " item"]
    answer: Int[np.ndarray, " item"]
    logprob: Float[np.ndarray, "item order option"]
    tokens: Int[np.ndarray, "item order option"]
    nbytes: Int[np.ndarray, "item order option"]
    control: Float[np.ndarray, "item order option"] | None

    def take(self, items: Any, orders: slice = slice(None)) -> "Scored":
        """These items, in this order, and these option orders."""
        return Scored(
            self.row_ids[items],
            self.options[items],
            self.answer[items],
            self.logprob[items][:, orders],
            self.tokens[items][:, orders],
            self.nbytes[items][:, orders],
            None if self.control is None else self.control[items][:, orders],
        )

    def controlled_by(self, other: "Scored") -> "Scored":
        """With the control of another pass over the same options. Rows that `other` has not are left out."""
        place = pd.Index(other.row_ids).get_indexer(self.row_ids)
        mine = self.take(np.flatnonzero(place >= 0))
        return replace(mine, control=other.take(place[place >= 0]).control)


def read_scored(path: Path, row_ids: Sequence[str], orders: int) -> Scored:
    """These rows of a table that `score` wrote, in this order, and their first `orders` option orders."""
    table = read_table(path)
    table = table[table["order"] < orders]
    place = pd.Index(row_ids).get_indexer(table["row_id"])
    table = table.assign(place=place)[place >= 0].sort_values(["place", "order"])
    widths = table["option_logprob"].map(len).to_numpy()
    filled = np.arange(widths.max(initial=1)) < widths[:, None]

    def padded(name: str) -> np.ndarray:
        flat = np.concatenate([*table[name], np.zeros(0)])
        out = np.zeros(filled.shape, flat.dtype)
        out[filled] = flat
        return out.reshape(-1, orders, filled.shape[1])

    control = None if table["control_logprob"].isna().any() else padded("control_logprob")
    tokens, nbytes = padded("option_tokens").astype(int), padded("option_bytes").astype(int)
    first = table.iloc[::orders]
    return Scored(
        first["row_id"].to_numpy(),
        widths[::orders],
        first["answer"].to_numpy(int),
        padded("option_logprob"),
        tokens,
        nbytes,
        control,
    )


def probabilities(
    scored: Scored, scoring_: str, normalise: Normalise, shown: Bool[np.ndarray, "item option"]
) -> np.ndarray:
    """p among the options shown. `normalise`: how the control is, the way the run scores.

    Raises ValueError for pmi and control where there is no control.
    """
    kind: Normalise = scoring_.removeprefix("cloze-") if scoring_.startswith("cloze-") else "raw"  # type: ignore[assignment]
    logprob = scored.logprob
    if scoring_ == "control":
        if scored.control is None:
            raise ValueError("the control was not scored")
        logprob, kind = scored.control, "raw" if normalise == "pmi" else normalise
    tokens = np.where(shown[:, None], scored.tokens, 0)  # an option without a token cannot be picked
    p = scoring.option_probabilities(logprob, tokens, scored.nbytes, scored.control, kind)
    p = np.where(shown[:, None], p, 0.0)  # where no option has a token all are alike, the hidden ones too
    return p / p.sum(axis=2, keepdims=True)


def show(scored: Scored, count: str, seed: int) -> Bool[np.ndarray, "item option"]:
    """The options left: all, or 2 or 3 (k2, k3), the right one and wrong ones drawn by (seed, row_id)."""
    width = scored.logprob.shape[2]
    there = np.arange(width) < scored.options[:, None]
    if count not in SHOWN:
        return there
    lots = np.stack([_uniforms((seed, "shown", row_id), width) for row_id in scored.row_ids])
    lots = np.where(there, lots, np.inf)
    np.put_along_axis(lots, scored.answer[:, None], -1.0, axis=1)
    return there & (lots.argsort(axis=1).argsort(axis=1) < SHOWN[count])


def decode(p: Float[np.ndarray, "item order option"], decoding: str, top_p: float) -> np.ndarray:
    """The distribution that the decoding draws from: one option for greedy (of equals the first); p ** (1/T); or the
    fewest options that together have top_p, equals staying together (arXiv:1904.09751)."""
    if decoding == "greedy":
        return np.eye(p.shape[2])[p.argmax(axis=2)]
    if decoding == "top_p":
        down = -np.sort(-p, axis=2)
        last = np.argmax(down.cumsum(axis=2) >= top_p - TIE, axis=2)
        p = np.where(p >= np.take_along_axis(down, last[:, :, None], axis=2), p, 0.0)
    p = p ** (1 / TEMPERATURE[decoding])
    return p / p.sum(axis=2, keepdims=True)


def without_label_bias(scored: Scored, seed: int) -> Scored:
    """Letter's log-probs less the prior of their label (PriDe in its simplest form, arXiv:2309.03882).

    The prior of a label is its mean log-prob over rows and orders, normalised over the labels of a row. It is taken
    from one half of the rows (by hash) and applied to the other, for each number of options by itself: no row corrects
    itself. `seed`: of the option orders.
    """
    logprob = scored.logprob.copy()
    half = np.array([_digest((row_id,))[0] % 2 for row_id in scored.row_ids])
    for options in np.unique(scored.options):
        rows = np.flatnonzero(scored.options == options)
        mine = scored.logprob[rows, :, :options].astype(np.float64)
        mine -= np.logaddexp.reduce(mine, axis=2, keepdims=True)
        place = _label_places(scored.row_ids[rows], logprob.shape[1], int(options), seed)
        at_label = np.take_along_axis(mine, place.argsort(axis=2), axis=2)
        for side in (0, 1):
            others, own = half[rows] != side, half[rows] == side
            if others.any() and own.any():
                prior = at_label[others].mean(axis=(0, 1))
                logprob[rows[own], :, :options] -= prior[place[own]]
    return replace(scored, logprob=logprob)


def _label_places(row_ids: np.ndarray, orders: int, options: int, seed: int) -> Int[np.ndarray, "item order option"]:
    """Where in the list, and so with which label, each option stood."""
    listed = [[scoring.permutation(seed, row_id, n, options) for n in range(orders)] for row_id in row_ids]
    return np.argsort(np.array(listed), axis=2)


def verdicts(
    scored: Scored, p: Float[np.ndarray, "item order option"], shown: Bool[np.ndarray, "item option"], cfg: DetectConfig
) -> pd.DataFrame:
    """detect's verdict of such a pass: row_id, n (orders), p_pass, flagged, flagged_corrected, predicted."""
    orders = p.shape[1]
    table = pd.DataFrame(
        {
            "row_id": np.repeat(scored.row_ids, orders),
            "order": np.tile(np.arange(orders), len(p)),
            "p": [line[kept] for lines, kept in zip(p, shown, strict=True) for line in lines],
            "answer": np.repeat([kept[:a].sum() for kept, a in zip(shown, scored.answer, strict=True)], orders),
        }
    )
    found = detect.detect(table, cfg)
    names = {"pass_at_n": "p_pass", "unlearned": "flagged", "unlearned_corrected": "flagged_corrected"}
    return found[["row_id", *names]].rename(columns=names).assign(n=orders, predicted=p.mean(axis=1).argmax(axis=1))


def draws(scored: Scored, p: Float[np.ndarray, "item option"], half: int, cfg: DetectConfig, seed: int) -> pd.DataFrame:
    """The paper's rule run once, as a user would: N = cfg.runs options drawn by (seed, row_id, half)."""
    u = np.stack([_uniforms((seed, half, row_id), cfg.runs) for row_id in scored.row_ids])
    drawn = (p.cumsum(axis=1)[:, None] <= u[:, :, None] * p.sum(axis=1)[:, None, None]).sum(axis=2)
    count = (drawn == scored.answer[:, None]).sum(axis=1)
    return counted(scored.row_ids, count, cfg.runs, cfg.threshold)


def _uniforms(key: tuple, count: int) -> Float[np.ndarray, " count"]:
    return np.random.default_rng(np.frombuffer(_digest(key), np.uint32)).random(count)


def _digest(key: tuple) -> bytes:
    return hashlib.sha256("\0".join(map(str, key)).encode("utf-8", "surrogatepass")).digest()
