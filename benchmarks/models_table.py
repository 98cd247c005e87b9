"""Training, learning, scoring and ranking against NumPy, an empty call and other libraries, in one table.

    python benchmarks/models_table.py [--rounds 7] [--only top-k] [--ratings ratings.csv]

Figures are microseconds of CPU for one update, one score or one ranking: medians over rounds, on one thread. A round
measures the cells of a row one after another; a ratio, ours over the other's, is the median of the ratios of a round.
Libraries (scikit-surprise, implicit, river, faiss) come with the extra `bench`, lightfm where it can be built; one that
is not installed is a gap that the table names. They do not all learn the same: implicit's ALS and lightfm's WARP learn
rankings from what was seen, and are beside a pass of ours for orientation only.

Ranking, `random`: 64 normal factors. `trained`: factors of a model of the ratings (made-up ones without `--ratings`),
scaled up to N by drawing items with replacement and adding a tenth of their length of normal noise, so that lengths are
distributed as trained ones are; queries are trained users.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from empty_call import empty_call
from policies_table import Cell, Statement, figure, machine, table, warm
from threadpoolctl import threadpool_limits

from bandit_serve.models import FactorizationMachine, MatrixFactorization
from bandit_serve.models._factorization import SAMPLE, sgd_epoch
from bandit_serve.models._top_k import TopK
from bandit_serve.training.ratings import Ratings, read_ratings, synthetic_ratings

OURS = "bandit_serve"
N_PAIRS = 100_000
EPOCHS = 5
SIZES = (10_000, 100_000, 1_000_000)


class Row(NamedTuple):
    """Row of the table. bounds: largest allowed ratio of our cost to another's. best_of: to the fastest of others."""

    kind: str
    size: str
    cells: dict[str, Statement]
    bounds: Mapping[str, float] = {}
    best_of: tuple[tuple[str, ...], float] | None = None


@cache
def library(name: str) -> Any:
    """Imports a library; returns the reason if it can not."""
    try:
        match name:
            case "surprise":
                import surprise

                return surprise
            case "implicit":
                import implicit.als
                import implicit.cpu.topk

                return implicit
            case "faiss":
                import faiss

                faiss.omp_set_num_threads(1)
                return faiss
            case "river":
                import river.facto
                import river.optim
                import river.reco

                return river
            case _:
                import lightfm

                return lightfm
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def timed(code: str, per: int = 1, **names: Any) -> Statement:
    return Statement(code, names, per)


def there(name: str) -> bool:
    return not isinstance(library(name), str)


def training_rows(data: Ratings) -> Iterator[Row]:
    users = np.unique(data.users, return_inverse=True)[1]
    items = np.unique(data.items, return_inverse=True)[1]
    samples = np.empty(len(data), SAMPLE)
    samples["user"], samples["item"], samples["rating"] = users, items, data.values
    ours = "for _ in range(epochs): sgd_epoch(samples, random, *parts, 3.5, 0.01, 0.05, 0.08)"
    per = len(data) * EPOCHS
    for f in (32, 64, 128):
        size, random = {"f": f, "epochs": EPOCHS}, np.random.default_rng(0)
        counts = int(users.max()) + 1, int(items.max()) + 1
        parts = [random.normal(0, 0.03, (n, f)).astype(np.float32) for n in counts]
        parts += [np.zeros(n, np.float32) for n in counts]
        cells = {
            OURS: timed(ours, per, sgd_epoch=sgd_epoch, samples=samples, parts=parts, random=random, **size)
        }
        cells["NumPy"] = numpy_training(users[:5_000], items[:5_000], data.values[:5_000], f)
        if there("surprise"):
            surprise = library("surprise")
            raw = [
                (u, i, float(r), None) for u, i, r in zip(data.users, data.items, data.values, strict=True)
            ]
            train = surprise.Dataset(surprise.Reader(rating_scale=(0.5, 5))).construct_trainset(raw)
            svd = surprise.SVD(n_factors=f, n_epochs=EPOCHS, random_state=0).fit(train)
            cells["surprise SVD"] = timed("svd.sgd(train)", per, svd=svd, train=train)
        if there("implicit"):
            matrix = scipy.sparse.csr_matrix((data.values, (users, items)))
            als = library("implicit").als.AlternatingLeastSquares
            fit = "als(factors=f, iterations=epochs, num_threads=1).fit(matrix, show_progress=False)"
            cells["implicit ALS"] = timed(fit, per, als=als, matrix=matrix, **size)
        if there("lightfm"):
            pairs = scipy.sparse.coo_matrix((data.values, (users, items)))
            fit = "LightFM(no_components=f, loss='warp').fit(pairs, epochs=epochs)"
            cells["lightfm WARP"] = timed(fit, per, LightFM=library("lightfm").LightFM, pairs=pairs, **size)
        yield Row("train, an update", f"F = {f}", cells, {"surprise SVD": 1 / 4, "NumPy": 1 / 150})


