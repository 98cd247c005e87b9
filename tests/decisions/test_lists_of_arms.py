"""Lists of arms: what is placed, with which probability, and what of it is logged."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from builders import experiment, record
from scipy.stats import chi2

from bandit_serve.api.decisions import DecideRequest, PredictRequest
from bandit_serve.decisions.decisions import Decisions
from bandit_serve.decisions.flags import Flags
from bandit_serve.decisions.slots import place_arms
from bandit_serve.errors import Conflict, InvalidInput, NotFound
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log.events import Change, Changed
from bandit_serve.log.offset import Offset
from bandit_serve.log.token import Keyring, new_key

NAMES = ["a", "b", "c", "d", "e"]
NUMERIC = [{"name": "x", "kind": "numeric"}]
POLICIES: dict[str, dict[str, Any]] = {
    "even": {"policy": {"kind": "fixed_split"}},
    "weights": {
        "policy": {"kind": "fixed_split", "shares": dict(zip(NAMES, (5, 3, 1, 0.5, 0.5), strict=True))}
    },
    "thompson": {"policy": {"kind": "thompson", "min_share": 0.0}},
    "thompson with a floor": {"policy": {"kind": "thompson", "min_share": 0.05}},
    "softmax": {"policy": {"kind": "softmax"}},
    "lin_ts": {"policy": {"kind": "lin_ts", "min_share": 0.02}, "context": NUMERIC},
    "squarecb": {"policy": {"kind": "squarecb", "min_share": 0.02}, "context": NUMERIC},
}


def deciding(status: str = "running", **fields: Any) -> Decisions:
    """Decisions of an experiment of five arms and three slots."""
    made = experiment(**{"arms": [{"name": name} for name in NAMES], "slots": 3, **fields})
    changed = Changed(record(made, status=status), Change("create", "test"))  # type: ignore[arg-type]
    live = LiveExperiment(changed)
    live.apply(Offset(1, 0), changed)
    replica = Replica()
    replica.restore(live)
    models: Any = None
    return Decisions(replica, models, 1, Keyring({0: new_key(0)}, 10**12), clock=lambda: 5)


def taught(decisions: Decisions) -> None:
    """Teaches a policy without context that the first arms are the better ones."""
    rng, decider = np.random.default_rng(4), decisions.deciders["e"]
    policy: Any = decider.live.policy
    for arm, rate in enumerate((0.5, 0.45, 0.4, 0.3, 0.2)):
        for _ in range(30):
            if decider.contextual:
                policy.update(arm, float(rng.random() < rate), np.array([rng.normal(), 1.0], np.float32)[:1])
            else:
                policy.update(arm, float(rng.random() < rate))
    decider.refresh()


@pytest.mark.parametrize("name", POLICIES)
def test_a_place_has_the_probability_that_it_says(name: str) -> None:
    """For every arm and place: 1{placed}/p - 1 over the lists in which it was left has the mean 0."""
    decisions = deciding(**POLICIES[name])
    if name not in ("lin_ts", "squarecb"):
        taught(decisions)
    decider: Any = decisions.deciders["e"]
    request = DecideRequest(context={"x": 0.5} if decider.contextual else None)
    excess, variance = np.zeros((3, 5)), np.zeros((3, 5))
    for _ in range(6_000):
        placed: list[int] = []
        for place, choice in enumerate(place_arms(decider, request, decider.encoded(request.context))):
            shares = choice.draw.shares
            assert choice.propensity == shares[choice.arm] > 0.0
            assert shares.sum() == pytest.approx(1.0)
            assert not shares[placed].any(), "an arm is placed once"
            there = shares > 0.0
            hit = np.arange(5) == choice.arm
            excess[place, there] += hit[there] / shares[there] - 1.0
            variance[place, there] += 1.0 / shares[there] - 1.0
            placed.append(choice.arm)
        assert len(placed) == 3
    # Arms that are hardly ever drawn have no normal law.
    known = variance < 6_000 * 40
    z = excess[known] / np.sqrt(np.maximum(variance[known], 1e-9))
    assert known.sum() >= 10
    assert np.abs(z).max() < 5.0, z


def test_a_list_is_as_likely_as_the_product_of_its_propensities() -> None:
    decisions = deciding(policy={"kind": "thompson", "min_share": 0.05})
    taught(decisions)
    decider: Any = decisions.deciders["e"]
    n, seen, expected = 20_000, Counter[tuple[int, ...]](), dict[tuple[int, ...], float]()
    for _ in range(n):
        choices = place_arms(decider, DecideRequest(), None)
        arms = tuple(choice.arm for choice in choices)
        seen[arms] += 1
        expected[arms] = float(np.prod([choice.propensity for choice in choices]))
    assert set(seen) <= set(itertools.permutations(range(5), 3))
    assert sum(expected.values()) == pytest.approx(1.0, abs=0.01)
    common = [arms for arms, part in expected.items() if part * n >= 5]
    statistic = sum((seen[arms] - n * expected[arms]) ** 2 / (n * expected[arms]) for arms in common)
    assert chi2.sf(statistic, len(common)) > 1e-6


def test_the_places_of_a_list_are_decisions_of_one_unit_in_their_order() -> None:
    decisions = deciding()
    first, second = (decisions.decide("e", DecideRequest()) for _ in range(2))
    assert first.slots
    assert second.slots
    assert (first.decision_id, first.arm, first.propensity) == (
        first.slots[0].decision_id,
        first.slots[0].arm,
        first.slots[0].propensity,
    )
    waiting = decisions.exposures["e"].first_waiting()
    assert waiting is not None
    logged = waiting.exposed
    lists = [place for decided in (first, second) for place in decided.slots or ()]
    assert (logged.first, waiting.n_rows) == (0, 6)
    arms = np.frombuffer(logged.arms, np.uint16)
    assert [NAMES[arm] for arm in arms] == [place.arm for place in lists]
    vectors = np.frombuffer(logged.vectors).reshape(-1, 5)
    vectors = np.repeat(vectors, np.frombuffer(logged.runs, np.uint32), axis=0)
    assert vectors[np.arange(6), arms].tolist() == [place.propensity for place in lists]
    units = np.frombuffer(logged.units, np.uint64).reshape(2, 3)
    assert (units == units[:, :1]).all()
    assert units[0, 0] != units[1, 0]


def test_an_arm_of_weight_0_is_not_placed() -> None:
    decisions = deciding(policy={"kind": "fixed_split", "shares": {"a": 1, "c": 2}})
    for _ in range(50):
        assert {place.arm for place in decisions.decide("e", DecideRequest()).slots or ()} == {"a", "c"}
    alone = decisions.decide("e", DecideRequest(eligible=["b", "d"])).slots or ()
    assert len(alone) == 1
    assert alone[0].propensity == 0.5


def test_what_lists_have_left_is_not_computed_anew_in_the_background() -> None:
    decisions = deciding()
    for _ in range(50):
        decisions.decide("e", DecideRequest())
    assert decisions.deciders["e"].subsets_in_use() == []


def test_where_fewer_arms_are_left_the_list_is_shorter() -> None:
    decisions = deciding()
    answer = decisions.decide("e", DecideRequest(eligible=["b", "d"]))
    assert sorted(place.arm for place in answer.slots or ()) == ["b", "d"]
    assert (answer.slots or ())[-1].propensity == 1.0
    with pytest.raises(InvalidInput, match="names of arms"):
        decisions.decide("e", DecideRequest(eligible=["z"]))


@pytest.mark.parametrize("status", ["paused", "stopped"])
def test_where_nothing_is_drawn_control_is_on_top(status: str) -> None:
    answer = deciding(status, control="c").decide("e", DecideRequest())
    assert [place.arm for place in answer.slots or ()] == ["c", "a", "b"]
    assert {place.decision_id for place in answer.slots or ()} == {None}
    assert answer.propensity == 1.0
    only = deciding(status, control="c").decide("e", DecideRequest(eligible=["e", "b"]))
    assert [place.arm for place in only.slots or ()] == ["c", "b", "e"]


def test_what_asks_for_one_arm_is_refused() -> None:
    decisions = deciding()
    with pytest.raises(Conflict, match="3 slots"):
        asyncio.run(decisions.decide_columns("e", ["u"], None))
    with pytest.raises(Conflict, match="3 slots"):
        decisions.predict("e", PredictRequest(features=[1.0]))
    with pytest.raises(Conflict, match="3 slots"):
        decisions.check("e", PredictRequest(features=[1.0]))
    with pytest.raises(NotFound, match="gives lists"):
        Flags(decisions).needs_unit("e")
    with pytest.raises(Conflict, match="draft"):
        deciding("draft").decide("e", DecideRequest())
