"""Stage 0: faults of the pipe, ruled out before any cause is named. A fault is a measured fact, never a guess."""

import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from ilpjax.config import DataConfig
from ilpjax.data import Encoded, Template, special_tokens, specials_in
from ilpjax.errors import InputError
from ilpjax.rows import Item, Row

BLOCK = 1000  # rows handed to the tokenizer at a time
AMBIGUOUS = 3  # answers to one and the same prompt from which on it does not say which is wanted; two are a conflict

Problem = tuple[str, str]  # (slug, a sentence of detail)


def check_plumbing(
    rows: Sequence[Row],
    items: Sequence[Item],
    tokenizer: PreTrainedTokenizerBase,
    cfg: DataConfig,
    *,
    tuned: PreTrainedTokenizerBase | None = None,
) -> pd.DataFrame:
    """A line a fault, in the order of `rows`: row_id, problem (a slug), detail (a sentence). A row may have several.

    With the tokenizer that training uses: `truncated` (longer than cfg.max_tokens), `no_target` (the loss mask covers
    no token of the response, or the chat template refuses the row), `missing_eos`, `doubled_bos`,
    `special_token_text` (a special token spelt out in the data). With `tuned`, the tokenizer of a checkpoint that was
    brought along: `template_differs` (its text of the row is another) or `tokenizer_differs` (other ids for the same
    text). A base without a chat template beside a tuned model with one is no fault: the tuned one is scored as it
    was trained. In the file: `ambiguous_prompt` (one prompt, three or more different responses). In the multiple-choice
    view: `no_item`, `empty_option`, `duplicate_option`, `option_equals_answer`.
    """
    template = Template.from_tokenizer(tokenizer, cfg.template)
    other = None if tuned is None else Template.from_tokenizer(tuned, cfg.template)
    if other is not None and (template.kind, other.kind) == ("plain", "chat"):
        other = None
    views = {item.row_id: item for item in items}
    answers = _answers(rows)
    lines = []
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        encoded = _encode(template, block)
        theirs = [None] * len(block) if other is None else _encode(other, block)
        for row, one, their in zip(block, encoded, theirs, strict=True):
            found = [*_text(row, tokenizer), *_training(one, template, cfg)]
            if other is not None and their is not None:
                found += _difference(row, one, their, template, other)
            found += _ambiguous(row, answers)
            found += _options(views.get(row.row_id))
            lines += [(row.row_id, problem, detail) for problem, detail in found]
    return pd.DataFrame(lines, columns=["row_id", "problem", "detail"], dtype="str")


def _encode(template: Template, rows: Sequence[Row]) -> list[Encoded | str]:
    """Each row's tokens, or why it has none."""
    try:
        return list(template.encode_rows(rows))
    except InputError:
        return [_encode_one(template, row) for row in rows]


def _encode_one(template: Template, row: Row) -> Encoded | str:
    try:
        return template.encode(row)
    except InputError as error:
        return str(error)


def _text(row: Row, tokenizer: PreTrainedTokenizerBase) -> Iterator[Problem]:
    for message in row.messages:
        if found := specials_in(tokenizer, message.content):
            where = "the response" if message is row.messages[-1] else f"a {message.role} message"
            yield (
                "special_token_text",
                f"{where} spells out {found[0]!r}, which the tokenizer turns into the special token itself",
            )


def _training(row: Encoded | str, template: Template, cfg: DataConfig) -> Iterator[Problem]:
    if isinstance(row, str):
        yield "no_target", row
        return
    tokenizer, length = template.tokenizer, len(row.tokens)
    kept = row.tokens[: cfg.max_tokens][row.target_mask[: cfg.max_tokens]]
    if length > cfg.max_tokens:
        lost = int(row.target_mask.sum()) - len(kept)
        yield (
            "truncated",
            f"the row has {length} tokens and data.max_tokens is {cfg.max_tokens}: "
            f"{lost} tokens of its response are never trained on",
        )
    elif not row.ends:
        yield "missing_eos", "the last token trained on is neither EOS nor an end-of-turn marker"
    if np.isin(kept, list(special_tokens(tokenizer).values())).all():
        yield "no_target", "the loss mask covers no token of the response"
    bos = tokenizer.bos_token_id
    if bos is not None and length > 1 and row.tokens[0] == bos == row.tokens[1]:
        yield "doubled_bos", f"the row begins with {tokenizer.bos_token!r} twice"


def _difference(
    row: Row, ours: Encoded | str, theirs: Encoded | str, template: Template, other: Template
) -> Iterator[Problem]:
    if isinstance(ours, str) or isinstance(theirs, str):
        if isinstance(theirs, str) and not isinstance(ours, str):
            yield "template_differs", f"the tuned model's template cannot render the row: {theirs}"
        return
    if np.array_equal(ours.tokens, theirs.tokens):
        return
    a, b = template.render(row).text, other.render(row).text
    if a == b:
        at = _first_difference(ours.tokens.tolist(), theirs.tokens.tolist())
        yield "tokenizer_differs", f"base and tuned tokenizer give other ids for the same text, from token {at} on"
    else:
        at = _first_difference(a, b)
        yield (
            "template_differs",
            f"base and tuned tokenizer render the row differently from character {at} on: "
            f"{a[at : at + 30]!r} against {b[at : at + 30]!r}",
        )


def _first_difference(a: Sequence[object], b: Sequence[object]) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _answers(rows: Sequence[Row]) -> dict[int, set[int]]:
    """The different responses to each prompt, as hashes: a file may be large."""
    found: dict[int, set[int]] = {}
    for row in rows:
        found.setdefault(hash(row.messages[:-1]), set()).add(hash(_plain(row.response)))
    return found


def _ambiguous(row: Row, answers: dict[int, set[int]]) -> Iterator[Problem]:
    count = len(answers[hash(row.messages[:-1])])
    if count >= AMBIGUOUS:
        yield "ambiguous_prompt", f"the same prompt has {count} different responses; nothing in it says which is wanted"


def _options(item: Item | None) -> Iterator[Problem]:
    if item is None:
        yield "no_item", "no other answer of its data set can stand beside its own, so that detection cannot examine it"
        return
    if empty := [n for n, option in enumerate(item.options) if not option.strip()]:
        yield "empty_option", f"option {empty[0]} (counted from 0) is empty"
    first: dict[str, int] = {}
    for n, option in enumerate(item.options):
        same = first.setdefault(_plain(option), n)
        if same == n or not option.strip():
            continue
        slug = "option_equals_answer" if item.answer in (n, same) else "duplicate_option"
        yield (
            slug,
            f"options {same} and {n} (counted from 0) are the same but for spaces and a final period: {option[:60]!r}",
        )


def _plain(option: str) -> str:
    # Case and symbols tell options of real files apart (genotypes, code, logic): Bb is not BB, C# is not C.
    return " ".join(unicodedata.normalize("NFC", option).split()).rstrip(".")
