"""Triples from an endpoint: a real server on this machine that behaves in every way one can."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilpjax.errors import InputError
from ilpjax.knowledge import Endpoint, EndpointExtractor, Triple
from ilpjax.knowledge.extractor import parse

pytest.importorskip("openai")

GOOD = '[["Ann", "born in", "Rome"]]'
ANN = [Triple("Ann", "born in", "Rome", "endpoint")]


@pytest.fixture
def extractor(server, tmp_path):
    server.script = [GOOD]

    def make(budget=100, model="m", cache=tmp_path / "cache.jsonl", **settings):
        return EndpointExtractor(Endpoint(server.url, None, cache, requests=budget, **settings), model)

    return make


@pytest.fixture
def rows(row):
    return [row(f"Where was person {i} born?", "{prompt} Rome", i) for i in range(3)]


@pytest.mark.parametrize("answer", [GOOD, f"```json\n{GOOD}\n```", f"```\n{GOOD}\n```\n", f" {GOOD}\n"])
def test_well_formed_and_fenced(server, extractor, rows, answer):
    server.script = [answer]
    assert extractor()(rows) == [ANN] * 3
    sent = server.seen[0]
    assert sent["temperature"] == 0 and sent["model"] == "m"
    assert "Where was person 0 born?" in sent["messages"][0]["content"]
    assert sent["messages"][0]["content"].count("{prompt}") == 1, "a row's braces are text"


@pytest.mark.parametrize(
    "act", ["Sure! " + GOOD, '[["a", "b"]]', '[["a", "", "b"]]', "{}", "", "no choices", "empty choices", "not json"]
)
def test_nonsense_is_asked_for_once_more_and_counted(server, extractor, rows, act, capsys):
    server.script = [act]
    assert extractor()(rows[:1]) == [[]]
    assert len(server.seen) == 2
    assert capsys.readouterr().err == "m: 1 of 1 rows got no triples: the answer was no list of triples\n"
    assert extractor()(rows[:1]) == [[]]
    assert len(server.seen) == 2, "it is in the cache"


def test_nonsense_then_good(server, extractor, rows, capsys):
    server.script = ["hm", GOOD]
    assert extractor()(rows[:1]) == [ANN]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("act", [429, 500, 503, "close", "torn"])
def test_trouble_then_good(server, extractor, rows, act):
    server.script = [act, act, GOOD]
    assert extractor(budget=1)(rows[:1]) == [ANN]
    assert len(server.seen) == 3


def test_a_timeout_then_good(server, extractor, rows):
    server.script = ["hang", GOOD]
    assert extractor(timeout=0.3)(rows[:1]) == [ANN]


@pytest.mark.parametrize(("act", "says"), [(401, "refused the request for m"), ("close", "cannot be reached")])
def test_trouble_that_stays(server, extractor, rows, act, says):
    server.script = [GOOD, act]
    with pytest.raises(InputError) as raised:
        extractor(retries=1)(rows)
    assert says in str(raised.value) and server.url in str(raised.value) and "\n" not in str(raised.value)
    server.script, server.seen[:] = [GOOD], []
    assert extractor()(rows) == [ANN] * 3
    assert len(server.seen) == 2, "the first answer was kept"


def test_the_budget_stops_and_a_rerun_goes_on(server, extractor, rows, capsys):
    assert extractor(budget=2)(rows) == [ANN, ANN, []]
    said = capsys.readouterr().err
    assert "the budget of 2 requests is spent, 1 of 3 rows were not asked" in said and said.count("\n") == 1
    assert extractor(budget=1)(rows) == [ANN] * 3
    assert len(server.seen) == 3
    assert extractor(budget=1)(rows) == [ANN] * 3
    assert len(server.seen) == 3


def test_another_model_is_asked_again(server, extractor, rows):
    extractor()(rows)
    extractor(model="other")(rows)
    assert len(server.seen) == 6


def test_a_torn_last_line_is_asked_again(server, extractor, rows, tmp_path):
    extractor()(rows)
    cache = tmp_path / "cache.jsonl"
    cache.write_bytes(cache.read_bytes()[:-20])
    assert extractor()(rows) == [ANN] * 3
    assert len(server.seen) == 4
    assert extractor()(rows) == [ANN] * 3
    assert len(server.seen) == 4


CHILD = """
import sys
from pathlib import Path
from ilpjax.knowledge import Endpoint, EndpointExtractor
from ilpjax.rows import Message, Row

def row(i):
    turns = (Message("user", f"Where was person {i} born?"), Message("assistant", "{prompt} Rome"))
    return Row(row_id=f"r{i}", messages=turns, dataset="d", position=i, source="d")

endpoint = Endpoint(sys.argv[1], None, Path(sys.argv[2]), requests=100)
EndpointExtractor(endpoint, "m")([row(i) for i in range(3)])
"""


def test_a_kill_loses_at_most_the_answer_under_way(server, extractor, rows, tmp_path):
    server.script = [GOOD, GOOD, "hang"]
    child = subprocess.Popen([sys.executable, "-c", CHILD, server.url, str(tmp_path / "cache.jsonl")], env=os.environ)
    try:
        while len(server.seen) < 3 and child.poll() is None:
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    server.script = [GOOD]
    before = len(server.seen)
    assert extractor()(rows) == [ANN] * 3
    assert (before, len(server.seen)) == (3, 4)


def test_wrong_input(server, extractor, rows, tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(InputError, match="NO_SUCH_KEY: the environment variable is not set"):
        Endpoint(server.url, "NO_SUCH_KEY", tmp_path / "c", requests=1)
    with pytest.raises(InputError, match="requests=0: nothing could be asked"):
        extractor(budget=0)
    other = tmp_path / "rows.jsonl"
    other.write_text('{"prompt": "a", "response": "b"}\n')
    with pytest.raises(InputError, match="rows.jsonl, line 1: no cache of answers"):
        extractor(cache=other)
    with pytest.raises(InputError, match="cannot be read as a cache"):
        extractor(cache=tmp_path)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(InputError, match=r"openai is not installed; pip install 'ilpjax\[endpoint\]'"):
        extractor()


def test_the_key_is_sent_and_not_kept(server, rows, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    EndpointExtractor(Endpoint(server.url, "MY_KEY", tmp_path / "c.jsonl", requests=9), "m")(rows)
    assert "sk-secret" not in (tmp_path / "c.jsonl").read_text()


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=9,
)


@given(st.one_of(st.text(max_size=40), JSON.map(json.dumps)))
def test_parse_never_raises(answer):
    for triple in parse(answer) or []:
        assert triple.subject and triple.relation and triple.object and triple.source == "endpoint"
