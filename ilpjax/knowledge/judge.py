"""Which of two conflicting answers is right: a panel of language models behind an endpoint, or what is at hand."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Float

from ilpjax.config import JudgeConfig
from ilpjax.errors import InputError
from ilpjax.knowledge.endpoint import Ask, Endpoint, Spent, prompt, warn
from ilpjax.progress import progress

Verdict = Literal["a", "b", "both", "neither", "undecided"]
TEMPERATURE = 0.7  # of a sample; arXiv:2203.11171 sec. 3.1
WINDOW = 32  # disputes that are judged to the end before the next are begun
ODDS = 1.1  # log-odds, natural: three to one
_VERDICTS: dict[Any, Verdict] = {"A": "a", "B": "b", "both": "both", "neither": "neither"}
_SWAPPED: dict[Verdict, Verdict] = {"a": "b", "b": "a"}
_FENCE = re.compile(r"\A```(?:json)?[^\S\n]*\n(.*)\n```\Z", re.DOTALL)


@dataclass(frozen=True)
class Dispute:
    """Two rows that answer alike questions differently. `support`: other rows near by that agree with each answer."""

    key: str
    question: str  # of answer_a
    other_question: str  # of answer_b
    answer_a: str
    answer_b: str
    support_a: int = 0
    support_b: int = 0


@dataclass(frozen=True)
class Ruling:
    """`votes`: of the round that decided, by verdict, and how many were "unreadable". `cost` in the currency of the
    prices, 0 without any; `asked`: requests that were answered; both count the cached ones, too."""

    verdict: Verdict
    judge: str
    votes: dict[str, int]
    cost: float = 0.0
    asked: int = 0
    reasoned: bool = False


class Judge(Protocol):
    name: str

    def __call__(self, disputes: Sequence[Dispute]) -> list[Ruling | None]:
        """A ruling a dispute, in order; None for one that was not asked to the end (a budget, an outage)."""
        ...


Prefer = Callable[[Sequence[Dispute]], Float[np.ndarray, "dispute 2"]]


def make_judge(cfg: JudgeConfig, cache: Path, prefer: Prefer | None = None) -> Judge | None:
    """None for `kind=none`. `cache` is for `endpoint`, `prefer` for `offline`; nothing is asked yet.

    Raises InputError for settings that do not go together.
    """
    if cfg.kind == "none":
        return None
    if cfg.kind == "offline":
        return OfflineJudge(prefer)
    if not cfg.url or not cfg.models:
        raise InputError(f"judge.{'models' if cfg.url else 'url'}: needed for judge.kind=endpoint, and not given")
    settings = cfg.model_dump(exclude={"kind", "url", "models", "key_env", "samples"})
    return EndpointJudge(Endpoint(cfg.url, cfg.key_env, cache, **settings), cfg.models, cfg.samples)


class OfflineJudge:
    """Asks no service: counts the rows near by, and what the model at hand prefers. Weak, and it says so.

    It knows nothing of the world. Support is a vote of the very file whose rows are in doubt: an error that was copied
    often wins. `prefer` gives log-odds (natural) of answer a over b, asked in the words of each question: a model's
    opinion, for what its size is worth; wrong where its pre-training was wrong, and no witness against the rows it was
    tuned on. Nor can it say that both or neither are right. Take its rulings as a hint.

    A voice speaks when it is clear: one side has more rows near by than the other; both wordings prefer the same
    answer by ODDS or more. All that speak must agree; else, and where none speaks, the ruling is "undecided". `votes`
    counts the voices.
    """

    name = "offline"

    def __init__(self, prefer: Prefer | None = None):
        self._prefer = prefer

    def __call__(self, disputes: Sequence[Dispute]) -> list[Ruling | None]:
        voices = np.sign([[d.support_a - d.support_b] for d in disputes]).reshape(-1, 1)
        if self._prefer and disputes:
            odds = np.asarray(self._prefer(disputes), float).reshape(len(disputes), 2)
            clear = (odds >= ODDS).all(axis=1).astype(int) - (odds <= -ODDS).all(axis=1)
            voices = np.column_stack([voices, clear])
        rulings: list[Ruling | None] = []
        for heard in voices:
            votes = {side: n for side, n in (("a", int((heard > 0).sum())), ("b", int((heard < 0).sum()))) if n}
            verdict: Verdict = "undecided" if len(votes) != 1 else "a" if "a" in votes else "b"
            rulings.append(Ruling(verdict, self.name, votes))
        return rulings


@dataclass(frozen=True)
class _Vote:
    verdict: Verdict | None  # None: unreadable
    swapped: bool
    spent: Spent


class EndpointJudge:
    """A panel: `samples` short verdicts of each of `models`, at TEMPERATURE; self-consistency (arXiv:2203.11171).

    Every other sample sees the two answers in swapped order, against position bias (arXiv:2306.05685 sec. 3.4). When
    all that can be read agree, in both orders, that is the ruling. Else each model is asked for `samples` verdicts with
    reasoning, and more than half of those that can be read decide; without such a majority, or where no sample can be
    read, it is "undecided". What is not exactly in the form asked for is asked for once more, then it is no vote.

    Budgets, cache and outages are the endpoint's; a line on stderr says how many disputes were left, another what was
    spent. Raises InputError as `Endpoint` does.
    """

    def __init__(self, endpoint: Endpoint, models: Sequence[str], samples: int = 3):
        self._endpoint, self._models, self._samples = endpoint, list(dict.fromkeys(models)), samples
        self.name = ", ".join(self._models)

    def __call__(self, disputes: Sequence[Dispute]) -> list[Ruling | None]:
        before = self._endpoint.spent
        rulings: list[Ruling | None] = []
        with progress(f"judge {self.name}", len(disputes), "disputes") as advance:
            for start in range(0, len(disputes), WINDOW):
                window = self._judge(disputes[start : start + WINDOW])
                rulings += window
                advance(len(window) - window.count(None))
        if left := rulings.count(None):
            done = len(disputes) - left
            warn(self._endpoint.left(f"{done} of {len(disputes)} disputes were judged and {left} were left"))
        if self._endpoint.spent != before:
            warn(f"judge {self.name}: {self._endpoint.spent}; runs before: {self._endpoint.former}")
        return rulings

    def _judge(self, disputes: Sequence[Dispute]) -> list[Ruling | None]:
        short = self._votes(disputes, "judge", 64)
        split = [n for n, votes in enumerate(short) if votes and _split(votes)]
        reasoned = dict(zip(split, self._votes([disputes[n] for n in split], "judge_reason", 1024), strict=True))
        return [self._rule(votes, reasoned.get(n, [])) for n, votes in enumerate(short)]

    def _votes(self, disputes: Sequence[Dispute], template: str, tokens: int) -> list[list[_Vote] | None]:
        """Each dispute's votes, model by model; None where one is missing."""
        panel = [(model, n, (m + n) % 2 == 1) for m, model in enumerate(self._models) for n in range(self._samples)]
        asks = []
        for dispute in disputes:
            prompts = [_prompt(template, dispute, swapped) for swapped in (False, True)]
            asks += [Ask(model, prompts[swapped], tokens, TEMPERATURE, draw) for model, draw, swapped in panel]
        read = read_verdict if template == "judge" else read_last_verdict
        answers = self._endpoint.ask(asks, lambda text: read(text) is not None)
        found: list[list[_Vote] | None] = []
        for start in range(0, len(answers), len(panel)):
            votes = []
            for answer, (_, _, swapped) in zip(answers[start : start + len(panel)], panel, strict=True):
                if answer is not None:
                    said = read(answer.text)
                    votes.append(_Vote(_SWAPPED.get(said, said) if swapped and said else said, swapped, answer.spent))
            found.append(votes if len(votes) == len(panel) else None)
        return found

    def _rule(self, short: list[_Vote] | None, reasoned: list[_Vote] | None) -> Ruling | None:
        if short is None or reasoned is None:
            return None
        votes = Counter(vote.verdict or "unreadable" for vote in reasoned or short)
        verdict: Verdict = "undecided"
        for vote in reasoned or short:
            if vote.verdict and 2 * votes[vote.verdict] > votes.total() - votes["unreadable"]:
                verdict = vote.verdict
        spent = [vote.spent for vote in short + reasoned]
        cost, asked = sum(s.money for s in spent), sum(s.requests for s in spent)
        return Ruling(verdict, self.name, dict(sorted((+votes).items())), cost, asked, bool(reasoned))


