"""Who is in an experiment: audiences, layers and the holdout of the service; and units that keep their arms."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import numpy as np
import pytest
from builders import experiment, record
from scipy.stats import chi2_contingency, chisquare

from bandit_serve.decisions.decider import Decider
from bandit_serve.decisions.membership import Membership, held_out_units
from bandit_serve.errors import InvalidInput
from bandit_serve.experiments.layer import Layer
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log.events import Change, Changed, Exposed, columns_of
from bandit_serve.log.offset import Offset
from bandit_serve.log.token import Keyring, new_key
from bandit_serve.registry.layers import Layers, allotment, applied

N = 100_000
UNITS = [f"u{i}" for i in range(N)]
KEYRING = Keyring({0: new_key(0)}, 10**12)
ABC = [{"name": name} for name in "abc"]


def with_share(layers: Layers, layer: str, uid: int, share: float) -> Layers:
    event = allotment(layers, Layer(layer, share), f"e{uid}", uid, "test")
    assert event is not None
    return applied(layers, event, 0)


def members(layers: Layers, layer: str, uid: int) -> np.ndarray:
    """Mask, bool (N,), of the units that are in the experiment."""
    about = record(experiment(layer={"name": layer, "share": 0.5}), uid=uid)
    membership = Membership.of(about, layers, None)
    assert membership is not None
    reasons = asyncio.run(membership.keeps_out_each(UNITS, None))
    some = range(0, N, 997)
    assert [membership.keeps_out(UNITS[i], None) for i in some] == [reasons[i] for i in some]
    assert set(reasons) <= {None, "layer"}
    return np.array([reason is None for reason in reasons])


def check_share(inside: np.ndarray, share: float) -> None:
    assert chisquare([inside.sum(), N - inside.sum()], [N * share, N * (1 - share)]).pvalue > 1e-5


def test_no_unit_is_in_two_experiments_of_a_layer_and_growth_moves_nobody_out_of_another() -> None:
    layers: Layers = {}
    for uid, share in ((1, 0.2), (2, 0.3), (3, 0.3)):
        layers = with_share(layers, "page", uid, share)
    before = [members(layers, "page", uid) for uid in (1, 2, 3)]
    assert np.sum(before, axis=0).max() == 1
    for inside, share in zip(before, (0.2, 0.3, 0.3), strict=True):
        check_share(inside, share)
    layers = with_share(layers, "page", 1, 0.4)
    after = [members(layers, "page", uid) for uid in (1, 2, 3)]
    assert np.sum(after, axis=0).max() == 1
    check_share(after[0], 0.4)
    assert (after[0] >= before[0]).all()
    assert (after[1] == before[1]).all()
    assert (after[2] == before[2]).all()


def test_layers_are_independent_of_each_other_of_arms_and_of_the_holdout() -> None:
    layers = with_share(with_share({}, "page", 1, 0.5), "search", 2, 0.3)
    page, search = members(layers, "page", 1), members(layers, "search", 2)
    held_out = held_out_units("bandit_serve", 0.1)
    assert held_out is not None
    held = held_out.has_many(UNITS)
    check_share(held, 0.1)
    one = decider(unit="user", policy={"kind": "fixed_split"})
    _, arms, _ = one.decide_columns(UNITS, KEYRING, 5)
    several = {"page": page, "search": search, "held": held, "arms": np.array(arms)}
    names = list(several)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            table = np.zeros((int(several[first].max()) + 1, int(several[second].max()) + 1))
            np.add.at(table, (several[first].astype(int), several[second].astype(int)), 1)
            assert chi2_contingency(table).pvalue > 1e-5, (first, second)
    other = held_out_units("another", 0.1)
    assert other is not None
    assert (other.has_many(UNITS) != held).any()
    assert held_out_units("bandit_serve", 0.0) is None


def live(**fields: Any) -> LiveExperiment:
    first = Changed(
        record(experiment(**{"arms": ABC, "policy": {"kind": "fixed_split"}, **fields})),
        Change("create", "test"),
    )
    made = LiveExperiment(first)
    made.apply(Offset(1, 0), first)
    return made


def decider(held_out: float = 0.0, layers: Layers | None = None, **fields: Any) -> Decider:
    made = live(**fields)
    membership = Membership.of(made.record, layers or {}, held_out_units("bandit_serve", held_out))
    return Decider(made, 1, membership=membership)


GERMANS = {"field": "country", "in": ["de"]}


def test_outside_is_control_which_is_not_logged() -> None:
    one = decider(audience=GERMANS, control="b")
    inside = one.choose(None, None, None, {"country": "de"})
    assert inside.draw is not None
    for context in (None, {}, {"country": "fr"}, {"country": None}):
        outside = one.choose("anyone", ["a"], None, context)
        assert (outside.arm, outside.propensity, outside.reason) == (1, 1.0, "audience")
        assert one.record(outside, KEYRING, 5) is None
    assert one.exposures.next == 0
    assert one.encoded({"country": "fr", "more": 1.0}) is None, "of what else is said nothing is asked"
    with pytest.raises(InvalidInput, match="eligible"):
        one.choose("anyone", ["nobody"], None, {})
    with pytest.raises(InvalidInput, match="unit"):
        one.choose("\n", None, None, {})
    with pytest.raises(InvalidInput, match="no context fields"):
        decider().encoded({"country": "fr"})


def test_the_reasons_have_an_order() -> None:
    layers = with_share({}, "page", 7, 0.5)
    layered = {"layer": {"name": "page", "share": 0.5}}
    one = decider(0.3, layers, audience=GERMANS, **layered)
    assert one.membership is not None
    germans = [{"country": "de"}] * 2_000 + [{"country": "fr"}] * 2_000
    reasons = asyncio.run(one.membership.keeps_out_each(UNITS[:4_000], germans))
    assert reasons == [one.membership.keeps_out(*each) for each in zip(UNITS[:4_000], germans, strict=True)]
    counts = {reason: reasons[:2_000].count(reason) for reason in (None, "holdout", "audience", "layer")}
    assert counts["audience"] == 0
    assert min(counts[None], counts["holdout"], counts["layer"]) > 500
    assert set(reasons[2_000:]) == {"holdout", "audience"}
    with pytest.raises(InvalidInput, match="expected a unit: this experiment is in a layer"):
        one.choose(None, None, None, {"country": "de"})
    assert one.needs_unit
    nobody = decider(layers={}, **layered)
    assert nobody.choose("u", None).reason == "layer", "without slots nobody is in it"


def test_the_holdout_takes_its_share_of_requests_without_a_unit_too() -> None:
    one = decider(0.25)
    held = [one.choose(None, None).reason == "holdout" for _ in range(8_000)]
    assert abs(np.mean(held) - 0.25) <= 4 * np.sqrt(0.25 * 0.75 / 8_000)
    assert len({one.choose("the same", None).reason for _ in range(50)}) == 1


def test_what_the_audience_asks_for_is_not_unexpected() -> None:
    hour = [{"name": "hour", "kind": "numeric"}]
    one = decider(context=hour, audience={"all": [GERMANS, {"field": "hour", "ge": 9}]})
    assert one.attributes == {"country", "hour"}
    x = one.encoded({"hour": 9.0, "country": "de", "other": 1.0})
    assert x is not None
    assert x.tolist() == [1.0, 9.0, 0.0]
    assert one.features is not None
    assert one.features.unexpected == 1


def logged(one: Decider) -> Exposed:
    waiting = one.exposures.first_waiting()
    assert waiting is not None
    one.exposures.done(waiting.exposed)
    return waiting.exposed


def with_shares(made: LiveExperiment, offset: Offset, **shares: float) -> Changed:
    policy = PolicySpec(kind="fixed_split", shares=shares)
    about = msgspec.structs.replace(
        made.record,
        experiment=msgspec.structs.replace(made.experiment, policy=policy),
        revision=made.record.revision + 1,
    )
    event = Changed(about, Change("policy", "test"))
    made.apply(offset, event)
    return event


@pytest.mark.parametrize("keep", [True, False])
def test_who_was_met_keeps_arm_and_propensity_when_shares_change(keep: bool) -> None:
    one = decider(
        unit="user", keep_assigned=keep, policy={"kind": "fixed_split", "shares": {"a": 8, "b": 1, "c": 1}}
    )
    made, units = one.live, UNITS[:6_000]
    tokens, first, chances = one.decide_columns(units[:3_000], KEYRING, 5)
    made.apply(Offset(6, 0), logged(one))
    with_shares(made, Offset(7, 0), a=1, b=8, c=1)
    one.renew(made)
    tokens, second, again = one.decide_columns(units, KEYRING, 8)
    rows = KEYRING.open(tokens, np.zeros(len(units)))[0]
    assert rows["arm"].tolist() == second
    np.testing.assert_allclose(rows["propensity"], again)
    exposure = logged(one)
    columns = columns_of(exposure, None)
    vectors = np.repeat(columns.vectors, columns.runs, axis=0)
    np.testing.assert_array_equal(vectors[np.arange(len(units)), columns.arms], again)
    if keep:
        assert second[:3_000] == first
        assert again[:3_000] == chances
    else:
        assert second[:3_000] != first
    fresh = np.bincount(second[3_000:], minlength=3)
    assert chisquare(fresh, 3_000 * np.array([0.1, 0.8, 0.1])).pvalue > 1e-5
    np.testing.assert_allclose(again[3_000:], np.array([0.1, 0.8, 0.1])[second[3_000:]])
    choices = [one.choose(unit, None) for unit in units[2_900:3_100]]
    assert [choice.arm for choice in choices] == second[2_900:3_100]
    assert [choice.propensity for choice in choices] == again[2_900:3_100]
    for choice in choices:
        assert choice.draw is not None
        assert choice.draw.shares[choice.arm] == choice.propensity
    made.apply(Offset(9, 0), exposure)


def test_a_unit_whose_arm_is_not_there_gets_another_one_for_that_time() -> None:
    one = decider(
        unit="user", keep_assigned=True, policy={"kind": "fixed_split", "shares": {"a": 0, "b": 1, "c": 0}}
    )
    made = one.live
    one.decide_columns(["u"], KEYRING, 5)
    made.apply(Offset(6, 0), logged(one))
    with_shares(made, Offset(7, 0), a=1, b=0, c=1)
    one.renew(made)
    assert one.choose("u", None).arm == 1
    assert one.choose("u", ["a"]).arm == 0, "it is not eligible"
    paused = made.record.with_standing(1, msgspec.structs.replace(made.record.standing(1), status="paused"))
    made.apply(
        Offset(8, 0),
        Changed(msgspec.structs.replace(paused, revision=3), Change("pause_arm", "test", None, "b")),
    )
    one.renew(made)
    other = one.choose("u", None)
    assert other.arm in (0, 2)
    assert other.propensity == 0.5
    _, arms, chances = one.decide_columns(["u"], KEYRING, 9)
    assert (arms, chances) == ([other.arm], [0.5])
    made.apply(Offset(10, 0), logged(one))
    made.apply(
        Offset(11, 0),
        Changed(
            msgspec.structs.replace(
                made.record.with_standing(
                    1, msgspec.structs.replace(made.record.standing(1), status="active")
                ),
                revision=4,
            ),
            Change("resume_arm", "test", None, "b"),
        ),
    )
    one.renew(made)
    assert one.choose("u", None).arm == 1
