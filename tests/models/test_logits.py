"""Logits against the peers: transformers in torch where it is installed, golden files everywhere."""

import numpy as np
import pytest
from make_golden import FOLDER, KEPT
from tiny import CASES, case_model, one_device, plain_logits, prompt

from ilpjax.models import load_model, save_model

NEAR = 1e-4  # of the largest |logit|


def apart(ours: np.ndarray, theirs: np.ndarray, largest: float) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / largest)


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_the_golden_ones(case):
    model, params = case_model(case)
    golden = np.load(FOLDER / f"{case}.npz")
    logits = plain_logits(model, params, prompt())[0]
    assert apart(logits[KEPT], golden["logits"], float(golden["largest"])) <= NEAR
    assert (logits.argmax(-1) == golden["argmax"]).mean() > 0.99  # a tie may fall either way


@pytest.mark.torch
@pytest.mark.parametrize("case", CASES)
def test_exported_checkpoint_gives_the_same_logits_in_torch(case, tmp_path, record_property):
    torch_logits = pytest.importorskip("torch_reference", reason="no torch").torch_logits
    model, params = case_model(case)
    save_model(tmp_path / "model", model, params)
    ours, theirs = plain_logits(model, params, prompt()), torch_logits(tmp_path / "model", prompt())
    ratio = apart(ours, theirs, float(np.abs(theirs).max()))
    record_property("max_difference_over_max_logit", ratio)
    print(f"{case}: max |difference| / max |logit| = {ratio:.1e}")
    assert ratio <= NEAR


@pytest.mark.torch
@pytest.mark.parametrize("case", ["llama3_scaled_tied", "llama_bias_linear", "qwen2_untied", "qwen3", "olmo2"])
def test_checkpoint_written_by_transformers_is_read(case, tmp_path):
    """In transformers' own spelling of config.json and its own way of writing files."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model, params = case_model(case)
    save_model(tmp_path / "ours", model, params)
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    peer.save_pretrained(tmp_path / "theirs", max_shard_size="100kB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").is_file()
    again, weights = load_model(tmp_path / "theirs", one_device())
    assert again == model
    assert np.array_equal(plain_logits(again, weights, prompt(64)), plain_logits(model, params, prompt(64)))
