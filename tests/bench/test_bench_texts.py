"""What both sides are given has the sizes that were asked for."""

import numpy as np
import pytest

from ilpjax.bench import texts
from ilpjax.bench.sft import _example
from ilpjax.config import BenchJob
from ilpjax.data import plan_epoch
from ilpjax.errors import InputError


@pytest.fixture(scope="module")
def tokenizer():
    return texts.make_tokenizer(0)


def test_items_and_prompts_have_the_tokens_that_were_asked_for(tokenizer):
    job = BenchJob(what="scoring", prompt=37, options=3, option_tokens=5)
    for item in texts.make_items(tokenizer, job, 4):
        assert len(tokenizer(item["question"])["input_ids"]) == 37
        for option in item["options"]:
            assert len(tokenizer(item["question"] + " " + option)["input_ids"]) == 42
    assert {len(prompt) for prompt in texts.make_prompts(tokenizer, job, 4)} == {37}


def test_a_tokenizer_without_words_is_refused(tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "get_vocab", lambda self: {"zz zz": 0, "q": 1})
    with pytest.raises(InputError, match="only 0 words of one token"):
        texts.single_words(tokenizer)


@pytest.mark.parametrize("seed", range(5))
def test_rows_fill_two_steps_and_the_curve_is_packed_alone(seed):
    job = BenchJob(what="sft", seed=seed)
    curve, rows = texts.make_rows(320, job)
    lengths = [np.array([len(row["tokens"]) for row in made]) for made in (curve, rows)]
    assert (np.diff(lengths[0]) < 0).all() and (lengths[0] > job.seq_len / 2).all()
    sequences = plan_epoch(lengths[1], seed=0, epoch=0, seq_len=job.seq_len)
    assert len(sequences) == 2 * job.batch
    assert all(_example(0, row).target_mask.any() and not _example(0, row).target_mask[0] for row in rows)


def test_the_same_seed_makes_the_same_rows():
    assert texts.make_rows(320, BenchJob(what="sft")) == texts.make_rows(320, BenchJob(what="sft"))
    assert texts.make_rows(320, BenchJob(what="sft")) != texts.make_rows(320, BenchJob(what="sft", seed=1))
