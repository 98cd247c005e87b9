"""Shapes of ratings and features files, a test for each; errors name the line."""

import datetime
import decimal
import gzip
import os

import numpy as np
import pytest

from bandit_serve.errors import InvalidInput, NotFound
from bandit_serve.training import RatingColumns, read_dataset
from bandit_serve.training.features import read_features
from bandit_serve.training.ratings import read_ratings

CSV = "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n1,1029,3.0,1260759179\n7,31,0.5,851868750\n"
ROWS = [line.split(",") for line in CSV.splitlines()[1:]]
OTHER = RatingColumns(user="who", item="what", rating="stars", time="at")


def file(tmp_path, content, name="ratings.csv"):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def text(separator=",", names="", rows=ROWS):
    return "".join(f"{line}\n" for line in [*names.splitlines(), *(separator.join(row) for row in rows)])


def assert_read(path, columns=None, times=True):
    read = read_dataset(path, columns=columns).ratings
    assert read.users.tolist() == ["1", "1", "7"]
    assert read.items.tolist() == ["31", "1029", "31"]
    assert read.values.tolist() == [2.5, 3.0, 0.5]
    assert read.timestamps.tolist() == ([1260759144, 1260759179, 851868750] if times else [0, 0, 0])
    assert read.values.dtype == np.float32


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_movielens_csv(tmp_path, pack, ending, mark):
    assert_read(file(tmp_path, pack((mark + CSV).replace("\n", ending).encode())))


def test_movielens_100k_tabs(tmp_path):
    assert_read(file(tmp_path, text("\t"), "u.data"))


def test_movielens_1m_and_10m(tmp_path):
    """`::`, no names, Latin-1, and what is known of movies and users beside it."""
    path = file(tmp_path, text("::"), "ratings.dat")
    movies = (
        '31::Dangerous "Minds", The (1995)::Drama\n1029::Café Dumbo::Animation|Children\'s|Drama|Musical\n'
    )
    file(tmp_path, movies.encode("latin-1"), "movies.dat")
    people = "".join(f"{n}::{'FM'[n % 2]}::{n % 4}::{n % 3}::{n:05}\n" for n in range(1, 9))
    assert_read(path)
    data = read_dataset(path, users=file(tmp_path, people, "users.dat"))
    assert data.item_features == {
        "31": {"genre": ["Drama"], "decade": "1990s"},
        "1029": {"genre": ["Animation", "Children's", "Drama", "Musical"]},
    }
    assert data.user_features["7"] == {"gender": "M", "age": 3.0, "occupation": 1.0, "zip": 7.0}


def test_without_names(tmp_path):
    assert_read(file(tmp_path, text()))
    assert_read(file(tmp_path, text(rows=[row[:3] for row in ROWS])), times=False)
    swapped = file(tmp_path, text(rows=[[row[3], row[1], row[0], row[2]] for row in ROWS]))
    assert_read(swapped, RatingColumns(user="3", item="2", rating="4", time="1"))


def test_semicolons_and_decimal_commas(tmp_path):
    rows = [[f'"{user}"', item, value.replace(".", ","), time] for user, item, value, time in ROWS]
    assert_read(file(tmp_path, text(";", "who;what;stars;at", rows)), OTHER)
    assert_read(file(tmp_path, text(";", rows=rows)))
    quoted = [[user, item, f'"{value}"', time] for user, item, value, time in rows]
    assert_read(file(tmp_path, text(",", "who,what,stars,at", quoted)), OTHER)


def test_bars(tmp_path):
    assert_read(file(tmp_path, text("|", "who|what|stars|at")), OTHER)


def test_tabs_with_names(tmp_path):
    assert_read(file(tmp_path, text("\t", "who\twhat\tstars\tat")), OTHER)


