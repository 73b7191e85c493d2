"""Do two answers to one question differ? Text, numbers with units, lists, options; what is left is unclear.

Every pair comes out as one of `SAME` (they agree, or one says more), `KINDS` (they contradict each other, and how) or
`OPEN` (nothing here can tell). "entailed" and "text" are a language model's word, where one was asked.
"""

import difflib
import functools
import re
from collections.abc import Sequence
from typing import Any

from ilpjax.conflicts.questions import NUMBERS, words
from ilpjax.data import answer_type, normalise
from ilpjax.scoring import named_option

SAME = ("same text", "same number", "same list", "says more", "entailed")
KINDS = ("choice", "yes-no", "number", "list", "name", "negation", "text")
OPEN = ("other options", "unclear")
_YES_NO = {"yes": True, "true": True, "yeah": True, "no": False, "false": False}
_QUANTITY = re.compile(
    r"\s*(?:about|around|approximately|approx\.?|roughly|nearly|in|at|on|by|~|≈)?\s*(?P<money>[$€£¥])?\s*"
    r"(?P<sign>[-+\u2212])?(?P<number>\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?P<part>\.\d+)?\s*"
    r"(?P<times>hundred|thousand|million|billion|trillion)?\s*(?P<unit>%|[^\d\W][\w/^*· ]{0,30}|°\s*[CF])?\s*\.?\s*",
    re.IGNORECASE,
)
_TIMES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_UNITS = {
    "%": "percent",
    "°c": "degC",
    "°f": "degF",
    "c": "degC",
    "f": "degF",
    "people": "",
    "years old": "year",
    "$": "usd",
}
_BULLET = re.compile(r"^\s*(?:[-*•]|\(?\d{1,2}[.)])\s+", re.MULTILINE)
_LISTED = re.compile(r"^\s*\(?([A-H])[.):]\s*(.+?)\s*$", re.MULTILINE)
_ROUNDED = 0.01  # two units' numbers are rounded each in its own
SHORT = 10  # words of an answer without a full stop that is still a term
_ALIKE = 0.6  # share of words that two longer answers have in common, in order, before their difference is read


def compare(
    prompts: tuple[str, str], answers: tuple[str, str], options: tuple[Sequence[str], Sequence[str]] = ((), ())
) -> str:
    """One of SAME, KINDS or OPEN. `options` are the native options of the rows; a label stands for its option."""
    own = [list(given) or _listed(prompt) for given, prompt in zip(options, prompts, strict=True)]
    one, two = (_meant(answer, choices) for answer, choices in zip(answers, own, strict=True))
    if normalise(one) == normalise(two):
        return "same text"
    if any(own):
        keys = [{normalise(option) for option in choices} for choices in own]
        possible = (not keys[0] or normalise(two) in keys[0]) and (not keys[1] or normalise(one) in keys[1])
        return "choice" if possible else "other options"
    said = _yes_no(one), _yes_no(two)
    if None not in said:
        return "says more" if said[0] == said[1] else "yes-no"
    if None not in (pair := (quantity(one), quantity(two))):
        return "same number" if _equal(*pair) else "number"
    if (lists := (_items(one), _items(two))) and min(map(len, lists)) > 1:
        return _compare_lists(*lists)
    return _compare_words(one, two)


def quantity(text: str) -> Any:
    """A text that is one number, with or without a unit, as (magnitude, decimals, unit); None for any other text."""
    text = " ".join(str(NUMBERS.get(word.casefold(), word)) for word in text.strip().split())
    match = _QUANTITY.fullmatch(text)
    if match is None or not (match["number"] or match["part"]):
        return None
    unit = _unit((match["money"] or "") or (match["unit"] or "").strip())
    if unit is None:
        return None
    magnitude = float((match["number"] or "0").replace(",", "") + (match["part"] or ""))
    magnitude *= _TIMES.get((match["times"] or "").casefold(), 1.0)
    decimals = len(match["part"] or ".") - 1
    return (-magnitude if match["sign"] in ("-", "\u2212") else magnitude, decimals, unit)