def read_verdict(text: str) -> Verdict | None:
    """The verdict of an answer that is {"verdict": "A"|"B"|"both"|"neither"} and nothing else; None for any other."""
    text = text.strip()
    if fenced := _FENCE.match(text):
        text = fenced.group(1)
    try:
        pairs = json.loads(text, object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        return None
    if not (isinstance(pairs, tuple) and len(pairs) == 1 and pairs[0][0] == "verdict"):
        return None
    said = pairs[0][1]
    return _VERDICTS.get(said) if isinstance(said, str) else None


def read_last_verdict(text: str) -> Verdict | None:
    """The verdict of the last line, plain or in a ``` fence; None where the reasoning before it names one, too."""
    *before, last = re.sub(r"\s*\n```\s*\Z", "", text.strip()).split("\n")
    return None if any('"verdict"' in line for line in before) else read_verdict(last)


def _split(votes: Sequence[_Vote]) -> bool:
    """Whether reasoning is called for: some can be read, but they do not agree, or all of one order are unreadable."""
    read = [vote for vote in votes if vote.verdict]
    return bool(read) and not (
        len({vote.verdict for vote in read}) == 1 and {v.swapped for v in read} == {v.swapped for v in votes}
    )


def _prompt(template: str, dispute: Dispute, swapped: bool) -> str:
    sides = [(dispute.question, dispute.answer_a), (dispute.other_question, dispute.answer_b)]
    (question_a, answer_a), (question_b, answer_b) = reversed(sides) if swapped else sides
    fence = _fence([text for side in sides for text in side])
    return prompt(
        template, fence=fence, question_a=question_a, answer_a=answer_a, question_b=question_b, answer_b=answer_b
    )


def _fence(texts: Sequence[str]) -> str:
    """A mark that occurs in none of the texts and that no text can know beforehand; the same for the same texts."""
    mark = _mark("\0".join(texts))
    while any(mark in text for text in texts):
        mark = _mark(mark)
    return mark


def _mark(text: str) -> str:
    return f"DATA {hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:16]}"
