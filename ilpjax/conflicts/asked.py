"""What a language model says of two answers, asked through the option scorer: do they agree, which does it prefer?"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from ilpjax import scoring
from ilpjax.config import DataConfig, MeshConfig, ScoreConfig
from ilpjax.knowledge import Dispute
from ilpjax.models import resolve
from ilpjax.rows import Item
from ilpjax.rundir import fingerprint, read_table

ENTAILS = (Path(__file__).parent / "entails.txt").read_text(encoding="utf-8").strip()
SURE = 0.2  # how far the question must move p("yes") from where it is without one


class AskedModel:
    """A causal model by name or folder. What it says to a list of questions is kept in `folder`."""

    def __init__(self, name: str, folder: Path, mesh: MeshConfig, data: DataConfig):
        self._name, self._folder, self._mesh, self._data = name, folder, mesh, data
        self._made_of = fingerprint(resolve(name))

    def entails(self, pairs: Sequence[tuple[str, str, str]]) -> list[bool | None]:
        """For each (question, answer, other answer): True where each answer entails the other, False where neither
        does, None where the model does not say.

        Asked both ways. p("yes") is read less its p without the question: a mere liking for the word says nothing.
        """
        asked = [ENTAILS.format(question=q, one=x, two=y) for q, a, b in pairs for x, y in ((a, b), (b, a))]
        found = self._scores([Item(row_id="", question=text, options=("yes", "no"), answer=0) for text in asked])
        lift = [said[0] - alone[0] for said, alone in zip(found["p"], found["control_p"], strict=True)]
        ways = np.array(lift, float).reshape(-1, 2)
        return [True if (way > SURE).all() else False if (way < -SURE).all() else None for way in ways]

    def prefers(self, disputes: Sequence[Dispute]) -> Float[np.ndarray, "dispute 2"]:
        """Log-odds (natural) of answer a over answer b in the words of each question, less those without a question."""
        items = [
            Item(row_id="", question=question, options=(d.answer_a, d.answer_b), answer=0)
            for d in disputes
            for question in (d.question, d.other_question)
        ]
        found = self._scores(items)
        adds = [np.subtract(*said) for said in zip(found["option_logprob"], found["control_logprob"], strict=True)]
        return np.array([add[0] - add[1] for add in adds], float).reshape(-1, 2)

    def _scores(self, items: Sequence[Item]) -> pd.DataFrame:
        """The scores table of the items, in their order."""
        numbered = [Item(row_id=str(n), question=i.question, options=i.options, answer=0) for n, i in enumerate(items)]
        stamp = fingerprint(self._made_of, [(item.question, item.options) for item in numbered], self._data.template)
        out = self._folder / f"{stamp}.parquet"
        if not out.is_file():
            template, mesh = self._data.template, self._mesh
            scoring.score_with(
                self._name, numbered, ScoreConfig(), template=template, mesh=mesh, seed=0, out=out, stamp=stamp
            )
        return read_table(out)
