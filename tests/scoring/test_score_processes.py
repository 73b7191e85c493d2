"""Two real processes over jax.distributed score what one does, and one of them writes."""

import os
import socket
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from ilpjax.data import items_table
from ilpjax.models import save_model


def start(*args, devices=1, **environment):
    env = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"} | environment
    code = "import sys; from ilpjax.cli import main; main(sys.argv[1:])"
    return subprocess.Popen([sys.executable, "-c", code, *args], env=env, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_score_as_one(tmp_path, tiny, tokenizer, items):
    model, params = tiny
    save_model(tmp_path / "model", model, params, tokenizer=tokenizer)
    items_table(items[:20]).to_parquet(tmp_path / "items.parquet")
    command = ["score", f"model={tmp_path / 'model'}", f"items={tmp_path / 'items.parquet'}"]
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    together = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    runs = [start(*command, f"out={tmp_path / 'one.parquet'}")]
    for n in range(2):
        out = f"out={tmp_path / 'two.parquet'}"
        runs.append(start(*command, out, "mesh.data=2", "mesh.fsdp=2", devices=2, JAX_PROCESS_ID=str(n), **together))
    errors = [run.communicate(timeout=300)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], errors
    one, two = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    assert one.row_id.tolist() == two.row_id.tolist() == [item.row_id for item in items[:20]]
    for column in ("option_logprob", "control_logprob", "p"):
        np.testing.assert_allclose(np.concatenate(two[column]), np.concatenate(one[column]), rtol=1e-5, atol=1e-5)
    assert "score: 20 of 20 items" in errors[1] and "score:" not in errors[2]
