import datetime

import numpy as np
import pytest

from bandit_serve.errors import InvalidInput, NotFound
from bandit_serve.training.dataset import Columns, DataSet, read_dataset, read_features

MOVIELENS = "userId,movieId,rating,timestamp\n1,10,4.0,100\n2,10,3.5,200\n1,20,1,300\n"
MOVIES = 'movieId,title,genres\n10,"Heat, The (1995)",Action|Crime\n20,Untold,(no genres listed)\n30,Old (1921),Drama\n'
OTHER = "who,what,stars,when,hour\nann,x,5,1.5,9\nbob,y,2,7,21\n"
COLUMNS = Columns(user="who", item="what", rating="stars", time="when", features=("hour",))


def written(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    return tmp_path / name


def test_movielens_with_the_genres_beside_it(tmp_path):
    path = written(tmp_path, "ratings.csv", MOVIELENS)
    assert read_dataset(path).item_features == {}
    written(tmp_path, "movies.csv", MOVIES)
    data = read_dataset(path)
    assert data.ratings.users.tolist() == ["1", "2", "1"]
    assert data.item_features == {
        "10": {"genre": ["Action", "Crime"], "decade": "1990s"},
        "20": {"genre": []},
        "30": {"genre": ["Drama"], "decade": "1920s"},
    }
    assert data.source == "ratings.csv"


def test_another_csv_by_the_names_of_its_columns(tmp_path):
    data = read_dataset(written(tmp_path, "stars.csv", OTHER), columns=COLUMNS)
    assert data.ratings.users.tolist() == ["ann", "bob"]
    assert data.ratings.items.tolist() == ["x", "y"]
    assert data.ratings.values.tolist() == [5.0, 2.0]
    assert data.ratings.timestamps.tolist() == [1, 7]
    assert data.features == [{"hour": 9.0}, {"hour": 21.0}]
    without = read_dataset(tmp_path / "stars.csv", columns=Columns("who", "what", "stars", None))
    assert without.ratings.timestamps.tolist() == [0, 0]


def test_parquet_is_read_as_csv_is(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    when = [
        datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    ]
    table = pyarrow.table(
        {"who": [7, 8], "what": ["x", "y"], "stars": [5.0, 2.5], "when": when, "hour": ["a", "b"]}
    )
    parquet.write_table(table, tmp_path / "stars.parquet")
    data = read_dataset(tmp_path / "stars.parquet", columns=COLUMNS)
    assert data.ratings.users.tolist() == ["7", "8"]
    assert data.ratings.values.tolist() == [5.0, 2.5]
    assert np.diff(data.ratings.timestamps).tolist() == [86_400]
    assert data.features == [{"hour": "a"}, {"hour": "b"}]
    with pytest.raises(InvalidInput, match="no column 'userId'"):
        read_dataset(tmp_path / "stars.parquet")
    with pytest.raises(InvalidInput, match="as Parquet"):
        read_dataset(written(tmp_path, "broken.parquet", "PAR1"))
    with pytest.raises(NotFound):
        read_dataset(tmp_path / "none.parquet")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("who,what,stars,when,hour\n", "a line below"),
        ("who,what,stars\nann,x,5\n", "no column 'hour'"),
        ("who,what,stars,when,hour\nann,x,5\n", "line 2: expected 5 fields"),
        ("who,what,stars,when,hour\nann,x,5,1,9\nann,x,nan,1,9\n", "row 3"),
        ("who,what,stars,when,hour\nann,x,good,1,9\n", "row 2"),
        ("who,what,stars,when,hour\nann,x,1,noon,9\n", "row 2"),
        ("who,what,stars,when,hour\nann,x,1e9,1,9\n", "row 2"),
    ],
)
def test_what_is_no_data_set_is_refused_with_the_place(tmp_path, content, match):
    with pytest.raises(InvalidInput, match=match):
        read_dataset(written(tmp_path, "stars.csv", content), columns=COLUMNS)


def test_features_of_any_csv(tmp_path):
    lines = "".join(f"{n},{n % 3},{'a' if n % 2 else 'a|b'},name {n}\n" for n in range(10))
    features = read_features(written(tmp_path, "items.csv", f"id,size,kinds,name\n{lines}"))
    assert features["4"] == {"size": 1.0, "kinds": ["a", "b"]}
    assert features["5"] == {"size": 2.0, "kinds": "a"}
    with pytest.raises(InvalidInput, match="a column of ids"):
        read_features(written(tmp_path, "ids.csv", "id\n1\n"))
    with pytest.raises(NotFound):
        read_features(tmp_path / "none.csv")


def test_a_fingerprint_is_of_the_ratings_in_their_order(tmp_path):
    data = read_dataset(written(tmp_path, "ratings.csv", MOVIELENS))
    rows = np.arange(3)
    assert data.take(rows).fingerprint == data.fingerprint
    assert data.take(rows[::-1]).fingerprint != data.fingerprint
    assert data.take(rows[:2]).fingerprint != data.fingerprint
    assert len(data.fingerprint) == 64
    assert DataSet(data.ratings, item_features={"10": {"a": 1}}).fingerprint == data.fingerprint
