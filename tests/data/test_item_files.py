"""Items as a stream: what reading the file whole gives, one item at a time."""

import gzip
import json
import tracemalloc

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilpjax.config import DataConfig
from ilpjax.data import Items, items_table, make_items, read_items, read_rows
from ilpjax.errors import InputError


def record(n, **more):
    return {"question": f"Who \u2028 is {n}?", "options": ["Ann", "Bo", "Cé"], "answer": n % 3} | more


def write(path, records):
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@settings(max_examples=40)
@given(
    records=st.lists(
        st.tuples(st.integers(0, 3), st.none() | st.sampled_from(["a", "b", "c", "d", 7])), min_size=1, max_size=6
    ),
    limit=st.none() | st.integers(1, 4),
)
def test_ids_are_those_of_the_file_read_whole(tmp_path_factory, records, limit):
    """Its own where each record has one and none twice, else a hash of the content, copies told apart."""
    made = [record(n) | ({} if own is None else {"id": own}) for n, own in records]
    path = write(tmp_path_factory.mktemp("items") / "items.jsonl", made)
    cfg = DataConfig(limit=limit)
    items = read_items(path, cfg)
    assert isinstance(items, Items)
    assert list(items) == list(items) == make_items(read_rows(str(path), cfg), 4, 0)
    assert len(items) == len(list(items)) and len({item.row_id for item in items}) == len(items)


def test_every_kind_of_file(tmp_path):
    records = [record(n, id=f"q{n}") for n in range(5)]
    want = make_items(read_rows(str(write(tmp_path / "a.jsonl", records)), DataConfig()), 4, 0)
    write(tmp_path / "b.jsonl.gz", records)
    write(tmp_path / "c.json", records)
    pd.DataFrame(records).to_parquet(tmp_path / "d.parquet")
    (tmp_path / "e.parquet.gz").write_bytes(gzip.compress((tmp_path / "d.parquet").read_bytes()))
    items_table(want).to_parquet(tmp_path / "f.parquet")
    for name in ("a.jsonl", "b.jsonl.gz", "c.json", "d.parquet", "e.parquet.gz", "f.parquet"):
        items = read_items(tmp_path / name, DataConfig())
        assert isinstance(items, Items) and list(items) == want
    (tmp_path / "g.json").write_text(json.dumps(records))
    assert read_items(tmp_path / "g.json", DataConfig()) == want


def test_two_ids_with_one_hash_are_two(tmp_path, monkeypatch):
    monkeypatch.setattr("ilpjax.data.items._key", lambda own: len(own))
    path = write(tmp_path / "a.jsonl", [record(n, id=f"q{n}") for n in range(5)])
    assert [item.row_id for item in read_items(path, DataConfig())] == [f"q{n}" for n in range(5)]
    path = write(tmp_path / "a.jsonl", [record(n, id=f"q{n % 4}") for n in range(5)])
    assert not {item.row_id for item in read_items(path, DataConfig())} & {f"q{n}" for n in range(5)}


def test_a_wrong_record_is_told_before_any_item_is_used(tmp_path):
    path = write(tmp_path / "a.jsonl", [*(record(n) for n in range(3)), record(0, answer=3)])
    with pytest.raises(InputError, match='a.jsonl, line 4: "answer" is 3; with 3 options 0 to 2 is right'):
        read_items(path, DataConfig())
    assert len(read_items(path, DataConfig(limit=3))) == 3
    path.write_text(json.dumps(record(0)) + "\n" + '{"question": "no options", "answer": 0}\n')
    with pytest.raises(InputError, match='a.jsonl, line 2: "options" is missing'):
        read_items(path, DataConfig())


def test_rows_and_items_in_other_forms_are_read_whole(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"prompt": f"p{n}", "response": f"r{n}"} for n in range(5)])
    assert len(read_items(path, DataConfig())[0].options) == 4
    path = write(tmp_path / "b.jsonl", [{"question": "q", "choices": ["x", "y"], "answer": 1}])
    assert read_items(path, DataConfig()) == make_items(read_rows(str(path), DataConfig()), 4, 0)


def test_one_item_is_in_memory_at_a_time(tmp_path):
    def peak(count):
        path = write(tmp_path / "a.jsonl", (record(n, id=f"q{n}", question=f"{n}" * 50) for n in range(count)))
        tracemalloc.start()
        assert sum(1 for _ in read_items(path, DataConfig())) == count
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak(200), peak(4000)
    assert many - few < 4000 * 40  # not even its id
