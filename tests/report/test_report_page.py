"""The file itself: nothing from outside, markup made harmless, bounded; and bad run directories."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from fake_run import NASTY, make_run, score

from ilpjax.config import DetectConfig, ReportJob
from ilpjax.data import items_table, make_items, rows_table
from ilpjax.detect import detect
from ilpjax.errors import InputError
from ilpjax.report import cards, run_report, write_report
from ilpjax.rows import Message, Row
from ilpjax.rundir import RunDir, read_table, write_table


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("page"))
    run_report(ReportJob(run=str(run.path), title="</title><script>alert(0)</script>"))
    return run


@pytest.fixture(scope="module")
def html(run):
    return (run / "report.html").read_text()


def data_of(html, name):
    return json.loads(re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', html, re.S)[1])


def test_nothing_from_outside(html):
    links = re.findall(r"""\b(?:src|srcset|href|action|data|poster)\s*=\s*["']([^"']*)""", html)
    assert links and all(link.startswith(("data:image/svg+xml;base64,", "#")) for link in links)
    for pattern in (r"url\(", r"@import", r"<link\b", r"<iframe", r"\bfetch\(", r"XMLHttpRequest", r"import\("):
        assert not re.search(pattern, html), pattern
    assert set(re.findall(r"https?://[^\s\"'<>`)]+", html)) <= {"http://www.w3.org/2000/svg"}


def test_policy_lets_in_this_script_and_style_only(html):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    assert policy.startswith("default-src &#39;none&#39;") or policy.startswith("default-src 'none'")
    assert "unsafe" not in policy and "img-src data:" in policy
    assert not re.search(r"<[^>]+\s(?:style|on\w+)\s*=", html)


def test_markup_in_the_data_stays_text(html):
    assert html.count("<script") == 3 and html.count("</script") == 3
    assert "<img src=x" not in html and "<b>easy" not in html and "<u>" not in html
    assert "\u2028" not in html and "\u2029" not in html
    assert "&lt;script&gt;alert(0)" in html and ">49<" not in html


def test_data_comes_through_unchanged(run, html):
    lines, found = data_of(html, "lines")["lines"], data_of(html, "cards")
    rows = read_table(run / "rows.parquet").set_index("row_id")
    assert sorted(line[0] for line in lines) == sorted(rows.index) and len(found) == len(lines)
    for line, card in zip(lines, found, strict=True):
        prompt = rows.loc[line[0], "prompt"]
        assert card["prompt"] == (prompt if len(prompt) <= cards.TEXT else cards.clip(prompt))
    assert any(NASTY[0] in card["prompt"] for card in found)
    system = {line[0]: card["context"] for line, card in zip(lines, found, strict=True)}
    assert system["r0010"] == [["system", "Be brief."]] and system["r0011"] == []


@pytest.mark.parametrize("text", [*NASTY, "<!--<script>", "]]>", "&lt;", "\U0001f600"])
def test_script_json_round_trip(text):
    safe = cards.script_json([text])
    assert json.loads(safe) == [text] and not set("<>&\u2028\u2029") & set(safe)


def test_clip_keeps_both_ends():
    text = "a" * 5000 + "b" * 5000
    short = cards.clip(text)
    assert short.startswith("a" * 3000) and short.endswith("b" * 1000) and "6,000 characters" in short
    assert cards.clip("short") == "short"


def test_large_runs_are_capped_and_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "LINES", 100)
    monkeypatch.setattr(cards, "CARD_BYTES", 60_000)
    run = make_run(tmp_path)
    write_report(run, "Capped")
    html = (run / "report.html").read_text()
    lines, found = data_of(html, "lines")["lines"], data_of(html, "cards")
    assert len(lines) == 100 and 5 < len(found) < 100
    assert "The 100 worst of 300 rows; the others are in detect.parquet" in html
    assert f"The first {len(found)} have a full card" in html
    verdicts = read_table(run / "detect.parquet")
    worst = verdicts[verdicts["unlearned"]].sort_values("severity", ascending=False, kind="stable")["row_id"].tolist()
    assert [line[0] for line in lines][: min(len(worst), 100)] == worst[:100]


@pytest.mark.parametrize(
    ("name", "job"),
    [
        ("rows", "prepare"),
        ("items", "prepare"),
        ("plumbing", "prepare"),
        ("scores_base", "score"),
        ("detect", "detect"),
    ],
)
def test_missing_or_corrupt_table(tmp_path, name, job):
    run = make_run(tmp_path, rows=30)
    path = run / f"{name}.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=rf"{name}.parquet: not a Parquet table.*run {job} again"):
        write_report(run, "x")
    path.unlink()
    with pytest.raises(InputError, match=rf"{name}.parquet: no such table; run {job} first"):
        write_report(run, "x")
    assert not (run / "report.html").exists() and not (run / "report.json").exists()


