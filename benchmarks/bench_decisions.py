"""Decision path in one process: draw, record, sign; and verification of a reward. Against an empty call or NumPy.

python -m pytest benchmarks/bench_decisions.py --benchmark-enable --benchmark-columns=median,iqr
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

import msgspec
import numpy as np
import pytest

from bandit_serve.decisions.decider import Decider
from bandit_serve.decisions.membership import Membership
from bandit_serve.experiments.audience import AudienceRule
from bandit_serve.experiments.checks import validated
from bandit_serve.experiments.layer import N_SLOTS, Layer
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Arm, Attribution, Experiment, Record, Unit
from bandit_serve.folds._assignment import Rendezvous, UnitSlots
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log.events import Change, Changed
from bandit_serve.log.offset import Offset
from bandit_serve.log.token import Keyring, new_key
from bandit_serve.policies._draw import ShareSampler, nothing
from bandit_serve.registry.layers import Holding

NOW_MS = time.time_ns() // 1_000_000
UNITS = [f"user-{i}" for i in range(1_000)]


def keyring() -> Keyring:
    return Keyring({0: new_key(NOW_MS)}, NOW_MS)


RULE = {
    "all": [
        {"field": "country", "in": ["de", "at"]},
        {"field": "orders", "ge": 1},
        {"field": "age", "ge": 18, "lt": 65},
        {"any": [{"field": "device", "eq": "ios"}, {"field": "beta", "eq": True}]},
        {"not": {"field": "employee", "eq": True}},
    ]
}
CONTEXT = {"country": "de", "orders": 3.0, "age": 40.0, "device": "web", "beta": True}
EVERYONE = {"page": {7: Holding("bench", ((0, N_SLOTS),), 0)}}
# Of who is in an experiment, so that what is measured is a decision that is drawn.
MEMBERSHIPS = {
    "everyone": {},
    "audience of five rules": {"audience": msgspec.convert(RULE, AudienceRule)},
    "the same, a layer and a holdout": {
        "audience": msgspec.convert(RULE, AudienceRule),
        "layer": Layer("page", 1.0),
    },
}


def decider(n_arms: int, unit: Unit, **membership: Any) -> Decider:
    experiment = validated(
        Experiment(
            id="bench",
            arms=tuple(Arm(f"arm-{k}") for k in range(n_arms)),
            metrics=(Metric("click", "binary"),),
            unit=unit,
            policy=PolicySpec("thompson"),
            attribution=Attribution(missing="ignore"),
            **membership,
        )
    )
    event = Changed(Record(experiment, 7, "running", 1, NOW_MS, NOW_MS), Change("create", "bench"))
    live = LiveExperiment(event)
    live.apply(Offset(NOW_MS, 0), event)
    nobody = UnitSlots(b"h" * 16, np.zeros(N_SLOTS, np.uint8)) if "layer" in membership else None
    return Decider(live, incarnation=1, membership=Membership.of(live.record, EVERYONE, nobody))


@pytest.mark.benchmark(group="draw from shares")
def test_empty_call(benchmark):
    benchmark(nothing)


@pytest.mark.benchmark(group="draw from shares")
@pytest.mark.parametrize("n_arms", [10, 1_000])
def test_sampler(benchmark, n_arms):
    benchmark(ShareSampler(np.full(n_arms, 1.0 / n_arms), seed=0).choose)


@pytest.mark.benchmark(group="draw from shares")
@pytest.mark.parametrize("n_arms", [10, 1_000])
def test_numpy_choice(benchmark, n_arms):
    rng, cumulated = np.random.default_rng(0), np.cumsum(np.full(n_arms, 1.0 / n_arms))
    benchmark(lambda: int(np.searchsorted(cumulated, rng.random())))


@pytest.mark.benchmark(group="sticky arm of a unit, 10 arms")
def test_rendezvous(benchmark):
    rendezvous = Rendezvous(b"s" * 16, [f"arm-{k}" for k in range(10)])
    shares = np.full(10, 0.1)
    benchmark(lambda: rendezvous.arm(rendezvous.hash_unit("user-1"), shares))


@pytest.mark.benchmark(group="sticky arm of a unit, 10 arms")
def test_rendezvous_formula(benchmark):
    names, shares = [f"arm-{k}".encode() for k in range(10)], np.full(10, 0.1)

    def arm() -> int:
        words = [hashlib.blake2b(b"user-1" + name, digest_size=8, key=b"s" * 16).digest() for name in names]
        uniforms = (np.frombuffer(b"".join(words), np.uint64) + 0.5) / 2.0**64
        return int(np.argmin(-np.log(uniforms) / shares))

    benchmark(arm)


@pytest.mark.benchmark(group="decide: draw, record, sign")
@pytest.mark.parametrize("n_arms", [2, 10, 1_000])
def test_decide_by_request(benchmark, n_arms):
    subject, keys = decider(n_arms, "request"), keyring()
    benchmark(lambda: subject.record(subject.choose(None, None), keys, NOW_MS))


@pytest.mark.benchmark(group="decide: draw, record, sign")
@pytest.mark.parametrize("n_arms", [2, 10])
def test_decide_by_user(benchmark, n_arms):
    subject, keys = decider(n_arms, "user"), keyring()
    benchmark(lambda: subject.record(subject.choose("user-1", None), keys, NOW_MS))


@pytest.mark.benchmark(group="decide, by who is in the experiment")
@pytest.mark.parametrize("unit", ["request", "user"])
@pytest.mark.parametrize("rules", MEMBERSHIPS)
def test_decide_for_members(benchmark, rules, unit):
    subject, keys = decider(2, unit, **MEMBERSHIPS[rules]), keyring()
    benchmark(lambda: subject.record(subject.choose("user-1", None, None, CONTEXT), keys, NOW_MS))


@pytest.mark.benchmark(group="decide for 1,000 units")
@pytest.mark.parametrize("unit", ["request", "user"])
def test_decide_columns(benchmark, unit):
    subject, keys = decider(10, unit), keyring()
    benchmark(lambda: subject.decide_columns(UNITS, keys, NOW_MS))


@pytest.mark.benchmark(group="verify 1,000 rewards")
def test_open_tokens(benchmark):
    subject, keys = decider(10, "request"), keyring()
    tokens, _, _ = subject.decide_columns(UNITS, keys, NOW_MS)
    values = np.ones(len(tokens))
    benchmark(lambda: keys.open(tokens, values))
