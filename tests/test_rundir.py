import os
import signal
import subprocess
import sys

import pandas as pd
import pytest

from ilpjax.config import DetectConfig
from ilpjax.errors import InputError
from ilpjax.rundir import RunDir, fingerprint, read_table, replacing, write_table, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "table.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError), replacing(target) as part:
        part.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.txt"]


def test_a_folder_replaces_a_folder(tmp_path):
    for text in ("old", "new"):
        with replacing(tmp_path / "model") as part:
            part.mkdir()
            (part / text).write_text(text)
    assert os.listdir(tmp_path / "model") == ["new"]
    assert os.listdir(tmp_path) == ["model"]


def test_a_killed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "table.txt"
    write_text(target, "old")
    program = (
        "import os, signal, sys; from ilpjax.rundir import replacing\n"
        "with replacing(sys.argv[1]) as part:\n"
        "    part.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(target)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert target.read_text() == "old"


def test_a_stage_runs_again_only_when_an_input_changed_or_an_output_is_gone(tmp_path):
    run, source, made = RunDir(tmp_path / "run"), tmp_path / "in.txt", []

    def stage(threshold=0.2):
        config = DetectConfig(threshold=threshold)
        work = lambda: (made.append(1), write_text(run / "out.txt", "x"))
        return run.stage("s", [source, config], ["out.txt"], work)

    source.write_text("a")
    assert stage() and not stage()
    source.write_text("b")
    assert stage() and not stage()
    assert stage(0.3)
    (run / "out.txt").unlink()
    assert stage(0.3) and not stage(0.3)
    assert len(made) == 4


def test_a_stage_that_failed_is_not_done(tmp_path):
    run = RunDir(tmp_path)

    def fail():
        write_text(run / "out.txt", "half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        run.stage("s", [1], ["out.txt"], fail)
    assert run.stage("s", [1], ["out.txt"], lambda: None)


def test_fingerprint_sees_content_names_and_order(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in (a, b):
        folder.mkdir()
        (folder / "x").write_text("1")
    assert fingerprint(a) == fingerprint(b)
    (b / "x").rename(b / "y")
    assert fingerprint(a) != fingerprint(b)
    assert fingerprint("p", "q") != fingerprint("q", "p")


def test_tables_round_trip_and_a_bad_one_is_refused(tmp_path):
    table = pd.DataFrame({"row_id": ["a"], "p": [[0.1, 0.9]]})
    write_table(tmp_path / "t.parquet", table)
    assert list(read_table(tmp_path / "t.parquet")["p"][0]) == [0.1, 0.9]
    (tmp_path / "bad.parquet").write_text("not a table")
    with pytest.raises(InputError, match="bad.parquet: not a Parquet table"):
        read_table(tmp_path / "bad.parquet")
    with pytest.raises(InputError, match="none.parquet: no such table"):
        read_table(tmp_path / "none.parquet")
