"""Rows and documents as token sequences to train on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32
from transformers import PreTrainedTokenizerBase

from ilpjax.data.template import Template
from ilpjax.errors import InputError
from ilpjax.rows import Row

BLOCK = 1000  # rows handed to the tokenizer at a time: enough to work in parallel, little to hold


@dataclass(frozen=True)
class Example:
    """`row`: index into the rows (or documents) it was made from.

    `target_mask[i]`: token i is predicted; never token 0.
    """

    row: int
    tokens: Int32[np.ndarray, " n"]
    target_mask: Bool[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class RowTokens:
    """What tokenising found out, an entry a row: what plumbing checks."""

    tokens: Int32[np.ndarray, " rows"]  # before cutting
    truncated: Bool[np.ndarray, " rows"]  # longer than max_tokens, and cut there
    ends: Bool[np.ndarray, " rows"]  # the last token trained on is EOS or an end-of-turn marker


def make_examples(
    rows: Sequence[Row], template: Template, tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> tuple[list[Example], RowTokens]:
    """One example a row, in order. A row longer than `max_tokens` keeps its first ones and is marked.

    Raises InputError for a row whose loss mask covers no token, before or after cutting.
    """
    examples: list[Example] = []
    lengths, ends = [], []
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        for row, encoded in zip(block, template.encode_rows(block), strict=True):
            tokens, mask = encoded.tokens[:max_tokens], encoded.target_mask[:max_tokens]
            if not mask.any():
                raise InputError(
                    f"{row.source}: the prompt alone has {int(np.argmax(encoded.target_mask))} tokens, so that at "
                    f"data.max_tokens={max_tokens} the loss mask covers no token; a larger max_tokens would be right"
                )
            examples.append(Example(len(examples), tokens, mask))
            lengths.append(len(encoded.tokens))
            ends.append(encoded.ends and len(tokens) == len(encoded.tokens))
    counts = np.asarray(lengths, np.int32)
    return examples, RowTokens(counts, counts > max_tokens, np.asarray(ends, bool))


def text_examples(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, seq_len: int) -> list[Example]:
    """Documents for (continued) pre-training: each with EOS at its end, cut into pieces of `seq_len` tokens.

    A piece begins with the last token of the one before it, so that every token of a document but its first is a
    target exactly once. `Example.row` is the document; a long document has several examples.
    """
    if seq_len < 2:
        raise InputError(f"seq_len: {seq_len} is too short; a piece of text needs at least 2 tokens")
    examples = []
    template = Template(tokenizer, "plain")
    for start in range(0, len(texts), BLOCK):
        for row, ids in enumerate(template.documents(texts[start : start + BLOCK]), start):
            for at in range(0, len(ids) - 1, seq_len - 1):
                piece = ids[at : at + seq_len]
                mask = np.ones(len(piece), bool)
                mask[0] = False
                examples.append(Example(row, piece, mask))
    return examples
