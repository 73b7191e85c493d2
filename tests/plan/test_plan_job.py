import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ilpjax import cli
from ilpjax.config import MeshConfig, PlanJob
from ilpjax.parallel import make_mesh
from ilpjax.plan import find_slice, make_plan
from ilpjax.plan.job import table

ROOT = Path(__file__).parents[2]
TINY = dict(model_type="qwen2", hidden_size=256, intermediate_size=512, num_hidden_layers=3, num_attention_heads=2,
            num_key_value_heads=1, vocab_size=4096, max_position_embeddings=4096, tie_word_embeddings=True)  # fmt: skip
libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")


def job(**values):
    return PlanJob.make({"config": TINY, "topology": "v5e:2x2", "mesh": {"fsdp": 4}, "search": 0} | values)


def refusal(capsys, *args):
    with pytest.raises(SystemExit) as caught:
        cli.main(["plan", *args])
    assert caught.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ilpjax: ")]
    return line


CONFIG = f"config={json.dumps(TINY)}"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([CONFIG, "topology=v5p-128"], "topology: v5p-128 is not a TPU slice; v5e:4x4 or v5p:4x4x4 would be right"),
        ([CONFIG, "topology=h100:8x8"], "topology: h100:8x8 is not a TPU slice"),
        (["topology=v5e:2x2"], "model, config: one of the two is needed"),
        ([CONFIG, "model=x/y", "topology=v5e:2x2"], "model, config: one of the two is needed"),
        (['config={"model_type": "gpt2"}', "topology=v5e:2x2"], 'config: model_type: "gpt2" is not supported'),
        ([CONFIG], "topology: required"),
    ],
)
def test_refusals(capsys, args, said):
    assert said in refusal(capsys, *args)


def test_without_libtpu_one_line_says_what_would_be_right(capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "libtpu" else find(name))
    said = refusal(capsys, CONFIG, "topology=v5e:2x2")
    assert "libtpu is not installed; pip install 'ilpjax[tpu]' would be right" in said


@libtpu
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["topology=v5e:3x5"], "topology: v5e:3x5 cannot be had"),
        (["topology=v5e:2x2", "mesh.fsdp=8"], "mesh: data=-1 x fsdp=8 x tensor=1 does not fit the device count 4"),
        (["topology=v5e:2x2", "mesh.fsdp=4", "sft.batch=6"], "batch: 6 sequences cannot be cut"),
    ],
)
def test_refusals_of_the_slice(capsys, args, said):
    assert said in refusal(capsys, CONFIG, *args)


@libtpu
def test_a_mesh_need_not_follow_the_torus():
    mesh = make_mesh(MeshConfig(data=2, fsdp=8), find_slice("v5e:4x4").devices)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 8, "tensor": 1}


@libtpu
def test_a_small_plan():
    """fsdp=4: arguments are a fourth of weights and moments, weights are gathered and gradients scattered."""
    plan = make_plan(job(sft={"batch": 8, "seq_len": 256}))
    (step,) = plan["parts"]
    state = 3 * 4 * plan["params"] / 4
    assert plan["fits"] and plan["chips"] == 4 and plan["batch_unit"] == 4
    assert state < step["memory"]["arguments"] < 1.1 * state
    assert step["memory"]["aliased"] > 0.99 * state  # the state is donated
    assert plan["hardware_flops"] > plan["model_flops"] > 0 and 0 < plan["mfu"] < 1
    assert step["floors"]["compute_s"] == pytest.approx(plan["hardware_flops"] / (4 * 197e12))
    moved = sum(one["bytes"] * one["count"] for one in step["collectives"] if one["devices"] in (0, 4))
    gathers = 2 * plan["params"]  # bf16
    assert gathers < moved < 12 * plan["params"], "weights gathered twice, gradients scattered, little else"
    # Never the logits, [8, 256, 4096], nor a chunk of them.
    assert max(one["bytes"] for one in step["collectives"]) < 1.01 * 4 * 256 * 4096  # a few scalars may go along
    json.dumps(plan)
    text = "\n".join(table(plan))
    assert "fits" in text and "an estimate" in text and "splash" in plan["attention"]


@libtpu
def test_as_a_process_with_nothing_set():
    """No JAX_PLATFORMS: no TPU is looked for, nothing but the plan is printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "TPU_", "XLA_"))}
    args = [CONFIG, "topology=v5e:2x2", "mesh.fsdp=4", "sft.batch=4", "sft.seq_len=128", "search=2", "json=true"]
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "plan.py", *args], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["fits"] and plan["largest_batch"] >= 4 and len(plan["search_compiled"]) == 2
    assert "WARNING" not in done.stderr and "Error" not in done.stderr


@libtpu
@pytest.mark.parametrize("name", ["score", "sample"])
def test_the_other_jobs(name):
    plan = make_plan(job(job=name, prompt=100, score={"batch": 4}, sample={"batch": 4, "samples": 2, "new_tokens": 8}))
    assert plan["fits"] and plan["parts"] and 0 < plan["mfu"] < 1
