"""Triples from patterns over parts of speech: sentences as ReVerb reads them, and questions with short answers."""

import re
from collections.abc import Iterator, Sequence

from ilpjax.knowledge.questions import ask
from ilpjax.knowledge.tagging import BE, CODE, Tagged, sentences, tag, wordset
from ilpjax.knowledge.triples import Triple
from ilpjax.rows import Row

SENTENCES = 32  # a row, at most
CHARACTERS = 8000  # of a prompt or a response, at most
WORDS = 50  # a longer sentence is skipped
ANSWER_WORDS = 12  # a longer response is no short answer
PHRASE_WORDS = 10  # of a subject or an object

NOUN_PHRASE = r"D?[JR]*(?:[JN]*N)(?:SJ*N+)?(?:OD?[JN]*N)*"
# V, V P and V W* P (Fader et al. 2011, "Identifying Relations for Open Information Extraction", figure 1); W* only
# after a form of be, where ReVerb needs a dictionary against phrases such as "won the Nobel Prize in".
VERB_PHRASE = r"(?:BR*D?[JR]*N+[PO]|R*(?=M?R*[VB])(?:MR*)?(?:VR*)?(?:BR*)*(?:VR*)*(?:T[BV]+)?[PT]?)"
CLAUSE = re.compile(
    rf"(?P<subject>{NOUN_PHRASE})(?:[PT]{NOUN_PHRASE})*(?:,?W)?(?P<relation>{VERB_PHRASE})(?P<object>{NOUN_PHRASE})"
)
PRONOUN_CLAUSE = re.compile(rf"^(?P<subject>U)(?P<relation>{VERB_PHRASE})(?P<object>{NOUN_PHRASE})")
AND_CLAUSE = re.compile(rf"(?:[PT]{NOUN_PHRASE})*,?C(?P<relation>{VERB_PHRASE})(?P<object>{NOUN_PHRASE})")

UNSURE = wordset(
    "not never no none let nobody nothing neither nor without hardly rarely cannot n't if unless may might could would "
    "should must perhaps maybe possibly false incorrect untrue except"
)
POINTING = wordset("this that these those his her its their our my your another other such some any every each")
EMPTY = wordset("one ones thing things way ways example following answer option someone something people s")
ARTICLES = frozenset(("the", "a", "an"))
NO_ANSWER = wordset("yes no true false none unknown n/a")
FRAME = re.compile(r"^\s*(?:question|q)\s*:\s*|\b(?:answer|a):$", re.IGNORECASE)
PRELUDE = re.compile(r"^(?:please )?(?:answer|respond|reply)\b[^.:?\n]*[.:]\s+", re.IGNORECASE)
OPTION = re.compile(r"^[ \t]*\(?([A-J]|[1-9])[.):][ \t]+(\S.*)$", re.MULTILINE)
LABEL = re.compile(r"^\(?([A-J])(?:[.):]\s*(\S.*)?|\s*)$", re.DOTALL)
ASIDE = re.compile(r"\([^()]*\)")
FINAL_STOP = re.compile(r"(?<!\.\w)(?<!\.)\.$")


class PatternExtractor:
    """Facts by patterns; needs no service, English only, about the first `SENTENCES` sentences of a row.

    A row whose prompt ends in a question and whose response is a short answer gives one triple, the response (without
    its final full stop) being the object. Otherwise the declarative sentences of the response give one triple a clause;
    prompts are not read for facts, except where a short response completes a prompt into a sentence. What is negated,
    conditional or hedged, about a pronoun, in code, or not English gives nothing. Of a longer text only the first
    `CHARACTERS` characters and `SENTENCES` sentences are read, and sentences of over `WORDS` words are skipped.
    Parts of speech come from textblob's lexicon, which gives a word one class; the patterns leave out what they cannot
    read rather than guess. Never raises.
    """

    def __call__(self, rows: Sequence[Row]) -> list[list[Triple]]:
        return [extract(row.prompt, row.response) for row in rows]


def extract(prompt: str, response: str) -> list[Triple]:
    """The facts of one prompt and its response; see `PatternExtractor`."""
    prompt, response = _resolve(prompt, response.strip())
    short = "\n" not in response and len(response) <= 200 and len(response.split()) <= ANSWER_WORDS
    asked = ask(_question(prompt)) if short else None
    told = [] if short and response[:1].islower() else list(_statements(response, asked[0] if asked else None))
    if told or not short:
        return told
    answer = FINAL_STOP.sub("", response).strip()
    if not any(c.isalnum() for c in answer) or answer.lower() in NO_ANSWER or CODE.search(answer):
        return []
    if asked:
        return [Triple(asked[0], asked[1], answer, "question")]
    if len(prompt.split()) <= WORDS - ANSWER_WORDS and prompt and prompt.strip()[-1].isalnum():
        whole = list(_statements(f"{prompt.strip()} {response}", None))
        return [t for t in whole if t.object.endswith(_without_article(answer))]
    return []


