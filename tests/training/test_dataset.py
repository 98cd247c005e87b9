import numpy as np

from bandit_serve.training.dataset import DataSet, read_dataset

MOVIELENS = "userId,movieId,rating,timestamp\n1,10,4.0,100\n2,10,3.5,200\n1,20,1,300\n"
MOVIES = 'movieId,title,genres\n10,"Heat, The (1995)",Action|Crime\n20,Untold,(no genres listed)\n30,Old (1921),Drama\n'


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


def test_a_fingerprint_is_of_the_ratings_in_their_order(tmp_path):
    data = read_dataset(written(tmp_path, "ratings.csv", MOVIELENS))
    rows = np.arange(3)
    assert data.take(rows).fingerprint == data.fingerprint
    assert data.take(rows[::-1]).fingerprint != data.fingerprint
    assert data.take(rows[:2]).fingerprint != data.fingerprint
    assert len(data.fingerprint) == 64
    assert DataSet(data.ratings, item_features={"10": {"a": 1}}).fingerprint == data.fingerprint
