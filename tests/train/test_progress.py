import sys

import pytest

from ilpjax.train import Progress
from ilpjax.train.progress import peak_flops


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", None),
        ("cpu", None),
        ("TPU v50", None),
    ],
)
def test_peaks_are_known_by_kind(kind, peak):
    assert peak_flops(kind) == peak


def test_plain_lines_where_there_is_no_terminal(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 12.0, 13.0, 14.0])
    monkeypatch.setattr("ilpjax.train.progress.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("ilpjax.train.progress.LINE_EVERY", 10.0)
    progress = Progress("sft", steps=5, done=0, flops=None)
    rates = [progress.step(n, 2.0 / n, 100, 0.875) for n in range(1, 6)]
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["sft: step 3/5", "sft: step 5/5"]
    assert "loss 0.6667" in lines[0] and "real 88%" in lines[0]
    assert "tokens/s 17" in lines[0] and "left 00:12" in lines[0]  # two steps in 12 s, two to go
    assert rates[0] == {} and rates[-1]["tokens_per_second"] == pytest.approx(400 / 14)
    assert "mfu" not in lines[0]


def test_mfu_where_the_peak_is_known(capsys, monkeypatch):
    monkeypatch.setattr("ilpjax.train.progress.peak_flops", lambda kind: 1e12)
    monkeypatch.setattr("ilpjax.train.progress.jax.device_count", lambda: 2)
    clock = iter([0.0, 100.0])
    monkeypatch.setattr("ilpjax.train.progress.time.monotonic", lambda: next(clock))
    progress = Progress("sft", steps=2, done=0, flops=1e14)
    progress.step(1, 1.0, 10, 1.0)
    assert progress.step(2, 1.0, 10, 1.0)["mfu"] == pytest.approx(0.5)
    assert "mfu 50.0%" in capsys.readouterr().err


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Progress("sft", steps=10, done=4, flops=None)
    progress.step(5, 1.25, 10, 1.0)
    progress.step(6, 1.25, 10, 1.0)
    progress.close()
    err = capsys.readouterr().err
    assert "6/10" in err and "loss=1.2500" in err
