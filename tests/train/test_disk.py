"""A disk that fills up during a run."""

import errno
import logging
import os
import subprocess

import pytest
from small import base_and_rows, finish, start, table_of

from ilpjax.train.disk import Quiet, disk_errors

SETTINGS = ("sft.epochs=10", "sft.batch=4", "sft.seq_len=64", "sft.save_every=5", "data.max_tokens=64")


def test_a_full_disk_is_an_oserror_whoever_says_so(tmp_path):
    said = "RESOURCE_EXHAUSTED: Failed to write 9882 bytes to file 14: No space left on device [os_error_code='28']"
    with pytest.raises(OSError) as error, disk_errors(tmp_path):
        raise ValueError(said)
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path))
    with pytest.raises(OSError) as error, disk_errors(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert error.value.filename == str(tmp_path)
    with pytest.raises(ValueError, match="other"), disk_errors(tmp_path):
        raise ValueError("other")


def test_quiet_drops_orbax_tracebacks_and_nothing_else():
    def record(path, exc_info):
        return logging.LogRecord("absl", logging.ERROR, path, 1, "text", None, exc_info)

    failure = (ValueError, ValueError("x"), None)
    assert not Quiet().filter(record("/lib/orbax/checkpoint/future.py", failure))
    assert Quiet().filter(record("/lib/orbax/checkpoint/future.py", None))
    assert Quiet().filter(record("/lib/grain/reader.py", failure))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 700 KiB: room for one checkpoint, not for three."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=700k", "none", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(tmp_path, small_disk):
    base, rows = base_and_rows(tmp_path)
    out = small_disk / "run"
    command = ("sft", f"base={base}", f"rows={rows}", *SETTINGS, f"out={out}")
    output = finish(start(*command), status=1)
    last = output.strip().splitlines()[-1]
    assert last.startswith(f"ilpjax: {out}") and "No space left on device" in last
    assert not [name for name in os.listdir(out) if name.startswith(".") and name != ".stages"]
    assert not any((out / name).exists() for name in ("tuned", "dynamics.parquet", "train_log.parquet"))

    subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
    finish(start(*command))
    assert (out / "tuned" / "model.safetensors").is_file()
    log = table_of(out, "train_log")
    assert log["step"].tolist() == list(range(1, len(log) + 1))
