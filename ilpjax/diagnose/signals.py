"""What can be seen of a row: one table, a column a signal (see SIGNALS for what each is and what it costs)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from ilpjax import detect
from ilpjax.diagnose.neighbours import neighbours
from ilpjax.errors import InputError
from ilpjax.rows import Item, Row

EXISTS = 0.8  # arXiv:2604.10079 eq. 2
BLIND_PASS, BLIND_BEST = 0.2, 0.1  # arXiv:2604.10079 eq. 4
# name: what it is; where it comes from; what it costs.
SIGNALS = {
    "base_right": "p of the right option, base; scores_base; none beyond detection",
    "base_wrong": "p of the likeliest wrong option, base (eq. 6); scores_base; none",
    "exist": "P_exist, eq. 2: the share of wordings that the base gets right is over 0.8; probes; as below",
    # What the question adds (`detect.question_lift`): a base that never heard of it gives all options the same.
    "probe_right": "mean lift of the right option over the question's wordings, base; probes; a pass a wording",
    "probe_wrong": "the highest mean lift of one wrong option: a belief, not a guess; probes; the same passes",
    "probe_agree": "share of the wordings with the commonest pick; probes; the same passes",
    "probe_spread": "standard deviation of the right option's lift over them; probes; the same passes",
    "blind": "share of the row's triples that eq. 4 calls blind: pass@10 < 0.2 and best of 5 right < 0.1; of its "
    "wordings where no triple could be asked; probes; a pass a triple",
    "tuned_right": "p of the right option, tuned; scores_tuned; none",
    "tuned_wrong": "p of the likeliest wrong option, tuned; scores_tuned; none",
    "tuned_entropy": "entropy of the tuned option distribution, nats; scores_tuned; none",
    "believes": "p, tuned, of what the base believes: the wrong option of probe_wrong; none",
    "jsd": "Jensen-Shannon divergence of base and tuned, eq. 3, nats; none",
    "conflict": "similarity of the nearest row that answers otherwise (0: none); rows; words compared, no model",
    "agreement": "similarity of the nearest row that answers the same (0: none); the same",
    "against": "rows among the neighbours that answer otherwise; the same",
    "pull": "p, tuned, of what the conflicting partner answers (0: none); none beyond that",
    "loss_final": "nats a token of the response after training; scores_tuned; none",
    "loss_first": "nats a token at the first visit; dynamics; under 2 % of the step",
    "loss_least": "the lowest at any visit; dynamics; the same",
    "loss_last": "at the last visit, before its update; dynamics; the same",
    "slope": "loss a visit over the second half of the visits, negative while falling; dynamics; the same",
    "forgot": "loss_final less loss_least: what was learned and lost; dynamics; the same",
    "events": "visits that lost a greedy match (forgetting events, arXiv:1812.05159); dynamics; the same",
    "learned_step": "share of training done when the row last matched greedily (0: never); dynamics; the same",
    "loss_spread": "standard deviation of loss over visits; dynamics; the same",
    "confidence": "mean p_right over visits (data maps, arXiv:2009.10795); dynamics; the same",
    "variability": "standard deviation of p_right over visits (data maps); dynamics; the same",
    "correctness": "mean greedy match over visits (data maps); dynamics; the same",
    "margin": "mean of 2 p_right - 1 over visits: a lower bound of AUM's margin (arXiv:2001.10528); dynamics; the same",
    "place": "share of training done at the row's last visit; dynamics; the same",
}
FROM_TRAINING = tuple(name for name, text in SIGNALS.items() if "; dynamics;" in text)


def row_signals(
    rows: Sequence[Row],
    items: Sequence[Item],
    asked: Sequence[str],
    *,
    base: pd.DataFrame,
    tuned: pd.DataFrame,
    probes: pd.DataFrame,
    probe_scores: pd.DataFrame | None,
    dynamics: pd.DataFrame | None,
    graph: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(signals of the rows `asked`: row_id and SIGNALS, NaN where there is no training record; their neighbours).

    `graph` is conflicts.parquet. `base`, `tuned`, `probe_scores` are scores tables, the last one's row_id the line of
    `probes`; None where no row is asked about.
    """
    table = pd.DataFrame({"row_id": list(asked)})
    if probe_scores is None or not asked:
        return table.assign(**dict.fromkeys(SIGNALS, pd.Series(dtype=float))), neighbours(rows, items, [])
    ids, before, answer = detect.option_means(base)
    after_ids, after, _ = detect.option_means(tuned)
    at, at_after = (pd.Index(found).get_indexer(table["row_id"]) for found in (ids, after_ids))
    before, after, answer = before[at], after[at_after], answer[at]
    table["base_right"], table["base_wrong"], _ = _right_and_wrong(before, answer)
    table["tuned_right"], table["tuned_wrong"], _ = _right_and_wrong(after, answer)
    table["tuned_entropy"] = -np.sum(after * np.log(np.maximum(after, 1e-12)), axis=1)
    table["jsd"] = detect.jsd(before[:, None], after[:, None])[:, 0]
    table = _probed(table, probes, probe_scores, after, answer)
    near = neighbours(rows, items, asked, graph)
    table = _contradicted(table, near, after)
    table["loss_final"] = _final_loss(tuned).reindex(table["row_id"]).to_numpy()
    table = _trained(table, dynamics)
    return table[["row_id", *SIGNALS]], near


