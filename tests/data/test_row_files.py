"""Files of every kind, ids, and hub sets."""

import gzip
import json

import datasets
import pandas as pd
import pytest

from ilpjax.config import DataConfig
from ilpjax.data import items_table, make_items, read_items, read_rows, read_texts, rows_table
from ilpjax.errors import InputError
from ilpjax.rundir import write_table

RECORDS = [{"prompt": f"p{n}", "response": f"r \u2028 {n}\u00e9"} for n in range(5)]


def lines(records):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def contents(rows):
    return [(row.prompt, row.response) for row in rows]


@pytest.fixture
def expected(tmp_path):
    (tmp_path / "train.jsonl").write_text(lines(RECORDS))
    return contents(read_rows(str(tmp_path / "train.jsonl"), DataConfig()))


def test_every_kind_of_file_gives_the_same_rows(tmp_path, expected):
    assert expected == [(r["prompt"], r["response"]) for r in RECORDS]
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(lines(RECORDS))
    (tmp_path / "b.json").write_text(json.dumps(RECORDS, indent=1))
    (tmp_path / "c.json").write_text(lines(RECORDS))
    (tmp_path / "d.jsonl").write_bytes(b"\xef\xbb\xbf" + lines(RECORDS).replace("\n", "\r\n").encode())
    pd.DataFrame(RECORDS).to_parquet(tmp_path / "e.parquet")
    (tmp_path / "f.parquet.gz").write_bytes(gzip.compress((tmp_path / "e.parquet").read_bytes()))
    for name in ("a.jsonl.gz", "b.json", "c.json", "d.jsonl", "e.parquet", "f.parquet.gz"):
        rows = read_rows(str(tmp_path / name), DataConfig())
        assert contents(rows) == expected
        assert rows[0].dataset == name[0]
        assert len({row.row_id for row in rows}) == 5


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("x.jsonl", b"\n", "it holds no record"),
        ("x.json", b"[]", "it holds no record"),
        ("x.json", b'{"data":\n []}', "not a list of objects"),
        ("x.json", b'[{"prompt": "p"},\n {]', "x.json: not JSON"),
        ("x.json", b'[{"prompt": "p", "response": "r"}, 3]', "x.json, record 2: not a JSON object"),
        ("x.jsonl", b'{"prompt": "p"}\n\xff', "x.jsonl, line 2: not UTF-8"),
        ("x.jsonl.gz", b"\x1f\x8b\x08\x00\x00", "not a whole gzip file"),
        ("x.jsonl.gz", b'{"prompt": "p"}', "not a whole gzip file"),
        ("x.parquet", b"PAR1....", "not a Parquet file"),
        ("x.csv", b"a,b", ".csv is not read; .jsonl"),
        ("x.txt", b"text", "rows are read from .jsonl"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as raised:
        read_rows(str(tmp_path / name), DataConfig())
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_what_is_neither_file_nor_hub_set(tmp_path):
    for name in ("train.jsonl", "a b", "./train", str(tmp_path / "x"), "a/b/c"):
        with pytest.raises(InputError, match="no such file"):
            read_rows(name, DataConfig())
    with pytest.raises(InputError, match="a folder"):
        read_rows(str(tmp_path), DataConfig())
    with pytest.raises(InputError, match="no file or hub set is given"):
        read_rows([], DataConfig())


def test_a_hub_set_by_name(monkeypatch):
    asked = []

    def load(name, config, split):
        asked.append((name, config, split))
        if config == "no":
            raise ValueError("BuilderConfig 'no' not found.\nAvailable: ['yes']")
        return datasets.Dataset.from_list(RECORDS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = read_rows("owner/set:yes", DataConfig(split="validation"))
    assert asked == [("owner/set", "yes", "validation")]
    assert (rows[2].dataset, rows[2].source, rows[2].prompt) == ("owner/set:yes", "owner/set:yes:3", "p2")
    with pytest.raises(InputError, match=r"^owner/set:no: .*split train \(BuilderConfig 'no' not found\)$"):
        read_rows("owner/set:no", DataConfig())


def test_ids_are_kept_only_where_they_identify(tmp_path):
    def ids(**files):
        for name, own in files.items():
            records = [
                {"prompt": f"{name}{n}", "response": "r"} | ({} if i is None else {"id": i}) for n, i in enumerate(own)
            ]
            (tmp_path / f"{name}.jsonl").write_text(lines(records))
        rows = read_rows([str(tmp_path / f"{name}.jsonl") for name in files], DataConfig())
        assert len({row.row_id for row in rows}) == len(rows)
        assert [row.position for row in rows] == list(range(len(rows)))
        return [row.row_id if len(row.row_id) < 16 else "hash" for row in rows]

    assert ids(a=["x", 7]) == ["x", "7"]
    assert ids(a=["x", "x"]) == ["hash", "hash"]
    assert ids(a=["x", None]) == ["hash", "hash"]
    assert ids(a=["x", "y"], b=["z"]) == ["x", "y", "z"]
    assert ids(a=["x", "y"], b=["y"], c=["w"]) == ["hash", "hash", "hash", "w"]


def test_copies_get_ids_of_their_own_and_order_does_not_matter(tmp_path):
    records = [RECORDS[0], RECORDS[1], RECORDS[0]]
    (tmp_path / "a.jsonl").write_text(lines(records))
    (tmp_path / "b.jsonl").write_text(lines(records[::-1]))
    a, b = (read_rows(str(tmp_path / f"{name}.jsonl"), DataConfig()) for name in "ab")
    assert a[2].row_id == a[0].row_id + "-2"
    assert {row.row_id for row in a} == {row.row_id for row in b}


def test_limit_dataset_field_and_several_files(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines([r | {"dataset": "named"} for r in RECORDS]))
    (tmp_path / "b.jsonl").write_text(lines([*RECORDS[:2], {"prompt": "p", "response": ""}]))
    rows = read_rows([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")], DataConfig(limit=2))
    assert [row.dataset for row in rows] == ["named", "named", "b", "b"]


def test_a_run_directory_gives_its_rows_back(tmp_path, expected):
    rows = read_rows(str(tmp_path / "train.jsonl"), DataConfig())
    write_table(tmp_path / "run" / "rows.parquet", rows_table(rows))
    for name in ("run", "run/rows.parquet"):
        assert read_rows(str(tmp_path / name), DataConfig()) == rows
    items = make_items(rows, 3, 0)
    write_table(tmp_path / "run" / "items.parquet", items_table(items))
    assert list(read_items(tmp_path / "run" / "items.parquet", DataConfig())) == items
    assert read_items(tmp_path / "run" / "rows.parquet", DataConfig(options=3)) == items


def test_texts(tmp_path):
    (tmp_path / "t.jsonl").write_text(lines([{"text": "one"}, {"text": " "}, {"text": "two", "id": 3}]))
    assert read_texts(str(tmp_path / "t.jsonl")) == ["one", "two"]
    paragraphs = [f"{n} " + "word " * 300 for n in range(4)]
    (tmp_path / "t.txt").write_text(" \n\n \n".join(paragraphs) + "\n\n\n")
    documents = read_texts(str(tmp_path / "t.txt"))
    assert [d.split()[0] for d in documents] == ["0", "2"]
    assert "".join(documents).split() == "".join(paragraphs).split()
    with gzip.open(tmp_path / "t.txt.gz", "wb") as file:
        file.write((tmp_path / "t.txt").read_bytes())
    assert read_texts([str(tmp_path / "t.txt.gz"), str(tmp_path / "t.jsonl")], limit=1) == [documents[0], "one"]
    (tmp_path / "u.jsonl").write_text(lines([{"text": "one"}, {"txt": "two"}]))
    with pytest.raises(InputError, match=r'u.jsonl, line 2: "text" is missing; \{"text": ...} is right'):
        read_texts(str(tmp_path / "u.jsonl"))
    (tmp_path / "v.txt").write_text("\n \n")
    with pytest.raises(InputError, match="it holds no text"):
        read_texts(str(tmp_path / "v.txt"))
