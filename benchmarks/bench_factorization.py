"""Matrix factorization against its NumPy formulas.

    python -m pytest benchmarks/bench_factorization.py --benchmark-enable --benchmark-columns=min,median

Each group has ours and what it is compared with. Calls of nanoseconds are timed 1,000 at a time.
"""

from __future__ import annotations

from itertools import repeat

import numpy as np
import pytest
from empty_call import empty_call

from bandit_serve.models import Artifact, MatrixFactorization, Popularity
from bandit_serve.models._factorization import SAMPLE, sgd_epoch
from bandit_serve.models._ids import IdTable
from bandit_serve.training.ratings import synthetic_ratings

RATINGS = synthetic_ratings(seed=0, n_users=2_000, n_items=9_000, n_ratings=200_000)
N_SAMPLES = 20_000
N_PAIRS = 100_000


@pytest.fixture(scope="module")
def model() -> MatrixFactorization:
    return MatrixFactorization(64, n_epochs=2).fit(RATINGS.users, RATINGS.items, RATINGS.values)


def training_parts() -> tuple:
    random = np.random.default_rng(0)
    samples = np.empty(N_SAMPLES, SAMPLE)
    samples["user"] = random.integers(0, 2_000, N_SAMPLES)
    samples["item"] = random.integers(0, 9_000, N_SAMPLES)
    samples["rating"] = random.integers(1, 6, N_SAMPLES)
    factors = [random.normal(0, 0.03, (rows, 32)).astype(np.float32) for rows in (2_000, 9_000)]
    return samples, *factors, np.zeros(2_000, np.float32), np.zeros(9_000, np.float32)


@pytest.mark.benchmark(group="training 20,000 samples, 32 factors")
def test_train_kernel(benchmark):
    parts, generator = training_parts(), np.random.default_rng(0)
    benchmark(lambda: sgd_epoch(parts[0], generator, *parts[1:], 3.0, 0.01, 0.05, 0.1))


@pytest.mark.benchmark(group="training 20,000 samples, 32 factors")
def test_train_numpy_one_sample_a_call(benchmark):
    samples, p, q, bu, bi = training_parts()

    rate, shrink_bias, shrink = np.float32(0.01), np.float32(0.05), np.float32(0.1)

    def step(user, item, rating):
        p_u, q_i = p[user], q[item]
        error = rating - (3.0 + bu[user] + bi[item] + p_u @ q_i)
        bu[user] += rate * (error - shrink_bias * bu[user])
        bi[item] += rate * (error - shrink_bias * bi[item])
        p[user], q[item] = (
            p_u + rate * (error * q_i - shrink * p_u),
            q_i + rate * (error * p_u - shrink * q_i),
        )

    rows = samples.tolist()
    benchmark.pedantic(lambda: [step(*row) for row in rows], rounds=5)


@pytest.mark.benchmark(group="one pair by rows (x1,000)")
def test_score(benchmark, model):
    score = model.score

    def run():
        for _ in repeat(None, 1_000):
            score(5, 7)

    benchmark(run)


@pytest.mark.benchmark(group="one pair by rows (x1,000)")
def test_empty_cython_call(benchmark, tmp_path):
    call = empty_call(tmp_path)

    def run():
        for _ in repeat(None, 1_000):
            call(5, 7)

    benchmark(run)


@pytest.mark.benchmark(group="one pair by ids (x1,000)")
def test_predict(benchmark, model):
    predict = model.predict
    user, item = RATINGS.users[0].item(), RATINGS.items[0].item()

    def run():
        for _ in repeat(None, 1_000):
            predict(user, item)

    benchmark(run)


@pytest.mark.benchmark(group="one pair by ids (x1,000)")
def test_predict_numpy_with_rows_known(benchmark, model):
    mean, bu, bi, p, q = (
        model.mean,
        model.user_biases,
        model.item_biases,
        model.user_factors,
        model.item_factors,
    )
    u, i = 5, 7

    def run():
        for _ in repeat(None, 1_000):
            mean + bu[u] + bi[i] + p[u] @ q[i]

    benchmark(run)


@pytest.fixture(scope="module")
def pairs() -> tuple:
    random = np.random.default_rng(1)
    return random.integers(0, 2_000, N_PAIRS), random.integers(0, 9_000 - 200, N_PAIRS)


@pytest.mark.benchmark(group="100,000 pairs of rows, 64 factors")
def test_score_many(benchmark, model, pairs):
    benchmark(model.score_many, *pairs)


@pytest.mark.benchmark(group="100,000 pairs of rows, 64 factors")
def test_score_many_einsum(benchmark, model, pairs):
    users, items = pairs
    p, q = model.user_factors, model.item_factors
    benchmark(lambda: np.einsum("ij,ij->i", p[users], q[items]))


@pytest.mark.benchmark(group="100,000 pairs of rows, 64 factors")
def test_score_many_einsum_and_biases(benchmark, model, pairs):
    users, items = pairs
    p, q, bu, bi = model.user_factors, model.item_factors, model.user_biases, model.item_biases
    benchmark(lambda: model.mean + bu[users] + bi[items] + np.einsum("ij,ij->i", p[users], q[items]))


@pytest.mark.benchmark(group="top 10 of all items, 100 excluded")
def test_top_k(benchmark, model):
    exclude = sorted(set(RATINGS.items.tolist()))[:100]
    benchmark(model.top_k, "u5", 10, exclude)


@pytest.mark.benchmark(group="top 10 of all items, 100 excluded")
def test_top_k_popularity(benchmark):
    exclude = sorted(set(RATINGS.items.tolist()))[:100]
    model = Popularity().fit(RATINGS.users, RATINGS.items, RATINGS.values)
    benchmark(model.top_k, "u5", 10, exclude)


@pytest.mark.benchmark(group="top 10 of all items, 100 excluded")
def test_top_k_numpy_rows_only(benchmark, model):
    p, q, bi = model.user_factors, model.item_factors, model.item_biases

    def run():
        scores = bi + q @ p[5]
        scores[:100] = -np.inf
        best = np.argpartition(-scores, 10)[:10]
        return best[np.argsort(-scores[best])]

    benchmark(run)


@pytest.mark.benchmark(group="fit, 200,000 ratings, 32 factors, 40 epochs")
def test_fit(benchmark):
    benchmark.pedantic(
        lambda: MatrixFactorization().fit(RATINGS.users, RATINGS.items, RATINGS.values), rounds=3
    )


@pytest.mark.benchmark(group="a million ids to rows")
def test_id_table_of_a_million(benchmark):
    table = IdTable.of(map(str, range(1_000_000)))
    benchmark.pedantic(lambda: IdTable(table.text, table.offsets), rounds=5)


@pytest.mark.benchmark(group="a million ids to rows")
def test_dict_of_a_million(benchmark):
    table = IdTable.of(map(str, range(1_000_000)))
    benchmark.pedantic(lambda: {table.name(row): row for row in range(1_000_000)}, rounds=5)


@pytest.mark.benchmark(group="load 64 factors of 11,000 rows")
def test_load(benchmark, model, tmp_path):
    model.save(tmp_path / "m")
    benchmark(lambda: MatrixFactorization.from_artifact(Artifact.map(tmp_path / "m")))
