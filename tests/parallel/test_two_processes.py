"""Two real processes over jax.distributed compute and save what one does."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

SCRIPT = Path(__file__).parent / "two_processes.py"


def run(out: Path, processes: int) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = []
    for process in range(processes):
        env = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // processes}",
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": str(processes),
            "JAX_PROCESS_ID": str(process),
        }
        command = [sys.executable, str(SCRIPT), str(out)]
        started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    for process in started:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
        assert f"processes {processes} devices 4" in output


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path):
    for processes in (1, 2):
        run(tmp_path / str(processes), processes)
    one, two = (load_file(tmp_path / n / "model.safetensors") for n in "12")
    assert one.keys() == two.keys()
    for name, expected in one.items():
        np.testing.assert_allclose(two[name], expected, rtol=1e-4, atol=1e-6)
