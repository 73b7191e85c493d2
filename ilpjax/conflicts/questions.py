"""Do two prompts ask the same? What a sentence encoder hardly sees: names, numbers, negation, the question word."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

_WORD = re.compile(r"[^\W_]+(?:['’.,-][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?:\n][\"'”’)\]]*\s*$")
_ASIDE = re.compile(r",?\s*\(?\b(yes or no|true or false|why or why not|or not)\b\)?[.?]?", re.IGNORECASE)
_ASKS = {  # what kind of answer a question word wants; `what` and `which` go with any
    "who": "who", "whom": "who", "whose": "who", "when": "when", "where": "where", "why": "why",
}  # fmt: skip
_WANTED = {"year": "when", "date": "when", "time": "when", "person": "who", "country": "where", "place": "where"}
_MEASURES = frozenset(["many", "much", "old", "long", "far", "fast", "tall", "big"])
_OPEN = re.compile(
    r"(?:^|[.!?:;\n]\s*|\b(?:please|can you|could you|would you|help me|task is to|i want you to|i need you to)\s+)(?:"
    r"(generate|create|write|compose|invent|suggest|brainstorm|recommend|propose|design|describe|rewrite|paraphrase|"
    r"summari[sz]e|come up with|make up|think of|construct|draft|imagine|tell me about)\b"
    r"|(name|give|list|provide|tell|find|state|identify|pick|choose|select)( me| us)? "
    r"(a|an|any|some|one|two|three|four|five|six|seven|eight|nine|ten|several|\d+)\b)"
    r"|\bwhat (is|are) (some|one|your)\b|\ban? example\b|\bexamples\b",
    re.IGNORECASE,
)


def _word_lists() -> dict[str, list[list[str]]]:
    """words.txt: section -> its lines, each a list of words."""
    found: dict[str, list[list[str]]] = {}
    for line in (Path(__file__).parent / "words.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = found[line.strip("[]")] = []
        elif not line.startswith("#"):
            section.append(line.split())
    return found


_LISTS = _word_lists()
_SWAPS = [set(line) for line in _LISTS["swaps"]]
_NEGATIONS, _AUXILIARIES = set(_LISTS["negations"][0]), set(_LISTS["auxiliaries"][0])
NUMBERS = {word: n for n, word in enumerate(_LISTS["numbers"][0])}


def words(text: str) -> list[str]:
    return [word.casefold().removesuffix("'s").removesuffix("’s") for word in _WORD.findall(text)]


class Names:
    """Which words of a text are names: written with a capital inside a sentence there, or mostly so in these texts."""

    def __init__(self, texts: Iterable[str]):
        capital, small = Counter[str](), Counter[str]()
        for text in texts:
            if text.islower():  # says nothing of what is a name
                continue
            for word, begins in _placed(text):
                (capital if word[0].isupper() else small)[_plain(word)] += not begins
        self._names = {word for word, count in capital.items() if count > small[word] and word.isalpha()} - {"i"}

    def __call__(self, text: str) -> set[str]:
        inside = [word for word, begins in _placed(text) if not begins]
        written = [word for word in inside if word[0].isupper() and word != "I"]
        own = {_plain(word) for word in written} if 2 * len(written) <= len(inside) else set()  # a title has capitals
        return own | self._names.intersection(words(text))


def same_question(a: str, b: str, names: Names) -> bool:
    """False where the prompts name other things, count with other numbers, negate differently or ask for another kind
    of thing. What is left is as alike as the similarity says."""
    a, b = _ASIDE.sub(" ", a), _ASIDE.sub(" ", b)
    ours, theirs = words(a), words(b)
    if _numbers(ours) != _numbers(theirs) or _negations(a, ours) != _negations(b, theirs):
        return False
    left, right = set(ours) - set(theirs), set(theirs) - set(ours)
    if left & names(a) and right & names(b):
        return False
    if any(left & line and right & line for line in _SWAPS):
        return False
    kinds = _asks(ours), _asks(theirs)
    return not (all(kinds) and kinds[0] != kinds[1])


def unshared(a: str, b: str) -> tuple[str, str] | None:
    """What each prompt says beside the lines that both have: a question about one passage, the input of one
    instruction. None where they share no line, or one of them says nothing else."""
    ours, theirs = ([line.strip() for line in text.splitlines() if line.strip()] for text in (a, b))
    shared = set(ours) & set(theirs)
    left = ["\n".join(line for line in lines if line not in shared) for lines in (ours, theirs)]
    return (left[0], left[1]) if shared and all(left) else None


def is_open(prompt: str) -> bool:
    """A request that many answers satisfy: to write, to suggest, to give an example."""
    return bool(_OPEN.search(prompt))


def _placed(text: str) -> Iterable[tuple[str, bool]]:
    """The words of a text, and whether each begins a sentence."""
    for match in _WORD.finditer(text):
        before = text[max(0, match.start() - 8) : match.start()]
        begins = match.start() == 0 or not before.strip() or bool(_SENTENCE_END.search(before))
        yield match.group(), begins or before[-1:] in "\"'“‘("


def _plain(word: str) -> str:
    return word.casefold().removesuffix("'s").removesuffix("’s")


def _numbers(words: list[str]) -> Counter[str]:
    digits = (word.replace(",", "") for word in words if any(c.isdigit() for c in word))
    return Counter(digits) + Counter(str(NUMBERS[word]) for word in words if NUMBERS.get(word, 0) > 1)


def _negations(text: str, words: list[str]) -> bool:
    return bool(_NEGATIONS.intersection(words)) or bool(re.search(r"n['’]t\b", text))


def _asks(words: list[str]) -> str:
    """who, when, where, why, how many ..., yes or no; empty where the words leave it open."""
    if words and words[0] in _AUXILIARIES:
        return "whether"
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in ("what", "which"):
            return _WANTED.get(following, "")
        if word == "how":
            return f"how {following}" if following in _MEASURES else "how"
        if word in _ASKS:
            return _ASKS[word]
    return ""
