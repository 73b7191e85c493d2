"""What drawn answers say: the verdict of n real draws, and of answers in words under each metric."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from ilpjax import detect, scoring
from ilpjax.rows import Item

RIGHT = {"em": 1.0, "choice": 1.0, "f1": 0.5, "rouge_l": 0.5}  # from here on an answer counts as right


def counted(row_ids: np.ndarray, right: Int[np.ndarray, " item"], n: int, threshold: float) -> pd.DataFrame:
    """The paper's verdict of n real draws, `right` of them right: row_id, n, p_pass, flagged, predicted (-1)."""
    flagged = right < detect.flag_count(threshold, n)
    return pd.DataFrame({"row_id": row_ids, "n": n, "p_pass": right / n, "flagged": flagged, "predicted": -1})


def free_form(answers: pd.DataFrame, items: Sequence[Item], metric: str, threshold: float) -> pd.DataFrame:
    """Of a table that `sample` wrote: all draws of a row (half 0) and two halves of them (1, 2), where there are two.

    metric: em, f1, rouge_l, or choice, for which `predicted` is the option that the most draws name. No guess is
    corrected for, and chance is 0: an answer in words may name no option at all.
    """
    texts = {row_id: lines.tolist() for row_id, lines in answers.sort_values("sample").groupby("row_id")["text"]}
    found = [item for item in items if item.row_id in texts]
    right = np.array([_right(item, texts[item.row_id], metric) for item in found])
    row_ids = np.array([item.row_id for item in found])
    parts = [right, right[:, 0::2], right[:, 1::2]] if right.shape[1] > 1 else [right]
    lines = [
        counted(row_ids, part.sum(axis=1), part.shape[1], threshold).assign(half=half)
        for half, part in enumerate(parts)
    ]
    if metric == "choice":
        named = [[scoring.named_option(text, item.options) for text in texts[item.row_id]] for item in found]
        lines[0]["predicted"] = [Counter(options).most_common(1)[0][0] for options in named]
    return pd.concat(lines, ignore_index=True).assign(flagged_corrected=None, chance=0.0)


def _right(item: Item, texts: Sequence[str], metric: str) -> Bool[np.ndarray, " draw"]:
    reference = item.options[item.answer]
    scores = [scoring.match(text, reference, metric, item.options, item.answer) for text in texts]  # type: ignore[arg-type]
    return np.array(scores) >= RIGHT[metric]
