"""The shapes a record may have, in one table, and how each becomes messages, options and an answer."""

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ilpjax.errors import InputError
from ilpjax.rows import Message

Record = dict[str, Any]


class BadRecord(Exception):
    """What is wrong with a record; the reader adds the file and the line."""


@dataclass(frozen=True)
class Draft:
    """A record read, before it has an id and a place."""

    messages: tuple[Message, ...]
    options: tuple[str, ...] = ()
    answer: int = -1


@dataclass(frozen=True)
class Shape:
    """`fields`: those that must be there, `a|b` either. `open_base`: an integer answer whose base differs from file to
    file; `read` is then given it."""

    fields: tuple[str, ...]
    read: Callable[[Record, int], Draft]
    open_base: str = ""

    def missing(self, record: Record) -> list[str]:
        return [field for field in self.fields if not any(name in record for name in field.split("|"))]

    def __str__(self) -> str:
        return "{" + ", ".join(self.fields) + "}"


def choose_shape(records: Sequence[Record]) -> Shape | None:
    """The shape that most records of a file have; the first of the table where one fits several."""
    votes = Counter(n for record in records for n in _first_fit(record))
    return SHAPES[min(votes, key=lambda n: (-votes[n], n))] if votes else None


def read_record(record: Record, shape: Shape, base: int = 0) -> Draft:
    """Raises BadRecord saying what is wrong and what would be right."""
    if missing := shape.missing(record):
        names = " or ".join(f'"{name}"' for name in missing[0].split("|"))
        raise BadRecord(f"{names} is missing; this file's records have {shape}")
    draft = shape.read(record, base)
    roles = [m.role for m in draft.messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2):
        raise BadRecord(
            f"the roles are {', '.join(roles) or 'none'}; right is user, assistant in turn, the assistant last, "
            "and before them at most one system message"
        )
    for message in draft.messages:
        if message.role == "assistant" and not message.content.strip():
            raise BadRecord("the response is empty; remove the record, or give it a response")
    return draft


def decide_base(values: Sequence[Any], field: str, count: int, wanted: Any) -> int:
    """Whether a file's integer answers to `count` options count from 0 or 1: a 0 or a `count` among them tells.

    Raises InputError when neither or both occur, and `data.answer_base` does not say.
    """
    if wanted != "auto":
        return int(wanted)
    seen = {str(value) for value in values}
    zero, last = "0" in seen, str(count) in seen
    if zero and last:
        raise InputError(
            f'"{field}" is 0 in some records and {count} in others; {count} options are 0-{count - 1} or 1-{count}'
        )
    if not zero and not last:
        raise InputError(
            f'no "{field}" is 0 or {count}, so whether it counts from 0 or 1 is open; say data.answer_base=0 or =1'
        )
    return 0 if zero else 1


# What a field may hold


def text_of(record: Record, *names: str, optional: bool = False) -> str:
    """The first of the fields that is there. An optional one may be absent or null, and is then empty."""
    name = next((name for name in names if name in record), names[0])
    value = record.get(name)
    if value is None and optional:
        return ""
    if name not in record:
        raise BadRecord(f'"{name}" is missing')
    if not isinstance(value, str):
        raise BadRecord(f'"{name}" is {_kind(value)}; text is right')
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRecord(
            f'"{name}" holds half of a surrogate pair, which is no character; \\ud83d\\ude00 are two'
        ) from None
    return value


def _list_of(record: Record, name: str) -> list[Any]:
    value = record.get(name)
    if not isinstance(value, list):
        raise BadRecord(f'"{name}" is {_kind(value)}; a list is right')
    return value


def _texts(values: Sequence[Any], name: str) -> tuple[str, ...]:
    return tuple(text_of({name: value}, name) for value in values)


def _integer(record: Record, name: str) -> int:
    value = record.get(name)
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRecord(f'"{name}" is {_kind(value)}; the index of the right option is right')
    return value


