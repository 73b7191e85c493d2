"""config.json in both spellings, and what is refused by name."""

import json
from typing import Any

import pytest
from tiny import FAMILIES, tiny_spec

from ilpjax.errors import InputError
from ilpjax.models import ModelSpec

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("llama", {"model_type": "mixtral"}, ["model_type", "mixtral", "llama", "qwen2", "olmo2"]),
        ("llama", {"model_type": None}, ["model_type", "null"]),
        ("qwen3", {"model_type": "qwen3_moe", "num_experts": 8}, ["model_type", "qwen3_moe"]),
        ("llama", {"hidden_act": "gelu"}, ["hidden_act", "gelu", "silu"]),
        (
            "llama",
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            ["rope_scaling.rope_type", "dynamic", "linear"],
        ),
        ("qwen2", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, ["rope_scaling.rope_type", "yarn"]),
        ("llama", {"rope_parameters": {"rope_type": "longrope"}}, ["rope_parameters.rope_type", "longrope"]),
        ("llama", {"rope_scaling": {"rope_type": "linear"}}, ["rope_scaling.factor", "None", "needs a number"]),
        ("llama", {"rope_scaling": LLAMA3 | {"low_freq_factor": "x"}}, ["rope_scaling.low_freq_factor", "x"]),
        ("llama", {"partial_rotary_factor": 0.5}, ["partial_rotary_factor", "0.5", "1.0"]),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, ["quantization_config", "gptq"]),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}, ["use_sliding_window", "true", "false"]),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, ["layer_types", "sliding_attention"]),
        ("llama", {"sliding_window": 4096}, ["sliding_window", "4096"]),
        ("llama", {"attention_dropout": 0.1}, ["attention_dropout", "0.1", "0.0"]),
        ("qwen", {"rotary_pct": 0.25}, ["partial_rotary_factor", "0.25"]),
        ("qwen", {"scale_attn_weights": False}, ["scale_attn_weights", "false"]),
        ("qwen2", {"architectures": ["Qwen2ForSequenceClassification"]}, ["architectures", "SequenceClassification"]),
        ("llama", {"hidden_size": None}, ["hidden_size", "missing"]),
        ("llama", {"vocab_size": "many"}, ["vocab_size", "many", "positive integer"]),
        ("llama", {"num_hidden_layers": 0}, ["num_hidden_layers", "0", "positive integer"]),
        ("llama", {"num_key_value_heads": 3}, ["num_key_value_heads", "3", "multiple"]),
        ("llama", {"head_dim": 5}, ["head_dim", "5", "even"]),
    ],
)
def test_refused_by_name(family: str, changes: dict[str, Any], words: list[str]):
    with pytest.raises(InputError) as error:
        ModelSpec.from_config(FAMILIES[family] | changes, "some/config.json")
    message = str(error.value)
    assert message.startswith("some/config.json: ") and "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen2", {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 1}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 2}),  # no layer has it
        ("qwen3", {"layer_types": ["full_attention", "full_attention"]}),
        ("llama", {"rope_scaling": None, "quantization_config": None, "pretraining_tp": 1}),
        ("llama", {"attention_dropout": 0.0, "hidden_act": "silu"}),
    ],
)
def test_switches_that_do_nothing_are_fine(family: str, changes: dict[str, Any]):
    assert tiny_spec(family, **changes) == tiny_spec(family)


@pytest.mark.parametrize(
    "scaling", [{}, {"rope_type": "linear", "factor": 2.0}, {"type": "linear", "factor": 2.0}, LLAMA3]
)
def test_both_spellings_of_rope_agree(scaling: dict[str, Any]):
    base = {key: value for key, value in FAMILIES["llama"].items() if key != "rope_theta"}
    four = ModelSpec.from_config(base | {"rope_theta": 5e5, "rope_scaling": scaling or None})
    five = ModelSpec.from_config(
        base | {"rope_parameters": {"rope_theta": 5e5} | (scaling or {"rope_type": "default"})}
    )
    assert four == five and four.rope.theta == 5e5
    assert four.rope.kind == scaling.get("rope_type", scaling.get("type", "default"))


@pytest.mark.parametrize("family", FAMILIES)
def test_config_survives_a_round_trip(family: str):
    spec = tiny_spec(family, bos_token_id=3)
    config = json.loads(json.dumps(spec.to_config()))
    assert config["bos_token_id"] == 3
    assert ModelSpec.from_config(config) == spec


def test_defaults_are_written_out():
    small = {key: FAMILIES["llama"][key] for key in ("model_type", "vocab_size", "hidden_size", "intermediate_size")}
    config = ModelSpec.from_config(small | {"num_hidden_layers": 1, "num_attention_heads": 4}).to_config()
    assert config["num_key_value_heads"] == 4 and config["rope_theta"] == 10000.0
    assert config["tie_word_embeddings"] is False and config["architectures"] == ["LlamaForCausalLM"]


def test_known_sizes():
    """Qwen2.5-0.5B has 494,032,768 weights (its model card: 0.49B)."""
    spec = ModelSpec.from_config(
        {
            "model_type": "qwen2",
            "vocab_size": 151936,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        }
    )
    assert spec.num_params == 494_032_768
    # Without attention: 6 FLOPs a weight that multiplies (all but norms and biases).
    assert spec.flops_per_token(0) == pytest.approx(6 * spec.num_params, rel=1e-3)
    assert spec.flops_per_token(4096) - spec.flops_per_token(0) == 6 * 24 * 14 * 64 * 4096


def test_first_qwen_is_refused_beyond_its_context():
    spec = tiny_spec("qwen")
    spec.check_positions(1024)
    with pytest.raises(InputError, match="1025 tokens.*use_dynamic_ntk"):
        spec.check_positions(1025)
    tiny_spec("qwen", use_dynamic_ntk=False, use_logn_attn=False).check_positions(1025)
    tiny_spec("llama").check_positions(5000)