def test_latin_1(tmp_path):
    data = read_dataset(file(tmp_path, (CSV + "zoë,café,4,5\n").encode("latin-1")))
    assert data.ratings.users.tolist()[-1] == "zoë"
    assert data.ratings.items.tolist()[-1] == "café"
    assert data.source == "ratings.csv (read as Latin-1)"
    file(tmp_path / "parts", CSV, "part-0.csv")
    file(tmp_path / "parts", "zoë,café,4,5\n".encode("latin-1"), "part-1.csv")
    data = read_dataset(tmp_path / "parts")
    assert data.source == "parts (read as Latin-1)"
    assert data.ratings.users.tolist()[-1] == "zoë"


def test_utf_16_as_spreadsheets_write_it(tmp_path):
    assert_read(file(tmp_path, text("\t", "who\twhat\tstars\tat").encode("utf-16")), OTHER)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("2009-12-14T02:52:24Z", 1260759144),
        ("2009-12-14 02:52:24", 1260759144),
        ("2009-12-14 03:52:24.9+01:00", 1260759144),
        ("2009-12-14", 1260748800),
        ("1260759144.7", 1260759144),
        ("-1.5", -2),
    ],
)
def test_iso_times_which_are_utc_unless_they_say(tmp_path, monkeypatch, written, seconds):
    monkeypatch.setenv("TZ", "America/New_York")
    path = file(tmp_path, f"who,what,stars,at\n1,2,3,{written}\n")
    assert read_dataset(path, columns=OTHER).ratings.timestamps.tolist() == [seconds]


def test_gzip_with_columns_and_features_of_requests(tmp_path):
    rows = [
        [*row, hour, place] for row, hour, place in zip(ROWS, ["9", "", "21"], ["a", "b", ""], strict=True)
    ]
    path = file(tmp_path, gzip.compress(text(",", "who,what,stars,at,hour,place", rows).encode()), "r.csv.gz")
    assert_read(path, OTHER)
    columns = RatingColumns("who", "what", "stars", "at", ("hour", "place"))
    assert read_dataset(path, columns=columns).features == [
        {"hour": 9.0, "place": "a"},
        {"place": "b"},
        {"hour": 21.0},
    ]


@pytest.mark.parametrize("names", [1, 3])
def test_a_directory_of_parts(tmp_path, names):
    """Names in the first part, or in each; with what Spark leaves beside them."""
    folder = tmp_path / "ratings"
    for number, row in enumerate(ROWS):
        head = "who,what,stars,at" if number < names else ""
        file(folder, text(",", head, [row]), f"part-{number:05}.csv")
        file(folder, "x", f".part-{number:05}.csv.crc")
    file(folder, "", "_SUCCESS")
    file(folder, "", "part-00009.csv")
    assert_read(folder, OTHER)
    file(folder, text(",", "", [["1", "2", "x", "4"]]), "part-00010.csv")
    with pytest.raises(InvalidInput, match=r"ratings/part-00010.csv, line 1: .*'x'"):
        read_ratings(folder, OTHER)
    with pytest.raises(InvalidInput, match="directory without"):
        read_ratings(file(tmp_path / "empty", "", "_SUCCESS").parent)


@pytest.fixture
def parquet():
    return pytest.importorskip("pyarrow.parquet")


def table(**columns):
    return pytest.importorskip("pyarrow").table(columns)


def plain(**changes):
    users, items, values, times = zip(*ROWS, strict=True)
    columns = {
        "who": list(users),
        "what": list(items),
        "stars": [float(value) for value in values],
        "at": [int(time) for time in times],
    }
    return table(**{**columns, **changes})


@pytest.mark.parametrize("name", ["r.parquet", "r.pq", "r.PARQ", "r"])
def test_parquet_by_its_ending_or_its_first_bytes(tmp_path, parquet, name):
    parquet.write_table(plain(), tmp_path / name)
    assert_read(tmp_path / name, OTHER)


def test_a_directory_of_parquet_with_folders_in_it(tmp_path, parquet):
    for day, row in enumerate(ROWS):
        folder = tmp_path / "r" / f"date=2026-01-0{day}"
        folder.mkdir(parents=True)
        parquet.write_table(plain().slice(day, 1), folder / "part-0.parquet")
        assert row
    assert_read(tmp_path / "r", OTHER)