def _equal(one: Any, two: Any) -> bool:
    """To the decimals of the coarser one; where units differ, to one in a hundred. A bare number goes with any unit."""
    (a, decimals_a, unit_a), (b, decimals_b, unit_b) = one, two
    if unit_a == unit_b or not unit_a or not unit_b:
        fewer = min(decimals_a, decimals_b)
        return round(a, fewer) == round(b, fewer) if fewer else a == b
    units = _registry()
    try:
        converted = units.Quantity(a, unit_a).to(unit_b).magnitude
    except Exception:  # pint's many ways to say that these are not of one kind
        return False
    return abs(converted - b) <= _ROUNDED * max(abs(b), 1e-12)


@functools.cache
def _unit(text: str) -> str | None:
    """pint's name of a unit, empty for none; None for what is no unit."""
    text = _UNITS.get(text.casefold().replace(" ", "") if "°" in text else text.casefold(), text)
    if text in ("", "usd", "€", "£", "¥"):
        return text
    try:
        return str(_registry().Unit(text))
    except Exception:  # whatever pint cannot read is no unit
        return None


@functools.cache
def _registry() -> Any:
    import pint  # slow to import, and few answers have units

    return pint.UnitRegistry()


def _listed(prompt: str) -> list[str]:
    """The options that a prompt lists under labels, in order from A."""
    found = _LISTED.findall(prompt)
    labels = "".join(label for label, _ in found)
    return [text for _, text in found] if len(found) > 1 and "ABCDEFGH".startswith(labels) else []


def _meant(answer: str, options: Sequence[str]) -> str:
    """The option that is named, by its text or label, or the answer as it is."""
    place = named_option(answer, options) if options else -1
    return options[place] if place >= 0 else answer


def _yes_no(text: str) -> bool | None:
    first = next(iter(words(text)), "")
    return _YES_NO.get(first)


def _items(text: str) -> list[str]:
    """The elements of a list in words: lines, semicolons, or short parts between commas."""
    lines = [line for line in _BULLET.sub("", text).splitlines() if line.strip()]
    if len(lines) == 1:
        lines = [part for part in re.split(r";|,\s*and\s|,|\band\b|&", lines[0].rstrip(". ")) if part.strip()]
        if any(len(part.split()) > 4 for part in lines):
            return []
    return [normalise(line) for line in lines]


def _compare_lists(one: list[str], two: list[str]) -> str:
    a, b = set(one), set(two)
    if a == b:
        return "same list"
    if a <= b or b <= a:
        return "says more"
    # Two lists that have little in common are two choices among many, not a contradiction.
    return "list" if len(a) == len(b) and 2 * len(a & b) >= len(a) else "unclear"


def _compare_words(one: str, two: str) -> str:
    a, b = words(one), words(two)
    if not a or not b:
        return "unclear"
    shorter, longer = sorted((" ".join(a), " ".join(b)), key=len)
    if f" {shorter} " in f" {longer} " or (sorted(a) == sorted(b) and any(w.isdigit() for w in a)):
        return "says more"
    if any(map(str.isdigit, one)) != any(map(str.isdigit, two)):
        return "unclear"  # a number and a name hardly answer one question
    if all(_short(text) for text in (one, two)):
        return "name"
    return _compare_sentences(one, two)


def _short(text: str) -> bool:
    """A name, a term, a phrase: no sentence."""
    return answer_type(text) == "phrase" or ("\n" not in text and len(text.split()) <= SHORT and text[-1] not in ".!?")


def _compare_sentences(one: str, two: str) -> str:
    """Longer answers that are one sentence but for a number, a name or a not."""
    tokens = re.findall(r"[^\W_]+(?:[.,'’-][^\W_]+)*", one), re.findall(r"[^\W_]+(?:[.,'’-][^\W_]+)*", two)
    a, b = ([token.casefold() for token in side] for side in tokens)
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    if matcher.ratio() < _ALIKE:
        return "unclear"
    changed = [op for op in matcher.get_opcodes() if op[0] != "equal"]
    left = [token for _, i, j, _, _ in changed for token in tokens[0][i:j]]
    right = [token for _, _, _, i, j in changed for token in tokens[1][i:j]]
    nots = {"not", "no", "never", "cannot"}
    if {token.casefold() for token in left + right} <= nots | {"does", "do", "did"} and nots.intersection(
        token.casefold() for token in left + right
    ):
        return "negation"
    if not left or not right or any(op[0] != "replace" for op in changed):
        return "unclear"
    if all(token[0].isdigit() for token in left + right):
        return "number"
    if all(token[0].isupper() or token[0].isdigit() for token in left + right):
        return "name"
    return "unclear"
