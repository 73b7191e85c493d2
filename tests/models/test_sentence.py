"""Sentence encoders against sentence-transformers, golden vectors, and folders that are not to be read."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from huggingface_hub.utils import filter_repo_objects
from safetensors.numpy import load_file, save_file
from tiny import one_device
from tiny_encoder import LONGEST, TEXTS, TOKENIZERS, WIDTH, tiny_encoder

from ilpjax.data import load_tokenizer
from ilpjax.errors import InputError
from ilpjax.models import load_sentence_model, resolve
from ilpjax.models.bert import relative_buckets

NEAR = 1e-5  # of the largest value
TANH = "torch.nn.modules.activation.Tanh"
ALL = ("cls", "max", "mean", "mean_sqrt_len_tokens")
CASES: dict[str, dict[str, Any]] = {
    "mean": {},
    "cls": {"pooling": ("cls",), "normalize": False},
    "max": {"pooling": ("max",), "normalize": False},
    "sqrt": {"pooling": ("mean_sqrt_len_tokens",), "normalize": False},
    "all_dense": {"pooling": ALL, "dense": TANH},
    "identity": {"dense": "torch.nn.modules.linear.Identity", "normalize": False},
    "plain": {"pooling": None, "longest": None},
    "lower": {"lower": True},
    "tanh_gelu": {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5},
    "prefixed": {"prefix": "bert."},
    "prompted": {"prompt": "the cat: "},
    "old": {"inside": "0_Transformer"},
    "mpnet": {"family": "mpnet"},
    "mpnet_plain": {"family": "mpnet", "pooling": None},
    "mpnet_max_dense": {"family": "mpnet", "pooling": ("max", "mean"), "dense": TANH, "prefix": "mpnet."},
}


def vectors(folder: Path, texts: list[str] = TEXTS, dtype: Any = jnp.float32) -> np.ndarray:
    """All texts in one batch, padded to the longest."""
    model, params = load_sentence_model(folder, one_device(), dtype)
    tokenizer = model.prepare_tokenizer(load_tokenizer(model.tokenizer))
    encoded = tokenizer([model.prepare(text) for text in texts], truncation=True, max_length=model.max_tokens)
    lengths = np.array([len(ids) for ids in encoded["input_ids"]])
    tokens = np.full((len(texts), lengths.max()), model.spec.pad)
    for row, ids in zip(tokens, encoded["input_ids"], strict=True):
        row[: len(ids)] = ids
    made = np.asarray(jax.jit(type(model).embed, static_argnums=0)(model, params, tokens, lengths))
    assert made.shape == (len(texts), model.dims) and made.dtype == np.float32
    return made


def theirs(folder: Path, texts: list[str] = TEXTS) -> np.ndarray:
    peer = pytest.importorskip("sentence_transformers", reason="no sentence-transformers")
    return peer.SentenceTransformer(str(folder), device="cpu").encode(texts)


@pytest.mark.torch
@pytest.mark.parametrize("case", CASES)
def test_vectors_equal_those_of_sentence_transformers(case: str, tmp_path: Path):
    folder = tiny_encoder(tmp_path / "model", **CASES[case])
    peer = theirs(folder)
    ours = vectors(folder)
    assert ours.shape == peer.shape
    assert np.abs(ours - peer).max() <= NEAR * np.abs(peer).max()
    assert np.abs(peer[0] - peer[1]).max() > 100 * NEAR * np.abs(peer).max()  # the weights tell texts apart


@pytest.mark.torch
@pytest.mark.parametrize("case", ["all_dense", "lower", "plain", "mpnet_max_dense"])
def test_a_folder_as_sentence_transformers_writes_it_now(case: str, tmp_path: Path):
    peer = pytest.importorskip("sentence_transformers", reason="no sentence-transformers")
    folder = tiny_encoder(tmp_path / "model", **CASES[case])
    peer.SentenceTransformer(str(folder), device="cpu").save_pretrained(str(tmp_path / "saved"))
    assert np.array_equal(vectors(tmp_path / "saved"), vectors(folder))


def test_modes_in_a_list_keep_its_order(tmp_path: Path):
    folder = tiny_encoder(tmp_path / "model", pooling=("max", "mean"), normalize=False)
    both = vectors(folder)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": ["mean", "max"]}))
    assert np.array_equal(vectors(folder), np.roll(both, WIDTH, axis=1))


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_vectors_equal_the_golden_ones(family: str, tmp_path: Path):
    from make_golden_sentences import FILE

    golden = json.loads(FILE.read_text())[family]
    ours = vectors(tiny_encoder(tmp_path / "model", family), golden["texts"])
    np.testing.assert_allclose(ours, golden["vectors"], atol=NEAR)


@pytest.mark.torch
def test_distances_fall_into_the_buckets_they_were_trained_with():
    torch = pytest.importorskip("torch")
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    distance = torch.arange(512)[None, :] - torch.arange(512)[:, None]
    assert np.array_equal(relative_buckets(512), MPNetEncoder.relative_position_bucket(distance).numpy())


def test_near_distances_have_a_bucket_each_and_far_ones_share():
    buckets = relative_buckets(200)
    assert buckets[0, :8].tolist() == [0, 17, 18, 19, 20, 21, 22, 23]
    assert buckets[:8, 0].tolist() == list(range(8))
    assert buckets[0, 128] == buckets[0, 199] == 31 and buckets[199, 0] == 15


def test_tensors_of_tensorflow_and_other_heads(tmp_path: Path):
    """bert-base-uncased spells layer norm with gamma and beta, and carries a head for masked words."""
    folder = tiny_encoder(tmp_path / "model", prefix="bert.")
    before = vectors(folder)
    spelt = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = load_file(folder / "model.safetensors") | {"cls.predictions.bias": np.zeros(3, np.float32)}
    for new, old in spelt.items():
        tensors = {name.replace(new, old): value for name, value in tensors.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert np.array_equal(vectors(folder), before)


def test_bfloat16_is_near(tmp_path: Path):
    folder = tiny_encoder(tmp_path / "model")
    high, low = vectors(folder), vectors(folder, dtype=jnp.bfloat16)
    apart = np.abs(high - low).max()
    assert 1e-5 < apart < 0.1
    assert (high * low).sum(-1).min() > 0.99


def test_lengths_come_from_the_folder_and_stay_within_the_positions(tmp_path: Path):
    longest = lambda name, **kwargs: load_sentence_model(tiny_encoder(tmp_path / name, **kwargs), one_device())[0]
    assert longest("asked").max_tokens == LONGEST
    assert longest("more", longest=5000).max_tokens == 48
    assert longest("offset", family="mpnet", longest=5000).max_tokens == 46
    assert longest("tokenizer", longest=None).max_tokens == TOKENIZERS
    assert longest("plain", pooling=None).max_tokens == TOKENIZERS  # sentence_bert_config.json is a module's


def change(folder: Path, **tensors: np.ndarray | None) -> None:
    kept = load_file(folder / "model.safetensors") | tensors
    save_file({k: v for k, v in kept.items() if v is not None}, folder / "model.safetensors", {"format": "pt"})


def edit(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def module(folder: Path, kind: str, place: str = "2_New") -> None:
    path = folder / "modules.json"
    new = {"idx": 3, "name": "3", "path": place, "type": kind}
    path.write_text(json.dumps([*json.loads(path.read_text()), new]))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


WRONG = {
    "pickle": (pickled, "pytorch_model.bin", "pickle"),
    "pickled dense": (lambda f: pickled(f / "2_Dense"), "2_Dense", "pickle"),
    "missing": (lambda f: change(f, **{"encoder.layer.1.output.dense.bias": None}), "layer.1.output.dense.bias"),
    "shape": (lambda f: change(f, **{"embeddings.LayerNorm.bias": np.zeros(3, np.float32)}), "LayerNorm.bias", "(3,)"),
    "layers": (lambda f: edit(f / "config.json", num_hidden_layers=1), "encoder.layer.1.", "1 layers"),
    "type": (lambda f: edit(f / "config.json", model_type="roberta"), "model_type", "roberta", "bert", "mpnet"),
    "act": (lambda f: edit(f / "config.json", hidden_act="mish"), "hidden_act", "mish", "gelu"),
    "relative": (lambda f: edit(f / "config.json", position_embedding_type="relative_key"), "relative_key"),
    "heads": (lambda f: edit(f / "config.json", num_attention_heads=5), "num_attention_heads 5"),
    "null": (lambda f: edit(f / "config.json", hidden_size=None), "hidden_size", "null"),
    "unknown": (lambda f: module(f, "sentence_transformers.models.LSTM"), "modules.json", "LSTM", "Dense"),
    "code": (lambda f: module(f, "custom_st.Transformer"), "modules.json", "custom_st.Transformer"),
    "twice": (lambda f: module(f, "sentence_transformers.models.Pooling", "1_Pooling"), "Pooling"),
    "mode": (lambda f: edit(f / "1_Pooling/config.json", pooling_mode_lasttoken=True), "pooling_mode_lasttoken", "cls"),
    "weighted": (lambda f: edit(f / "1_Pooling/config.json", pooling_mode="weightedmean"), "weightedmean", "mean"),
    "no mode": (lambda f: edit(f / "1_Pooling/config.json", pooling_mode_mean_tokens=False), "no pooling mode"),
    "dense act": (lambda f: edit(f / "2_Dense/config.json", activation_function="a.b.ELU"), "a.b.ELU", "Tanh"),
    "dense": (lambda f: edit(f / "2_Dense/config.json", out_features=5), "linear.weight", "(5, 32)", "(24, 32)"),
    "longest": (lambda f: edit(f / "sentence_bert_config.json", max_seq_length="x"), "max_seq_length", "'x'"),
    "json": (lambda f: (f / "modules.json").write_text("{"), "modules.json", "list of modules"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_refused_in_one_line(wrong: str, tmp_path: Path):
    spoil, *words = WRONG[wrong]
    folder = tiny_encoder(tmp_path / "model", dense=TANH)
    spoil(folder)
    with pytest.raises(InputError) as error:
        load_sentence_model(folder, one_device())
    assert "\n" not in str(error.value)
    assert not [word for word in words if word not in str(error.value)], str(error.value)


def test_an_encoders_own_files_come_from_the_hub_for_an_encoder_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = [
        "modules.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "1_Pooling/config.json",
        "2_Dense/model.safetensors",
        "0_Transformer/vocab.txt",
    ]
    both = ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"]
    never = ["pytorch_model.bin", "2_Dense/pytorch_model.bin", "onnx/model.onnx", "openvino/openvino_model.xml", "a.py"]
    asked: list[list[str]] = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append(list(filter_repo_objects([*own, *both, *never], allow_patterns=allow_patterns)))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert resolve("some/encoder", encoder=True) == tmp_path
    resolve("some/decoder")
    assert asked == [own + both, both]


def test_a_folder_without_a_model_is_no_encoder(tmp_path: Path):
    with pytest.raises(InputError, match="no config.json"):
        load_sentence_model(tmp_path, one_device())
    assert load_sentence_model(tiny_encoder(tmp_path / "old", inside="0_Transformer"), one_device())[0].dims == WIDTH
