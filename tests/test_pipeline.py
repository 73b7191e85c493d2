import json

import pandas as pd
import pytest
from small_run import LEXICAL, checkpoint, rows, write_rows

import ilpjax
from ilpjax.config import DetectJob, PrepareJob, ReportJob, RunJob, ScoreJob, SFTJob
from ilpjax.detect import run_detect
from ilpjax.pipeline import run, run_prepare
from ilpjax.report import run_report
from ilpjax.rundir import read_table
from ilpjax.scoring import run_score
from ilpjax.train import run_sft

SFT = {"epochs": 2, "seq_len": 64, "batch": 8, "lr": 1e-3, "remat": False}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(checkpoint(tmp_path_factory.mktemp("base") / "model"))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return str(write_rows(tmp_path_factory.mktemp("rows") / "towns.jsonl", rows()))


@pytest.fixture(scope="module")
def finished(base, file, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("run") / "r")
    job = RunJob.make({"base": base, "rows": file, "out": out, "sft": SFT, "conflicts": LEXICAL})
    return job, run(job)


def test_a_run_leaves_every_table_and_the_report(finished):
    job, study = finished
    table = study.rows
    assert list(table["prompt"]) == [row["prompt"] for row in rows()]
    assert table["row_id"].is_unique and table["learned"].notna().all()
    assert (table["learned"] == ~table["unlearned"]).all()
    for name in ("config.yaml", "environment.json", "report.html", "dynamics.parquet", "scores_base.parquet"):
        assert (study.run / name).is_file(), name
    told = str(study).splitlines()
    assert told[-1] == f"report: {study.run / 'report.html'}"
    assert told[-2].split()[:2] == ["towns", "12"]
    assert float(told[-2].split()[4]) == pytest.approx(table["unlearned"].mean(), abs=0.005)
    numbers = json.loads((study.run / "report.json").read_text())
    causes = table.set_index("row_id")["cause"].dropna()
    found = read_table(study.run / "diagnose.parquet").set_index("row_id")
    assert causes.drop(found.index).eq("plumbing").all() and causes.loc[found.index].eq(found["cause"]).all()
    posterior = found[[name for name in found if name.startswith("posterior_")]]
    assert posterior.sum(axis=1).to_numpy() == pytest.approx(1)
    assert numbers["rows"] == len(table)
    assert numbers["unlearned"]["n"] == int(table["unlearned"].sum())


def test_a_second_run_does_nothing_and_a_new_threshold_only_judges_again(finished, capsys):
    job, study = finished
    before = {p: p.stat().st_mtime_ns for p in study.run.path.rglob("*.safetensors")}
    capsys.readouterr()
    run(job)
    assert "already done" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in study.run.path.rglob("*.safetensors")} == before
    run(job.model_copy(update={"detect": job.detect.model_copy(update={"threshold": 0.9})}))
    told = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    ran = {stage for stage, what in told.items() if what == "done"}
    assert ran == {"detect_base", "detect_tuned", "diagnose", "verdicts", "report"}
    again = read_table(study.run / "detect.parquet")
    assert (again["unlearned"] == (again["pass_at_n"] < 0.9)).all()
    run(job)  # other tests see the tables of the job as it was


def test_each_stage_alone_gives_what_the_run_gave(finished, base, file, tmp_path):
    job, study = finished
    run_prepare(PrepareJob(rows=file, model=base, out=str(tmp_path / "p")))
    items = tmp_path / "p" / "items.parquet"
    pd.testing.assert_frame_equal(read_table(items), read_table(study.run / "items.parquet"))
    run_sft(SFTJob.make({"base": base, "rows": file, "out": str(tmp_path / "s"), "sft": SFT}))
    weights = "tuned/model.safetensors"
    assert (tmp_path / "s" / weights).read_bytes() == (study.run / weights).read_bytes()
    scores = tmp_path / "scores.parquet"
    run_score(ScoreJob(model=str(tmp_path / "s" / "tuned"), items=str(items), out=str(scores)))
    pd.testing.assert_frame_equal(read_table(scores), read_table(study.run / "scores_tuned.parquet"))
    run_detect(DetectJob(scores=str(scores), out=str(tmp_path / "detect.parquet")))
    pd.testing.assert_frame_equal(read_table(tmp_path / "detect.parquet"), read_table(study.run / "detect.parquet"))
    page = (study.run / "report.html").read_text()
    run_report(ReportJob(run=str(study.run.path), title=job.title))
    assert (study.run / "report.html").read_text() == page


def test_someone_who_tuned_elsewhere_brings_two_checkpoints_and_the_file(finished, base, file, tmp_path):
    _, study = finished
    brought = ilpjax.study(file, base=base, tuned=str(study.run / "tuned"), conflicts=LEXICAL)
    pd.testing.assert_series_equal(brought.rows["pass_at_n"], study.rows["pass_at_n"])
    brought.save(tmp_path / "report")
    assert (tmp_path / "report" / "report.html").is_file()
    assert not (brought.run / "dynamics.parquet").exists()


def test_native_options_and_free_rows_go_through_one_run(base, tmp_path):
    items = [
        {"id": f"q{n}", "question": f"Who is {n}?", "options": ["Ann", "Bo", "Cy"], "answer": n % 3} for n in range(4)
    ]
    one, two = write_rows(tmp_path / "items.jsonl", items), write_rows(tmp_path / "free.jsonl", rows(6))
    out = tmp_path / "run"
    keys = {"score": {"protocol": "letter"}, "conflicts": LEXICAL}
    study = ilpjax.study([str(one), str(two)], base=base, tuned=base, out=str(out), **keys)
    assert list(study.rows["dataset"].value_counts()[["free", "items"]]) == [6, 4]
    sources = read_table(out / "items.parquet").set_index("row_id")["option_sources"]
    assert set(sources["q0"]) == {"native"}
