"""The comparison with workers that do nothing, and what is refused."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from ilpjax import cli
from ilpjax.bench import run
from ilpjax.bench.worker import Worker
from ilpjax.config import BenchJob
from ilpjax.errors import BenchError, InputError

FAKE = str(Path(__file__).with_name("fake_worker.py"))


def fake(results="1,2", rate="10", best=("1", "4")):
    return Worker("fake", [sys.executable, FAKE, results, rate, *best], {})


def test_answers_come_back_and_chatter_does_not():
    with fake() as worker:
        assert worker.ask("check") == [1.0, 2.0]
        assert worker.ask("run", threads=1, batch=4) == {"work": 10, "seconds": 1.0, "compile": 2.5}
        with pytest.raises(InputError, match="model: no such thing"):
            worker.ask("refuse")
        with pytest.raises(BenchError, match="fake: ZeroDivisionError: no way"):
            worker.ask("fail")
        assert worker.ask("check") == [1.0, 2.0]  # a failure is not its end


def test_a_worker_that_dies_is_told_in_one_line():
    with fake() as worker, pytest.raises(BenchError, match="fake: died at 'die', status 3; .* out of memory") as caught:
        worker.ask("die")
    assert "\n" not in str(caught.value)


def compare(monkeypatch, tmp_path, ours, peer, **values):
    sides = {"ilpjax": ours, "lm_eval": peer}
    monkeypatch.setattr(run, "Worker", lambda name, *_: sides[name])
    job = BenchJob(what="scoring", **values)
    return run.compare(job, run.BENCHES["scoring"], tmp_path)


def test_the_ratio_is_of_the_peers_best_settings(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "threads", lambda device: [1, 2, 4])
    told = compare(monkeypatch, tmp_path, fake(rate="30"), fake("1,2.00001", "5", ("2", "8")))
    assert (told["peer_threads"], told["peer_batch"], told["peer"]) == (2, 8, 5)
    # Ours knows no threads or batch, and so always runs at half of its rate.
    assert told["ours"] == 15 and told["ratio"] == told["ratio_low"] == told["ratio_high"] == 3
    assert told["rounds"] == 5 and told["compile_s"] == 2.5
    assert told["max_diff"] == pytest.approx(1e-5)
    assert told["share_of_matmul"] == pytest.approx(15 * 1e9 / 1e12)


@pytest.mark.parametrize(
    ("results", "message"), [("1,2.1", "differ by 0.1"), ("1,nan", "differ by nan"), ("1,2,3", "2 results of ours, 3")]
)
def test_no_ratio_where_results_differ(monkeypatch, tmp_path, results, message):
    with pytest.raises(BenchError, match=message):
        compare(monkeypatch, tmp_path, fake(), fake(results))


def test_json_is_one_object_a_line(monkeypatch, tmp_path, capsys):
    told = compare(monkeypatch, tmp_path, fake(), fake())
    run.show(BenchJob.model_validate({"what": "scoring", "json": True}), told)
    (line,) = capsys.readouterr().out.splitlines()
    assert {"ours", "peer", "ratio", "ratio_low", "ratio_high", "unit", "device"} <= json.loads(line).keys()
    run.show(BenchJob(what="scoring"), told)
    assert "ratio 1.00" in capsys.readouterr().out


@pytest.fixture
def refused(capsys):
    def refused(*args):
        with pytest.raises(SystemExit) as caught:
            cli.main(["bench", *args])
        (line,) = capsys.readouterr().err.splitlines()
        return caught.value.code, line

    return refused


def test_an_unknown_word_is_one_line(refused):
    status, line = refused("guessing", "json=true")
    assert status == 2 and "what: " in line and "'scoring', 'sampling'" in line and "'guessing'" in line
    assert refused("scoring", "more")[0] == 2
    assert refused("prompt=3") == (2, "ilpjax: what: required, and not given")


def test_a_missing_peer_is_one_line_that_says_what_to_install(refused, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "trl" else found(name, *a) or 1)
    status, line = refused("sft")
    assert status == 2 and line.endswith("trl is not installed; pip install 'ilpjax[bench]' brings it")


def test_without_a_checkout_there_are_no_peers(refused, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda *a: 1)
    monkeypatch.setattr(run, "PEERS", tmp_path)
    status, line = refused("scoring")
    assert status == 2 and "from a checkout" in line
