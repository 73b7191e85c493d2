"""score_items: the table, and that a row's numbers are its own."""

import random
import re
from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest
from tiny import tiny_model

from ilpjax.config import DetectConfig, MeshConfig, ScoreConfig, ScoreJob
from ilpjax.data import items_table
from ilpjax.detect import detect
from ilpjax.errors import InputError
from ilpjax.models import param_shardings, save_model
from ilpjax.parallel import make_mesh
from ilpjax.rows import Item
from ilpjax.scoring import ask, option_scores_reference, run_score, score_batch, score_items

NAMES = "row_id order protocol option_logprob option_tokens option_bytes control_logprob p control_p predicted answer"


@pytest.fixture
def score(tiny, plain, mesh, tmp_path):
    model, params = tiny

    def run(items, template=plain, seed=0, model=model, params=params, mesh=mesh, **keys):
        out = tmp_path / "scores.parquet"
        score_items(model, params, template, items, ScoreConfig(**keys), mesh=mesh, seed=seed, out=out)
        return pd.read_parquet(out)

    return run


def flat(table, column):
    return np.concatenate(table.sort_values(["row_id", "order"])[column].tolist())


@pytest.mark.parametrize("protocol", ["cloze", "letter"])
@pytest.mark.parametrize("kind", ["plain", "chat"])
def test_the_table_against_the_plain_reference(score, items, protocol, kind, tiny, request):
    template = request.getfixturevalue(kind)
    got = score(items[:12], template, protocol=protocol, orders=2, texts=True, seed=5)
    assert " ".join(got.columns).startswith(NAMES)
    assert got.row_id.tolist() == [item.row_id for item in items[:12] for _ in range(2)]
    assert got.order.tolist() == [0, 1] * 12 and set(got.protocol) == {protocol}
    for n, line in enumerate(got.itertuples()):
        item = items[n // 2]
        question = ask(item, template, protocol, line.order, 5)
        assert line.prompt_text == question.prompt_text and tuple(line.option_texts) == question.option_texts
        for text, column in ((question.prompt_text, "option_logprob"), (question.control_text, "control_logprob")):
            want = option_scores_reference(*tiny, template.encode_options(text, question.option_texts))
            np.testing.assert_allclose(getattr(line, column), want, rtol=1e-5, atol=1e-5)
        p = np.exp(line.option_logprob - np.logaddexp.reduce(line.option_logprob))
        np.testing.assert_allclose(line.p, p, rtol=1e-5, atol=1e-6)
        assert line.predicted == np.argmax(p) and line.answer == item.answer
        assert line.correct == (line.predicted == line.answer) and line.truncated == 0
        expected = [len(o.encode()) for o in item.options] if protocol == "cloze" else [1] * len(item.options)
        assert line.option_bytes.tolist() == expected and (line.option_tokens > 0).all()
    assert detect(got, DetectConfig()).row_id.tolist() == [item.row_id for item in items[:12]]


@pytest.mark.parametrize("protocol", ["cloze", "letter"])
def test_a_row_is_the_same_for_every_batch_and_file_order_packed_or_alone(score, items, monkeypatch, protocol):
    """To 1e-5, float32."""
    keys = {"protocol": protocol, "orders": 2}
    packed = score(items, batch=8, **keys)
    shuffled = random.Random(0).sample(items, len(items))
    moved = score(shuffled, batch=8, **keys)
    assert moved.row_id[::2].tolist() == [item.row_id for item in shuffled]
    others = [moved, score(items, pack=False, **keys), *(score(items, batch=batch, **keys) for batch in (1, 3, 64))]
    monkeypatch.setattr("ilpjax.scoring.score.BLOCK", 7)
    monkeypatch.setattr("ilpjax.scoring.score.SHARD", 500)
    others.append(score(items, batch=2, **keys))
    assert others[-1].row_id.tolist() == packed.row_id.tolist()
    for other in others:
        for column in ("option_logprob", "control_logprob", "p"):
            np.testing.assert_allclose(flat(other, column), flat(packed, column), rtol=1e-5, atol=1e-5)


def test_letter_orders_do_not_depend_on_the_file(score, items):
    forward, back = score(items[:20], protocol="letter", orders=3), score(items[:20][::-1], protocol="letter", orders=3)
    np.testing.assert_allclose(flat(forward, "option_logprob"), flat(back, "option_logprob"), rtol=1e-5, atol=1e-5)
    other = score(items[:20], protocol="letter", orders=3, seed=1)
    zero, moved = (table[table.order == 0] for table in (forward, other))
    np.testing.assert_allclose(flat(zero, "option_logprob"), flat(moved, "option_logprob"), rtol=1e-5, atol=1e-5)
    assert np.abs(flat(forward, "option_logprob") - flat(other, "option_logprob")).max() > 1e-2


def test_cloze_is_repeated_over_orders(score, items):
    got = score(items[:5], orders=3)
    np.testing.assert_array_equal(flat(got[got.order == 0], "p"), flat(got[got.order == 2], "p"))


def test_eight_devices_score_as_one(score, items, tiny, monkeypatch):
    model, params = tiny
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    spread = type(model)(model.spec, model.graphdef, mesh)
    placed = jax.device_put(params, param_shardings(spread, mesh))
    want = score(items[:20], batch=4)
    for batch, chunk in ((3, 1024), (16, 16)):  # rounded up to a sequence a device, and logits in several parts
        monkeypatch.setattr("ilpjax.scoring.forward.CHUNK", chunk)
        got = score(items[:20], batch=batch, model=spread, params=placed, mesh=mesh)
        np.testing.assert_allclose(flat(got, "option_logprob"), flat(want, "option_logprob"), rtol=1e-5, atol=1e-5)


def test_normalised_scores_and_no_control(score, items):
    got = score(items[:5], normalise="pmi")
    pmi = got.option_logprob[0] - got.control_logprob[0]
    np.testing.assert_allclose(got.p[0], np.exp(pmi) / np.exp(pmi).sum(), rtol=1e-5)
    per_byte = score(items[:5], normalise="byte", control=False)
    scores = per_byte.option_logprob[0] / per_byte.option_bytes[0]
    np.testing.assert_allclose(per_byte.p[0], np.exp(scores) / np.exp(scores).sum(), rtol=1e-5)
    assert per_byte.control_logprob.isna().all() and per_byte.control_p.isna().all()
    assert "control_accuracy" not in detect(per_byte, DetectConfig())
    with pytest.raises(InputError, match="normalise: pmi needs the control"):
        score(items[:5], normalise="pmi", control=False)


def test_a_long_prompt_loses_its_beginning(score, plain, make_model, mesh):
    model, params = make_model(max_position_embeddings=32)
    question = " ".join(["winter comes"] * 40)
    item = Item(row_id="long", question=question, options=("to Rome", "to Paris"), answer=0)
    got = score([item], model=model, params=params).iloc[0]
    tokens = plain.encode_options(question, (" to Rome", " to Paris"))
    longest = max(len(option) for option in tokens.options)
    assert got.truncated == len(tokens.shared) + longest - 1 - 32
    kept = type(tokens)(tokens.shared[got.truncated :], tokens.options, tokens.prompt_tail)
    want = option_scores_reference(model, params, kept)
    np.testing.assert_allclose(got.option_logprob, want, rtol=1e-5, atol=1e-5)
    bad = Item(row_id="bad", question="?", options=(question, "Rome"), answer=0)
    with pytest.raises(InputError, match="row_id bad: an option has .* tokens, and the model sees at most 32"):
        score([bad], model=model, params=params)


def test_a_packed_sequence_may_be_longer_than_the_context(score, items):
    """The first Qwen attends otherwise beyond its context: paths count, not the sequence."""
    model, params = tiny_model("qwen", 401, seq_length=96)
    got = score(items[:8], model=model, params=params, batch=1)
    alone = score(items[:8], model=model, params=params, batch=8, pack=False)
    np.testing.assert_allclose(flat(got, "option_logprob"), flat(alone, "option_logprob"), rtol=1e-5, atol=1e-5)


def test_a_failure_leaves_the_old_table(score, items, tmp_path):
    score(items[:3])
    before = (tmp_path / "scores.parquet").read_bytes()

    def broken():
        yield from items[:3]
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError):
        score(broken())
    assert (tmp_path / "scores.parquet").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


