"""Contract of metric kinds. Each kind in `KINDS` is tested."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from builders import created, description, experiment, exposed, record, rewards
from hypothesis import given
from hypothesis import strategies as st
from metric_kinds import OBJECTIVES, beyond, bounds_of, near_bounds, range_of, rewards_at, traits_of
from scale import scaled
from scipy import stats

from bandit_serve.changes.experiment_mistakes import every_mistake
from bandit_serve.errors import InvalidInput, UnreadableEntry
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy import from_experiment
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log.events import Rewarded, Shape, Tick
from bandit_serve.log.offset import Offset
from bandit_serve.metrics import KINDS, MAX_VALUE
from bandit_serve.policies import POLICIES
from bandit_serve.policies.thompson import LIKELIHOODS
from bandit_serve.results import ResultsFold, report
from bandit_serve.training.rating_rule import rule_of

GOALS = ("maximize", "minimize")
everyone = pytest.mark.parametrize("kind", KINDS)
both_goals = pytest.mark.parametrize("goal", GOALS)
any_number = st.floats() | st.booleans() | st.integers(-(10**9), 10**10).map(float)
# Of kinds that take bounds: as wide and as narrow as there are, and where both are rounded most.
some_bounds = st.sampled_from(
    [
        (0.0, 1.0),
        (-2.0, 5.0),
        (1.0, 5.0),
        (0.1, 0.3),
        (-MAX_VALUE, MAX_VALUE),
        (1.0, math.nextafter(1.0, 2.0)),
        (0.0, math.ulp(0.0)),
        (-1e-300, MAX_VALUE),
        (1e15, 1e15 + 0.125),
    ]
)
laws = pytest.mark.parametrize(
    "law",
    [lambda u: u, lambda u: u**4, lambda u: 1.0 - u**6, lambda u: np.clip(-np.log1p(-u) / 12.0, 0.0, 1.0)],
    ids=["even", "few-large", "few-small", "exponential"],
)


def configured(kind, goal="maximize", missing="ignore", policy="fixed_split", window="1h", **fields):
    context = [{"name": "x", "kind": "numeric"}] if POLICIES[policy].contextual else []
    metric = {"name": "m", "kind": kind, "goal": goal, **bounds_of(kind)}
    attribution = {"window": window, "missing": missing}
    return description(
        metrics=[metric], attribution=attribution, policy={"kind": policy}, context=context, **fields
    )


def of_kind(kind, **fields):
    return experiment(**configured(kind, **fields))


def metric_of(data, kind, goal):
    low, high = data.draw(some_bounds) if KINDS[kind].takes_bounds else (None, None)
    return Metric("m", kind, goal, None, low, high)


def value_of(data, metric):
    return data.draw(st.sampled_from(near_bounds(metric.traits)) | any_number)


@everyone
def test_the_table_says_what_the_class_says(kind):
    traits = KINDS[kind]
    assert traits.name == kind
    assert traits.__doc__
    assert isinstance(traits.likelihood, str)
    flags = (traits.takes_bounds, traits.asks_missing, traits.two_valued, traits.unbounded)
    assert all(isinstance(flag, bool) for flag in (*flags, traits.sub_gaussian, traits.takes_max))
    assert traits.mirror is None or (traits.mirror in KINDS.values() and traits.mirror.mirror is None)
    assert traits.sub_gaussian or traits.unbounded, "what has bounds is sub-Gaussian"


@everyone
@given(data=st.data())
def test_what_is_taken_is_in_range_and_what_is_not_is_said(kind, data):
    metric = metric_of(data, kind, "maximize")
    value, traits = value_of(data, metric), metric.traits
    refusal = metric.refuses(value)
    assert (refusal is None) == traits.takes(value)
    if refusal is None:
        assert -MAX_VALUE <= traits.floor <= value <= traits.ceiling <= MAX_VALUE
        assert not traits.two_valued or value in (0.0, 1.0)
    else:
        assert "expected" in refusal
        assert refusal.startswith("m ") or not -MAX_VALUE <= value <= MAX_VALUE
    assert not any(traits.takes(number) for number in (math.nan, math.inf, -math.inf, 1e300, *beyond(traits)))


@everyone
@both_goals
@given(data=st.data())
def test_a_utility_is_one_of_the_kind_that_a_policy_learns_from(kind, goal, data):
    metric = metric_of(data, kind, goal)
    value = value_of(data, metric)
    if not metric.traits.takes(value):
        return
    learned_as = KINDS[kind].learned_as(goal)(metric.low, metric.high)
    utility = metric.utility(value)
    assert learned_as.floor <= utility <= learned_as.ceiling
    assert not learned_as.two_valued or utility in (0.0, 1.0)
    width = 0.0 if learned_as.unbounded else abs(learned_as.floor) + abs(learned_as.ceiling)
    assert math.isclose(metric.utility(utility), value, rel_tol=0.0, abs_tol=4e-16 * width)
    other = value_of(data, metric)
    if metric.traits.takes(other) and other > value:
        assert (
            (metric.utility(other) >= utility) if goal == "maximize" else (metric.utility(other) <= utility)
        )


@everyone
@both_goals
def test_a_log_takes_what_is_taken_and_breaks_with_nothing_else(kind, goal):
    """Whatever a metric takes is folded and learned; what is out of its range no fold lets in."""
    values = near_bounds(traits_of(kind))
    made = of_kind(kind, goal=goal)
    shape, traits = Shape(made, 0), made.objective.traits
    learners = [
        from_experiment(of_kind(kind, goal=goal, policy=name))
        for name, policy in POLICIES.items()
        if KINDS[kind].learned_as(goal).name in policy.objectives and not policy.contextual
    ]
    for i, value in enumerate(values):
        event = Rewarded(rewards([i], values=float(value)))
        if traits.takes(value):
            shape.check(event)
            for learner in learners:
                learner.update(0, made.objective.utility(value))
        elif not traits.floor <= value <= traits.ceiling or (traits.two_valued and value not in (0.0, 1.0)):
            with pytest.raises(UnreadableEntry):
                shape.check(event)
            for learner in learners if math.isfinite(value) else ():
                utility = -value if traits.unbounded and goal == "minimize" else value
                if not learner.reward.floor <= utility <= learner.reward.ceiling:
                    with pytest.raises(InvalidInput):
                        learner.update(0, utility)
    for learner in learners:
        assert math.isclose(math.fsum(learner.shares()), 1.0, abs_tol=1e-9)


@everyone
def test_a_configuration_is_refused_at_the_field_that_is_wrong(kind):
    traits = KINDS[kind]
    assert of_kind(kind).objective.kind == kind
    document = configured(kind)
    document["metrics"][0] |= {"low": 3.0, "high": 2.0}
    expected = (
        ("metrics[0].high", "above low") if traits.takes_bounds else ("metrics[0]", "takes low and high")
    )
    (mistake,) = every_mistake(document)
    assert mistake.at == expected[0]
    assert expected[1] in mistake.detail
    document = configured(kind, missing=None)
    mistakes = [(each.at, kind in each.detail) for each in every_mistake(document)]
    assert mistakes == ([("attribution.missing", True)] if traits.asks_missing else [])
    document = configured(kind, missing="zero")
    mistakes = [each.at for each in every_mistake(document)]
    assert mistakes == ([] if traits_of(kind).takes(0.0) else ["attribution.missing"])
    document["metrics"].append({"name": "n", "kind": f"{kind}s", "role": "secondary"})
    at, detail = next((each.at, each.detail) for each in every_mistake(document) if "kind" in each.at)
    assert at == "metrics[1].kind"
    assert f"did you mean {kind}?" in detail


@everyone
@both_goals
@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_learns_or_says_what_it_takes(kind, goal, policy):
    of_policy = POLICIES[policy]
    learned_as = KINDS[kind].learned_as(goal).name
    supposed = {
        "ucb1": KINDS[learned_as].sub_gaussian,
        **dict.fromkeys(("thompson", "top_two_thompson"), KINDS[learned_as].likelihood in LIKELIHOODS),
        **dict.fromkeys(("kl_ucb", "exp3", "logistic_ts"), not KINDS[learned_as].unbounded),
    }
    assert (learned_as in of_policy.objectives) == supposed.get(policy, True)
    document = configured(kind, goal=goal, policy=policy)
    if policy == "top_two_thompson":
        # The share of the best, which is even by default.
        document["policy"]["beta"] = 0.9
    if learned_as not in of_policy.objectives:
        (mistake,) = every_mistake(document)
        assert mistake.at == "policy.kind"
        assert all(taken in mistake.detail for taken in of_policy.objectives)
        return
    live = LiveExperiment(created(experiment(**document)))
    rng = np.random.default_rng(5)
    now_ms = 0
    for block in range(20):
        places = rng.random(40) ** 4
        arms = rng.integers(0, 2, 40)
        # The second arm is better.
        better = (arms == 1) == (goal == "maximize")
        values = rewards_at(kind, np.where(better, 1.0 - places, places))
        rows = rewards(range(40 * block, 40 * block + 40), values=values, arms=arms)
        x = np.ones((40, live.n_features), np.float32) if of_policy.contextual else None
        now_ms += 1000
        live.apply(Offset(now_ms, 0), Rewarded(rows, x))
    shares = live.shares(x=np.ones(live.n_features, np.float32) if of_policy.contextual else None)
    assert (shares[1] > 0.6) == of_policy.learns, shares
    restored = LiveExperiment.from_state(live.offset, live.state())
    assert restored.state() == live.state()
    low, high = range_of(kind)
    assert (live.means() >= low).all()
    assert (live.means() <= high).all()
    assert live.means()[1 if goal == "maximize" else 0] > live.means()[0 if goal == "maximize" else 1]


@everyone
@both_goals
def test_a_rating_is_the_utility(kind, goal):
    made = of_kind(kind, goal=goal)
    rule = rule_of(made)
    for value in rewards_at(kind, np.linspace(0.0, 1.0, 9)).tolist():
        assert math.isclose(rule.rating(value), made.objective.utility(value), abs_tol=1e-12)
    other = rule_of(experiment(**{**configured(kind), "metrics": [{"name": "n", "kind": "continuous"}]}))
    assert rule.unit != other.unit


@everyone
@given(data=st.data())
def test_a_mean_lies_between_its_limits(kind, data):
    traits = traits_of(kind)
    places = data.draw(st.lists(st.lists(st.floats(0.0, 1.0), max_size=5), min_size=1, max_size=8))
    for unit, missing in product(("request", "user"), ("zero", "ignore")):
        low, high = traits.mean_limits(unit, missing)
        assert low < high
        values = []
        for of_unit in places:
            given_rewards = rewards_at(kind, np.array(of_unit))
            if len(given_rewards) and unit == "user":
                values.append(given_rewards.max() if traits.takes_max else given_rewards.sum())
            else:
                values += given_rewards.tolist()
            if not len(given_rewards) and missing == "zero":
                values.append(0.0)
        if values:
            assert low - 1e-9 <= np.mean(values) <= high + 1e-9
        if missing == "ignore" and traits.has_bounds(unit):
            assert all(traits.floor <= value <= traits.ceiling for value in values)


def alarms_of(kind, missing, changes):
    """Those of 3,000 rewards or decisions of one arm, whose law may change in the middle."""
    made = of_kind(kind, missing=missing, window="10s", arms=[{"name": "a"}])
    live, rng = LiveExperiment(created(made)), np.random.default_rng(7)
    for block in range(60):
        now_ms, counters = 10_000 * (block + 1), range(50 * block, 50 * block + 50)
        moved = changes and block >= 30
        if missing == "zero":
            # Whether one came is watched.
            places, came = np.ones(50), rng.random(50) < (0.8 if moved else 0.2)
        else:
            places, came = rng.random(50) ** 4, np.ones(50, bool)
        values = rewards_at(kind, 1.0 - places if moved and missing == "ignore" else places)
        live.apply(Offset(now_ms, 0), exposed(counters[0], [0] * 50, [now_ms] * 50, n_arms=1))
        rows = rewards(counters, values=values, times_ms=now_ms)[came]
        live.apply(Offset(now_ms, 1), Rewarded(rows))
    live.apply(Offset(10_000_000, 0), Tick())
    return live.alarms.alarms


@everyone
@pytest.mark.parametrize("missing", ["zero", "ignore"])
def test_an_alarm_follows_a_change_and_nothing_else(kind, missing):
    if missing == "zero" and not traits_of(kind).takes(0.0):
        return
    assert not alarms_of(kind, missing, changes=False)
    first, *_ = alarms_of(kind, missing, changes=True)
    assert first.after > first.before


N_RUNS = scaled(20, 2_000)
LOOKS, BLOCKS, BLOCK = (2, 5, 9), 10, 60


@everyone
@laws
def test_intervals_hold_whatever_the_law(kind, law):
    """Of two arms of one law, at every look of `N_RUNS` runs: the means' intervals and the p-values."""
    true_mean = rewards_at(kind, law((np.arange(20_000) + 0.5) / 20_000)).mean()
    made = of_kind(kind)
    about, rng, widths = record(made), np.random.default_rng(11), []
    missed = np.zeros((2, N_RUNS), bool)
    low, high = range_of(kind)
    for run in range(N_RUNS):
        fold = ResultsFold(about)
        for block in range(BLOCKS):
            now_ms, counters = 1000 * (block + 1), range(BLOCK * block, BLOCK * block + BLOCK)
            arms = rng.integers(0, 2, BLOCK)
            fold.apply(Offset(now_ms, 0), exposed(counters[0], arms.tolist(), [now_ms] * BLOCK))
            values = rewards_at(kind, law(rng.random(BLOCK)))
            fold.apply(
                Offset(now_ms + 1, 0), Rewarded(rewards(counters, values=values, times_ms=now_ms, arms=arms))
            )
            if block in LOOKS:
                row = report(fold, about, {}, now_ms).arms[1].metrics["m"]
                if row.interval is not None:
                    missed[0, run] |= not row.interval[0] <= true_mean <= row.interval[1]
                missed[1, run] |= row.p_value is not None and row.p_value <= 0.05
        if row.interval is not None:
            widths.append(row.interval[1] - row.interval[0])
    allowed = stats.binom.ppf(1.0 - 1e-6, N_RUNS, 0.05)
    assert missed.sum(axis=1).max() <= allowed, missed.sum(axis=1)
    assert len(widths) > 0.9 * N_RUNS
    assert np.mean(widths) < 0.5 * (high - low)


def test_configurations_of_every_kind_are_tried() -> None:
    assert {objective["kind"] for objective in OBJECTIVES} == set(KINDS)
