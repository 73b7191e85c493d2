"""The diagnose job on a finished run: other probes, an endpoint's triples, and what is refused before work is lost."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from small_run import LEXICAL, checkpoint, rows, write_rows

from ilpjax.config import DiagnoseJob, RunJob
from ilpjax.errors import InputError
from ilpjax.pipeline import run, run_diagnose
from ilpjax.rundir import read_table

SFT = {"epochs": 1, "seq_len": 64, "batch": 8, "lr": 1e-4, "remat": False}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    base = checkpoint(folder / "model")
    file = write_rows(folder / "towns.jsonl", rows())
    made = RunJob.make(
        {"base": str(base), "rows": str(file), "out": str(folder / "r"), "sft": SFT, "conflicts": LEXICAL}
    )
    run(made)
    return made


def again(job, **keys):
    run_diagnose(DiagnoseJob.make({"run": job.out, "diagnose": keys}))
    return read_table(f"{job.out}/diagnose.parquet"), read_table(f"{job.out}/probes.parquet")


def test_other_probes_are_asked_and_nothing_else_is_done_again(job, tmp_path, capsys):
    found, probes = again(job)
    assert probes.groupby("row_id")["question"].size().min() >= 4
    row_id = found["row_id"].iloc[0]
    file = tmp_path / "probes.jsonl"
    file.write_text(json.dumps({"row_id": row_id, "question": "In which town?"}) + "\n")
    capsys.readouterr()
    _, probes = again(job, probes=str(file))
    wordings = probes[(probes["row_id"] == row_id) & (probes["kind"] == "wording")]
    assert wordings["question"].tolist()[1:] == ["In which town?"]
    told = capsys.readouterr().out
    assert "diagnose: done" in told and "report: done" in told and "sft" not in told


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"probes": "nowhere.jsonl"}, "nowhere.jsonl: no such file of probes"),
        ({"calibration": "nowhere.json"}, "nowhere.json: no such calibration"),
        ({"triples": {"url": "http://localhost:1/v1"}}, "diagnose.triples.model: the endpoint needs a model's name"),
    ],
)
def test_wrong_settings_leave_a_run_as_it_was_and_are_told_before_training(job, keys, message, tmp_path):
    config = Path(job.out, "config.yaml")
    before = config.read_text()
    with pytest.raises(InputError, match=message):
        again(job, **keys)
    assert config.read_text() == before
    fresh = RunJob.make({"base": job.base, "rows": job.rows, "out": str(tmp_path / "r"), "diagnose": keys})
    with pytest.raises(InputError, match=message):
        run(fresh)
    assert not (tmp_path / "r").exists()


def test_a_folder_that_holds_no_run_is_told(tmp_path):
    with pytest.raises(InputError, match="holds no finished run"):
        run_diagnose(DiagnoseJob(run=str(tmp_path)))


def test_a_run_without_a_record_of_training_never_blames_it(job, tmp_path):
    """The user brought the tuned checkpoint: forgetting and undertraining cannot be told."""
    keys = {"tuned": f"{job.out}/tuned", "conflicts": LEXICAL}
    tuned = RunJob.make({"base": job.base, "rows": job.rows, "out": str(tmp_path / "r"), **keys})
    study = run(tuned)
    found = read_table(study.run / "diagnose.parquet")
    assert len(found) and not set(found["cause"]) & {"forgetting", "undertrained"}
    assert all("slope" in json.loads(text)["missing"] for text in found["evidence"])


@pytest.fixture
def endpoint():
    """Answers every request with `said[0]`."""
    said = ["I would rather not."]
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append(self.rfile.read(int(self.headers["Content-Length"])))
            message = {"role": "assistant", "content": said[0]}
            reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
            choices = [{"index": 0, "finish_reason": "stop", "message": message}]
            body = json.dumps(reply | {"choices": choices}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", said, seen
    server.shutdown()


@pytest.mark.slow
def test_an_endpoint_that_answers_nonsense_costs_the_triples_alone_and_is_asked_once(job, endpoint, capsys):
    pytest.importorskip("openai")
    url, said, seen = endpoint
    found, probes = again(job, triples={"url": url, "model": "m"})
    assert len(found) and set(probes["kind"]) == {"wording"}
    assert "rows got no triples" in capsys.readouterr().err
    asked = len(seen)
    again(job, triples={"url": url, "model": "m", "requests": 999})  # the stage runs again, the cache answers
    assert len(seen) == asked
    said[0] = '[["Person 1", "lives in", "Kalwick"], ["Person 2", "lives in", "Stend"]]'
    _, probes = again(job, triples={"url": url, "model": "other"})
    assert "Person 1 lives in" in set(probes.loc[probes["kind"] == "fact", "question"])
