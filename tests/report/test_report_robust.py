"""The section on protocols: its numbers, the cards, and tables that do not fit."""

import json
import re

import pytest
from fake_run import add_grid, make_run

from ilpjax import robust
from ilpjax.errors import InputError
from ilpjax.report import write_report
from ilpjax.rundir import read_table, write_json, write_table


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("robust"), rows=120)
    add_grid(run)
    write_report(run, "Robust")
    return run


@pytest.fixture(scope="module")
def html(run):
    return (run / "report.html").read_text()


def cell(html, row):
    """The cells of the first line whose heading begins with `row`, without tags."""
    line = re.search(rf"<tr>(?:<td[^>]*>[^<]*</td>)?<th scope=\"row\">{re.escape(row)}.*?</tr>", html, re.S)[0]
    return [re.sub(r"<[^>]+>", "", part) for part in re.findall(r"<td.*?</td>", line, re.S)]


def test_core_rim_and_never_are_counted(run, html):
    rows, numbers = read_table(run / "robust_rows.parquet"), json.loads((run / "report.json").read_text())
    assert len(rows) == 77 and "The same 77 rows under 8 protocols" in html
    for name in ("core", "rim", "never"):
        own = rows[rows["group"] == name]
        assert len(own) and numbers["robust"]["rows"]["groups"][name]["n"] == len(own)
        found = cell(html, name)
        assert found[0] == str(len(own)) and found[-2:] == [str(own["own"].sum()), str(own["artefact"].sum())]
    assert "pairs" not in numbers["robust"]["agreement"]


def test_factors_and_protocols_with_n(run, html):
    told = json.loads((run / "robustness.json").read_text())
    by_name = {one["factor"]: one for one in told["variance"]["flagged"]["factors"]}
    assert set(by_name) == {"scoring", "decoding", "wording"}
    for name, one in by_name.items():
        assert cell(html, name)[0] == "2" and f"{100 * one['flips']['share']:.1f}" in cell(html, name)[3]
    greedy, drawn = "letter/greedy/own/own/all/train/float32", "letter/t1/own/own/all/train/float32"
    kappa = next(half["kappa"] for half in told["retest"]["halves"] if half["protocol"] == drawn)
    assert cell(html, drawn)[0] == "1" and cell(html, drawn)[1] == "77" and f"{kappa:.2f}" in cell(html, drawn)[-2]
    assert cell(html, greedy)[-2] == "–"
    assert cell(html, "control/")[0] == "–"  # it has no vote, so no number in the picture
    assert "cloze&lt;b&gt;/" in html and "cloze<b>/" not in html


def test_cards_say_how_many_protocols_flag_the_row(run, html):
    rows = read_table(run / "robust_rows.parquet").set_index("row_id")
    data = {name: re.search(rf'id="{name}">(.*?)</script>', html, re.S)[1] for name in ("lines", "cards")}
    ids = [line[0] for line in json.loads(data["lines"])["lines"]]
    for row_id, card in zip(ids, json.loads(data["cards"]), strict=True):
        if row_id not in rows.index:
            assert card["robust"] is None
            continue
        own = rows.loc[row_id]
        assert card["robust"] == {"votes": own["votes"], "n": 8, "group": own["group"], "artefact": own["artefact"]}


def test_without_a_grid_there_is_no_section(tmp_path):
    run = make_run(tmp_path, rows=40)
    write_report(run, "None")
    html = (run / "report.html").read_text()
    assert json.loads((run / "report.json").read_text())["robust"] is None
    assert "Is it the model or the test?" not in html and "#robust" not in html


def test_one_protocol_and_no_draws(tmp_path):
    run = make_run(tmp_path, rows=40)
    add_grid(run)
    grid = read_table(run / "robustness.parquet")
    write_table(run / "robustness.parquet", grid[(grid["protocol"] == grid["protocol"].iloc[0]) & (grid["half"] == 0)])
    robust.tell(run)
    write_report(run, "One")
    assert "under 1 protocol:" in (run / "report.html").read_text()


def test_tables_without_their_columns_or_statistics_are_refused(tmp_path):
    run = make_run(tmp_path, rows=40)
    add_grid(run)
    rows, told = read_table(run / "robust_rows.parquet"), json.loads((run / "robustness.json").read_text())
    write_json(run / "robustness.json", {"cost": {}})
    with pytest.raises(InputError, match="robustness.json: no key rows; run robustness again"):
        write_report(run, "x")
    write_json(run / "robustness.json", told)
    write_table(run / "robust_rows.parquet", rows.drop(columns="votes"))
    with pytest.raises(InputError, match="robust_rows.parquet: no column votes; run robustness again"):
        write_report(run, "x")
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("other", [{"row_id": "r9999"}, {"own": True}])
def test_a_grid_of_other_verdicts_is_not_shown_and_it_is_said(tmp_path, other):
    run = make_run(tmp_path, rows=40)
    add_grid(run)
    rows = read_table(run / "robust_rows.parquet")
    at = rows.index[~rows["own"]][0]
    write_table(
        run / "robust_rows.parquet", rows.assign(**{k: rows[k].where(rows.index != at, v) for k, v in other.items()})
    )
    write_report(run, "Old")
    html = (run / "report.html").read_text()
    assert "tells of other verdicts than these; run robustness again" in html and "the model or the test" not in html
    assert json.loads((run / "report.json").read_text())["robust"] is None
