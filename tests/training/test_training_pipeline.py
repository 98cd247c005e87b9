"""Training pipeline in Python: search, measure, fit, judge; the same for any kind of pool."""

import numpy as np
import pytest
from dask_clusters import dask_cluster

from bandit_serve.base.extras import require
from bandit_serve.errors import InvalidInput, UsageError
from bandit_serve.models import LinearItems
from bandit_serve.training import DataSet, Plan, read_plan, train
from bandit_serve.training.pipeline import judge
from bandit_serve.training.ratings import Ratings, synthetic_ratings

RATINGS = synthetic_ratings(seed=8, n_users=150, n_items=200, n_ratings=10_000)
TIMES = np.random.default_rng(0).integers(0, 10**9, len(RATINGS))
DATA = DataSet(
    Ratings(RATINGS.users, RATINGS.items, RATINGS.values, TIMES),
    item_features={item: {"last": item[-1]} for item in set(RATINGS.items.tolist())},
    source="made up",
)
PLAN = read_plan(
    {
        "families": {
            "matrix_factorization": {"n_factors": [4, 8], "n_epochs": [25]},
            "factorization_machine": {
                "learning_rate": [0.05],
                "n_epochs": {"kind": "whole", "low": 30, "high": 40},
            },
        },
        "search": {"trials": 2, "jobs": 1, "backend": "sequential"},
        "split": {"folds": 3},
        "gates": {"staging": "rmse < baseline.rmse"},
    }
)


@pytest.fixture(scope="module")
def result():
    return train(DATA, PLAN)


def test_models_beat_the_biases_and_are_of_all_ratings(result):
    assert [each.record.family for each in result.trained] == [
        "matrix_factorization",
        "factorization_machine",
    ]
    for each in result.trained:
        assert each.record.metrics["rmse"] < result.baseline["rmse"]
        assert each.record.metrics["time.gain_z"] == pytest.approx(
            each.record.metrics["time.gain"] / each.errors["time.gain"]
        )
        assert each.status == "staged"
        assert "baseline.rmse" in each.record.reason
        assert (each.model.n_users, each.model.n_items) == (150, len(set(RATINGS.items.tolist())))
        assert each.record.data.ratings == 10_000
        assert each.record.data.sha256 == DATA.fingerprint
        assert each.record.trials <= 2
        assert set(each.record.metrics) > {"rmse", "mae", "precision@10", "recall@10", "ndcg@10", "coverage"}
    # An early stop is kept as a descent that ends there.
    assert result.trained[0].record.parameters["n_epochs"] <= 25


def test_a_seed_repeats_it_whatever_the_backend(result, tmp_path):
    for backend in ("loky", "threading"):
        again = train(
            DATA, read_plan({**_document(), "search": {"trials": 2, "jobs": 2, "backend": backend}})
        )
        for one, other in zip(result.trained, again.trained, strict=True):
            assert one.record.metrics == other.record.metrics
            assert one.record.parameters == other.record.parameters
            one.model.save(tmp_path / "one"), other.model.save(tmp_path / "other")
            assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_dask_cluster_does_the_same_work(result):
    with dask_cluster(n_workers=2, threads_per_worker=1, processes=True) as cluster:
        search = {"trials": 2, "jobs": 2, "backend": "dask", "scheduler": cluster.scheduler_address}
        again = train(DATA, read_plan({**_document(), "search": search}))
    assert [each.record.metrics for each in again.trained] == [each.record.metrics for each in result.trained]


def _document():
    return {
        "families": {
            "matrix_factorization": {"n_factors": [4, 8], "n_epochs": [25]},
            "factorization_machine": {
                "learning_rate": [0.05],
                "n_epochs": {"kind": "whole", "low": 30, "high": 40},
            },
        },
        "split": {"folds": 3},
    }


def test_progress_is_told_of_each_fit():
    calls = []
    train(DATA, PLAN, on_progress=calls.append)
    stages = [progress.stage for progress in calls]
    assert stages == sorted(stages, key=["search", "measure", "final"].index)
    assert all(progress.done <= progress.planned for progress in calls)
    assert stages.count("final") == 2
    assert stages.count("measure") == 4 * (3 + 1)


def test_a_split_by_time_measures_the_latest():
    plan = read_plan(
        {"families": {"bias": {}}, "split": {"kind": "time", "share": 0.2}, "search": {"jobs": 1}}
    )
    result = train(DATA, plan)
    assert result.trained[0].record.metrics["rmse"] == result.baseline["time.rmse"]
    timeless = DataSet(Ratings(RATINGS.users, RATINGS.items, RATINGS.values, TIMES * 0))
    with pytest.raises(InvalidInput, match="times"):
        train(timeless, plan)