def _resolve(prompt: str, response: str) -> tuple[str, str]:
    """The prompt without a frame ("Question: ... Answer:") and its list of options; a label becomes its option."""
    prompt = FRAME.sub("", prompt[-CHARACTERS:]).strip()
    prompt = FRAME.sub("", prompt).strip()
    options = {label: text.strip() for label, text in OPTION.findall(prompt)}
    if len(options) < 2:
        return prompt, response
    prompt = FRAME.sub("", OPTION.sub("", prompt).strip()).strip()
    if label := LABEL.match(response):
        response = label.group(2) or options.get(label.group(1), "")
    return prompt, response.strip()


def _question(prompt: str) -> str:
    """The prompt where it is one sentence: a question behind a story is about the story."""
    found = list(sentences(PRELUDE.sub("", prompt), 2, CHARACTERS))
    return found[0] if len(found) == 1 and len(found[0].split()) <= WORDS else ""


def _statements(text: str, about: str | None) -> Iterator[Triple]:
    """The triples of a text's declarative sentences. A lone sentence's pronoun is `about` what the prompt asked of."""
    pieces = list(sentences(text, SENTENCES, CHARACTERS))
    seen = set()
    for piece in pieces:
        if piece.endswith("?") or len(piece.split()) > WORDS or CODE.search(piece):
            continue
        for triple in _clauses(tag(ASIDE.sub("", piece)), about if len(pieces) == 1 else None):
            if triple not in seen:
                seen.add(triple)
                yield triple


def _clauses(sentence: Tagged, about: str | None) -> Iterator[Triple]:
    lower = {w.lower().replace("’", "'") for w in sentence.words}
    # A few words between blanks may be a thousand for the tagger.
    if (
        not sentence.english
        or len(sentence.words) > 2 * WORDS
        or lower & UNSURE
        or any(w.endswith("n't") for w in lower)
    ):
        return
    start = 0
    while start < len(sentence.words):
        match = CLAUSE.search(sentence.classes, start)
        pronoun = PRONOUN_CLAUSE.search(sentence.classes) if about and start == 0 else None
        if pronoun:
            match, subject = pronoun, about
        elif match:
            subject = sentence.span(*match.span("subject"))
        else:
            return
        start = match.end()
        if pronoun or _begins_a_clause(sentence.classes[: match.start()]):
            yield from _triple(sentence, subject or "", match)
            while following := AND_CLAUSE.match(sentence.classes, start):
                yield from _triple(sentence, subject or "", following)
                start = following.end()


def _begins_a_clause(before: str) -> bool:
    """A noun phrase behind a verb or a preposition is their object, one behind a plain "and" the half of a subject."""
    return not before or before[-1] in ",X" or (before.endswith(",C") and bool(set(before) & set("VB")))


def _triple(sentence: Tagged, subject: str, match: re.Match[str]) -> Iterator[Triple]:
    first, last = match.span("relation")
    verbs = [w.lower() for w in sentence.words[first:last]]
    adverbs = len(sentence.classes[first:last]) - len(sentence.classes[first:last].lstrip("R"))
    verbs = verbs[adverbs:]
    participle = verbs[0].endswith("ing") or (verbs[-1] == "by" and not set(verbs) & BE and len(verbs) == 2)
    obj = sentence.span(*match.span("object"))
    # Behind a whole object there is no "of", and no verb: that would be the object's own, as in "he says Ann left".
    cut_short = sentence.classes[match.end() : match.end() + 1] in tuple("OVBMJ")
    if participle or cut_short or not is_entity(subject) or not is_entity(obj):
        return
    relation = " ".join(verbs)
    subject, obj = _without_article(subject, at_start=True), _without_article(obj)
    if len(verbs) == 1 and verbs[0] in BE:
        if sentence.classes[match.end() : match.end() + 1] == "W":  # "is the town where ...": the fact is in the clause
            return
        subject, relation = _attribute(subject, relation)
    if is_entity(subject) and subject.lower() != obj.lower():
        yield Triple(subject, relation, obj, "sentence")


def _attribute(subject: str, verb: str) -> tuple[str, str]:
    """ "The employer of Kos" is ...: the fact is about Kos, the relation is employer. So is "Kos's employer" is ..."""
    if owned := re.fullmatch(r"(.+?)['’]s (.+)", subject):
        return owned.group(1), owned.group(2)
    if part := re.fullmatch(r"([^A-Z]+?) of (.+)", subject[:1].lower() + subject[1:]):
        return _without_article(part.group(2)), part.group(1)
    return subject, verb


def is_entity(phrase: str) -> bool:
    """Whether a noun phrase stands on its own: no pronoun, nothing pointing elsewhere, not empty, not a long story."""
    words = phrase.lower().split()
    content = [w for w in words if w not in ARTICLES]
    return (
        0 < len(content) <= PHRASE_WORDS
        and not POINTING & set(words[:2])
        and not set(content) <= EMPTY
        and any(c.isalpha() or c.isdigit() for c in phrase)
    )


def _without_article(phrase: str, at_start: bool = False) -> str:
    """ "The Family" keeps its article inside a sentence, where the capital says that it is part of the name."""
    first, _, rest = phrase.partition(" ")
    return rest if rest and (first.lower() if at_start else first) in ARTICLES else phrase
