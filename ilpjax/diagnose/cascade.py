"""The paper's own way: five tests in sequence, the first that fires names the cause (arXiv:2604.10079 section 3.2)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ilpjax.diagnose.attribute import ABSTAIN, CAUSES

JSD_CONFLICT = 0.3  # table 10; read in nats
CONFIDENT = 0.5  # T_conf of eq. 6: the paper gives none
SIMILAR = 0.85  # X of section 3.2.3: the paper gives none
EARLY = 0.3  # share of training within which a position is early


def paper_tests(signals: pd.DataFrame) -> pd.DataFrame:
    """A column a cause: whether its test fires. Tests whose signals are missing do not."""
    lost = (signals["forgot"] > 0.5 * signals["loss_first"]) | ((signals["events"] > 0) & (signals["place"] < EARLY))
    return pd.DataFrame(
        {
            "missing_knowledge": (signals["blind"] >= 0.5) & ~signals["exist"].astype(bool),
            "prior_conflict": (signals["base_wrong"] > CONFIDENT) | (signals["jsd"] > JSD_CONFLICT),
            "data_conflict": signals["conflict"] > SIMILAR,
            "forgetting": lost.fillna(False),
            "undertrained": (signals["slope"] < 0).fillna(False),
        }
    )


def cascade(signals: pd.DataFrame, order: Sequence[str] = CAUSES) -> pd.Series:
    """The first cause of `order` whose test fires, or `abstain`."""
    tests = paper_tests(signals)[list(order)].to_numpy(bool)
    named = np.where(tests.any(axis=1), np.asarray(order, dtype=object)[tests.argmax(axis=1)], ABSTAIN)
    return pd.Series(named, index=signals.index)
