"""Two real processes over jax.distributed, against one."""

import socket

import numpy as np
import pytest
from safetensors.numpy import load_file
from small import base_and_rows, finish, start, table_of

SETTINGS = ("sft.epochs=3", "sft.batch=4", "sft.seq_len=64", "sft.lr=1e-3", "sft.save_every=5", "data.max_tokens=64")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["mesh.data=2", "mesh.fsdp=2"])
def test_two_processes_train_the_same_model_as_one(tmp_path, mesh):
    base, rows = base_and_rows(tmp_path)
    command = ("sft", f"base={base}", f"rows={rows}", *SETTINGS)
    alone = start(*command, f"out={tmp_path / 'one'}")
    together = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    pair = [start(*command, f"out={tmp_path / 'two'}", mesh, JAX_PROCESS_ID=str(n), **together) for n in range(2)]
    finish(alone)
    for process in pair:
        finish(process)

    one, two = (load_file(tmp_path / run / "tuned" / "model.safetensors") for run in ("one", "two"))
    before = load_file(base / "model.safetensors")
    assert one.keys() == two.keys()
    moved = max(np.abs(one[name] - before[name]).max() for name in one)
    for name in one:
        np.testing.assert_allclose(one[name], two[name], atol=1e-3 * moved)
    one, two = (table_of(tmp_path / run, "dynamics").sort_values(["step", "row_id"]) for run in ("one", "two"))
    for column in ("row_id", "step", "epoch", "tokens"):
        assert one[column].tolist() == two[column].tolist()
    for column in ("loss", "p_right"):
        np.testing.assert_allclose(one[column], two[column], rtol=1e-5)
    logs = [table_of(tmp_path / run, "train_log") for run in ("one", "two")]
    np.testing.assert_allclose(logs[0]["loss"], logs[1]["loss"], rtol=1e-5)
    assert logs[0]["tokens"].tolist() == logs[1]["tokens"].tolist()
