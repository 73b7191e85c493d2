"""sample_rows and the sample job: the table, stops, truncation, resuming, and what pass@N says."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import sampling

from ilpjax import cli, scoring
from ilpjax.config import DetectConfig, SampleConfig, ScoreConfig
from ilpjax.data import rows_table
from ilpjax.detect import detect, sample_summary
from ilpjax.errors import InputError
from ilpjax.models import save_model
from ilpjax.rows import Item, Message, Row
from ilpjax.scoring import sample_rows, score_items, stop_ids


@pytest.fixture(scope="module")
def rows(items):
    turns = lambda item: (Message("user", item.question[:40]), Message("assistant", item.options[0]))
    return [
        Row(row_id=item.row_id, messages=turns(item), dataset="d", position=n, source=f"x:{n}")
        for n, item in enumerate(items[:12])
    ]


@pytest.fixture
def sample(tiny, plain, mesh, tmp_path):
    def run(rows, template=plain, seed=0, model=tiny[0], params=tiny[1], stamp=None, ends=None, **keys):
        out = tmp_path / "samples.parquet"
        cfg = SampleConfig(**({"samples": 3, "new_tokens": 6, "batch": 4} | keys))
        sample_rows(model, params, template, rows, cfg, mesh=mesh, seed=seed, out=out, stop=ends, stamp=stamp)
        return pd.read_parquet(out)

    return run


def test_the_table_against_the_plain_reference(sample, rows, tiny, plain, capfd):
    got = sample(rows, seed=5)
    names = "row_id sample text tokens logprob confidence finished reference predicted score correct truncated"
    assert " ".join(got.columns) == names
    assert (
        got.row_id.tolist() == [row.row_id for row in rows for _ in range(3)]
        and got["sample"].tolist() == [0, 1, 2] * 12
    )
    cfg, stop = SampleConfig(samples=3, new_tokens=6), stop_ids(plain)
    vocab = len(plain.tokenizer)
    assert vocab < tiny[0].spec.vocab
    for n, line in enumerate(got.itertuples()):
        row = rows[n // 3]
        prompt = scoring.Prompt(row.row_id, plain.tokenizer(row.prompt).input_ids, ())
        tokens, logprobs = sampling.answer(*tiny, prompt, line.sample, cfg, seed=5, stop=stop, vocab=vocab)
        assert line.tokens.tolist() == tokens and line.truncated == 0
        np.testing.assert_allclose([line.logprob, line.confidence], [np.sum(logprobs), np.mean(logprobs)], rtol=1e-4)
        ended = tokens[-1] in stop
        assert line.text == plain.tokenizer.decode(tokens[: len(tokens) - ended]).strip()
        assert line.finished == ("stop" if ended else "length") and line.reference == row.response
        assert line.predicted is None or np.isnan(line.predicted)
    assert re.search(r"sample: 12 of 12 rows[^\n]*\nsample: \d+ prompt lengths", capfd.readouterr().err)


def test_a_stop_text_cuts_text_tokens_and_confidence(sample, rows):
    whole = sample(rows, ends=[])
    text = next(c for text in whole.text for c in text[1:] if c.isalpha())
    cut = sample(rows, ends=[], stop=[text])
    assert set(cut.finished) == {"text", "length"}
    for before, after in zip(whole.itertuples(), cut.itertuples(), strict=True):
        if text in before.text:
            assert after.text == before.text.split(text)[0].strip() and after.finished == "text"
            assert after.tokens.tolist() == before.tokens[: len(after.tokens)].tolist()
        else:
            assert after.text == before.text and after.confidence == before.confidence
        np.testing.assert_allclose(after.confidence, after.logprob / len(after.tokens), rtol=1e-5)


def test_a_long_prompt_loses_its_beginning_and_an_empty_one_is_answered(sample, make_model, plain, rows):
    model, params = make_model(max_position_embeddings=32)
    long = replace(
        rows[0], row_id="long", messages=(Message("user", "winter comes " * 40), Message("assistant", "Rome"))
    )
    none = replace(rows[0], row_id="none", messages=(Message("user", ""), Message("assistant", "Rome")))
    got = sample([long, none], model=model, params=params)
    tokens = plain.tokenizer("winter comes " * 40).input_ids
    assert got.truncated.tolist() == [len(tokens) + 6 - 1 - 32] * 3 + [0] * 3
    kept = scoring.Prompt("long", tokens[got.truncated[0] :], ())
    want, _ = sampling.answer(
        model, params, kept, 0, SampleConfig(new_tokens=6), stop=stop_ids(plain), vocab=len(plain.tokenizer)
    )
    assert got.tokens[0].tolist() == want
    with pytest.raises(InputError, match="new_tokens: 33, but the model sees at most 32"):
        sample([long], model=model, params=params, new_tokens=33)


def test_letters_are_drawn_from_the_option_distribution(sample, items, tiny, plain, mesh, tmp_path):
    """Many runs against score's p, within 5 sigma, and pass@N and best-of-N against detect's closed forms."""
    few, orders, runs = items[:8], 2, 400
    got = sample(few, protocol="letter", orders=orders, samples=runs, seed=3)
    cfg = ScoreConfig(protocol="letter", orders=orders, control=False)
    score_items(*tiny, plain, few, cfg, mesh=mesh, seed=3, out=tmp_path / "s.parquet")
    scores = pd.read_parquet(tmp_path / "s.parquet")
    for item in few:
        for order in range(orders):
            p = scores[(scores.row_id == item.row_id) & (scores.order == order)].p.iloc[0]
            drawn = got[(got.row_id == item.row_id) & (got["sample"] % orders == order)]
            share = np.bincount(drawn.predicted, minlength=len(p)) / len(drawn)
            assert (np.abs(share - p) < 5 * np.sqrt(p * (1 - p) / len(drawn)) + 1e-9).all()
            np.testing.assert_allclose(drawn.confidence, np.log(p[drawn.predicted]), rtol=1e-3, atol=1e-4)
    assert (got.correct == (got.predicted == got.row_id.map({item.row_id: item.answer for item in few}))).all()
    n = 4
    verdicts = detect(scores, DetectConfig(runs=n)).set_index("row_id")
    for row_id, drawn in got.groupby("row_id"):
        trials = len(drawn) // n  # samples 4t .. 4t+3 keep to their orders
        correct = drawn.correct.to_numpy().reshape(trials, n)
        best = correct[np.arange(trials), drawn.confidence.to_numpy().reshape(trials, n).argmax(1)]
        for found, want in ((correct.mean(1), verdicts.pass_at_n[row_id]), (best, verdicts.bon_correct[row_id])):
            assert abs(found.mean() - want) < 5 * max(found.std(), 0.05) / np.sqrt(trials), row_id


def test_greedy_letters_are_what_score_predicts(sample, items, tiny, plain, mesh, tmp_path):
    got = sample(items[:8], protocol="letter", orders=2, decode="greedy", seed=3)
    cfg = ScoreConfig(protocol="letter", orders=2, control=False)
    score_items(*tiny, plain, items[:8], cfg, mesh=mesh, seed=3, out=tmp_path / "s.parquet")
    assert got.predicted.tolist() == pd.read_parquet(tmp_path / "s.parquet").predicted.tolist()
    assert set(got.finished) == {"stop"} and got.text.isin(list("ABCDEFG")).all()


def test_letter_refuses_what_it_cannot_draw(sample, items, plain, tokenizer):
    with pytest.raises(InputError, match="decode: beam, but a label is one token"):
        sample(items[:2], protocol="letter", decode="beam")
    many = Item(row_id="many", question="?", options=tuple("abcdefghijklmnopqrstuvwxyzä"), answer=0)
    with pytest.raises(InputError, match="row_id many: 27 options"):
        sample([many], protocol="letter")


def test_a_killed_run_goes_on(sample, rows, monkeypatch, capfd):
    want = sample(rows)
    monkeypatch.setattr("ilpjax.scoring.sample.WINDOW", 4)

    def broken():
        yield from rows[:9]
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        sample(broken(), stamp="same")
    asked = []
    monkeypatch.setattr(
        "ilpjax.scoring.sample.Prompt", lambda row_id, *rest: asked.append(row_id) or scoring.Prompt(row_id, *rest)
    )
    got = sample(rows, stamp="same")
    pd.testing.assert_frame_equal(got, want, rtol=1e-4)
    assert asked == [row.row_id for row in rows[8:]] and "sample: 8 rows are there already" in capfd.readouterr().err


def test_summary_by_hand(tmp_path):
    lines = [
        ("a", -1.0, True),
        ("a", -2.0, False),
        ("b", -3.0, True),
        ("b", -1.0, False),
        ("c", -1.0, True),
        ("c", -1.0, False),
    ]
    pd.DataFrame(lines, columns=["row_id", "confidence", "correct"]).to_parquet(tmp_path / "s.parquet")
    found = sample_summary(tmp_path / "s.parquet")
    assert found["pass_at_n"] == {"n": 2.0, "rows": 3, "mean": 0.5, "low": 0.5, "high": 0.5}
    assert (found["best_of_n"]["count"], found["best_of_n"]["of"]) == (2, 3)


def test_the_job_from_files(tmp_path, tiny, tokenizer, rows, sample, capfd):
    save_model(tmp_path / "model", *tiny, tokenizer=tokenizer)
    (tmp_path / "model/generation_config.json").write_text('{"eos_token_id": [0, 7]}')
    rows_table(rows).to_parquet(tmp_path / "rows.parquet")
    keys = [f"model={tmp_path / 'model'}", f"rows={tmp_path / 'rows.parquet'}", f"out={tmp_path / 'o.parquet'}"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["sample", *keys, "samples=3", "new_tokens=6", "mesh.data=8"])
    assert ended.value.code == 0
    assert re.search(r"12 rows: pass@3 0\.\d+ .*most confident of 3 right 0\.", capfd.readouterr().out)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "o.parquet"), sample(rows, ends=[0, 7]), rtol=1e-4)


def test_stop_ids_come_from_everywhere(plain, chat, tmp_path):
    end = plain.tokenizer.eos_token_id
    assert stop_ids(plain) == [end] == stop_ids(chat)
    (tmp_path / "config.json").write_text('{"eos_token_id": 5}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [9, 5]}')
    assert stop_ids(plain, tmp_path) == sorted({end, 5, 9})
