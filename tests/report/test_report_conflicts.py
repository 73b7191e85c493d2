"""The section on contradictions: its numbers, its pairs with their texts, the cards, and tables that do not fit."""

import html as markup
import json
import re

import pytest
from fake_run import add_conflicts, make_run

from ilpjax.conflicts import KINDS
from ilpjax.errors import InputError
from ilpjax.report import contradictions, write_report
from ilpjax.rundir import read_table, write_json, write_table


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("conflicts"))
    add_conflicts(run)
    write_report(run, "Conflicts")
    return run


@pytest.fixture(scope="module")
def section(run):
    return re.search(r'<section id="conflicts">.*?</section>', (run / "report.html").read_text(), re.S)[0]


@pytest.fixture(scope="module")
def numbers(run):
    return json.loads((run / "report.json").read_text())["conflicts"]


def cells(text):
    """The table's lines, each a list of its cells without tags."""
    lines = [re.findall(r"<t[dh].*?</t[dh]>", line, re.S) for line in re.findall(r"<tr>.*?</tr>", text, re.S)]
    return [[markup.unescape(re.sub(r"<[^>]+>", "", cell)) for cell in line] for line in lines]


def test_steps_and_what_each_left(run, section, numbers):
    told = json.loads((run / "conflicts.json").read_text())
    pairs, found = told["pairs"], told["conflicts"]
    left = [step["left"] for step in numbers["steps"]]
    assert left[:3] == [pairs - 50, pairs - 80, pairs - 100] and left[2] == found and set(left[3:]) == {None}
    shown = {line[0]: line[1:] for line in cells(section) if len(line) == 4}
    assert shown["same text"] == ["30", f"{3000 / pairs:.1f}\u00a0%", str(pairs - 80)]
    assert shown["listcontradiction: lists differ"][0] == str(
        (read_table(run / "conflicts.parquet")["kind"] == "list").sum()
    )
    assert "words and letters (lexical; no encoder): a cosine of 0.5 or more, exact search." in section
    assert f"<b>{found}</b> of them ask the same" in section


def test_verdicts_by_judge(run, section, numbers):
    table = read_table(run / "conflicts.parquet")
    counted = {(one["judge"], one["verdict"]): one["n"] for one in numbers["verdicts"]}
    assert counted == table.groupby(["judge", "verdict"]).size().to_dict() and len(counted) == 6
    lines = [line for line in cells(section) if len(line) == 3][1:]
    words = {(judge or "none", contradictions.VERDICT[verdict]): str(n) for (judge, verdict), n in counted.items()}
    assert {(judge, verdict): n for judge, verdict, n in lines} == words
    assert "Its word is a hint." in section


def test_the_most_similar_pairs_with_both_rows_texts(run, section, numbers):
    table = read_table(run / "conflicts.parquet").sort_values("similarity", ascending=False).head(50)
    rows = read_table(run / "rows.parquet").set_index("row_id")
    assert [one["row_a"] for one in numbers["shown"]] == table["row_a"].tolist() and len(table) == 50
    lines = [line for line in cells(section) if len(line) == 5][1:]
    for line, pair in zip(lines, table.to_dict("records"), strict=True):
        for cell, row_id in zip(line, (pair["row_a"], pair["row_b"]), strict=False):
            assert cell.startswith(f"{row_id}, {rows.loc[row_id, 'source']}")
            assert rows.loc[row_id, "prompt"][:700] in cell and f"→ {rows.loc[row_id, 'response']}" in cell
        assert line[2] == f"{pair['similarity']:.2f}" and line[3] == contradictions.KIND[pair["kind"]]
        assert line[4] == contradictions.VERDICT[pair["verdict"]] + pair["judge"]
    assert f"The 50 most similar of {len(read_table(run / 'conflicts.parquet'))} pairs" in section
    assert "<script" not in section and "<img" not in section and "&lt;script&gt;" in section


def test_every_kind_has_words():
    assert set(contradictions.KIND) == set(KINDS)


def test_cards_name_the_judge_of_the_pair(run):
    html = (run / "report.html").read_text()
    data = {name: re.search(rf'id="{name}">(.*?)</script>', html, re.S)[1] for name in ("lines", "cards")}
    cards = {
        line[0]: card for line, card in zip(json.loads(data["lines"])["lines"], json.loads(data["cards"]), strict=True)
    }
    causes = read_table(run / "diagnose.parquet")
    for row_id, text in zip(causes["row_id"], causes["evidence"], strict=True):
        partner, verdict = cards[row_id]["why"]["evidence"]["partner"], json.loads(text)["partner"]["verdict"]
        assert partner["verdict"] == verdict and partner["judge"] == ("" if verdict == "unjudged" else "offline")


def test_an_encoder_is_named_a_recall_told_and_a_partner_may_answer_with_no_option_of_the_row(tmp_path):
    run = make_run(tmp_path, rows=40)
    add_conflicts(run, encoder="models/<mini>", judge="one, two")
    causes = read_table(run / "diagnose.parquet")
    evidence = [json.loads(text) for text in causes["evidence"]]
    free = [json.dumps(one | {"partner": one["partner"] | {"option": None}}) for one in evidence]
    write_table(run / "diagnose.parquet", causes.assign(evidence=free))
    told = json.loads((run / "conflicts.json").read_text())
    write_json(run / "conflicts.json", told | {"search": "approximate", "recall": 0.987})
    write_report(run, "x")
    html = (run / "report.html").read_text()
    assert "the sentence encoder models/&lt;mini&gt;: a cosine of 0.5 or more, approximate search, recall 0.987" in html
    assert "Its word is a hint." not in html


def test_without_the_graph_there_is_no_section_and_without_pairs_no_tables(tmp_path):
    run = make_run(tmp_path, rows=40)
    write_report(run, "None")
    assert json.loads((run / "report.json").read_text())["conflicts"] is None
    assert "contradict each other" not in (run / "report.html").read_text()
    add_conflicts(run)
    write_table(run / "conflicts.parquet", read_table(run / "conflicts.parquet").head(0))
    told = json.loads((run / "conflicts.json").read_text())
    write_json(run / "conflicts.json", told | {"pairs": 0, "steps": [], "conflicts": 0, "judge": None})
    write_report(run, "None")
    section = re.search(r'<section id="conflicts">.*?</section>', (run / "report.html").read_text(), re.S)[0]
    assert "0 pairs of rows" in section and "<table" not in section


def test_tables_that_do_not_fit_are_refused(tmp_path):
    run = make_run(tmp_path, rows=40)
    add_conflicts(run)
    table, told = read_table(run / "conflicts.parquet"), json.loads((run / "conflicts.json").read_text())
    write_json(run / "conflicts.json", {"encoder": "lexical"})
    with pytest.raises(InputError, match="conflicts.json: no key threshold; run run again"):
        write_report(run, "x")
    write_json(run / "conflicts.json", told)
    write_table(run / "conflicts.parquet", table.drop(columns="verdict"))
    with pytest.raises(InputError, match="conflicts.parquet: no column verdict; run run again"):
        write_report(run, "x")
    write_table(run / "conflicts.parquet", table.assign(row_b="elsewhere"))
    with pytest.raises(InputError, match="conflicts.parquet: row 'elsewhere' is not in rows.parquet; run run again"):
        write_report(run, "x")
    assert not (run / "report.html").exists()