def _right_and_wrong(
    p: Float[np.ndarray, "row option"], answer: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """p of the right option, p of the likeliest wrong one, and which that is."""
    at = np.arange(len(p))
    wrong = p.copy()
    wrong[at, answer] = -1
    which = wrong.argmax(axis=1) if len(p) else answer
    return p[at, answer], wrong[at, which], which


def _probed(
    table: pd.DataFrame,
    probes: pd.DataFrame,
    scores: pd.DataFrame,
    tuned: Float[np.ndarray, "row option"],
    answer: np.ndarray,
) -> pd.DataFrame:
    """What the base says to the question in several wordings, and to the row's facts."""
    lines, lift, right = detect.option_means(detect.question_lift(scores))
    _, p, _ = detect.option_means(scores)
    asked = probes.iloc[np.asarray(lines).astype(int)]
    row = pd.Index(table["row_id"]).get_indexer(asked["row_id"])
    if (row < 0).any():
        raise InputError(f"probes: row_id {asked['row_id'].iloc[int(np.argmax(row < 0))]} is none of the rows asked")
    wording = (asked["kind"] == "wording").to_numpy()
    of, said = row[wording], np.pad(lift, ((0, 0), (0, max(0, tuned.shape[1] - lift.shape[1]))))[wording]
    said = said[:, : tuned.shape[1]]
    count = np.bincount(of, minlength=len(table))
    mean, picks = np.zeros_like(tuned), np.zeros_like(tuned)
    np.add.at(mean, of, said)
    mean /= count[:, None]
    np.add.at(picks, (of, said.argmax(axis=1)), 1)
    at = np.arange(len(table))
    table["probe_right"], table["probe_wrong"], belief = _right_and_wrong(mean, answer)
    table["probe_agree"] = picks.max(axis=1) / count
    table["probe_spread"] = pd.Series(said[np.arange(len(of)), answer[of]]).groupby(of).std(ddof=0).to_numpy()
    plain = pd.Series(p[wording].argmax(axis=1) == answer[of]).groupby(of).mean().to_numpy()
    table["exist"] = plain > EXISTS
    table["believes"] = tuned[at, belief]
    blind = pd.DataFrame({"row": row, "wording": wording, "blind": is_blind(p, right)})
    share = blind.groupby(["row", "wording"])["blind"].mean().unstack()
    table["blind"] = (share[False].fillna(share[True]) if False in share else share[True]).to_numpy(float)
    return table


def is_blind(p: Float[np.ndarray, "probe option"], answer: np.ndarray) -> np.ndarray:
    """arXiv:2604.10079 eq. 4, in closed form."""
    right = np.take_along_axis(p, answer[:, None], axis=1)
    best = detect.best_of_n(p[:, None], answer, 5)
    return (detect.expected_pass(right, 10) < BLIND_PASS) & (best < BLIND_BEST)


def _contradicted(table: pd.DataFrame, near: pd.DataFrame, tuned: np.ndarray) -> pd.DataFrame:
    at = pd.Series(np.arange(len(table)), index=table["row_id"])
    against = near[near["conflicts"].astype(bool)]
    first = against.drop_duplicates("row_id").set_index("row_id")
    named = against[against["rival"] >= 0].drop_duplicates("row_id").set_index("row_id")
    agreeing = near[near["agrees"].astype(bool)].drop_duplicates("row_id").set_index("row_id")
    table["conflict"] = first["similarity"].astype(float).reindex(table["row_id"]).fillna(0).to_numpy()
    table["agreement"] = agreeing["similarity"].astype(float).reindex(table["row_id"]).fillna(0).to_numpy()
    table["against"] = against.groupby("row_id").size().reindex(table["row_id"]).fillna(0).to_numpy(float)
    table["pull"] = 0.0
    rows = at[named.index].to_numpy()
    table.loc[rows, "pull"] = tuned[rows, named["rival"].to_numpy(int)]
    return table


def _final_loss(scores: pd.DataFrame) -> pd.Series:
    """row_id -> nats a token of the response, tuned model; NaN where only labels were scored."""
    first = scores.drop_duplicates("row_id")
    if "option_logprob" not in first or (first["protocol"] == "letter").any():
        return pd.Series(np.nan, index=first["row_id"])
    pick = lambda name: np.array([v[a] for v, a in zip(first[name], first["answer"], strict=True)], float)
    return pd.Series(-pick("option_logprob") / np.maximum(pick("option_tokens"), 1), index=first["row_id"])


def _trained(table: pd.DataFrame, dynamics: pd.DataFrame | None) -> pd.DataFrame:
    """How the row fared while it was trained on."""
    if dynamics is None:
        return table.assign(**dict.fromkeys(FROM_TRAINING, np.nan))
    end = dynamics["step"].max()
    visits = dynamics[dynamics["row_id"].isin(set(table["row_id"]))].sort_values(["row_id", "step"], kind="stable")
    visits = visits.assign(match=visits["greedy"] >= 1)
    groups = visits.groupby("row_id", sort=False)
    lost = groups["match"].shift(fill_value=False) & ~visits["match"]
    number, size = groups.cumcount(), groups["step"].transform("size")
    late = visits[number >= (size - 1) // 2].groupby("row_id")["loss"]
    span = (late.size() - 1).clip(lower=1)
    found = pd.DataFrame(
        {
            "loss_first": groups["loss"].first(),
            "loss_least": groups["loss"].min(),
            "loss_last": groups["loss"].last(),
            "slope": (late.last() - late.first()) / span,
            "events": lost.groupby(visits["row_id"]).sum(),
            "learned_step": visits["step"].where(visits["match"], 0).groupby(visits["row_id"]).max() / end,
            "loss_spread": groups["loss"].std(ddof=0),
            "confidence": groups["p_right"].mean(),
            "variability": groups["p_right"].std(ddof=0),
            "correctness": visits["match"].groupby(visits["row_id"]).mean(),
            "margin": 2 * groups["p_right"].mean() - 1,
            "place": groups["step"].last() / end,
        }
    ).reindex(table["row_id"])
    for name in found:
        table[name] = found[name].to_numpy(float)
    table["forgot"] = table["loss_final"] - table["loss_least"]
    return table
