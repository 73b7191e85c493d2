"""Checkpoint folders in and out, and every way in which one can be wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import case_model, one_device, tiny_checkpoint, tiny_model

from ilpjax.errors import InputError
from ilpjax.models import files, load_model, read_spec, resolve, save_model


def refused(folder: Path | str, *words: str) -> None:
    with pytest.raises(InputError) as error:
        load_model(folder, one_device())
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def change(folder: Path, **tensors: np.ndarray | None) -> None:
    """Rewrites the checkpoint's tensors; None takes one out."""
    old = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in (old | tensors).items() if value is not None}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "model", "llama")


@pytest.mark.parametrize("case", ["llama_bias_linear", "qwen2_7to1", "qwen3", "olmo2", "qwen"])
def test_what_is_written_is_read(case: str, tmp_path: Path):
    model, params = case_model(case)
    save_model(tmp_path / "model", model, params)
    again, weights = load_model(tmp_path / "model", one_device())
    assert again == model and hash(again) == hash(model)
    assert jax.tree.structure(weights) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, weights, params)
    assert model.spec.num_params == sum(x.size for x in jax.tree.leaves(params))


def test_bfloat16_on_disk_and_in_memory(tmp_path: Path):
    model, params = tiny_model("llama")
    save_model(tmp_path / "model", model, params, dtype=jnp.bfloat16)
    assert json.loads((tmp_path / "model/config.json").read_text())["dtype"] == "bfloat16"
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    low = load_model(tmp_path / "model", one_device(), jnp.bfloat16)[1]
    jax.tree.map(np.testing.assert_array_equal, low, rounded)
    high = load_model(tmp_path / "model", one_device())[1]
    assert {x.dtype for x in jax.tree.leaves(high)} == {jnp.dtype("float32")}
    jax.tree.map(np.testing.assert_array_equal, high, jax.tree.map(lambda x: x.astype(jnp.float32), rounded))


@pytest.mark.parametrize("family", ["llama", "qwen"])
def test_shards_with_an_index(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, params = tiny_model(family)
    monkeypatch.setattr(files, "SHARD_BYTES", 70_000)
    save_model(tmp_path / "model", model, params)
    names = sorted(path.name for path in (tmp_path / "model").glob("*.safetensors"))
    assert len(names) > 2 and names[0] == f"model-00001-of-{len(names):05}.safetensors"
    assert all((tmp_path / "model" / name).stat().st_size < 80_000 for name in names)
    jax.tree.map(np.testing.assert_array_equal, load_model(tmp_path / "model", one_device())[1], params)
    (tmp_path / "model" / names[1]).unlink()
    refused(tmp_path / "model", names[1], "missing")


def test_config_keeps_what_it_came_with(tmp_path: Path):
    folder = tiny_checkpoint(tmp_path / "model", "qwen2", eos_token_id=7, torch_dtype="bfloat16", max_window_layers=1)
    config = json.loads((folder / "config.json").read_text())
    assert config["eos_token_id"] == 7 and config["max_window_layers"] == 1
    assert config["dtype"] == "float32" and "torch_dtype" not in config  # what is on disk now
    assert config["architectures"] == ["Qwen2ForCausalLM"]


class Tokenizer:
    def save_pretrained(self, folder: Path) -> None:
        (Path(folder) / "tokenizer.json").write_text("{}")


def test_tokenizer_is_saved_with_the_model(tmp_path: Path):
    folder = tiny_checkpoint(tmp_path / "model", tokenizer=Tokenizer())
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_a_checkpoint_is_replaced_and_other_folders_are_not(folder: Path, tmp_path: Path):
    save_model(folder, *tiny_model("qwen2"))
    assert read_spec(folder).family == "qwen2"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    for target in (tmp_path / "mine", tmp_path / "mine/thesis.txt", tmp_path):
        with pytest.raises(InputError, match="folder"):
            save_model(target, *tiny_model("llama"))
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"


def test_a_write_that_fails_leaves_the_old_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch):
    before = (folder / "model.safetensors").read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_bytes", full)
    with pytest.raises(OSError, match="No space"):
        save_model(folder, *tiny_model("llama", seed=1))
    assert (folder / "model.safetensors").read_bytes() == before
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_missing_tensor(folder: Path):
    change(folder, **{"model.layers.1.mlp.up_proj.weight": None})
    refused(folder, "model.layers.1.mlp.up_proj.weight", "missing")


