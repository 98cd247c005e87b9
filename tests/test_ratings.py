import gzip

import numpy as np
import pytest

from bandit_serve.errors import InvalidInput, NotFound
from bandit_serve.models import MatrixFactorization
from bandit_serve.training.ratings import read_ratings, synthetic_ratings
from bandit_serve.training.splits import holdout

CSV = "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n1,1029,3.0,1260759179\n7,31,0.5,851868750\n"
TABS = "196\t242\t3\t881250949\n186\t302\t3\t891717742\n196\t302\t1\t878887116\n"


def file(tmp_path, content: str | bytes):
    path = tmp_path / "ratings"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_both_formats_are_read(tmp_path, pack, ending, mark):
    read = read_ratings(file(tmp_path, pack((mark + CSV).replace("\n", ending).encode())))
    assert read.users.tolist() == ["1", "1", "7"]
    assert read.items.tolist() == ["31", "1029", "31"]
    assert read.values.tolist() == [2.5, 3.0, 0.5]
    assert read.timestamps.tolist() == [1260759144, 1260759179, 851868750]
    assert read.values.dtype == np.float32
    read = read_ratings(file(tmp_path, pack((mark + TABS).replace("\n", ending).encode())))
    assert read.users.tolist() == ["196", "186", "196"]
    assert read.items.tolist() == ["242", "302", "302"]
    assert read.values.tolist() == [3, 3, 1]
    assert len(read) == 3


def test_quotes_empty_lines_and_a_missing_last_newline_are_fine(tmp_path):
    read = read_ratings(file(tmp_path, 'userId,movieId,rating,timestamp\n\n"u,1",x,4,5\n\nu2,y,3,6'))
    assert read.users.tolist() == ["u,1", "u2"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "Line 1: expected the header"),
        ("user,movie,rating,time\n1,2,3,4\n", "Line 1: expected the header"),
        ("1,2,3,4\n", "Line 1: expected the header"),
        ("userId,movieId,rating,timestamp\n", "no ratings"),
        (CSV + "1,2,3\n", "Line 5: expected user, item"),
        (CSV + "1,2,3,4,5\n", "Line 5: expected user, item"),
        (CSV + "1,2,good,4\n", "Line 5: expected user, item, a number"),
        (CSV + "1,2,3,yesterday\n", "Line 5: expected user, item"),
        (CSV + "\n\n1,2,3,4.5\n", "Line 7: .* separated by commas"),
        (CSV + ",2,3,4\n", "Line 5: expected a user and an item"),
        (CSV + "1,2,nan,4\n", "Line 5: expected a finite rating"),
        (CSV + "1,2,1e999,4\n", "Line 5: expected a finite rating"),
        (CSV + f"1,2,3,{10**30}\n", "Line 5: expected a finite rating"),
        (CSV + '1,"2,3,4\n', "quote"),
        ("1\t2\t3\n", "Line 1: .* separated by tabs"),
        (TABS + "1\t2\t3\n", "Line 4: .* separated by tabs"),
        (TABS + "1\t2\tx\t3\n", "Line 4"),
        (b"\xff\xfe1,2", "not UTF-8"),
        (CSV.encode() + b"1,\xff,3,4\n", "not UTF-8"),
        (gzip.compress(CSV.encode() + b"1,2,3,4\n" * 50, mtime=0)[:-10], "not a whole gzip file"),
        (b"\x1f\x8bnot gzip at all", "not a whole gzip file"),
    ],
)
def test_a_malformed_file_is_refused_with_the_line(tmp_path, content, match):
    with pytest.raises(InvalidInput, match=match):
        read_ratings(file(tmp_path, content))


def test_no_file_and_a_directory_are_refused(tmp_path):
    with pytest.raises(NotFound):
        read_ratings(tmp_path / "none")
    with pytest.raises(InvalidInput, match="directory"):
        read_ratings(tmp_path)


def test_made_up_ratings_look_like_ratings():
    made = synthetic_ratings(seed=5)
    assert len(made) == 100_000
    assert set(made.values.tolist()) == {half / 2 for half in range(1, 11)}
    assert 3.3 < made.values.mean() < 3.7
    assert len(set(zip(made.users.tolist(), made.items.tolist(), strict=True))) == 100_000
    counts = np.unique(made.items, return_counts=True)[1]
    assert counts.max() > 5 * np.median(counts)
    again, other = synthetic_ratings(seed=5), synthetic_ratings(seed=6)
    assert np.array_equal(again.values, made.values)
    assert np.array_equal(again.items, made.items)
    assert not np.array_equal(other.values, made.values)


@pytest.mark.parametrize("sizes", [(0, 10, 1), (10, 0, 1), (10, 10, 0), (10, 10, 34)])
def test_made_up_sizes_that_cannot_be_are_refused(sizes):
    with pytest.raises(InvalidInput):
        synthetic_ratings(0, *sizes)


def test_made_up_ratings_reward_training():
    made = synthetic_ratings(seed=2, n_users=300, n_items=600, n_ratings=30_000)
    train, test = holdout(made.users, 0.2, seed=0)
    seen, held = made.take(train), made.take(test)

    def error(n_epochs: int) -> float:
        model = MatrixFactorization(n_epochs=n_epochs).fit(seen.users, seen.items, seen.values)
        return float(np.sqrt(np.mean((model.predict_many(held.users, held.items) - held.values) ** 2)))

    assert error(40) < error(1) - 0.08
