import numpy as np
import pytest

from bandit_serve.models import Bias


def test_biases_solve_their_equations():
    random = np.random.default_rng(0)
    users, items = random.integers(0, 30, (2, 2_000))
    ratings = 3 + users / 15 - items / 10 + random.normal(0, 0.3, 2_000)
    model = Bias(n_epochs=200, user_damping=2.0, item_damping=7.0).fit(users, items, ratings)
    mean = ratings.astype(np.float32).mean(dtype=np.float64)
    of_user = {row: model.predict(str(row), "none") - mean for row in range(30)}
    of_item = {row: model.predict("none", str(row)) - mean for row in range(30)}
    for row in range(30):
        mine = users == row
        expected = (ratings[mine] - mean - [of_item[item] for item in items[mine]]).sum() / (mine.sum() + 2.0)
        assert of_user[row] == pytest.approx(expected, abs=1e-4)
        mine = items == row
        expected = (ratings[mine] - mean - [of_user[user] for user in users[mine]]).sum() / (mine.sum() + 7.0)
        assert of_item[row] == pytest.approx(expected, abs=1e-4)
    assert model.predict(3, 4) == pytest.approx(mean + of_user[3] + of_item[4], abs=1e-5)


def test_each_turn_is_told():
    calls: list[tuple] = []
    Bias(n_epochs=4).fit(["u", "v"], ["i", "j"], [1, 5], on_epoch=lambda *about: calls.append(about))
    assert [about[:2] for about in calls] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(about[2] > 0 for about in calls)
