"""The ready configs are the models they say, and cut as their slice allows."""

import math
from pathlib import Path

import pytest

from ilpjax.config import PlanJob
from ilpjax.models import ModelSpec

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "plan").glob("*.yaml"))
# Weights as published with the checkpoints.
PARAMS = {
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-1.5B": 1_543_714_304,
    "Qwen2.5-7B": 7_615_616_512,
    "Qwen2.5-14B": 14_770_033_664,
    "Qwen-7B": 7_721_324_544,
    "LLaMA2-7B": 6_738_415_616,
    "LLaMA2-13B": 13_015_864_320,
    "Llama-3.1-8B": 8_030_261_248,
    "OLMo2-7B": 7_298_617_344,
}


def read(path):
    return PlanJob.from_args([str(path)])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_is_what_it_says(path):
    job = read(path)
    assert ModelSpec.from_config(job.config).num_params == PARAMS[job.title]
    assert path.stem.startswith(f"{job.title.lower()}_{job.topology.replace(':', '-')}")
    assert f"configs/plan/{path.name}" in path.read_text().splitlines()[0]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_is_cut_as_the_slice_allows(path):
    job = read(path)
    chips = math.prod(map(int, job.topology.split(":")[1].split("x")))
    data = chips // (job.mesh.fsdp * job.mesh.tensor) if job.mesh.data == -1 else job.mesh.data
    assert data * job.mesh.fsdp * job.mesh.tensor == chips
    batch = {"sft": job.sft.batch, "score": job.score.batch, "sample": job.sample.batch}[job.job]
    assert batch % (data * job.mesh.fsdp) == 0


def test_every_model_and_a_slice_of_512():
    jobs = [read(path) for path in CONFIGS]
    assert {job.title for job in jobs} == set(PARAMS)
    assert {job.job for job in jobs} == {"sft", "score", "sample"}
    assert any(job.topology == "v5p:8x8x8" for job in jobs)
