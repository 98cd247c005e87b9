"""Files with rows to score, as people have them."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import save_model

from bandit_serve.errors import InvalidInput, NotFound, UsageError
from bandit_serve.export.places import place_of
from bandit_serve.scoring.asked import AskedRows, RowFault, asked_rows
from bandit_serve.scoring.batch import score_files
from bandit_serve.scoring.model_source import of_file
from bandit_serve.scoring.question import BatchQuestion
from bandit_serve.scoring.row_files import row_files

PAIRS = BatchQuestion()


def read(
    place: str | Path, question: BatchQuestion = PAIRS, n: int = 100
) -> tuple[list[AskedRows], list[RowFault]]:
    asked, faults = [], []
    for file in row_files(str(place)):
        for chunk in file.chunks(n, question.columns):
            some, wrong = asked_rows(chunk, question, needs_names=True)
            asked.append(some)
            faults += wrong
    return asked, faults


def test_csv_is_read_by_its_names_and_told_by_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(
        b"\xef\xbb\xbfitem_id,note,user_id\r\n"
        b'i1,"two\nlines",u1\r\n'
        b"\r\n"
        b"i2,x\r\n"
        b"i3,,\r\n"
        b"i4,x,\xff\r\n"
        b"007,x,1e3\r\n"
    )
    (asked,), faults = read(path)
    assert (asked.users, asked.items) == (["u1", "1e3"], ["i1", "007"])
    assert [(fault.line, fault.detail.partition(":")[0]) for fault in faults] == [
        (5, "expected 3 fields, not 2"),
        (6, "user_id is missing"),
        (7, "user_id"),
    ]


def test_cells_of_csv_are_what_the_model_knows_them_as(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('user_id,exclude,age,device,new\n7,"[""1"", 2]",30,tv,true\n8,,,,\n9,1,1e400,"[1]",x\n')
    question = BatchQuestion(k=3, features=("age", "device", "new"))
    (asked,), faults = read(path, question)
    assert asked.users == ["7", "8"]
    assert asked.excluded == [["1", "2"], []]
    assert asked.features == [{"age": 30.0, "device": "tv", "new": True}, None]
    assert [fault.line for fault in faults] == [4]


def test_a_comma_that_may_be_of_the_thousands_is_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('user_id,item_id,x\nu,i,"1,5"\nu,i,"1,234"\nu,i,0.5\n')
    (asked,), faults = read(path, BatchQuestion(features=("x",)))
    assert faults == [RowFault("rows.csv", 3, "x: expected a number with a point, not 1,234")]
    assert asked.features == [{"x": 1.5}, {"x": 0.5}]


@pytest.mark.parametrize(
    ("cell", "number", "text"),
    [
        ("02134", 2134.0, "02134"),
        ("1e3", 1000.0, "1e3"),
        ('"1,5"', 1.5, "1,5"),
        (" 7 ", 7.0, " 7 "),
        ("NA", None, "NA"),
        ("null", None, "null"),
        ("true", True, "true"),
        ("north", "north", "north"),
        ('"[""a"", ""b""]"', ["a", "b"], ["a", "b"]),
        ("[a", "[a", "[a"),
        ("", None, None),
    ],
)
def test_a_cell_of_csv_is_a_number_or_a_text_as_the_model_knows_it(
    cell: str, number: Any, text: Any, tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"user_id,item_id,x\nu,i,{cell}\n")
    question = BatchQuestion(features=("x",))
    ((chunk,),) = (list(file.chunks(9, question.columns)) for file in row_files(str(path)))
    for texts, expected in ((), number), ({"x"}, text):
        asked, faults = asked_rows(chunk, question, needs_names=True, texts=texts)
        assert faults == []
        assert asked.features == [None if expected is None else {"x": expected}]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.large_string(), ["1", "b"]),
        (pa.string_view(), ["1", "b"]),
        (pa.dictionary(pa.int8(), pa.string()), ["1", "b"]),
        (pa.int64(), [1, 2]),
        (pa.uint8(), [1, 2]),
    ],
)
def test_parquet_ids_are_texts_or_whole_numbers(kind: Any, values: list[Any], tmp_path: Path) -> None:
    ids = (
        pa.array(values).cast(kind)
        if isinstance(values[0], int)
        else pa.array(values, pa.string()).cast(kind)
    )
    pq.write_table(pa.table({"user_id": ids, "item_id": ["a", None]}), tmp_path / "rows.parquet")
    (asked,), faults = read(tmp_path / "rows.parquet")
    assert asked.users == ["1"]
    assert faults == [RowFault("rows.parquet", 2, "item_id is missing")]


def test_features_of_parquet_are_structs_maps_or_lists(tmp_path: Path) -> None:
    given = [
        (pa.array([{"age": 3, "device": None}]), {"age": 3.0}),
        (pa.array([[("age", 3.5)]], pa.map_(pa.string(), pa.float64())), {"age": 3.5}),
        (pa.array([[1, 2]]), [1.0, 2.0]),
        (pa.array([None], pa.list_(pa.float64())), None),
    ]
    for column, expected in given:
        pq.write_table(
            pa.table({"user_id": ["u"], "item_id": ["i"], "features": column}), tmp_path / "rows.parquet"
        )
        (asked,), faults = read(tmp_path / "rows.parquet")
        assert (asked.features or [None])[0] == expected
        assert faults == []


def test_chunks_count_on_over_the_row_groups(tmp_path: Path) -> None:
    n = 1_000
    table = pa.table({"user_id": np.arange(n), "item_id": np.arange(n), "other": np.zeros(n)})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=130)
    asked, _ = read(tmp_path / "rows.parquet", n=70)
    assert [line for some in asked for line in some.lines] == list(range(1, n + 1))
    assert [user for some in asked for user in some.users or ()] == [str(i) for i in range(n)]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.parquet", b"PAR1 and no more", "can not be read as Parquet"),
        (
            "rows.csv.gz",
            gzip.compress(b"user_id,item_id\n" + b"u,i\n" * 999, mtime=0)[:-12],
            "not a whole gzip file",
        ),
        ("rows.csv", b'user_id,item_id\nu,"i\n', "line 2: a quote is not closed"),
        ("rows.csv", b"user_id,user_id\nu,i\n", "2 columns 'user_id'"),
        ("rows.csv", b"a,b\nu,i\n", "none of the columns"),
    ],
)
def test_what_is_no_file_of_rows_is_refused(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=said):
        read(tmp_path / name)


def test_no_file_stays_open(tmp_path: Path) -> None:
    for n in range(20):
        pq.write_table(pa.table({"user_id": [n], "item_id": [n]}), tmp_path / f"{n:02}.parquet")
    before = len(os.listdir("/proc/self/fd"))
    files = row_files(str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before
    found = [
        chunk.columns()["user_id"].to_pylist() for file in files for chunk in file.chunks(9, {"user_id"})
    ]
    assert found == [[n] for n in range(20)]
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="There is no file"):
        row_files(str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="can not be used"):
        row_files("nosuch://place/rows.csv")
    for open_ in (row_files, place_of):
        with pytest.raises(UsageError, match="nosuch://place/rows") as refused:
            open_("nosuch://user:hidden@place/rows.csv?token=hidden")
        assert "hidden" not in str(refused.value)
    (tmp_path / "_SUCCESS").write_text("x")
    with pytest.raises(InvalidInput, match="a folder without a file"):
        row_files(str(tmp_path))


def test_urls_are_read_and_written(tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    files.pipe_file("/lake/rows/a.csv", b"user_id,item_id\n1,0\n")
    files.pipe_file("/lake/rows/b.jsonl", b'{"user_id": "2", "item_id": 1}\n{"item_id": 1}\n')
    source = of_file(save_model(tmp_path / "model"))
    out, rejects = place_of("memory://lake/out.jsonl"), place_of("memory://lake/rejects")
    files_of = row_files("memory://lake/rows")
    report = score_files(files_of, source, PAIRS, out, "jsonl", rejects=rejects)
    assert (report.rows, report.written, report.rejected) == (3, 2, 1)
    lines = files.cat_file("/lake/out.jsonl").decode().splitlines()
    assert len(lines) == 2
    assert '"user_id":"1","item_id":"0","prediction":' in lines[0]
    assert b'"b.jsonl","line":2' in files.cat_file("/lake/rejects")
