"""How a row becomes text and tokens, the same way in training and in scoring."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jinja2
import numpy as np
import tokenizers
from jaxtyping import Bool, Int32
from transformers import PreTrainedTokenizerBase

from ilpjax.data.tokenizer import special_tokens
from ilpjax.errors import InputError
from ilpjax.rows import Message, Row

Span = tuple[int, int]


@dataclass(frozen=True)
class Rendered:
    """A row's text and the character ranges of it that are to be predicted."""

    text: str
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Encoded:
    """A row's tokens.

    `target_mask[i]`: token i is predicted. `ends`: the last target is EOS or an end-of-turn marker.
    """

    tokens: Int32[np.ndarray, " n"]
    target_mask: Bool[np.ndarray, " n"]
    ends: bool


@dataclass(frozen=True)
class OptionTokens:
    """Options behind one prompt.

    Option k is the sequence `shared + options[k]`; its first `prompt_tail[k]` tokens after `shared` still belong to the
    prompt (almost always 0), all that follow to the response. `shared` is never empty, so every response token has
    something to be predicted from.
    """

    shared: Int32[np.ndarray, " p"]
    options: tuple[Int32[np.ndarray, " n"], ...]
    prompt_tail: tuple[int, ...]


class Template:
    """Text and tokens of a row.

    `plain`: earlier turns and the prompt joined by newlines, one space, the response, EOS. `chat`: the tokenizer's own
    template. In both, every assistant turn of a row is a target, with what ends it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, kind: Literal["chat", "plain"]):
        if tokenizer.eos_token_id is None:
            raise InputError(
                f"tokenizer {tokenizer.name_or_path or ''}: it names no eos_token; a response needs an end"
            )
        self.tokenizer = tokenizer
        self.kind = kind
        self._specials = special_tokens(tokenizer)
        self._special = re.compile("|".join(map(re.escape, sorted(self._specials, key=len, reverse=True))))
        self._only_specials = re.compile(rf"(?:\s|{self._special.pattern})*")
        self._bos = _bos(tokenizer) if kind == "plain" else []
        self._warned = False

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase, kind: str = "auto") -> "Template":
        """`auto`: chat where the tokenizer has a chat template, else plain. Raises InputError for chat without one."""
        has = bool(tokenizer.chat_template)
        if kind == "chat" and not has:
            raise InputError("data.template: chat, but the tokenizer has no chat template; plain would be right")
        return cls(tokenizer, "chat" if kind == "chat" or (kind == "auto" and has) else "plain")

    # Text

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """The exact text before the response; `messages` end with the user's prompt."""
        if self.kind == "plain":
            return "\n".join(m.content for m in messages)
        return self._render(messages, prompt=True)

    def response_text(self, messages: Sequence[Message], response: str) -> str:
        """The exact text so that `prompt_text(messages) + response_text(messages, response)` is what is trained on and
        scored: with the leading space of plain, without what ends the turn."""
        return self.ask(messages, [response])[1][0]

    def ask(self, messages: Sequence[Message], responses: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """(prompt_text, response_text of each response)."""
        prompt = self.prompt_text(messages)
        if self.kind == "plain":
            return prompt, tuple(_glue(prompt, response) + response for response in responses)
        texts = []
        for response in responses:
            whole = self._render([*messages, Message("assistant", response)])
            if not whole.startswith(prompt):
                raise InputError(_BROKEN)
            tail = whole[len(prompt) :]
            texts.append(tail[: self._turn(tail, response)[0]])
        return prompt, tuple(texts)

    def render(self, row: Row) -> Rendered:
        """Raises InputError (naming the row) when the chat template refuses it or leaves no way to tell its target."""
        try:
            return self._plain(row) if self.kind == "plain" else self._chat(row)
        except InputError as error:
            raise InputError(f"{row.source}: {error}") from None

    def _plain(self, row: Row) -> Rendered:
        text, spans = "", []
        for message in row.messages[:-1]:
            start = len(text)
            text += message.content + "\n"
            if message.role == "assistant":
                spans.append((start, len(text)))
        text = text[:-1]
        start = len(text)
        text += _glue(text, row.response) + row.response
        return Rendered(text, (*spans, (start, len(text))))

    def _chat(self, row: Row) -> Rendered:
        whole = self._render(row.messages)
        turns = [n for n, message in enumerate(row.messages) if message.role == "assistant"]
        spans = [self._span(row.messages, n, whole) for n in turns]
        if spans[-1] is None:
            raise InputError(_BROKEN)
        if None in spans:
            self._warn_once()
            spans = spans[-1:]
        return Rendered(whole, tuple(span for span in spans if span is not None))

    def _span(self, messages: Sequence[Message], n: int, whole: str) -> Span | None:
        """Where assistant turn `n` and its end marker lie in `whole`; None if the text up to there depends on what
        comes later, as where a template strips the reasoning of earlier turns."""
        prompt = self._render(messages[:n], prompt=True)
        upto = self._render(messages[: n + 1]) if n + 1 < len(messages) else whole
        if not upto.startswith(prompt):
            return None
        end = len(prompt) + self._turn(upto[len(prompt) :], messages[n].content)[1]
        return (len(prompt), end) if whole.startswith(upto[:end]) else None

    def _turn(self, tail: str, content: str) -> Span:
        """(end of the content, end of the marker after it) in `tail`, the text that one assistant turn adds."""
        after = self._content_end(tail, content)
        if after is None:  # the template rewrote the content: its last special token must be the marker
            specials = list(self._special.finditer(tail))
            end = len(tail.rstrip())
            return specials[-1].span() if specials else (end, end)
        marker = self._special.search(tail, after)
        return after, marker.end() if marker else max(after, len(tail.rstrip()))

    def _content_end(self, tail: str, content: str) -> int | None:
        for body in (content, content.strip()):
            at = tail.find(body) if body.strip() else -1
            while at >= 0:
                if self._only_specials.fullmatch(tail, at + len(body)):
                    return at + len(body)
                at = tail.find(body, at + 1)
        at = tail.find(content.strip()) if content.strip() else -1
        return at + len(content.strip()) if at >= 0 else None

    def _render(self, messages: Sequence[Message], prompt: bool = False) -> str:
        chat = [{"role": m.role, "content": m.content} for m in messages]
        try:
            return str(self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt))
        except jinja2.exceptions.TemplateError as error:
            raise InputError(f"the chat template refuses its messages: {error}") from None

    def _warn_once(self) -> None:
        if not self._warned:
            warnings.warn(
                "the chat template rewrites earlier assistant turns (reasoning is stripped, say): "
                "in such rows only the last turn is trained on",
                stacklevel=2,
            )
        self._warned = True

    # Tokens

    def encode(self, row: Row) -> Encoded:
        """Tokens of a row for training. Raises InputError when no token would be a target."""
        return self.encode_rows([row])[0]

    def encode_rows(self, rows: Sequence[Row]) -> list[Encoded]:
        """`encode` for many rows at once: the tokenizer works on them in parallel."""
        rendered = [self.render(row) for row in rows]
        encoded = [
            self._encoded(ids, offsets, text.spans)
            for (ids, offsets), text in zip(self._tokenize([r.text for r in rendered]), rendered, strict=True)
        ]
        for row, one in zip(rows, encoded, strict=True):
            if not one.target_mask.any():
                raise InputError(f"{row.source}: the loss mask covers no token; a response that has tokens is needed")
        return encoded

    def encode_options(self, prompt_text: str, response_texts: Sequence[str]) -> OptionTokens:
        """Tokenises the prompt together with each response, as training does, so that scoring sees the same tokens.

        A token belongs to the response exactly when it ends after the prompt's last character.
        """
        return self.encode_many([(prompt_text, response_texts)])[0]

    def encode_many(self, asked: Sequence[tuple[str, Sequence[str]]]) -> list[OptionTokens]:
        """`encode_options` for many prompts at once: the tokenizer works on them in parallel."""
        texts = [(prompt, prompt + response) for prompt, responses in asked for response in responses]
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        # Not through the wrapper, which makes Python lists of every token's offsets and masks.
        encodings = backend.encode_batch([text for _, text in texts], add_special_tokens=False)
        cuts = [self._cut(encoding, prompt) for (prompt, _), encoding in zip(texts, encodings, strict=True)]
        ids = [np.asarray([*self._bos, *encoding.ids], np.int32) for encoding in encodings]
        made, at = [], 0
        for _, responses in asked:
            here = slice(at, at + len(responses))
            made.append(self._options(ids[here], [cut + len(self._bos) for cut in cuts[here]]))
            at += len(responses)
        return made

    def _options(self, sequences: list[np.ndarray], cuts: list[int]) -> OptionTokens:
        if min(cuts) == 0:
            start = np.asarray([self._start], np.int32)
            sequences = [np.concatenate([start, s]) for s in sequences]
            cuts = [cut + 1 for cut in cuts]
        shared = _common_prefix([s[:cut] for s, cut in zip(sequences, cuts, strict=True)])
        return OptionTokens(
            shared=sequences[0][:shared],
            options=tuple(s[shared:] for s in sequences),
            prompt_tail=tuple(cut - shared for cut in cuts),
        )

    def _cut(self, encoding: tokenizers.Encoding, prompt: str) -> int:
        """The first token that ends after the prompt; the number of tokens where none does (an empty response)."""
        token = encoding.char_to_token(len(prompt))
        if token is None:  # the tokenizer drops that character
            ends = [end for _, end in encoding.offsets]
            token = next((n for n, end in enumerate(ends) if end > len(prompt)), len(ends))
        return token

    def documents(self, texts: Sequence[str]) -> list[Int32[np.ndarray, " n"]]:
        """Tokens of whole texts: what the tokenizer puts before one, the text, EOS."""
        tokenized = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [np.asarray([*self._bos, *ids, self.tokenizer.eos_token_id], np.int32) for ids in tokenized]

    @property
    def _start(self) -> int:
        """Goes before a response that has nothing in front of it, so that its first token can be predicted."""
        token = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if token is None else token

    def _tokenize(self, texts: list[str]) -> list[tuple[Int32[np.ndarray, " n"], Int32[np.ndarray, "n 2"]]]:
        out = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [
            (np.asarray(ids, np.int32), np.asarray(offsets, np.int32).reshape(-1, 2))
            for ids, offsets in zip(out["input_ids"], out["offset_mapping"], strict=True)
        ]

    def _encoded(self, ids: np.ndarray, offsets: np.ndarray, spans: tuple[Span, ...]) -> Encoded:
        begin, end = offsets[:, 0], offsets[:, 1]
        mask = np.zeros(len(ids), bool)
        for first, last in spans:
            mask |= (end > first) & ((end <= last) | (begin < last))
        before = list(self._bos)
        if not before and len(mask) and mask[0]:
            before = [self._start]
        after = [self.tokenizer.eos_token_id] if self.kind == "plain" and mask.any() else []
        tokens = np.concatenate([before, ids, after]).astype(np.int32)
        mask = np.concatenate([[False] * len(before), mask, [True] * len(after)]).astype(bool)
        targets = tokens[mask]
        return Encoded(tokens, mask, ends=bool(len(targets)) and int(targets[-1]) in self._specials.values())


_BROKEN = (
    "the chat template's text with a response does not begin with its text up to the generation prompt, so the "
    "response cannot be told apart; data.template=plain, or a template where it does, would be right"
)


def _glue(prompt: str, response: str) -> str:
    return "" if not prompt or prompt[-1].isspace() or response[:1].isspace() else " "


def _bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer itself puts before a text (what it puts after one would end a prompt too early)."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    return next((full[:n] for n in range(len(full)) if full[n : n + len(bare)] == bare), [])


def _common_prefix(sequences: list[np.ndarray]) -> int:
    shortest = min(len(s) for s in sequences)
    same = np.all([s[:shortest] == sequences[0][:shortest] for s in sequences], axis=0)
    return shortest if same.all() else int(np.argmin(same))
