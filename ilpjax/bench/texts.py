"""A model and texts of exact token counts, for both sides."""

import string
from pathlib import Path
from typing import Any

import jax
import numpy as np
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ilpjax.config import BenchJob, MeshConfig
from ilpjax.data import train_tokenizer
from ilpjax.errors import InputError
from ilpjax.models import ModelSpec, init_model, resolve, save_model
from ilpjax.parallel import make_mesh

# 40 million parameters; the spread of the weights makes its log-probs differ enough to be compared.
CONFIG: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 32000,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "initializer_range": 0.04,
}
WORDS = 1500  # of the tokenizer that goes with it
CURVE_BATCH, CURVE_STEPS, CURVE_LR = 2, 4, 1e-4
FULL = 0.94  # of a sequence is filled by any packer


def make_model(job: BenchJob, folder: Path) -> None:
    """FOLDER leads to the model of the job, or holds one with random weights."""
    if job.model is not None:
        folder.symlink_to(resolve(job.model).resolve())
        return
    tokenizer = make_tokenizer(job.seed)
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    spec = ModelSpec.from_config(CONFIG | {"eos_token_id": tokenizer.eos_token_id})
    save_model(folder, *init_model(spec, jax.random.key(job.seed), mesh), tokenizer=tokenizer)


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """One with many words of one token, at the start of a text and behind a space."""
    rng = np.random.default_rng(seed)
    words = sorted({"".join(rng.choice(list(string.ascii_lowercase), 5)) for _ in range(WORDS)})
    return train_tokenizer([*words, " ".join(words)] * 2, CONFIG["vocab_size"])


def single_words(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Words that are one token, at the start of a text and behind a space. Raises InputError where there are few."""
    spelt = {token.lstrip("Ġ▁") for token in tokenizer.get_vocab()}  # how byte-level and SentencePiece ones write " "
    words = sorted(word for word in spelt if word.isascii() and word.isalpha() and len(word) > 1)
    if words:
        once = tokenizer(words, add_special_tokens=False)["input_ids"]
        twice = tokenizer([f"{word} {word}" for word in words], add_special_tokens=False)["input_ids"]
        words = [w for w, one, two in zip(words, once, twice, strict=True) if (len(one), len(two)) == (1, 2)]
    if len(words) < 100:
        raise InputError(f"model: its tokenizer has only {len(words)} words of one token; a text tokenizer is needed")
    return words


def make_items(tokenizer: PreTrainedTokenizerBase, job: BenchJob, count: int) -> list[dict[str, Any]]:
    """Multiple-choice items: a question of `job.prompt` tokens, `job.options` options of `job.option_tokens` tokens."""
    rng, words = np.random.default_rng(job.seed), single_words(tokenizer)
    text = lambda tokens: " ".join(rng.choice(words, tokens))
    items = []
    for _ in range(count):
        question, options = text(job.prompt), [text(job.option_tokens) for _ in range(job.options)]
        _count(tokenizer, question + " " + options[0], job.prompt + job.option_tokens)
        items.append({"question": question, "options": options})
    return items


def make_prompts(tokenizer: PreTrainedTokenizerBase, job: BenchJob, count: int) -> list[list[int]]:
    """Token ids of `count` prompts of `job.prompt` tokens."""
    rng, words = np.random.default_rng(job.seed), single_words(tokenizer)
    texts = [" ".join(rng.choice(words, job.prompt)) for _ in range(count)]
    for text in texts:
        _count(tokenizer, text, job.prompt)
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def make_rows(vocab: int, job: BenchJob) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows to train on, `{"tokens", "prompt": tokens of the prompt}`.

    First a few that fill a sequence each, longest first, so that every packer makes the same steps of them. Then
    `job.rows` of log-normal length, a prompt being 20 to 60 % of its row; without `job.rows` as many as go into two
    steps, so that no side trains on a step that is half empty.
    """
    rng = np.random.default_rng(job.seed)

    def row(length: int) -> dict[str, Any]:
        tokens = rng.integers(1, vocab, length).tolist()
        return {"tokens": tokens, "prompt": max(1, int(length * rng.uniform(0.2, 0.6)))}

    def draw() -> int:
        return int(np.exp(rng.normal(np.log(job.seq_len / 4), 0.7)).clip(16, job.seq_len))

    alone = np.linspace(job.seq_len, job.seq_len // 2 + 1, CURVE_STEPS * CURVE_BATCH).astype(int)
    lengths = [draw() for _ in range(job.rows or 0)]
    while not job.rows and sum(lengths) < FULL * 2 * job.batch * job.seq_len:
        lengths.append(draw())
    return [row(int(n)) for n in alone], [row(n) for n in lengths]


def _count(tokenizer: PreTrainedTokenizerBase, text: str, wanted: int) -> None:
    found = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    if found != wanted:
        raise InputError(f"model: its tokenizer joins words: {wanted} of them became {found} tokens")