@pytest.mark.parametrize(
    "ids",
    [
        [b"1", b"1", b"7"],
        [1, 1, 7],
        [1.0, 1.0, 7.0],
        [decimal.Decimal(1), decimal.Decimal(1), decimal.Decimal(7)],
    ],
    ids=["bytes", "whole", "floats", "decimals"],
)
def test_ids_in_parquet(tmp_path, parquet, ids):
    parquet.write_table(plain(who=ids), tmp_path / "r.pq")
    assert_read(tmp_path / "r.pq", OTHER)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_times_in_parquet(tmp_path, parquet, monkeypatch, unit, zone):
    arrow = pytest.importorskip("pyarrow")
    monkeypatch.setenv("TZ", "America/New_York")
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    exact = [int(row[3]) * per_second + (per_second > 1) for row in ROWS]
    parquet.write_table(plain(at=arrow.array(exact, arrow.timestamp(unit, tz=zone))), tmp_path / "r.pq")
    assert_read(tmp_path / "r.pq", OTHER)


def test_dates_and_texts_as_times_in_parquet(tmp_path, parquet):
    days = [datetime.date(2009, 12, 14), datetime.date(1970, 1, 1), datetime.date(1969, 12, 31)]
    expected = [1260748800, 0, -86400]
    for at in (days, [str(day) for day in days]):
        parquet.write_table(plain(at=at), tmp_path / "r.pq")
        assert read_ratings(tmp_path / "r.pq", OTHER).timestamps.tolist() == expected


def test_missing_numbers_and_texts_of_items(tmp_path, parquet):
    """Left out of the one item; the column stays one of numbers."""
    cells = ["3", "", "NA", "nan", "4,5", "null", "7", "3"]
    lines = [f"{n};{cell};{'' if n == 1 else 'ab'[n % 2]}" for n, cell in enumerate(cells)]
    path = file(tmp_path, "id;price;kind\n" + "\n".join(lines), "items.csv")
    features = read_features(path)
    assert features["0"] == {"price": 3.0, "kind": "a"}
    assert features["1"] == {}
    assert features["2"] == {"kind": "a"}
    assert features["4"] == {"price": 4.5, "kind": "a"}
    prices, kinds = [3.0, None, float("nan"), 4.5], ["a", None, "a", "a"]
    parquet.write_table(table(id=[1, 2, 3, 4], price=prices, kind=kinds), tmp_path / "items.pq")
    assert read_features(tmp_path / "items.pq") == {
        "1": {"price": 3.0, "kind": "a"},
        "2": {},
        "3": {"kind": "a"},
        "4": {"price": 4.5, "kind": "a"},
    }


def test_features_of_any_csv(tmp_path):
    lines = "".join(f"{n},{n % 3},{'a' if n % 2 else 'a|b'},name {n}\n" for n in range(10))
    features = read_features(file(tmp_path, f"id,size,kinds,name\n{lines}", "items.csv"))
    assert features["4"] == {"size": 1.0, "kinds": ["a", "b"]}
    assert features["5"] == {"size": 2.0, "kinds": "a"}
    for content, match in [
        ("id\n1\n", "a column of ids"),
        ("id,a\n", "a line below"),
        ("id,a\n1,2\n3\n", "items.csv, line 3: expected 2 fields, not 1"),
        ("id,a\n1,2\n,2\n", "items.csv, line 3: expected an id, not ''"),
    ]:
        with pytest.raises(InvalidInput, match=match):
            read_features(file(tmp_path, content, "items.csv"))
    with pytest.raises(NotFound):
        read_features(tmp_path / "none.csv")


