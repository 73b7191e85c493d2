"""Tokenizers and rows that the tests of this room share."""

import gzip

import pytest

from ilpjax.data import load_tokenizer, train_tokenizer
from ilpjax.rows import Message, Row, content_hash

TEXT = "the of and a to in is you that it he was for on are as with his they I at be this have from or had by"
WORDS = TEXT.split()
MARKERS = ["<|im_start|>", "<|im_end|>", "<s>", "</s>", "<|begin_of_text|>", "<|start_header_id|>"]
MARKERS += ["<|end_header_id|>", "<|eot_id|>", "<|user|>", "<|assistant|>", "<|system|>"]


@pytest.fixture(scope="session")
def small():
    """A tokenizer trained on a few sentences; it has the chat markers of every family."""
    texts = [" ".join(WORDS[n % 28 : n % 28 + 5 + n % 7]) + "? Yes, 12.\n" for n in range(200)]
    tokenizer = train_tokenizer(texts, 400)
    tokenizer.add_special_tokens({"additional_special_tokens": MARKERS})
    return tokenizer


@pytest.fixture(scope="session")
def qwen(shared, tmp_path_factory):
    """The real Qwen2 tokenizer, from vocab.json and merges.txt."""
    folder = tmp_path_factory.mktemp("qwen2")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"):
        (folder / name).write_bytes(gzip.decompress((shared / "tokenizers" / f"qwen2_{name}.gz").read_bytes()))
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": MARKERS})
    return tokenizer


@pytest.fixture(params=["small", pytest.param("qwen", marks=pytest.mark.shared)])
def tokenizer(request):
    """One of the session's; what a test sets on it is set back."""
    found = request.getfixturevalue(request.param)
    before = {name: getattr(found, name) for name in ("chat_template", "bos_token", "eos_token")}
    yield found
    for name, value in before.items():
        setattr(found, name, value)


@pytest.fixture(scope="session")
def make_row():
    def make(*turns, roles=None, position=0, dataset="d", **more):
        """`make_row(prompt, response)`, `make_row(u1, a1, u2, a2)`; `roles="su..."` names them otherwise."""
        names = {"s": "system", "u": "user", "a": "assistant"}
        roles = roles or "ua" * (len(turns) // 2)
        messages = tuple(Message(names[r], text) for r, text in zip(roles, turns, strict=True))
        more.setdefault("row_id", content_hash(messages))
        return Row(messages=messages, dataset=dataset, position=position, source=f"f.jsonl:{position + 1}", **more)

    return make
