import math

import numpy as np
import pytest

from bandit_serve.errors import InvalidInput
from bandit_serve.models.ranges import LogUniform, Uniform, Whole
from bandit_serve.training.plan import Plan, read_plan
from bandit_serve.training.space import grid, sample


def test_a_plan_is_read_and_has_defaults():
    plan = read_plan(
        {
            "data": {"path": "r.csv", "columns": {"user": "u", "features": ["hour"]}},
            "families": {
                "matrix_factorization": {
                    "n_factors": [8, 16],
                    "regularization": {"kind": "loguniform", "low": 0.01, "high": 0.1},
                    "n_epochs": 5,
                }
            },
            "search": {"trials": 3},
            "gates": {"production": "rmse <= 0.8"},
            "metric": "ndcg",
        }
    )
    assert plan.space("matrix_factorization")["regularization"] == LogUniform(0.01, 0.1)
    assert plan.measured("matrix_factorization") == plan.measured("linear_items") == "ndcg@10"
    assert Plan().measured("matrix_factorization") == "rmse"
    assert Plan(k=5).measured("linear_items") == Plan(metric="mae", k=5).measured("weighted_als") == "ndcg@5"
    assert plan.split.folds == 5
    assert plan.gate("staging") is None
    assert read_plan({}) == Plan()
    assert Plan().space("factorization_machine")["feature_regularization"] == LogUniform(0.005, 0.05)
    assert list(Plan().families) == [
        "matrix_factorization",
        "factorization_machine",
        "linear_items",
        "weighted_als",
    ]


@pytest.mark.parametrize(
    ("document", "match"),
    [
        ({"famlies": {}}, "famlies"),
        ({"families": {}}, "at least one"),
        ({"families": {"forest": {}}}, "forest"),
        ({"families": {"bias": {"x": []}}}, "bias.x"),
        ({"families": {"bias": {"x": {"kind": "uniform", "low": 3, "high": 1}}}}, "bias.x"),
        ({"families": {"bias": {"x": {"kind": "loguniform", "low": 0, "high": 1}}}}, "bias.x"),
        ({"families": {"bias": {"x": {"kind": "whole", "low": 0.5, "high": 1}}}}, "bias.x"),
        ({"families": {"bias": {"x": 1}}}, "families.bias: it has no parameter 'x'"),
        (
            {"families": {"bias": {"n_epochs": [3, 0]}}},
            "families.bias.n_epochs must be a whole number from 1",
        ),
        (
            {"families": {"bias": {"n_epochs": {"kind": "uniform", "low": 1, "high": 2}}}},
            "families.bias.n_epochs",
        ),
        (
            {"families": {"bias": {"user_damping": {"kind": "uniform", "low": 0, "high": 1001}}}},
            "families.bias.user_damping must be from 0 to 1000",
        ),
        (
            {"families": {"factorization_machine": {"hashed": {"item:title": 0}}}},
            "families.factorization_machine.hashed",
        ),
        ({"metric": "accuracy"}, "metric"),
        ({"metric": "ndcg@5"}, "k = 10"),
        ({"split": {"folds": 1}}, "split.folds"),
        ({"split": {"share": 1.0}}, "split.share"),
        ({"split": {"kind": "space"}}, "split"),
        ({"search": {"trials": 0}}, "search.trials"),
        ({"search": {"backend": "mpi"}}, "backend"),
        ({"gates": {"staging": "rmse <"}}, "gate"),
        ({"gates": {"retired": "rmse < 1"}}, "retired"),
        ({"model": "a b"}, "model"),
        ({"seed": -1}, "seed"),
        ([], "object"),
    ],
)
def test_a_plan_that_can_not_be_is_refused_with_the_place(document, match):
    with pytest.raises(InvalidInput, match=match):
        read_plan(document)


def test_a_grid_is_all_combinations():
    assert grid({"a": [1, 2], "b": 5, "c": ["x", "y"]}) == [
        {"a": a, "b": 5, "c": c} for a in (1, 2) for c in ("x", "y")
    ]
    assert grid({}) == [{}]
    with pytest.raises(InvalidInput, match="not a range"):
        grid({"a": Uniform(0, 1)})
    with pytest.raises(InvalidInput, match="more than"):
        grid({name: list(range(10)) for name in "abcde"})


def test_samples_are_in_their_ranges_and_follow_the_seed():
    space = {"a": Uniform(-1, 1), "b": LogUniform(0.001, 1000.0), "c": Whole(1, 3), "d": ["x", "y"], "e": 7}
    drawn = sample(space, 2_000, seed=1)
    assert len(drawn) == 2_000
    assert sample(space, 2_000, seed=1) == drawn != sample(space, 2_000, seed=2)
    assert abs(np.mean([one["a"] for one in drawn])) < 0.06
    logs = [math.log10(one["b"]) for one in drawn]
    assert -3 <= min(logs) < -2.9
    assert 2.9 < max(logs) <= 3
    assert abs(np.mean(logs)) < 0.15
    assert {one["c"] for one in drawn} == {1, 2, 3}
    assert {(one["d"], one["e"]) for one in drawn} == {("x", 7), ("y", 7)}
    assert len(sample({"d": ["x", "y"]}, 10, seed=0)) == 2