def test_quotes_empty_lines_and_a_missing_last_newline(tmp_path):
    read = read_ratings(file(tmp_path, '\nuserId,movieId,rating,timestamp\n\n"u,1",x,4,5\n\nu2,y,3,6'))
    assert read.users.tolist() == ["u,1", "u2"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "no column"),
        ("user,movie,rating,time\n1,2,3,4\n", "has no column 'userId'; it has 'user', .*--columns user="),
        ("userId,movieId,rating,timestamp\n", "ratings.csv has no ratings"),
        (CSV + "1,2,3\n", "line 5: expected 4 fields, not 3"),
        (CSV + "1,2,3,4,5\n", "line 5: expected 4 fields, not 5"),
        (CSV + "1,2,good,4\n", "line 5: expected a finite rating, not 'good'"),
        (CSV + "1,2,,4\n", "line 5: expected a finite rating, not ''"),
        (CSV + "1,2,3,yesterday\n", "line 5: expected a time in seconds or ISO 8601, not 'yesterday'"),
        (CSV + "\n\n1,2,3,2009-13-01\n", "line 7: expected a time"),
        ('userId,movieId,rating,note\n1,2,3,"a\nb"\n1,2,x,c\n', "line 4: expected a finite rating, not 'x'"),
        (CSV + ",2,3,4\n", "line 5: the user is empty"),
        (CSV + "1,,3,4\n", "line 5: the item is empty"),
        (CSV + "1,2,nan,4\n", "line 5: expected a finite rating"),
        (CSV + "1,2,1e999,4\n", "line 5: expected a finite rating"),
        (CSV + "1,2,2e12,4\n", "line 5: expected a finite rating"),
        (CSV + f"1,2,3,{10**30}\n", "line 5: expected a time"),
        (CSV + '1,"2,3,4\n', "line 5: a quote"),
        (text("\t") + "1\t2\t3\n", "line 4: expected 4 fields, not 3"),
        (text("::") + "1::2::x::3\n", "line 4: expected a finite rating, not 'x'"),
        ("userId;movieId;rating\n1;2;3\n1;2;1,234\n", "line 3: the comma in the rating may be"),
        (b"\xff\xfe1,2", "not whole as UTF-16"),
        (
            CSV.encode() + "1,é,3,4\n".encode() + b"1,\xff,3,4\n",
            "line 6: it is not UTF-8, as other lines are",
        ),
        (gzip.compress(CSV.encode() + b"1,2,3,4\n" * 50, mtime=0)[:-10], "not a whole gzip file"),
        (b"\x1f\x8bnot gzip at all", "not a whole gzip file"),
        (b"PAR1", "as Parquet"),
        (bytes(range(256)) * 20, "no column|line"),
    ],
)
def test_a_malformed_file_is_refused_with_the_line(tmp_path, content, match):
    with pytest.raises(InvalidInput, match=match):
        read_ratings(file(tmp_path, content))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"who": ["1", None, "7"]}, "row 2: the user is empty"),
        ({"who": [1.0, 1.5, 7.0]}, "row 2: expected the user's id, text or a whole number, not 1.5"),
        ({"who": [b"1", b"1", b"\xff"]}, "row 3: expected the user's id"),
        ({"stars": [1.0, 2.0, None]}, "row 3: expected a finite rating, not None"),
        ({"at": [1, None, 2]}, "row 2: expected a time"),
        ({"who": [[1], [2], [3]]}, "row 1: expected the user's id"),
    ],
)
def test_malformed_parquet_is_refused_with_the_row(tmp_path, parquet, changes, match):
    parquet.write_table(plain(**changes), tmp_path / "r.pq")
    with pytest.raises(InvalidInput, match=match):
        read_ratings(tmp_path / "r.pq", OTHER)
    with pytest.raises(InvalidInput, match="no column 'userId'; it has 'who'"):
        read_ratings(tmp_path / "r.pq")


def test_a_thousands_comma_is_a_decimal_one_once_another_line_shows_it(tmp_path):
    path = file(tmp_path, "userId;movieId;rating\n1;2;1,234\n1;3;1,5\n")
    np.testing.assert_allclose(read_ratings(path).values, [1.234, 1.5])


def test_no_file_and_what_is_none_are_refused(tmp_path):
    with pytest.raises(NotFound, match="no ratings file"):
        read_ratings(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInput, match="not a plain file"):
        read_ratings(tmp_path / "pipe")
