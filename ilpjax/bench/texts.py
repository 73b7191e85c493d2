"""A model and texts of exact token counts, for both sides."""

import string
from pathlib import Path
from typing import Any

import jax
import numpy as np
from transformers import PreTrainedTokenizerBase

from ilpjax.config import BenchJob, MeshConfig
from ilpjax.data import train_tokenizer
from ilpjax.errors import InputError
from ilpjax.models import ModelSpec, init_model, resolve, save_model
from ilpjax.parallel import make_mesh

# 40 million parameters; the spread of the weights makes its log-probs differ enough to be compared.
CONFIG = {
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


def make_model(job: BenchJob, folder: Path) -> None:
    """FOLDER leads to the model of the job, or holds one with random weights."""
    if job.model is not None:
        folder.symlink_to(resolve(job.model).resolve())
        return
    rng = np.random.default_rng(job.seed)
    words = {"".join(rng.choice(list(string.ascii_lowercase), 5)) for _ in range(WORDS)}
    # Each word at the start of a text and behind a space, so that both are one token.
    tokenizer = train_tokenizer([*sorted(words), " ".join(sorted(words))] * 2, CONFIG["vocab_size"])
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    spec = ModelSpec.from_config(CONFIG | {"eos_token_id": tokenizer.eos_token_id})
    save_model(folder, *init_model(spec, jax.random.key(job.seed), mesh), tokenizer=tokenizer)


def single_words(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Words that are one token, at the start of a text and behind a space. Raises InputError where there are few."""
    spelt = sorted({str(tokenizer.decode([n])).strip() for n in range(min(len(tokenizer), 50_000))})
    words = [word for word in spelt if word.isascii() and word.isalpha() and len(word) > 1]
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


def _count(tokenizer: PreTrainedTokenizerBase, text: str, wanted: int) -> None:
    found = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    if found != wanted:
        raise InputError(f"model: its tokenizer joins words: {wanted} of them became {found} tokens")