def numpy_training(users: Any, items: Any, values: Any, f: int) -> Statement:
    random = np.random.default_rng(0)
    p = random.normal(0, 0.03, (int(users.max()) + 1, f)).astype(np.float32)
    q = random.normal(0, 0.03, (int(items.max()) + 1, f)).astype(np.float32)
    bu, bi = np.zeros(len(p), np.float32), np.zeros(len(q), np.float32)
    rate, shrink = np.float32(0.01), np.float32(0.05)

    def run() -> None:
        for u, i, r in triples:
            p_u, q_i = p[u], q[i]
            error = r - (3.5 + bu[u] + bi[i] + p_u @ q_i)
            bu[u] += rate * (error - shrink * bu[u])
            bi[i] += rate * (error - shrink * bi[i])
            p[u], q[i] = p_u + rate * (error * q_i - shrink * p_u), q_i + rate * (error * p_u - shrink * q_i)

    triples = list(zip(users.tolist(), items.tolist(), values.tolist(), strict=True))
    return timed("run()", len(triples), run=run)


LEARN = "for u, i, r in pairs: call(u, i, r)"


def some_ratings(data: Ratings, n: int) -> list[tuple[str, str, float]]:
    return list(zip(data.users[:n].tolist(), data.items[:n].tolist(), data.values[:n].tolist(), strict=True))


def online_rows(data: Ratings) -> Iterator[Row]:
    model = MatrixFactorization(32, n_epochs=1).fit(data.users, data.items, data.values)
    cells = {OURS: timed(LEARN, 500, pairs=some_ratings(data, 500), call=model.partial_fit)}
    if there("river"):
        sgd, reco = library("river").optim.SGD, library("river").reco
        other = reco.BiasedMF(n_factors=32, bias_optimizer=sgd(0.02), latent_optimizer=sgd(0.02), seed=0)
        cells["river BiasedMF"] = timed(LEARN, 500, pairs=some_ratings(data, 500), call=other.learn_one)
    yield Row("partial_fit, one a call", "F = 32", cells, {"river BiasedMF": 1 / 50})


# By the same ids: a dictionary for the users, one for the items, one for the items' features.
MACHINE = (
    "columns = np.array([users[u], items[i], *features[i]]); vx = v[columns] * x[:, None]; s = vx.sum(axis=0); "
    "score = 3.5 + w[columns] @ x + 0.5 * (s @ s - (vx * vx).sum())"
)
MACHINE_STEP = (
    f"{MACHINE}; e = np.float32(r - score); w[columns] += rate * (e * x - shrink * w[columns]); "
    "v[columns] += rate * (e * x[:, None] * (s - vx) - shrink * v[columns])"
)


def machine_rows(data: Ratings) -> Iterator[Row]:
    genres = {item: {"genre": [f"g{len(item)}", f"h{item[-1]}"]} for item in set(data.items.tolist())}
    pairs = some_ratings(data, 5_000)
    models = [
        FactorizationMachine(32, n_epochs=1).fit(data.users, data.items, data.values, item_features=genres)
        for _ in range(2)
    ]
    models[1].partial_fit(*pairs[0])
    names = {
        "np": np,
        "v": np.random.default_rng(0).normal(0, 0.1, (10_000, 32)).astype(np.float32),
        "w": np.zeros(10_000, np.float32),
        "users": {u: number for number, (u, _, _) in enumerate(pairs)},
        "items": {i: 5_000 + number for number, (_, i, _) in enumerate(pairs)},
        "features": {i: (9_998, 9_999) for _, i, _ in pairs},
        "u": pairs[0][0],
        "i": pairs[0][1],
        "r": 4.0,
        "x": np.array([1, 1, 0.7, 0.7], np.float32),
        "rate": np.float32(0.02),
        "shrink": np.float32(0.05),
    }
    # A model that has learned since it was fitted is scored by its learner.
    served, learning = ({OURS: timed("call(u, i)", call=model.predict, **names)} for model in models)
    learned = {OURS: timed("call(u, i, r)", call=models[1].partial_fit, **names)}
    for cells, formula in ((served, MACHINE), (learning, MACHINE), (learned, MACHINE_STEP)):
        cells["NumPy"] = timed(formula, **names)
    if there("river"):
        other = library("river").facto.FMRegressor(n_factors=32)
        samples = [({f"u{u}": 1.0, f"i{i}": 1.0, "g1": 0.7, "g2": 0.7}, r) for u, i, r in pairs[:200]]
        served["river FM"] = timed(
            "for x, r in samples: call(x)", 200, samples=samples, call=other.predict_one
        )
        learned["river FM"] = timed(
            "for x, r in samples: call(x, r)", 200, samples=samples, call=other.learn_one
        )
    bounds = {"NumPy": 1 / 100}
    yield Row("FM predict, one a call", "F = 32", served, bounds)
    yield Row("FM predict while learning", "F = 32", learning)
    yield Row("FM partial_fit, one a call", "F = 32", learned, bounds)


