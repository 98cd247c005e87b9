import numpy as np
import pytest

from bandit_serve.errors import InvalidInput
from bandit_serve.models import MatrixFactorization
from bandit_serve.training.ratings import synthetic_ratings
from bandit_serve.training.splits import holdout


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