def _index(record: Record, name: str, count: int, base: int = 0) -> int:
    value = _integer(record, name)
    if not base <= value < base + count:
        raise BadRecord(f'"{name}" is {value}; with {count} options {base} to {base + count - 1} is right')
    return value - base


def _label(record: Record, name: str, labels: Sequence[str]) -> int:
    value = text_of(record, name).strip()
    if value not in labels:
        raise BadRecord(f'"{name}" is "{value}"; one of {", ".join(labels)} is right')
    return list(labels).index(value)


def _kind(value: Any) -> str:
    kinds = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "text"}
    kinds |= {list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)


# What each shape becomes


def _turns(prompt: str, response: str, before: Sequence[Message] = ()) -> Draft:
    return Draft((*before, Message("user", prompt), Message("assistant", response)))


def _choice(question: str, options: Sequence[str], answer: int) -> Draft:
    """A native multiple-choice record. `question` is the whole prompt."""
    if len(options) < 2:
        raise BadRecord(f"it has {len(options)} option; at least 2 are right")
    return Draft(_turns(question, options[answer]).messages, tuple(options), answer)


def _native(question: str, options: Sequence[str], answer: int) -> Draft:
    return _choice(f"Question: {question.strip()}\nAnswer:", [option.strip() for option in options], answer)


def _system(record: Record) -> tuple[Message, ...]:
    text = text_of(record, "system", optional=True)
    return (Message("system", text),) if text.strip() else ()


def _prompt_response(record: Record, base: int) -> Draft:
    return _turns(text_of(record, "prompt"), text_of(record, "response", "completion"), _system(record))


def _alpaca(record: Record, base: int) -> Draft:
    parts = (text_of(record, "instruction"), text_of(record, "input", "context", optional=True))
    history = list(_system(record))
    for turn in record.get("history") or []:
        if not isinstance(turn, list) or len(turn) != 2:
            raise BadRecord('"history" holds something else than [prompt, response] pairs')
        question, answer = _texts(turn, "history")
        history += [Message("user", question), Message("assistant", answer)]
    prompt = "\n\n".join(part for part in parts if part.strip())
    return _turns(prompt, text_of(record, "output", "response"), history)


def _messages(record: Record, base: int) -> Draft:
    return _conversation(record, "messages", "role", "content", {})


def _sharegpt(record: Record, base: int) -> Draft:
    names = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}
    draft = _conversation(record, "conversations", "from", "value", names)
    return Draft((*_system(record), *draft.messages))


def _conversation(record: Record, field: str, role: str, content: str, names: dict[str, str]) -> Draft:
    messages = []
    for n, turn in enumerate(_list_of(record, field), 1):
        if not isinstance(turn, dict):
            raise BadRecord(f'"{field}", turn {n}: it is {_kind(turn)}; {{"{role}", "{content}"}} is right')
        try:
            who, text = text_of(turn, role), text_of(turn, content)
        except BadRecord as error:
            raise BadRecord(f'"{field}", turn {n}: {error}') from None
        who = names.get(who, who)
        if who not in ("system", "user", "assistant"):
            known = ", ".join(dict.fromkeys([*names, "system", "user", "assistant"]))
            raise BadRecord(f'"{field}", turn {n}: "{role}" is "{who}"; one of {known} is right')
        messages.append(Message(who, text))  # type: ignore[arg-type]  # checked in the line above
    return Draft(tuple(messages))


def _question_answer(record: Record, base: int) -> Draft:
    parts = (text_of(record, "context", "passage", optional=True), text_of(record, "question"))
    return _turns("\n\n".join(part for part in parts if part.strip()), text_of(record, "answer"))


