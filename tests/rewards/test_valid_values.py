"""Values of rewards: any value that an experiment accepts, its policy accepts, as the log can not be refused later."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bandit_serve.errors import InvalidInput
from bandit_serve.experiments.checks import validated
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy import from_experiment
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Arm, Attribution, Experiment
from bandit_serve.metrics import KINDS, MAX_VALUE
from bandit_serve.policies import POLICIES

numbers = st.floats(allow_nan=False, allow_infinity=False)
bounds = st.tuples(numbers, numbers) | st.tuples(st.floats(-5, 5), st.floats(-5, 5))
kinds = st.sampled_from(list(KINDS))


def experiment(
    kind: Any, policy: str, goal: Any, missing: Any, low: float | None, high: float | None
) -> Experiment:
    metric = Metric("m", kind, goal, None, low, high)
    valid = Experiment(
        "e",
        (Arm("a"), Arm("b")),
        (metric,),
        policy=PolicySpec(policy),
        attribution=Attribution("1h", missing),
    )
    return validated(valid)


@given(
    kinds,
    st.sampled_from(sorted(POLICIES)),
    st.sampled_from(["maximize", "minimize"]),
    st.sampled_from(["zero", "ignore"]),
    bounds,
    st.lists(numbers | st.floats(-5, 5) | st.sampled_from([0.0, 1.0, 7.0, MAX_VALUE, 1e100]), min_size=1),
)
@example("bounded", "thompson", "minimize", "ignore", (0.1, 0.3), [0.1])
@example("bounded", "thompson", "maximize", "zero", (1.0, 5.0), [1.0])
@example("continuous", "thompson", "maximize", "ignore", (0.0, 1.0), [1e100, 1e300])
@example("count", "fixed_split", "minimize", "zero", (0.0, 1.0), [1e100, 3.0])
def test_a_policy_takes_what_its_experiment_takes(
    kind: str, policy: str, goal: str, missing: str, ends: tuple[float, float], values: list[float]
) -> None:
    low, high = ends if KINDS[kind].takes_bounds else (None, None)
    try:
        made = experiment(kind, policy, goal, missing, low, high)
        learner = from_experiment(made)
    except InvalidInput:
        return
    objective = made.objective
    taken = [
        value for value in [*values, low, high] if value is not None and objective.refuses(value) is None
    ]
    for value in taken:
        learner.update(0, objective.utility(value))
    if missing == "zero":
        learner.update_counts(np.array([3, 1]), objective.utility(0.0))
    assert learner.counts.tolist() == ([len(taken) + 3, 1] if missing == "zero" else [len(taken), 0])
    assert math.isclose(math.fsum(learner.shares()), 1.0, abs_tol=1e-9)


def test_values_that_no_policy_could_take_are_refused() -> None:
    made = experiment("continuous", "thompson", "maximize", "ignore", None, None)
    assert made.objective.refuses(1e100) == "expected a number within ±1e+80"
    with pytest.raises(InvalidInput, match=r"0 is outside the range of m"):
        experiment("bounded", "thompson", "maximize", "zero", 1.0, 5.0)


def test_some_metric_can_be_the_objective() -> None:
    secondary = Metric("m", "continuous", role="secondary")
    with pytest.raises(InvalidInput, match='one metric with the role "objective"'):
        validated(Experiment("e", (Arm("a"),), (secondary,)))
    made = validated(Experiment("e", (Arm("a"),), (secondary, Metric("n", "continuous"))))
    assert [metric.role for metric in made.metrics] == ["secondary", "objective"]