def test_a_search_by_ranking_takes_the_best_ranking():
    plan = read_plan(
        {"families": {"popularity": {}, "bias": {}}, "metric": "ndcg", "search": {"jobs": 1}, "gates": {}}
    )
    result = train(DATA, plan)
    assert all("ndcg@10" in each.record.metrics for each in result.trained)
    with pytest.raises(InvalidInput, match="no user"):
        train(DATA, read_plan({"families": {"bias": {}}, "metric": "ndcg", "relevant_from": 9.0}))


def test_the_gates_give_the_status():
    plan = Plan(
        gates={"staging": "rmse <= 1.0", "production": "rmse <= 0.8 and not worse than the current one"}
    )
    assert judge(plan, "bias", {"rmse": 1.2}, {}, None)[0] == "failed"
    assert judge(plan, "bias", {"rmse": 0.9}, {}, None)[0] == "staged"
    assert judge(plan, "bias", {"rmse": 0.7}, {}, None)[0] == "production"
    assert judge(plan, "bias", {"rmse": 0.7}, {}, {"rmse": 0.6})[0] == "staged"
    assert judge(Plan(gates={}), "bias", {"rmse": 9.0}, {}, None) == ("staged", "no gates")


@pytest.mark.parametrize(
    ("metrics", "status"),
    [
        ({"ndcg@10": 0.31}, "staged"),
        ({"ndcg@10": 0.30}, "failed"),
        ({"ndcg@10": 0.15}, "failed"),
        ({"ndcg@10": 0.31, "rmse": 0.89}, "staged"),
        ({"ndcg@10": 0.31, "rmse": 0.9}, "failed"),
        ({"ndcg@10": 0.29, "rmse": 0.1}, "failed"),
        ({"rmse": 0.8}, "staged"),
    ],
)
def test_by_default_a_version_ranks_better_than_the_baselines_and_has_no_larger_errors(metrics, status):
    baselines = {"baseline": {"rmse": 0.9, "ndcg@10": 0.2}, "popular": {"ndcg@10": 0.3}}
    assert judge(Plan(), "linear_items", metrics, baselines, None)[0] == status


def test_a_version_is_compared_with_the_current_one_by_what_its_family_is_searched_by():
    plan = Plan(gates={"staging": "not worse than the current one"})
    current = {"rmse": 0.8, "ndcg@10": 0.3}
    assert judge(plan, "linear_items", {"ndcg@10": 0.29}, {}, current)[0] == "failed"
    assert judge(plan, "linear_items", {"ndcg@10": 0.31}, {}, current)[0] == "staged"
    assert judge(plan, "bias", {"rmse": 0.9, "ndcg@10": 0.9}, {}, current)[0] == "failed"


def test_families_of_preferences_are_searched_by_their_rankings_and_have_no_errors():
    searched = {}

    def watch(progress):
        if progress.stage == "search" and progress.trial.family == "linear_items":
            searched[progress.trial.metrics["ndcg@10"]] = progress.trial.parameters

    families = {"matrix_factorization": {"n_factors": [4], "n_epochs": [5]}, "linear_items": {}}
    plan = read_plan({"families": families, "search": {"trials": 4, "jobs": 1}, "split": {"folds": 2}})
    result = train(DATA, plan, on_progress=watch)
    factorization, linear = result.trained
    assert len(searched) == 4
    best = searched[max(searched)]
    assert {name: linear.record.parameters[name] for name in best} == best
    assert "rmse" in factorization.record.metrics
    names = {"precision@10", "recall@10", "ndcg@10", "coverage"}
    assert set(linear.record.metrics) == names | {f"time.{name}" for name in names}
    assert linear.record.metrics["ndcg@10"] > 1.1 * result.baseline["ndcg@10"]
    assert (linear.status == "staged") == (linear.record.metrics["ndcg@10"] > result.popular["ndcg@10"])
    assert linear.record.popular == result.popular


def test_without_likes_a_family_of_preferences_keeps_its_own_parameters():
    families = {"linear_items": {}, "bias": {}}
    plan = read_plan({"families": families, "relevant_from": 9.0, "search": {"trials": 2, "jobs": 1}})
    linear = train(DATA, plan).trained[0].record
    assert "ndcg@10" not in linear.metrics
    assert linear.parameters == LinearItems().parameters
    assert linear.status == "staged"


def test_a_library_that_is_not_there_is_named_with_its_extra():
    with pytest.raises(UsageError, match=r"pip install 'bandit-serve\[train\]'"):
        require("no_such_library_at_all.part", "train")
