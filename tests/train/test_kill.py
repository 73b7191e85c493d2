"""kill -9 in the middle of a run, and the same command again."""

import os
import signal
import time

import pandas as pd
import pytest
from small import base_and_rows, finish, start, table_of

SETTINGS = ("sft.epochs=40", "sft.batch=4", "sft.seq_len=64", "sft.lr=1e-3", "sft.save_every=20", "data.max_tokens=64")


def wait_for(condition, process, seconds=200):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.002)


@pytest.mark.slow
def test_killed_and_run_again_is_the_same_to_the_bit(tmp_path):
    base, rows = base_and_rows(tmp_path)
    command = ("sft", f"base={base}", f"rows={rows}", *SETTINGS)
    finish(start(*command, f"out={tmp_path / 'whole'}"))

    state = tmp_path / "killed" / "checkpoints" / "sft" / "state"
    saved = lambda: [int(p.name) for p in state.glob("*") if p.name.isdigit()]
    for least in (20, 60):  # killed twice: a run that was resumed can be killed too
        process = start(*command, f"out={tmp_path / 'killed'}")
        wait_for(lambda least=least: max(saved(), default=0) >= least, process)
        time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (tmp_path / "killed" / "tuned").exists(), "too quick to be killed"
    assert 60 <= max(saved()) < len(table_of(tmp_path / "whole", "train_log"))
    output = finish(start(*command, f"out={tmp_path / 'killed'}"))
    assert "removed" not in output

    weights = [(tmp_path / run / "tuned" / "model.safetensors").read_bytes() for run in ("whole", "killed")]
    assert weights[0] == weights[1]
    whole, killed = (table_of(tmp_path / run, "dynamics") for run in ("whole", "killed"))
    pd.testing.assert_frame_equal(whole, killed, check_exact=True)
    logs = [table_of(tmp_path / run, "train_log").drop(columns="seconds") for run in ("whole", "killed")]
    pd.testing.assert_frame_equal(*logs, check_exact=True)
    left = [p.name for p in (tmp_path / "killed").rglob("*") if "tmp" in p.name]
    assert not left
