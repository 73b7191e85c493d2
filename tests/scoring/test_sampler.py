"""Sampler: the same tokens as a full forward pass a token gives, whatever else is in the batch."""

import random
from dataclasses import replace

import jax
import numpy as np
import pytest
import sampling
from tiny import FAMILIES, one_device, tiny_model

from ilpjax.config import MeshConfig, SampleConfig
from ilpjax.errors import InputError
from ilpjax.models import define, param_shapes, param_shardings
from ilpjax.parallel import make_mesh
from ilpjax.scoring import Prompt, decode, prefill, sample_specs

STOP = tuple(range(0, 320, 9))  # so that answers end at many lengths


@pytest.fixture(scope="module")
def model():
    return tiny_model("qwen2")


@pytest.fixture(scope="module")
def prompts():
    return sampling.prompts([1, 5, 31, 32, 17, 20, 2, 8, 30], samples=3)


@pytest.fixture(scope="module")
def drawn(model, prompts):
    sampler = sampling.sampler(*model, one_device(), stop=STOP, samples=3, new_tokens=9, batch=16)
    return sampler(prompts)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_greedy_is_the_argmax_of_the_full_forward_pass(family):
    model, params = tiny_model(family)
    asked = sampling.prompts([1, 9, 32, 28], samples=1)
    got = sampling.sampler(model, params, one_device(), decode="greedy", new_tokens=8, batch=3)(asked)
    for prompt, (found,) in zip(asked, got, strict=True):
        tokens, logprobs = sampling.answer(model, params, prompt, 0, SampleConfig(decode="greedy", new_tokens=8))
        assert found.tokens.tolist() == tokens
        np.testing.assert_allclose(found.logprobs, logprobs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("keys", [{}, {"temperature": 0.7, "top_p": 0.8}])
def test_draws_are_those_of_a_plain_sampler(model, prompts, keys):
    cfg = SampleConfig(samples=3, new_tokens=9, **keys)
    got = sampling.sampler(*model, one_device(), seed=7, stop=STOP, samples=3, new_tokens=9, batch=16, **keys)(prompts)
    lengths = set()
    for prompt, found in zip(prompts, got, strict=True):
        for one in found:
            tokens, logprobs = sampling.answer(*model, prompt, one.sample, cfg, seed=7, stop=STOP)
            assert one.tokens.tolist() == tokens
            np.testing.assert_allclose(one.logprobs, logprobs, rtol=1e-4, atol=1e-4)
            lengths.add(len(tokens))
    assert len(lengths) > 4


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_answers_do_not_depend_on_batch_order_or_refill(model, prompts, drawn, batch):
    """Nine prompts in one, two and eight slots: all are refilled, at different times; the fixture needs no refill."""
    shuffled = random.Random(batch).sample(prompts, len(prompts))
    got = sampling.sampler(*model, one_device(), stop=STOP, samples=3, new_tokens=9, batch=batch)(shuffled)
    by_row = {prompt.row_id: found for prompt, found in zip(shuffled, got, strict=True)}
    for prompt, want in zip(prompts, drawn, strict=True):
        assert sampling.tokens_of([by_row[prompt.row_id]]) == sampling.tokens_of([want])
        for one, other in zip(by_row[prompt.row_id], want, strict=True):
            np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=1e-5, atol=1e-5)


def test_which_samples_are_drawn_together_does_not_matter(model, prompts, drawn):
    some = [replace(prompt, samples=(2, 0)) for prompt in prompts]
    sampler = sampling.sampler(*model, one_device(), stop=STOP, samples=3, new_tokens=9, batch=16)
    got = sampling.tokens_of(sampler(some))
    assert got == [[each[2], each[0]] for each in sampling.tokens_of(drawn)]
    other = sampling.sampler(*model, one_device(), seed=1, stop=STOP, samples=3, new_tokens=9, batch=16)
    assert sampling.tokens_of(other(prompts)) != sampling.tokens_of(drawn)
    assert len({tuple(tokens) for each in sampling.tokens_of(drawn) for tokens in each}) > 20


def test_eight_devices_draw_as_one(model, prompts, drawn):
    one, params = model
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    spread = define(one.spec, mesh)
    placed = jax.device_put(params, param_shardings(spread, mesh))
    sampler = sampling.sampler(spread, placed, mesh, stop=STOP, samples=3, new_tokens=9, batch=8)
    got = sampler(prompts)
    assert sampling.tokens_of(got) == sampling.tokens_of(drawn)