def test_run_score_from_files(tmp_path, tiny, tokenizer, items, score, capfd):
    model, params = tiny
    save_model(tmp_path / "model", model, params, tokenizer=tokenizer)
    items_table(items[:8]).to_parquet(tmp_path / "items.parquet")
    job = {
        "model": str(tmp_path / "model"),
        "items": str(tmp_path / "items.parquet"),
        "out": str(tmp_path / "s.parquet"),
    }
    run_score(ScoreJob.make(job | {"mesh": {"data": 8}}))
    got, want = pd.read_parquet(tmp_path / "s.parquet"), score(items[:8])
    assert got.row_id.tolist() == want.row_id.tolist()
    np.testing.assert_allclose(flat(got, "option_logprob"), flat(want, "option_logprob"), rtol=1e-5, atol=1e-5)
    assert "score: 8 of 8 items" in capfd.readouterr().err


def test_a_tokenizer_of_another_model(score, items, make_model):
    model, params = make_model(vocab_size=100)
    with pytest.raises(InputError, match="belongs to another model"):
        score(items[:2], model=model, params=params)


def test_compilations_are_few_and_told(score, items, make_model, monkeypatch, capfd):
    """One a shape, whatever the weights and the number of items; a doubling for what does not fit."""
    score_batch.clear_cache()
    monkeypatch.setattr("ilpjax.scoring.score.BLOCK", 20)
    long = [replace(items[0], row_id=f"long{n}", question=" ".join([items[n].question] * 9)) for n in range(20)]
    score([*items, *long])
    told = capfd.readouterr().err
    score([*items, *long], params=make_model(initializer_range=0.1)[1])
    count = int(re.search(r"score: (\d) shapes? \(.*\), compiled in [\d.]+ s, then [\d,.]+ items/s", told)[1])
    assert score_batch._cache_size() == count <= 3
