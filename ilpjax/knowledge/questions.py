"""What a question asks: of whom, and which relation."""

import re

from ilpjax.knowledge.tagging import BE, CODE, DO, QUOTES, Tagged, tag, wordset

NOUN_PHRASE = re.compile(r"D?[JR]*(?:[JN]*N)(?:SJ*N+)?(?:OD?[JN]*N)*(?:CD?[JN]*N)?")
ATTRIBUTE = re.compile(r"(?P<relation>D?[JVR]*N+)(?P<link>[OPT])(?P<subject>D?[JNRS]*N(?:[OPC]D?[JNRS]*N)*)")
HEAD = re.compile(r"(?P<relation>D?[JVR]*N+)(?P<link>[OPT])")
OWNED = re.compile(r"(?P<subject>D?[JNUP]*[NU])S(?P<relation>[JVN]*N(?:ON+)?)")
IMPERATIVE = re.compile(r"^(?:please )?(?:name|state|identify|give(?: me)?|tell me) (?=the )", re.IGNORECASE)
NAME_OF = re.compile(r"^(wh\w+(?:['’]s| is| was| are| were)) the name of (?=.*(?: of |['’]s ))", re.IGNORECASE)
TIMES_AND_PLACES = wordset("in during on at since after before")
WH = wordset("what which who whom where when how")
AUXILIARIES = BE | DO | wordset("has have had will can")
UNSURE = wordset("not n't never except least false incorrect following these those")
POINTING = wordset("this that these those his her its their our my your another other such some any")
EMPTY = wordset("one thing way example following answer option name word type kind someone people")
ARTICLES = frozenset(("the", "a", "an"))
RELATION_WORDS = 8
SUBJECT_WORDS = 10
TOKENS = 60  # of a question, at most


def ask(question: str) -> tuple[str, str] | None:
    """(subject, relation) of a question whose answer is the object; None where it cannot be read.

    The subject is the noun phrase that the question is about, the relation its other content words:
    "Which instrument does Ann play?" is (Ann, play instrument), "Who wrote Emma?" is (Emma, who wrote),
    "What is the birthplace of Ann?" is (Ann, birthplace). Yes-or-no questions, "why", "how to", and questions about
    "the following" ask for no fact.
    """
    question, commands = IMPERATIVE.subn("What is ", question.strip())
    question = NAME_OF.sub(r"\1 ", question)
    if not (commands or question.endswith("?") or question.split(" ")[0].lower() in WH) or CODE.search(question):
        return None
    sentence = tag(question.rstrip("?! ") if question.endswith("?") else question.rstrip(".! "))
    words = [w.lower().replace("’", "'") for w in sentence.words]
    if not sentence.english or len(words) > TOKENS or UNSURE & set(words) or any(w.endswith("n't") for w in words):
        return None
    found = _read(sentence, words)
    if found is None:
        return None
    subject, relation = _bare(found[0]), " ".join(found[1].split())
    plain = subject.lower().split()
    proper = 0 < len(plain) <= SUBJECT_WORDS and not POINTING & set(plain[:2]) and not set(plain) <= EMPTY
    return (subject, relation) if proper and 0 < len(relation.split()) <= RELATION_WORDS else None


def _read(sentence: Tagged, words: list[str]) -> tuple[str, str] | None:
    wh = 1 if len(words) > 1 and sentence.classes[0] in "PTO" and words[1] in WH else 0
    if not words or words[wh] not in WH:
        return None
    if words[wh] == "how" and (wh + 1 == len(words) or sentence.classes[wh + 1] not in "JR"):
        return None
    verb = next((i for i in range(wh + 1, len(words)) if _is_verb(sentence, words, i, wh)), None)
    if verb is None:
        return None
    kind = " ".join(w for w in sentence.words[wh + 1 : verb] if w not in ARTICLES)
    if words[wh] == "how":
        kind = f"how {kind}"
    elif words[wh] in ("where", "when"):
        kind = words[wh]
    before = words[0] if wh else ""
    helps = words[verb] in AUXILIARIES or words[verb] == "'s"
    phrase = NOUN_PHRASE.match(sentence.classes, verb + 1)
    if not helps or phrase is None:
        return _subject_question(sentence, words, wh, verb, kind)
    if words[verb] in BE | {"'s"} and kind in ("", "who") and not before and (found := _attribute(sentence, verb + 1)):
        return found
    return _object_question(sentence, words, verb, phrase.end(), f"{before} {kind}")


def _is_verb(sentence: Tagged, words: list[str], i: int, wh: int) -> bool:
    return sentence.classes[i] in "VBM" or words[i] in AUXILIARIES or (words[i] == "'s" and i == wh + 1)


