"""Sentences, words and parts of speech, from textblob's lexicon: no corpus is downloaded, no service is asked."""

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass


def wordset(words: str) -> frozenset[str]:
    return frozenset(words.split())


ABBREVIATION = r"(?:(?:Mr|Mrs|Ms|Dr|St|Prof|Gen|Col|Mt|vs|e\.g|i\.e)\.|(?:Jr|Sr|Inc|Ltd|Corp|Co|etc)\.(?=,|\s+[a-z]))"
WORD = re.compile(
    rf'"[^"\n]{{1,80}}"|“[^”\n]{{1,80}}”|‘[^’\n]{{1,80}}’(?!\w)|(?:[A-Z]\.)+(?!\w)|{ABBREVIATION}|[$£€]?\d+(?:[.,:/]\d+)*%?'
    r"|\([^()\n]{1,40}\)|['’]s\b|\w+(?:[-&/.]\w+|['’](?!s\b)\w+)*|[^\w\s]"
)
QUOTES = '"“‘'
FENCE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
BULLET = re.compile(r"^[ \t]*(?:[-*•–]|\(?\d{1,3}[.)])\s+", re.MULTILINE)
WRAPPED = re.compile(r"\n(?=[a-z])")
STOPS = frozenset(".!?…")
ENDS = re.compile(r"\s*$|\s+[^\sa-z]")
CODE = re.compile(r"[{}\[\]<>=\\|`_#^~]|\w\(|://|;\s*$")
BE = wordset("is are was were be been being am")
DO = wordset("do does did")
# Words that English has and its neighbours have not: "in", "was", "die", "an", "on" are German or French too.
ENGLISH = wordset(
    "the of is are were has have had to for with by from at and who what which where when how did does it its"
)
# A sentence with one of these is not read, though English has "von" in names.
FOREIGN = wordset("der das und ist aus von les des une est los las el che della het een")
CLASSES = {
    "IN": "P",
    "TO": "T",
    "DT": "D",
    "PDT": "D",
    "PRP$": "D",
    "PRP": "U",
    "MD": "M",
    "RP": "R",
    "CC": "C",
    "POS": "S",
    "CD": "N",
    "WDT": "W",
    "WP": "W",
    "WP$": "W",
    "WRB": "W",
    ",": ",",
}
FIXED = (
    dict.fromkeys(BE, "B")
    | dict.fromkeys(DO, "V")
    | dict.fromkeys(("what", "which", "who", "whom", "whose", "where", "when", "how", "why", "that"), "W")
    | dict.fromkeys(("because", "although", "though", "while", "since", "whether", "than", "so", "as", "like"), "X")
    | {"of": "O", "'s": "S", "’s": "S", "there": "X", "will": "M", "can": "M", "and": "C", "or": "C"}
)


@dataclass(frozen=True, slots=True)
class Tagged:
    """A sentence in words. `classes` has one letter a word, so that a regular expression reads phrases off it.

    N noun or number, J adjective, D determiner, V verb, B form of be, M modal, R adverb or particle, P preposition,
    O "of", T "to", C conjunction, S possessive, U pronoun, W question word or "that", "," comma, X anything else.
    """

    text: str
    words: list[str]
    classes: str
    spans: list[tuple[int, int]]
    english: bool

    def span(self, start: int, end: int) -> str:
        """The words `start` to `end` (exclusive) as the text writes them, a quoted title without its quotes."""
        if start >= end:
            return ""
        text = " ".join(self.text[self.spans[start][0] : self.spans[end - 1][1]].split())
        return text[1:-1].strip() if start + 1 == end and text[0] in QUOTES and len(text) > 2 else text


@functools.cache
def _lexicon() -> tuple[Callable[[list[str]], list[list[str]]], Callable[[str], str | None]]:
    """The tagger and the dictionary. Imported at the first use: textblob imports all of NLTK, about a second."""
    from textblob.en import lexicon, parser

    return parser.find_tags, lexicon.get


def sentences(text: str, most: int, characters: int) -> Iterator[str]:
    """At most `most` sentences of the first `characters` characters; code blocks and bullets' marks are left out."""
    text = BULLET.sub("", FENCE.sub("\n", text[:characters]))
    count = 0
    for line in WRAPPED.sub(" ", text).splitlines():
        start = 0
        for match in WORD.finditer(line):
            if match.group() in STOPS and ENDS.match(line, match.end()) or match.end() == len(line.rstrip()):
                piece = line[start : match.end()].strip()
                start = match.end()
                if piece:
                    count += 1
                    yield piece
                if count >= most:
                    return


def tag(sentence: str) -> Tagged:
    """The words of one sentence with their classes. The cost grows with its length: cut it before."""
    find_tags, known = _lexicon()
    matches = list(WORD.finditer(sentence))
    words = [m.group() for m in matches]
    tags = [pos for _, pos in find_tags(words)] if words else []
    classes = [_class(words, tags, i) for i in range(len(words))]
    lower = [w for w in words if w[0].islower()]
    unknown = sum(w == "die" or known(w) in (None, "FW", "NNP") for w in lower)
    allowed = max(1, 0.4 * len(lower)) if ENGLISH & {w.lower() for w in words} else 0
    english = unknown <= allowed and len(lower) - unknown > (not allowed) and not FOREIGN & set(lower)
    return Tagged(sentence, words, _with_a_verb(words, tags, classes), [m.span() for m in matches], english)


def _class(words: list[str], tags: list[str], i: int) -> str:
    word, pos = words[i], tags[i]
    if word.lower() in FIXED and (word[0].islower() or i == 0):
        return FIXED[word.lower()]
    if len(word) > 1 and word[0] in QUOTES + "(":
        return "N" if word[0] != "(" or (i > 0 and words[i - 1][0].isupper()) else "X"
    capital = word[0].isupper() and (i > 0 or (len(words) > 1 and words[1][0].isupper() and pos[0] in "VJR"))
    if pos[:2] in ("NN", "FW") or (capital and pos not in ("DT", "PRP$", "PRP")):
        return "N" if word[0].isalnum() else "X"
    return CLASSES.get(pos, pos[0] if pos[:2] in ("JJ", "RB", "VB") else "X")


def _with_a_verb(words: list[str], tags: list[str], classes: list[str]) -> str:
    """The lexicon gives a word one class: "works" is a noun there. A sentence without a verb gets one back."""
    if not set(classes) & set("VBM"):
        for i in range(len(words) - 2, 0, -1):
            before, after = classes[i - 1], classes[i + 1]
            third_person = tags[i] == "NNS" and tags[i - 1] != "CD" and words[i][0].islower() and words[i].endswith("s")
            if third_person and before in "NW" and tags[i - 1] != "NNS" and after in "DPTN":
                classes[i] = "V"
                break
    return "".join(classes)
