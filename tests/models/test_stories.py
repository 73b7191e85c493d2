"""A real model: 260,032 weights trained on TinyStories."""

from pathlib import Path

import jax
import numpy as np
import pytest
from llama2c import Tokenizer, convert
from tiny import one_device

from ilpjax.models import load_model

pytestmark = pytest.mark.shared
NEW = 100


@pytest.fixture(scope="module")
def story(shared: Path, tmp_path_factory: pytest.TempPathFactory):
    """(folder, tokenizer, prompt ids, the ids we continue with greedily)."""
    folder = tmp_path_factory.mktemp("stories") / "model"
    convert(shared / "models/stories260K.bin", folder)
    tokenizer = Tokenizer(shared / "models/tok512.bin")
    prompt = tokenizer.encode("One day, a little dog named Max found a big red ball")
    return folder, tokenizer, prompt, greedy(folder, prompt)


def greedy(folder: Path, prompt: list[int]) -> list[int]:
    model, params = load_model(folder, one_device())
    length = len(prompt) + NEW
    positions, ends = np.arange(length, dtype=np.int32)[None], np.full((1, length), length, np.int32)
    step = jax.jit(lambda params, tokens: model.logits(params, tokens, positions, ends).argmax(-1))
    tokens = np.zeros((1, length), np.int32)
    tokens[0, : len(prompt)] = prompt
    for at in range(len(prompt), length):  # what follows is not seen, so one shape serves
        tokens[0, at] = step(params, tokens)[0, at - 1]
    return tokens[0, len(prompt) :].tolist()


def test_tokenizer_reads_its_own_words(story):
    _, tokenizer, prompt, _ = story
    assert tokenizer.decode(prompt) == "One day, a little dog named Max found a big red ball"
    assert len(prompt) < 30  # merged, not letter by letter


def test_tells_a_story(story):
    _, tokenizer, _, new = story
    text = tokenizer.decode(new)
    print(text)
    words = [word.strip('.,!?"') for word in text.lower().split()]
    plain = set("the a and to was he it they said with in his ball max dog play big happy".split())  # noqa: SIM905
    assert sum(word in plain for word in words) > 0.4 * len(words)


@pytest.mark.slow
@pytest.mark.torch
def test_continues_exactly_as_torch_does(story):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder, _, prompt, new = story
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    theirs = model.generate(
        torch.tensor([prompt]), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, eos_token_id=None
    )
    assert theirs[0, len(prompt) :].tolist() == new