def _attribute(sentence: Tagged, start: int) -> tuple[str, str] | None:
    """What is [the birthplace of Ann], [Ann's birthplace], [photosynthesis]."""
    rest, end = sentence.classes[start:], len(sentence.words)
    if match := OWNED.fullmatch(rest):
        cut = start + match.end("subject")
        return sentence.span(start, cut), sentence.span(cut + 1, end).lower()
    if (head := HEAD.match(rest)) and (found := _titled(sentence, start, start + head.end("relation"))):
        return found
    if match := ATTRIBUTE.fullmatch(rest):
        cut = start + match.end("relation")
        relation = _bare(sentence.span(start, cut))
        if relation[:1].islower():
            link = "" if match["link"] == "O" else f" {sentence.words[cut]}"
            return sentence.span(cut + 1, end), relation + link
    match = NOUN_PHRASE.fullmatch(rest)
    return (sentence.span(start, end), sentence.words[start - 1].lower().replace("'s", "is")) if match else None


def _titled(sentence: Tagged, start: int, link: int) -> tuple[str, str] | None:
    """The author of [In the Loop]: what begins with a capital is a name, whatever words it is made of."""
    words, end = sentence.words, len(sentence.words)
    relation = _bare(sentence.span(start, link))
    if not relation[:1].islower() or not words[link + 1][0].isupper():
        return None
    stop = next((i for i in range(link + 2, end) if words[i] in TIMES_AND_PLACES), end)
    if any(c in "VBMW" and w[0].islower() for w, c in zip(words[link:], sentence.classes[link:], strict=True)):
        return None
    tail = [] if words[link] == "of" else [words[link]]
    return sentence.span(link + 1, stop), " ".join([relation, *tail, *_content(sentence, words, stop)])


def _subject_question(sentence: Tagged, words: list[str], wh: int, verb: int, kind: str) -> tuple[str, str] | None:
    """Who wrote Emma? Which firm pays Ann? The answer does it, the first noun phrase has it done."""
    phrase = NOUN_PHRASE.search(sentence.classes, verb + 1)
    if wh or phrase is None or words[wh] in ("where", "when", "how"):
        return None
    doing = [*words[verb : phrase.start()], *_content(sentence, words, phrase.end())]
    return sentence.span(*phrase.span()), " ".join([kind or words[wh], *doing])


def _object_question(sentence: Tagged, words: list[str], verb: int, end: int, kind: str) -> tuple[str, str] | None:
    """Where was Ann born? Which instrument does Ann play? The noun phrase behind the auxiliary does it."""
    start = verb + 1
    if sentence.words[start] == "half":
        return None
    if words[end - 1] == "part" and words[end : end + 1] == ["of"]:
        end -= 1
    name = _only_name(sentence, end)
    if not kind.strip() and words[verb] not in DO and name and sentence.span(start, end).islower():
        # What is [the product made by] Ann? The fact is about her.
        left = [*_content(sentence, words[: name[0]], start), *_content(sentence, words, name[1])]
        return sentence.span(*name), " ".join(left)
    named = next((i for i in range(end - 1, start - 1, -1) if sentence.words[i][0].isupper()), None)
    if words[verb] in DO and not set(sentence.classes[end:]) & set("VB"):
        # The lexicon calls it a noun, "work"; behind "does" one word is the verb.
        end = named + 1 if named is not None and named + 1 < end else end - 1
    if end <= start:
        return None
    helper = [] if words[verb] in DO else [words[verb].replace("'s", "is")]
    return sentence.span(start, end), " ".join([*helper, *_content(sentence, words, end), kind])


def _only_name(sentence: Tagged, start: int) -> tuple[int, int] | None:
    """The words from `start` on that make the only name there; None where there are several names, or none."""
    capital = [
        i for i in range(start, len(sentence.words)) if sentence.words[i][0].isupper() or sentence.words[i][0] in QUOTES
    ]
    if not capital:
        return None
    first, end = capital[0], capital[-1] + 1
    while end < len(sentence.words) and sentence.words[end][0] in "0123456789(":
        end += 1
    joined = all(sentence.classes[i] in "NJDO" for i in range(first, end))
    return (first, end) if joined else None


def _is_name(word: str) -> bool:
    return word[0].isupper() or (word[0] in QUOTES and len(word) > 1)


def _content(sentence: Tagged, words: list[str], start: int) -> list[str]:
    kept = zip(words[start:], sentence.classes[start : len(words)], strict=True)
    return [w for w, c in kept if w not in ARTICLES and c != "," and any(x.isalnum() for x in w)]


def _bare(phrase: str) -> str:
    first, _, rest = phrase.partition(" ")
    return rest if rest and first in ARTICLES else phrase