def test_wrong_shape(folder: Path):
    change(folder, **{"model.norm.weight": np.ones(47, np.float32)})
    refused(folder, "model.norm.weight", "(47,)", "(48,)")


def test_extra_tensor(folder: Path):
    change(folder, **{"model.layers.0.self_attn.q_proj.bias": np.ones(48, np.float32)})
    refused(folder, "model.layers.0.self_attn.q_proj.bias", "no place in a llama model")


def test_more_layers_than_the_config_says(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    refused(folder, "model.layers.1.", "no place")


def test_rope_buffers_of_old_checkpoints_are_left_aside(folder: Path):
    change(folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(6, np.float32)})
    load_model(folder, one_device())


def test_integer_weights(folder: Path):
    change(folder, **{"model.norm.weight": np.ones(48, np.int8)})
    refused(folder, "model.norm.weight", "I8", "BF16")


@pytest.mark.parametrize("kept", [0, 4, 100, -1, -1000])
def test_truncated_file(folder: Path, kept: int):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refused(folder, "model.safetensors", "not a whole safetensors file")


def test_tied_head_beside_the_embedding(tmp_path: Path):
    folder = tiny_checkpoint(tmp_path / "model", "qwen2")
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    change(folder, **{"lm_head.weight": embedding})
    load_model(folder, one_device())
    change(folder, **{"lm_head.weight": embedding + 1})
    refused(folder, "tie_word_embeddings", "lm_head.weight")


def test_pickles_are_not_opened(folder: Path):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin", "pickle", "safetensors")
    (folder / "pytorch_model.bin").unlink()
    refused(folder, "no model.safetensors")


def test_broken_index(folder: Path):
    (folder / "model.safetensors.index.json").write_text("[]")
    refused(folder, "model.safetensors.index.json", "weight_map")


def test_config_missing_or_broken(folder: Path, tmp_path: Path):
    (folder / "config.json").write_text("{")
    refused(folder, "config.json", "not JSON")
    (folder / "config.json").unlink()
    refused(folder, "config.json")
    refused(tmp_path / "nowhere", "nowhere", "no such folder")


def test_hub_names_offline():
    refused("no-one/no-such-model", "no-one/no-such-model", "hub")


def test_resolve(folder: Path):
    assert resolve(str(folder)) == folder
    with pytest.raises(InputError, match="a file"):
        resolve(folder / "config.json")


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_host_memory_stays_within_two_tensors(devices: int, tmp_path: Path):
    """139 MB of weights whose largest tensor is 34 MB: what lies in host memory beyond them, and the 1 MB of Python.

    Host buffers are held to two tensors. The resident part has 16 MB to spare for the allocator; on a CPU it also
    counts what an accelerator would hold, the device's copy of the tensor that is written, and newer XLA gives such
    pages back late: one tensor more.
    """
    tiny_checkpoint(
        tmp_path / "model",
        "llama",
        vocab=16384,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=8,
    )
    flags = f"--xla_force_host_platform_device_count={devices}"
    # A fixed threshold, so that the allocator gives large buffers back at once.
    env = os.environ | {"XLA_FLAGS": flags, "MALLOC_MMAP_THRESHOLD_": "65536"}
    probe = Path(__file__).parent / "memory_probe.py"
    command = [sys.executable, str(probe), str(tmp_path / "model"), str(tmp_path / "out")]
    report = json.loads(subprocess.run(command, env=env, capture_output=True, check=True, text=True).stdout)
    print(report)
    largest = report["largest_tensor"]
    assert largest == 4 * 16384 * 512
    for stage in ("load", "save"):
        assert report[stage]["python_and_numpy"] <= 2 * largest + (1 << 20)
        assert report[stage]["resident_beyond_weights"] <= 3 * largest + (16 << 20)
