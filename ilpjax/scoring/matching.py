"""Does an answer give the reference? Exact match, token F1, ROUGE-L, the option that is named."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from ilpjax.scoring.protocols import LABELS

Metric = Literal["em", "f1", "rouge_l", "choice"]
SHORT = 5  # words of a reference that an answer is expected to give exactly


def choose_metric(metric: str, reference: str, options: Sequence[str]) -> Metric:
    """auto: choice where there are options; em for a reference of up to 5 words (names, numbers, labels: one wrong
    word makes it wrong); rouge_l for a longer one, which can be said in many ways."""
    if metric == "auto":
        metric = "choice" if options else "em" if len(words(reference)) <= SHORT else "rouge_l"
    return metric  # type: ignore[return-value]


def match(text: str, reference: str, metric: Metric, options: Sequence[str] = (), answer: int = -1) -> float:
    """0 to 1: how well the text gives the reference (choice: whether it names option `answer`)."""
    if metric == "choice":
        return float(named_option(text, options) == answer >= 0)
    return {"em": exact_match, "f1": token_f1, "rouge_l": rouge_l}[metric](text, reference)


def words(text: str) -> list[str]:
    """SQuAD's normalisation: lower case, no punctuation, no articles (arXiv:1606.05250)."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def exact_match(text: str, reference: str) -> float:
    return float(words(text) == words(reference))


def token_f1(text: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the bags of words; 1 where both are empty."""
    ours, theirs = words(text), words(reference)
    if not ours or not theirs:
        return float(ours == theirs)
    same = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * same / (len(ours) + len(theirs))


def rouge_l(text: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words (ROUGE-L, ACL 2004), as rouge-score computes it, but for
    words of any script."""
    return float(_rouge().score(reference, text)["rougeL"].fmeasure)


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # slow to import, and few need it

    return RougeScorer(["rougeL"], tokenizer=_Words())


class _Words:
    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())


_LABEL = r"\(?([A-Z])(?:[).:,]|\s*$)"
_SAID = re.compile(rf"\b(?:answer|option|choice)(?:\s+is)?\s*:?\s*{_LABEL}", re.IGNORECASE | re.MULTILINE)
_FIRST = re.compile(rf"\s*{_LABEL}", re.MULTILINE)


def named_option(text: str, options: Sequence[str]) -> int:
    """The option that the answer gives; -1 for none, or for more than one.

    In this order: the answer is an option's text; it begins with a label ("B", "B.", "(B) ..."), or says "the answer
    is B"; it contains the text of one option only (the longest, where one contains another).
    """
    said = words(text)
    same = [n for n, option in enumerate(options) if words(option) == said]
    if len(same) == 1:
        return same[0]
    for found in (_FIRST.match(text), _SAID.search(text)):
        if found and found[1].upper() in LABELS[: len(options)]:
            return LABELS.index(found[1].upper())
    inside = {n: words(option) for n, option in enumerate(options) if _within(words(option), said)}
    widest = [n for n in inside if not any(m != n and _within(inside[n], inside[m]) for m in inside)]
    return widest[0] if len(widest) == 1 else -1


def _within(part: list[str], whole: list[str]) -> bool:
    return bool(part) and f" {' '.join(part)} " in f" {' '.join(whole)} "