def _item(record: Record, base: int) -> Draft:
    """The item contract: the question is the whole prompt, word for word. MedQA has its options by letter."""
    options, name = record["options"], "answer_idx" if "answer_idx" in record else "answer"
    if isinstance(options, list):
        return _choice(text_of(record, "question"), _texts(options, "options"), _index(record, name, len(options)))
    if not isinstance(options, dict):
        raise BadRecord(f'"options" is {_kind(options)}; a list is right')
    integer = isinstance(record.get(name), int)
    answer = _index(record, name, len(options)) if integer else _label(record, name, list(options))
    return _native(text_of(record, "question"), _texts(list(options.values()), "options"), answer)


def _choices_list(record: Record, base: int) -> Draft:
    options = _texts(_list_of(record, "choices"), "choices")
    return _native(text_of(record, "question"), options, _index(record, "answer", len(options)))


def _answer_key(record: Record, base: int) -> Draft:
    choices = record["choices"]
    if isinstance(choices, list):
        choices = {
            name: [choice.get(name) for choice in choices if isinstance(choice, dict)] for name in ("text", "label")
        }
    if not isinstance(choices, dict):
        raise BadRecord(f'"choices" is {_kind(choices)}; {{"text": [...], "label": [...]}} is right')
    options, labels = (_texts(_list_of(choices, name), name) for name in ("text", "label"))
    if len(options) != len(labels):
        raise BadRecord(f'"choices" has {len(options)} texts and {len(labels)} labels; as many of each is right')
    return _native(text_of(record, "question", "question_stem"), options, _label(record, "answerKey", labels))


def _medmcqa(record: Record, base: int) -> Draft:
    options = [text_of(record, name) for name in ("opa", "opb", "opc", "opd")]
    return _native(text_of(record, "question"), options, _index(record, "cop", 4, base))


def _mmlu(record: Record, base: int) -> Draft:
    options = [text_of(record, name) for name in "ABCD"]
    return _native(text_of(record, "question"), options, _label(record, "answer", "ABCD"))


def _social(record: Record, base: int) -> Draft:
    question = f"{text_of(record, 'context')} {text_of(record, 'question')}"
    options = [text_of(record, name) for name in ("answerA", "answerB", "answerC")]
    return _native(question, options, _index(record, "label", 3, base=1))


def _sciq(record: Record, base: int) -> Draft:
    """The supporting passage is left out: it states the answer. The source has no order of its options, and the right
    one must not always come first: the question decides its place."""
    names = ["distractor1", "distractor2", "distractor3"]
    answer = zlib.crc32(text_of(record, "question").encode()) % 4
    names.insert(answer, "correct_answer")
    return _native(text_of(record, "question"), [text_of(record, name) for name in names], answer)


def _piqa(record: Record, base: int) -> Draft:
    options = [text_of(record, name) for name in ("sol1", "sol2")]
    return _native(text_of(record, "goal"), options, _index(record, "label", 2))


def _first_fit(record: Record) -> list[int]:
    return next(([n] for n, shape in enumerate(SHAPES) if not shape.missing(record)), [])


SHAPES = (
    Shape(("messages",), _messages),
    Shape(("conversations",), _sharegpt),
    Shape(("question", "options", "answer|answer_idx"), _item),
    Shape(("question|question_stem", "choices", "answerKey"), _answer_key),
    Shape(("question", "choices", "answer"), _choices_list),
    Shape(("question", "opa", "opb", "opc", "opd", "cop"), _medmcqa, open_base="cop"),
    Shape(("question", "A", "B", "C", "D", "answer"), _mmlu),
    Shape(("context", "question", "answerA", "answerB", "answerC", "label"), _social),
    Shape(("question", "correct_answer", "distractor1", "distractor2", "distractor3"), _sciq),
    Shape(("goal", "sol1", "sol2", "label"), _piqa),
    Shape(("instruction", "output|response"), _alpaca),
    Shape(("prompt", "response|completion"), _prompt_response),
    Shape(("question", "answer"), _question_answer),
)
ITEM = SHAPES[2]


def is_item(record: Record) -> bool:
    """Whether it is in the item contract: the question is the whole prompt, the options are its own."""
    return _first_fit(record) == [SHAPES.index(ITEM)]
