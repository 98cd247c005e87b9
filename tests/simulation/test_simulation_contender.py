"""Contenders: policies as they are named on a command line and in a file."""

from __future__ import annotations

from typing import Any

import pytest

from bandit_serve.errors import InvalidInput
from bandit_serve.policies import POLICIES
from bandit_serve.simulation import Simulation
from bandit_serve.simulation.contender import Contender
from bandit_serve.simulation.worlds.bernoulli import Bernoulli


@pytest.mark.parametrize(
    ("text", "kind", "parameters", "name"),
    [
        ("thompson", "thompson", {}, "thompson"),
        ("thompson:", "thompson", {}, "thompson:"),
        ("ucb1:min_share=.05", "ucb1", {"min_share": 0.05}, "ucb1:min_share=.05"),
        ("thompson:prior.alpha=2,prior.beta=3", "thompson", {"prior": {"alpha": 2, "beta": 3}}, None),
        ("fixed_split:shares=[1,2,3],name=A/B", "fixed_split", {"shares": [1, 2, 3]}, "A/B"),
        (
            'thompson:prior={"alpha":2},half_life=24h',
            "thompson",
            {"prior": {"alpha": 2}, "half_life": "24h"},
            None,
        ),
    ],
)
def test_a_text_is_a_kind_and_parameters(
    text: str, kind: str, parameters: dict[str, Any], name: str | None
) -> None:
    parsed = Contender.parse(text)
    assert (parsed.kind, parsed.parameters, parsed.name) == (kind, parameters, name or text)


def test_a_mapping_is_the_same() -> None:
    contender = Contender.of({"kind": "thompson", "prior": {"alpha": 2}, "name": "warm"})
    assert contender == Contender.parse("thompson:prior.alpha=2,name=warm")
    assert Contender.of({"kind": "ucb1", "min_share": 0.05}).name == "ucb1:min_share=0.05"


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("thomson", "There is no policy 'thomson'; there are .*thompson"),
        ("thompson:prior", "must be like"),
        ("thompson:=3", "must be like"),
        ("thompson:prior.alpha=1,prior.alpha=2", "twice"),
        ("thompson:prior=1,prior.alpha=2", "must be like"),
        ("thompson:seed=1", "given by the simulation"),
        ("thompson:prior.gamma=1", "thompson:prior.gamma=1: prior must be"),
        ("thompson:min_share=0.9", "2 arms of at least min_share"),
        ("ucb1:alpha=1", "no such parameter"),
        ({"min_share": 1}, "kind"),
        (7, "must be a text"),
    ],
)
def test_what_is_no_policy_is_refused_in_one_sentence(policy: Any, words: str) -> None:
    world = {"kind": "bernoulli", "arms": [0.1, 0.2]}
    with pytest.raises(InvalidInput, match=words):
        Simulation.of({"environment": world, "policies": [policy]})


def test_contextual_policies_take_part_where_there_is_a_context_and_no_delay() -> None:
    contextual = {kind for kind, each in POLICIES.items() if each.contextual and "binary" in each.objectives}
    world = {"kind": "logistic"}
    everyone = {contender.kind for contender in Simulation.of({"environment": world}).contenders}
    assert contextual <= everyone
    late = Simulation.of({"environment": world, "delay": {"mean": 5.0}})
    assert contextual.isdisjoint(contender.kind for contender in late.contenders)
    for kind in contextual:
        with pytest.raises(InvalidInput, match="without context only"):
            Simulation.of({"environment": world, "delay": {"mean": 5.0}, "policies": [kind]})
        with pytest.raises(InvalidInput, match="needs a context"):
            Simulation.of({"environment": {"kind": "bernoulli", "arms": [0.1]}, "policies": [kind]})


def test_one_name_is_one_policy() -> None:
    world = {"kind": "bernoulli", "arms": [0.1, 0.2]}
    with pytest.raises(InvalidInput, match="listed twice"):
        Simulation.of({"environment": world, "policies": ["ucb1", "ucb1"]})


def test_without_policies_all_that_fit_take_part() -> None:
    described = Simulation.of({"environment": {"kind": "bernoulli", "arms": [0.1, 0.2]}})
    fitting = {kind for kind, each in POLICIES.items() if not each.contextual and "binary" in each.objectives}
    assert {contender.kind for contender in described.contenders} == fitting
    assert len(fitting) >= 3


@pytest.mark.parametrize("n_arms", [2, 5, 20])
def test_it_has_the_floor_that_it_would_be_served_with_unless_one_is_given(n_arms):
    environment = Bernoulli(arms=tuple([0.1] * n_arms))
    for text, floor in (
        ("thompson", min(0.02, 0.1 / n_arms)),
        ("thompson:min_share=0", 0.0),
        ("ucb1:min_share=.01", 0.01),
        ("fixed_split", 0.0),
    ):
        contender = Contender.parse(text)
        assert contender.min_share(environment) == floor
        policy = contender.policy(environment, 1)
        assert policy.min_share == floor
        policy.update_counts([0] + [1_000] * (n_arms - 1), 0.0)
        policy.update_counts([1_000] + [0] * (n_arms - 1), 1.0)
        assert policy.shares().min() >= floor
