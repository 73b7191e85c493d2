"""Greedy and beam search against transformers' generate, and a real model's story."""

import numpy as np
import pytest
import sampling
from tiny import one_device, tiny_model

from ilpjax.models import load_model, save_model

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    """(our model, theirs with the same weights)."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("peer") / "model"
    model = tiny_model("qwen2")
    save_model(folder, *model)
    return model, transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def generate(peer, prompt, new_tokens, ends, **keys):
    """Their answers, without the prompt and what follows an end."""
    torch = pytest.importorskip("torch")
    tokens = torch.tensor(prompt.tokens[None].astype(np.int64))
    out = peer.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=list(ends) or None,
        pad_token_id=319,
        **keys,
    )
    answers = [answer[len(prompt.tokens) :].tolist() for answer in out]
    cut = lambda answer: next((n + 1 for n, token in enumerate(answer) if token in ends), len(answer))
    return [answer[: cut(answer)] for answer in answers]


def test_greedy_is_theirs(peers):
    model, peer = peers
    asked = sampling.prompts([3, 17, 32, 9], samples=1)
    got = sampling.sampler(*model, one_device(), decode="greedy", new_tokens=12, batch=2)(asked)
    for prompt, found in zip(asked, got, strict=True):
        assert sampling.tokens_of([found])[0] == generate(peer, prompt, 12, ())


@pytest.mark.parametrize("ends", [(), tuple(range(0, 320, 9))])
def test_beams_are_theirs(peers, ends):
    model, peer = peers
    asked = sampling.prompts([3, 17, 32, 9, 21], samples=3)
    sampler = sampling.sampler(*model, one_device(), stop=ends, decode="beam", samples=3, new_tokens=8, batch=2)
    beam = {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.0, "early_stopping": False}
    for prompt, found in zip(asked, sampler(asked), strict=True):
        assert sampling.tokens_of([found])[0] == generate(peer, prompt, 8, ends, **beam)
        sums = [one.logprobs.sum() for one in found]
        assert sums == sorted(sums, reverse=True)


@pytest.mark.shared
def test_a_real_model_tells_the_story_torch_tells(shared, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from llama2c import Tokenizer, convert

    convert(shared / "models/stories260K.bin", tmp_path / "model")
    tokens = np.array(Tokenizer(shared / "models/tok512.bin").encode("One day, a little dog named Max"), np.int32)
    prompt = sampling.Prompt("max", tokens, (0,))
    model = load_model(tmp_path / "model", one_device())
    ((found,),) = sampling.sampler(*model, one_device(), decode="greedy", new_tokens=60)([prompt])
    peer = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    assert [found.tokens.tolist()] == generate(peer, prompt, 60, ())