def test_missing_column_twice_the_row_other_rows(tmp_path):
    run = make_run(tmp_path, rows=30)
    whole = read_table(run / "detect.parquet")
    write_table(run / "detect.parquet", whole.drop(columns="p_flag"))
    with pytest.raises(InputError, match="detect.parquet: no column p_flag; run detect again"):
        write_report(run, "x")
    write_table(run / "detect.parquet", pd.concat([whole, whole.head(1)]))
    with pytest.raises(InputError, match="detect.parquet: row_id .* occurs twice"):
        write_report(run, "x")
    write_table(run / "detect.parquet", whole)
    write_table(run / "rows.parquet", read_table(run / "rows.parquet").iloc[2:])
    with pytest.raises(InputError, match="rows.parquet: lacks 2 rows of detect.parquet.*run prepare again"):
        write_report(run, "x")


@pytest.mark.parametrize(
    ("name", "text"), [("config.yaml", "a: [1"), ("environment.json", "{"), ("config.yaml", "- 1")]
)
def test_corrupt_config(tmp_path, name, text):
    run = make_run(tmp_path, rows=30)
    (run / name).write_text(text)
    with pytest.raises(InputError, match=name):
        write_report(run, "x")


def test_scores_of_other_items(tmp_path):
    run = make_run(tmp_path, rows=30)
    items = read_table(run / "items.parquet")
    items.loc[3, "answer"] = (items.loc[3, "answer"] + 1) % 3
    write_table(run / "items.parquet", items)
    with pytest.raises(InputError, match="scores_base.parquet: row_id 'r0003' has other options.*run score again"):
        write_report(run, "x")


def test_no_run_directory(tmp_path):
    with pytest.raises(InputError, match="is not a run directory"):
        write_report(RunDir(tmp_path / "nowhere"), "x")


def test_problem_of_the_whole_run(tmp_path):
    run = make_run(tmp_path, rows=30)
    whole = pd.DataFrame([{"row_id": None, "problem": "template_differs", "detail": "base <chat>, tuned plain"}])
    write_table(run / "plumbing.parquet", pd.concat([read_table(run / "plumbing.parquet"), whole]))
    write_report(run, "x")
    assert "The whole run: template_differs: base &lt;chat&gt;, tuned plain" in (run / "report.html").read_text()


def test_no_problem_at_all(tmp_path):
    run = make_run(tmp_path, rows=30)
    write_table(run / "plumbing.parquet", pd.DataFrame(columns=["row_id", "problem", "detail"]))
    write_report(run, "x")
    assert "None found in 30 rows" in (run / "report.html").read_text()
    found = json.loads((run / "report.json").read_text())["plumbing"]
    assert (found["n"], found["by_problem"], found["whole_run"]) == (0, [], [])


def test_rows_training_never_saw_fall_back_to_the_file(tmp_path):
    run = make_run(tmp_path, rows=60)
    dynamics = read_table(run / "dynamics.parquet")
    write_table(run / "dynamics.parquet", dynamics[dynamics["row_id"] != "r0003"])
    write_report(run, "x")
    numbers = json.loads((run / "report.json").read_text())
    assert numbers["by_length"][0]["unit"] == "bytes" and numbers["by_position"][0]["by"] == "file"
    html = (run / "report.html").read_text()
    cards_by_id = dict(zip([line[0] for line in data_of(html, "lines")["lines"]], data_of(html, "cards"), strict=True))
    assert cards_by_id["r0003"]["curve"] == [] and len(cards_by_id["r0004"]["curve"]) == 3


def test_tables_as_the_data_room_writes_them(tmp_path):
    """Rows and items through data's own writers: the column contract with both sides real."""
    rows = [
        Row(row_id=f"r{i}", messages=_messages(i), dataset="d", position=i, source=f"a.jsonl:{i + 1}")
        for i in range(40)
    ]
    items = make_items(rows, 4, seed=0)
    run = make_run(tmp_path, rows=40)
    write_table(run / "rows.parquet", rows_table(rows))
    write_table(run / "items.parquet", items_table(items))
    rng = np.random.default_rng(0)
    for which, verdict in (("base", "detect_base"), ("tuned", "detect")):
        scores = score(items_table(items), rng.normal(0, 1, len(items)), 2, rng)
        write_table(run / f"scores_{which}.parquet", scores)
        write_table(run / f"{verdict}.parquet", detect(scores, DetectConfig()))
    write_report(run, "x")
    html = (run / "report.html").read_text()
    for line, card in zip(data_of(html, "lines")["lines"], data_of(html, "cards"), strict=True):
        item = next(item for item in items if item.row_id == line[0])
        assert [option[0] for option in card["options"]] == list(item.options) and card["right"] == item.answer
        assert card["context"] == [["system", "Be brief."]]
        # A distractor names the row it came from, and that row's line in the file.
        taken = [option for k, option in enumerate(card["options"]) if k != item.answer]
        assert all(origin[1:].isdigit() and file == f"a.jsonl:{int(origin[1:]) + 1}" for *_, origin, file in taken)


def _messages(i):
    answer = f"{['Ada', 'Bo', 'Cy', 'Di', 'Ed'][i % 5]} {['Ash', 'Birch', 'Cedar', 'Elm'][i // 5 % 4]} of house {i}"
    return (Message("system", "Be brief."), Message("user", f"Who lives in house {i}?"), Message("assistant", answer))
