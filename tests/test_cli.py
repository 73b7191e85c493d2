import errno
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from small_run import checkpoint, rows, write_rows

from ilpjax import cli

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("base") / "model")


def call(*args):
    """(exit status, what stderr said)."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / f"{args[0]}.py", *map(str, args[1:])],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    return done.returncode, done.stderr


def refused(capsys, job, *args):
    """Runs in this process; the one line of a refusal."""
    with pytest.raises(SystemExit) as caught:
        cli.main([job, *map(str, args)])
    assert caught.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ilpjax: ")]
    assert len(lines) == 1
    return lines[0]


def test_help_into_a_pipe_that_nobody_reads_is_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "run.py", "--help"], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_every_job_has_a_script_and_help_that_starts_no_device():
    for job in cli.JOBS:
        assert (ROOT / "tools" / f"{job}.py").is_file()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / "tools" / "run.py", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "sft.epochs" in done.stdout and "passes over the rows (float; 3.0)" in done.stdout
    assert " jax\n" not in done.stderr


def test_status_2_and_one_line_as_a_process():
    status, said = call("run", "base=x", "rows=y", "out=z", "sft.epoch=3")
    assert (status, said) == (2, "ilpjax: sft.epoch: no such key; did you mean sft.epochs?\n")


GOOD = '{"prompt": "a", "response": "b"}\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD + '{"prompt": "a", \n' + GOOD, "rows.jsonl, line 2"),
        (GOOD + '{"prompt": "a"}\n', "rows.jsonl, line 2: .*response"),
        (GOOD + '{"prompt": "a", "response": "  "}\n', "rows.jsonl, line 2: .*empty"),
        ('{"colour": "red"}\n', "rows.jsonl.*prompt"),
        ("", "rows.jsonl"),
    ],
)
def test_wrong_rows(text, told, base, tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    file.write_text(text)
    line = refused(capsys, "run", f"base={base}", f"rows={file}", f"out={tmp_path / 'out'}")
    assert pd.Series([line]).str.contains(told).all(), line
    assert not (tmp_path / "out").exists()


def test_a_file_where_the_run_directory_would_be(base, tmp_path, capsys):
    file = write_rows(tmp_path / "rows.jsonl", rows())
    assert "is a file" in refused(capsys, "run", f"base={base}", f"rows={file}", f"out={file}")


def test_wrong_checkpoints(base, tmp_path, capsys):
    file = write_rows(tmp_path / "rows.jsonl", rows())
    out = f"out={tmp_path / 'out'}"
    assert "no-such-folder" in refused(capsys, "run", "base=./no-such-folder", f"rows={file}", out)
    cut = checkpoint(tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors" in refused(capsys, "score", f"model={cut}", f"items={file}", "out=x.parquet")
    small = checkpoint(tmp_path / "small")
    config = small / "config.json"
    for old, new in (('"vocab_size": ', '"vocab_size": 1'),):
        config.write_text(config.read_text().replace(old, new))
    assert str(small) in refused(capsys, "sft", f"base={small}", f"rows={file}", out)
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_tokenizer_that_does_not_fit_the_model(base, tmp_path, capsys):
    from tiny import tiny_checkpoint

    from ilpjax.data import load_tokenizer

    file = write_rows(tmp_path / "rows.jsonl", rows())
    wrong = tiny_checkpoint(tmp_path / "wrong", "llama", 64, tokenizer=load_tokenizer(str(base)))
    for job, *args in (
        ("sft", f"base={wrong}", f"rows={file}"),
        ("run", f"base={wrong}", f"rows={file}"),
        ("run", f"base={base}", f"tuned={wrong}", f"rows={file}"),
    ):
        line = refused(capsys, job, *args, f"out={tmp_path / 'out'}")
        assert "tokenizer" in line and "64" in line, line


def test_a_full_disk_is_status_1_and_leaves_nothing(base, tmp_path, capsys, monkeypatch):
    file = write_rows(tmp_path / "rows.jsonl", rows())

    def full(self, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(SystemExit) as caught:
        cli.main(["prepare", f"rows={file}", f"model={base}", f"out={tmp_path / 'out'}"])
    assert caught.value.code == 1
    assert "No space left" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*rows*"))