def scoring_rows(data: Ratings) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        empty = empty_call(Path(folder))
    for f in (32, 64, 128):
        model = MatrixFactorization(f, n_epochs=1).fit(data.users, data.items, data.values)
        random = np.random.default_rng(1)
        names = {
            "np": np,
            "model": model,
            "p": model.user_factors,
            "q": model.item_factors,
            "bu": model.user_biases,
            "bi": model.item_biases,
            "users": random.integers(0, model.n_users, N_PAIRS),
            "items": random.integers(0, model.n_items, N_PAIRS),
            "u": 5,
            "i": 7,
        }
        if f == 64:
            cells = {
                OURS: timed("call(5, 7)", call=model.score),
                "empty call": timed("call(5, 7)", call=empty),
            }
            yield Row("a pair of rows", f"F = {f}", cells, {"empty call": 3.0})
            user, item = data.users[0].item(), data.items[0].item()
            cells = {OURS: timed("call(user, item)", call=model.predict, user=user, item=item)}
            cells["NumPy"] = timed("3.5 + bu[u] + bi[i] + p[u] @ q[i]", **names)
            yield Row("a pair of ids", f"F = {f}", cells, {"NumPy": 0.15})
        einsum = timed("np.einsum('ij,ij->i', p[users], q[items])", N_PAIRS, **names)
        cells = {OURS: timed("model.score_many(users, items)", N_PAIRS, **names), "einsum": einsum}
        yield Row("100,000 pairs of rows", f"F = {f}", cells, {"einsum": 0.12})
        names["ids"] = (
            [model.user_ids.name(row) for row in names["users"].tolist()],
            [model.item_ids.name(row) for row in names["items"].tolist()],
        )
        rows = "model.user_ids.rows(ids[0]); model.item_ids.rows(ids[1])"
        cells = {
            OURS: timed("model.predict_many(*ids)", N_PAIRS, **names),
            "of that, ids to rows": timed(rows, N_PAIRS, **names),
            "einsum": einsum,
        }
        yield Row("100,000 pairs of ids", f"F = {f}", cells)


def ranking_rows(data: Ratings) -> Iterator[Row]:
    trained = MatrixFactorization(64).fit(data.users, data.items, data.values)
    for n in SIZES:
        for kind in ("random", "trained"):
            random = np.random.default_rng(0)
            if kind == "random":
                factors, queries = random.standard_normal((n, 64)), random.standard_normal((64, 64))
            else:
                base = np.asarray(trained.item_factors)[random.integers(0, trained.n_items, n)]
                noise = random.standard_normal(base.shape) / 8 * np.linalg.norm(base, axis=1, keepdims=True)
                factors, queries = base + 0.1 * noise, np.asarray(trained.user_factors)[:64]
            factors = np.ascontiguousarray(factors, np.float32)
            queries = np.ascontiguousarray(queries, np.float32)
            top = TopK(factors, np.zeros(n, np.float32))
            names = {
                "factors": factors,
                "queries": queries,
                "np": np,
                "k": 10,
                "of": cycle(range(len(queries))),
            }
            one = "at = next(of); query = queries[at:at + 1]; "
            sort = "s = factors @ query[0]; best = np.argpartition(-s, k)[:k]; best[np.argsort(-s[best])]"
            single = {
                OURS: Statement(f"{one}top.search(query, [0.0], k)", {**names, "top": top}),
                "NumPy": Statement(one + sort, names),
            }
            batch = {OURS: Statement("top.search(queries, [0.0] * 64, k)", {**names, "top": top}, 64)}
            if there("faiss"):
                index = library("faiss").IndexFlatIP(64)
                index.add(factors)
                single["faiss"] = Statement(f"{one}index.search(query, k)", {**names, "index": index})
                batch["faiss"] = Statement("index.search(queries, k)", {**names, "index": index}, 64)
            if there("implicit"):
                topk = library("implicit").cpu.topk.topk
                single["implicit"] = Statement(
                    f"{one}topk(factors, query, k, num_threads=1)", {**names, "topk": topk}
                )
                batch["implicit"] = Statement(
                    "topk(factors, queries, k, num_threads=1)", {**names, "topk": topk}, 64
                )
            bound = 1.0 if kind == "random" else 0.5
            yield Row(f"top-10, {kind}", f"N = {n:,}", single, {}, (("NumPy", "faiss", "implicit"), bound))
            yield Row(f"top-10, {kind}, 64 users", f"N = {n:,}", batch, {}, (("faiss", "implicit"), bound))