def test_programs_are_as_many_as_shapes(model):
    prefill.clear_cache(), decode.clear_cache()
    sampler = sampling.sampler(*model, one_device(), samples=2, new_tokens=3, batch=2)
    for seed in range(2):
        sampler(sampling.prompts([3, 30, 7, 40, 12, 33, 1], samples=2, seed=seed))
    assert len(sampler.shapes) == 2 == prefill._cache_size() == decode._cache_size()
    assert str(sampler).startswith("2 prompt lengths")


def test_it_ends_with_the_first_token(model, prompts):
    got = sampling.sampler(*model, one_device(), stop=range(320), samples=3, new_tokens=9, batch=4)(prompts)
    assert all(len(one.tokens) == 1 for each in got for one in each)


def test_without_stops_every_answer_has_its_length_and_padding_ids_never_come(model, prompts):
    got = sampling.sampler(*model, one_device(), vocab=40, samples=3, new_tokens=9, batch=4)(prompts)
    assert {len(one.tokens) for each in got for one in each} == {9}
    assert max(one.tokens.max() for each in got for one in each) < 40
    one = got[0][0]  # the log-prob is among all ids all the same
    whole = sampling.next_logprobs(*model, prompts[0].tokens)
    np.testing.assert_allclose(one.logprobs[0], whole[one.tokens[0]], rtol=1e-4, atol=1e-4)


def test_beams_of_full_width_are_all_sequences(model):
    asked = sampling.prompts([6, 11], samples=16)
    sampler = sampling.sampler(*model, one_device(), vocab=4, decode="beam", samples=16, new_tokens=2, batch=2)
    for prompt, beams in zip(asked, sampler(asked), strict=True):
        first = sampling.next_logprobs(*model, prompt.tokens)
        want = {}
        for a in range(4):
            second = sampling.next_logprobs(*model, [*prompt.tokens, a])
            want |= {(a, b): first[a] + second[b] for b in range(4)}
        order = sorted(want, key=lambda pair: -want[pair])
        assert [tuple(one.tokens) for one in beams] == order
        np.testing.assert_allclose([one.logprobs.sum() for one in beams], [want[pair] for pair in order], rtol=1e-4)


def test_allowed_ids_only(model):
    asked = [replace(p, allowed=(5, 300, 17)) for p in sampling.prompts([4, 9], samples=40)]
    got = sampling.sampler(*model, one_device(), samples=40, new_tokens=9, batch=2)(asked)
    for prompt, found in zip(asked, got, strict=True):
        logprob = sampling.next_logprobs(*model, prompt.tokens)[list(prompt.allowed)]
        logprob -= np.logaddexp.reduce(logprob)
        assert {len(one.tokens) for one in found} == {1}
        for one in found:
            place = prompt.allowed.index(one.tokens[0])
            np.testing.assert_allclose(one.logprobs[0], logprob[place], rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_refused(model):
    with pytest.raises(InputError, match="new_tokens: 1025, but the model sees at most 1024"):
        sampling.sampler(*model, one_device(), new_tokens=1025)
    sampler = sampling.sampler(*model, one_device(), new_tokens=1000)
    for tokens in (np.zeros(26, np.int32), np.zeros(0, np.int32)):
        with pytest.raises(ValueError, match=f"row_id long: {len(tokens)} tokens"):
            sampler([Prompt("long", tokens, (0,))])


def test_bfloat16_weights_are_narrowed_once_and_norms_stay_wide(model):
    sampler = sampling.sampler(*model, one_device(), dtype="bfloat16", samples=3, new_tokens=3, batch=4)
    assert {x.dtype.name for x in jax.tree.leaves(sampler._params)} == {"bfloat16", "float32"}
    assert sampler._params["norm"]["scale"].dtype == np.float32
    assert len(sampler(sampling.prompts([5], samples=3))[0]) == 3


def test_programs_lower_from_shapes_alone(model):
    """What `plan` does, here for eight CPU devices: no key or value moves between devices."""
    mesh = make_mesh(MeshConfig(data=4, tensor=2))
    spread = define(model[0].spec, mesh)
    shape = sampling.sampler(*model, mesh, samples=4, new_tokens=5, batch=8).shape(Prompt("", np.zeros(40), (0,)))
    state, batch, stop, enough = sample_specs(spread, mesh, shape)
    params = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        param_shapes(spread),
        param_shardings(spread, mesh),
    )
    read = prefill.lower(spread, mesh, shape, params, state, batch, stop).compile()
    drawn = decode.lower(spread, mesh, shape, params, state, stop, enough).compile()
    for compiled in (read, drawn):
        text = compiled.as_text()
        cached = f",{shape.prompt},{spread.spec.head_dim}]"
        moves = [line for line in text.splitlines() if "all-gather(" in line or "all-to-all(" in line]
        assert not [line for line in moves if cached in line], moves
        assert compiled.memory_analysis().alias_size_in_bytes > 0  # the state is donated
