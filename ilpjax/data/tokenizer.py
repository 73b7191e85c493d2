"""Tokenizers: fast ones only, because the loss mask is read from character offsets."""

import re
from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ilpjax.errors import InputError

END_OF_TEXT = "<|endoftext|>"


def load_tokenizer(name_or_path: str | Path) -> PreTrainedTokenizerBase:
    """A fast tokenizer from a folder or a hub name.

    Raises InputError when there is none, when it is slow-only (the first Qwen's tiktoken file) or needs its own code.
    """
    name = str(name_or_path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # a damaged tokenizer.json surfaces as a bare Exception from Rust
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(" .:")
        raise InputError(
            f"{name}: no fast tokenizer could be loaded ({reason}); needed is a folder or hub name with "
            "tokenizer.json, or with vocab.json, merges.txt and config.json"
        ) from None
    if not tokenizer.is_fast:
        raise InputError(f"{name}: its tokenizer is slow-only; a tokenizer.json is needed")
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocab: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most `vocab` tokens, `<|endoftext|>` being beginning, end and padding.

    The same texts give the same tokenizer; every string can be encoded and comes back unchanged.
    """
    if vocab < 257:
        raise InputError(f"vocab: {vocab} is too small; a byte-level vocabulary has at least 257 tokens")
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    ends = dict(bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, clean_up_tokenization_spaces=False, **ends)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """Raises InputError when the tokenizer has ids the model has no embedding for."""
    highest = max(tokenizer.get_vocab().values())
    if highest >= vocab_size:
        raise InputError(
            f"tokenizer: its highest id is {highest}, but the model's vocabulary has {vocab_size} tokens; "
            "it belongs to another model"
        )


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Text -> id of every special token: BOS, EOS, padding, and the chat markers."""
    special = {str(token): index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return special | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


def specials_in(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Special tokens spelt out in `text`: a fast tokenizer turns these into the real ones, wherever they stand.

    Files that were rendered beforehand hold them on purpose, so they are kept; stage-0 plumbing names the rows.
    """
    pattern = "|".join(map(re.escape, special_tokens(tokenizer)))
    return re.findall(pattern, text) if pattern else []