class Measured(NamedTuple):
    row: Row
    times: dict[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.times[name])

    def ratio(self, name: str) -> float:
        pairs = zip(self.times[OURS], self.times[name], strict=True)
        return statistics.median(ours / other for ours, other in pairs)

    def verdicts(self) -> Iterator[tuple[str, float, float]]:
        """Yields each comparison: the other's name, the ratio, and its bound."""
        for name, bound in self.row.bounds.items():
            if name in self.times:
                yield name, self.ratio(name), bound
        if self.row.best_of is not None:
            names = [name for name in self.row.best_of[0] if name in self.times]
            if names:
                best = min(names, key=self.median)
                yield best, self.ratio(best), self.row.best_of[1]


def measure(row: Row, rounds: int) -> Measured:
    cells: dict[str, Cell] = {name: warm(statement, 0.01, rounds) for name, statement in row.cells.items()}
    times: dict[str, list[float]] = {name: [] for name in cells}
    for _ in range(min(cell.rounds for cell in cells.values())):
        for name, cell in cells.items():
            times[name].append(cell.timer.timeit(cell.number) / cell.number / cell.per_call * 1e6)
    return Measured(row, times)


SECTIONS: Mapping[str, Callable[[Ratings], Iterator[Row]]] = {
    "training": training_rows,
    "online": online_rows,
    "machine": machine_rows,
    "scoring": scoring_rows,
    "top-k": ranking_rows,
}


def line(measured: Measured) -> list[str]:
    others = [
        f"{name} {figure(measured.median(name))} ({measured.ratio(name):.3g})"
        for name in measured.times
        if name != OURS
    ]
    verdicts = [
        f"{'kept' if ratio <= bound else 'missed'}: {ratio:.3g} of {name}, bound {bound:.3g}"
        for name, ratio, bound in measured.verdicts()
    ]
    return [
        measured.row.kind,
        measured.row.size,
        figure(measured.median(OURS)),
        ", ".join(others),
        "; ".join(verdicts),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", action="append", default=[], choices=list(SECTIONS))
    parser.add_argument("--ratings", type=Path)
    given = parser.parse_args()
    data = synthetic_ratings(seed=0) if given.ratings is None else read_ratings(given.ratings)
    lines: list[Sequence[str]] = [["what", "size", "ours, µs", "others, µs (ours / other)", "bounds"]]
    missed = 0
    with threadpool_limits(1):
        for name, rows in SECTIONS.items():
            if given.only and name not in given.only:
                continue
            for row in rows(data):
                measured = measure(row, given.rounds)
                missed += sum(ratio > bound for _, ratio, bound in measured.verdicts())
                lines.append(line(measured))
                if sys.stderr.isatty():
                    print(f"\r\033[K{row.kind}, {row.size}", end="", file=sys.stderr, flush=True)
    print(f"Microseconds of CPU, medians of {given.rounds} rounds. {machine()}\n")
    print(table(lines))
    for name in ("surprise", "implicit", "lightfm", "river", "faiss"):
        if not there(name):
            print(f"- {name}: a gap, it could not be imported ({library(name)})")
    print(f"\nBounds missed: {missed or 'none'}")


if __name__ == "__main__":
    main()
