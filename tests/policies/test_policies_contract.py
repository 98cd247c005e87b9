"""Contract of policies without context. Each one listed in `POLICIES` is tested."""

import copy
import pickle

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_kinds import RANGES, beyond, bounds_of, traits_of
from scale import scaled
from scipy import stats

from bandit_serve.errors import InvalidInput
from bandit_serve.metrics import KINDS
from bandit_serve.policies import POLICIES

CONTEXT_FREE = {kind: policy for kind, policy in POLICIES.items() if not policy.contextual}
CASES = [
    pytest.param(policy, objective, id=f"{kind}-{objective}")
    for kind, policy in CONTEXT_FREE.items()
    for objective in KINDS
    if objective in policy.objectives
]
everyone = pytest.mark.parametrize(("policy", "objective"), CASES)


def make(policy, objective, n_arms=4, **parameters):
    parameters |= bounds_of(objective)
    return policy(n_arms, objective=objective, **parameters)


def rewards_of(objective):
    low, high = RANGES[objective]
    return st.sampled_from([low, high]) if KINDS[objective].two_valued else st.floats(low, high)


def some(objective, n_arms, n, seed):
    """Arms and rewards, `n` of each, that differ between arms."""
    rng = np.random.default_rng(seed)
    low, high = RANGES[objective]
    arms = rng.integers(0, n_arms, n)
    places = rng.random(n) ** (1 + arms)
    rewards = low + (high - low) * (np.round(places) if KINDS[objective].two_valued else places)
    assert n < 2 or np.ptp(rewards) > 0
    return arms, rewards


def bits(statistics):
    return {name: values.tobytes() for name, values in statistics.items()}


def assert_valid(policy, shares, eligible):
    count = int(eligible.sum())
    assert shares.shape == (policy.n_arms,)
    assert abs(shares.sum() - 1.0) <= 1e-15 * policy.n_arms
    assert (shares[~eligible] == 0.0).all()
    assert (shares[eligible] >= policy.min_share * (1 - 1e-14)).all()
    assert (shares <= max(policy.max_share, 1.0 / count) * (1 + 1e-14)).all()


@pytest.mark.parametrize("kind", CONTEXT_FREE)
def test_the_table_says_what_the_class_says(kind):
    policy = POLICIES[kind]
    assert policy.kind == kind
    assert policy.objectives
    assert policy.objectives <= set(KINDS)
    assert all(isinstance(flag, bool) for flag in (policy.jumps, policy.contextual, policy.learns))
    assert set(policy(2).state()["parameters"]) == set(policy.parameters)


@everyone
@settings(max_examples=scaled(25, 200), deadline=None)
@given(data=st.data())
def test_shares_are_valid_on_every_reachable_state(policy, objective, data):
    n_arms = data.draw(st.integers(1, 6))
    min_share = data.draw(st.one_of(st.just(0.0), st.floats(0.0, 1.0 / n_arms)))
    max_share = data.draw(st.one_of(st.just(1.0), st.floats(max(min_share, 1e-6), 1.0)))
    bounds = {"min_share": min_share, "max_share": max_share}
    bounds["holdout"] = data.draw(st.one_of(st.just(0.0), st.floats(0.0, 1.0)))
    bounds["warmup"] = data.draw(st.sampled_from([0, 0, 1, 5]))
    arms = make(policy, objective, n_arms, seed=1, **bounds)
    reward, arm = rewards_of(objective), st.integers(0, n_arms - 1)
    for _ in range(data.draw(st.integers(0, 4))):
        way = data.draw(st.sampled_from(["one", "many", "counts", "forget"]))
        if way == "one":
            arms.update(data.draw(arm), data.draw(reward))
        elif way == "many":
            pairs = data.draw(st.lists(st.tuples(arm, reward), max_size=20))
            arms.update_many([k for k, _ in pairs], [r for _, r in pairs])
        elif way == "forget":
            arms.forget(data.draw(st.sampled_from([1.0, 0.5, 1e-12, 1e-99, 1e-300])))
        else:
            counts = st.lists(st.sampled_from([0, 1, 7, 10**9]), min_size=n_arms, max_size=n_arms)
            arms.update_counts(data.draw(counts), data.draw(reward))
    allowed = data.draw(st.sets(st.integers(0, n_arms - 1), min_size=1))
    eligible = np.isin(np.arange(n_arms), list(allowed))
    pending = data.draw(st.lists(st.floats(0, 1e6), min_size=n_arms, max_size=n_arms))
    assert_valid(arms, arms.shares(), np.full(n_arms, True))
    assert_valid(arms, arms.shares(eligible=eligible), eligible)
    later = arms.shares(eligible=eligible, pending=pending, pending_value=RANGES[objective][0])
    assert_valid(arms, later, eligible)
    for chosen in arms.choose_many(20, eligible=eligible).tolist():
        assert eligible[chosen]
    assert eligible[arms.choose(eligible=eligible)]
    assert 0 <= arms.choose() < n_arms


@everyone
@pytest.mark.parametrize("n_arms", [1, 2, 1000])
def test_extremes_have_valid_shares(policy, objective, n_arms):
    low, high = RANGES[objective]
    full = np.full(n_arms, True)
    half = np.arange(n_arms) % 2 == 0
    for counts, value in [
        (np.zeros(n_arms, dtype=int), high),
        (np.full(n_arms, 10**9), low),
        (np.full(n_arms, 10**9), high),
        (np.where(half, 10**9, 0), high),
        (np.where(half, 10**9, 0), low),
        (np.where(half, 10**9, 1), low),
    ]:
        arms = make(policy, objective, n_arms, seed=1)
        arms.update_counts(counts, value)
        assert_valid(arms, arms.shares(), full)
        assert_valid(arms, arms.shares(eligible=half), half)
        assert half[arms.choose_many(20, eligible=half)].all()
        np.testing.assert_allclose(arms.means, np.where(counts > 0, value, np.nan), rtol=1e-12)
        if np.ptp(counts) == 0:
            np.testing.assert_allclose(arms.shares(), 1.0 / n_arms, rtol=1e-6)


@everyone
@settings(max_examples=scaled(20, 200), deadline=None)
@given(data=st.data())
def test_a_batch_is_the_sequence_bit_for_bit(policy, objective, data):
    reward = rewards_of(objective)
    pairs = data.draw(st.lists(st.tuples(st.integers(0, 3), reward), max_size=60))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(pairs)), max_size=3)))
    one, many, parts = (make(policy, objective, seed=1) for _ in range(3))
    for arm, value in pairs:
        one.update(arm, value)
    many.update_many([arm for arm, _ in pairs], [value for _, value in pairs])
    for start, end in zip([0, *cuts], [*cuts, len(pairs)], strict=True):
        parts.update_many([arm for arm, _ in pairs[start:end]], [value for _, value in pairs[start:end]])
    assert bits(one.statistics()) == bits(many.statistics()) == bits(parts.statistics())
    assert one.shares().tobytes() == many.shares().tobytes()


@everyone
def test_a_zero_has_the_sign_that_logs_were_folded_with_first(policy, objective):
    one, many, closed = (make(policy, objective, seed=1) for _ in range(3))
    one.update(1, -0.0)
    many.update_many([1], [-0.0])
    closed.update_counts([0, 1, 0, 0], -0.0)
    assert bits(one.statistics()) == bits(many.statistics())
    if "mean" in one.statistics():
        assert np.signbit(many.statistics()["mean"]).tolist() == [False, True, False, False]
        assert not np.signbit(closed.statistics()["mean"]).any()


@everyone
def test_counts_and_means_are_those_of_the_rewards(policy, objective):
    arms, rewards = some(objective, 4, 500, seed=1)
    learner = make(policy, objective)
    assert np.isnan(learner.means).all()
    learner.update_many(arms, rewards)
    np.testing.assert_array_equal(learner.counts, np.bincount(arms, minlength=4))
    np.testing.assert_allclose(learner.means, [rewards[arms == k].mean() for k in range(4)], rtol=1e-12)
    learner.counts[:] = 0
    assert learner.counts.all()


@everyone
def test_counts_are_repeated_updates_in_closed_form(policy, objective):
    arms, rewards = some(objective, 4, 100, seed=2)
    counts = np.array([0, 1, 300, 17])
    low, high = RANGES[objective]
    for value in (low, high, max(low, 0.0), 1.0):
        for start in (0, 100):
            closed, repeated = make(policy, objective), make(policy, objective)
            closed.update_many(arms[:start], rewards[:start])
            repeated.update_many(arms[:start], rewards[:start])
            # A policy that weighs takes what it is told; its shares would move between the updates.
            chances = np.array([0.1, 0.2, 0.3, 0.4])
            places = np.repeat(np.arange(4), counts)
            closed.update_counts(counts, value, chances)
            repeated.update_many(places, np.full(counts.sum(), value), chances[places])
            for name, values in repeated.statistics().items():
                scale = max(abs(low), abs(high)) * 1e-12
                np.testing.assert_allclose(closed.statistics()[name], values, rtol=1e-12, atol=scale)


@everyone
def test_pending_observations_are_reckoned_with_and_not_kept(policy, objective):
    arms, rewards = some(objective, 4, 40, seed=3)
    value = RANGES[objective][0]
    learner, counted = make(policy, objective), make(policy, objective)
    learner.update_many(arms, rewards)
    counted.update_many(arms, rewards)
    before, shares = bits(learner.statistics()), learner.shares()
    assert learner.shares(pending=np.zeros(4), pending_value=value).tobytes() == shares.tobytes()
    pending = np.array([3, 0, 40, 1])
    counted.update_counts(pending, value)
    assert learner.shares(pending=pending, pending_value=value).tobytes() == counted.shares().tobytes()
    assert bits(learner.statistics()) == before
    assert learner.shares().tobytes() == shares.tobytes()


@everyone
def test_rewards_change_shares_only_where_the_policy_learns(policy, objective):
    arms, rewards = some(objective, 4, 60, seed=4)
    learner = make(policy, objective)
    before = learner.shares()
    learner.update_many(arms, rewards)
    assert (np.abs(learner.shares() - before).max() > 0.01) == policy.learns


@everyone
def test_a_state_goes_on_identically(policy, objective):
    arms, rewards = some(objective, 4, 60, seed=5)
    original = make(
        policy,
        objective,
        seed=6,
        min_share=0.05,
        max_share=0.9,
        holdout=0.1,
        warmup=14,
        half_life="2m",
        pseudo_history={"n": [1.5, 0, 2, 3], "mean": 1.0},
    )
    original.advance(1_000)
    original.update_many(arms, rewards)
    original.advance(31_000)
    original.choose_many(17)
    state = original.state()
    packed = msgpack.packb(state, default=lambda array: [array.dtype.str, array.tobytes()])
    unpacked = msgpack.unpackb(packed)
    unpacked["statistics"] = {name: np.frombuffer(*reversed(v)) for name, v in unpacked["statistics"].items()}
    unpacked["observed"] = np.frombuffer(unpacked["observed"][1], dtype=unpacked["observed"][0])
    unpacked["randomness"] = np.frombuffer(unpacked["randomness"][1], dtype=unpacked["randomness"][0])
    copies = [
        policy.from_state(state),
        policy.from_state(unpacked),
        copy.deepcopy(original),
        pickle.loads(pickle.dumps(original)),
    ]
    assert 0 < (original.observed < 14).sum() < 4
    choices = original.choose_many(100).tolist()
    original.update_many(arms, rewards)
    original.advance(75_000)
    assert (original.observed >= 14).all()
    assert len(set(choices)) > 1
    for again in copies:
        assert bits(again.statistics()) == bits(state["statistics"])
        assert again.choose_many(100).tolist() == choices
        again.update_many(arms, rewards)
        assert again.advance(75_000)
        assert bits(again.statistics()) == bits(original.statistics())
        assert again.shares().tobytes() == original.shares().tobytes()
        last = again.state()
        assert bits(last.pop("statistics")) == bits(original.statistics())
        assert last.pop("randomness").tolist() == original.randomness.tolist()
        assert last.pop("observed").tolist() == original.observed.tolist()
        assert {"kind": policy.kind, **last} == {k: v for k, v in original.state().items() if k in last}


@everyone
def test_a_state_is_a_copy(policy, objective):
    learner = make(policy, objective)
    state = learner.state()
    parameters = repr(state["parameters"])
    for value in state["parameters"].values():
        if isinstance(value, dict | list):
            value.clear()
    assert repr(learner.state()["parameters"]) == parameters
    learner.update(0, 1.0)
    assert state["statistics"]["n"].tolist() == [0.0] * 4
    state["statistics"]["n"][:] = 9.0
    assert learner.counts.tolist() == [1.0, 0.0, 0.0, 0.0]


@everyone
def test_order_of_the_arms_does_not_matter(policy, objective):
    arms, rewards = some(objective, 6, 80, seed=7)
    order = np.array([3, 1, 5, 0, 4, 2])
    straight = make(policy, objective, 6, min_share=0.02, max_share=0.6)
    permuted = make(policy, objective, 6, min_share=0.02, max_share=0.6)
    straight.update_many(arms, rewards)
    permuted.update_many(np.argsort(order)[arms], rewards)
    eligible = np.array([True, True, False, True, True, True])
    for mask in (None, eligible):
        moved = None if mask is None else mask[order]
        np.testing.assert_allclose(
            permuted.shares(eligible=moved), straight.shares(eligible=mask)[order], rtol=0, atol=1e-12
        )


@everyone
def test_eligible_arms_are_the_policy_over_them_alone(policy, objective):
    arms, rewards = some(objective, 5, 50, seed=8)
    eligible = np.array([True, False, True, True, False])
    whole, alone = make(policy, objective, 5, min_share=0.02), make(policy, objective, 3, min_share=0.02)
    chances = np.linspace(0.1, 0.9, 50)
    whole.update_many(arms, rewards, chances)
    kept = eligible[arms]
    alone.update_many((np.cumsum(eligible) - 1)[arms[kept]], rewards[kept], chances[kept])
    shares = whole.shares(eligible=eligible)
    np.testing.assert_allclose(shares[eligible], alone.shares(), rtol=0, atol=1e-12)
    assert shares[~eligible].tolist() == [0.0, 0.0]
    assert whole.shares(eligible=np.full(5, True)).tobytes() == whole.shares().tobytes()


@everyone
@pytest.mark.parametrize("bound", [{}, {"min_share": 0.1}, {"max_share": 0.35}])
@pytest.mark.parametrize("eligible", [None, [True, False, True, True]])
def test_choices_follow_the_shares(policy, objective, bound, eligible):
    arms, rewards = some(objective, 4, 30, seed=9)
    learner = make(policy, objective, seed=10, **bound)
    learner.update_many(arms, rewards)
    shares = learner.shares(eligible=eligible)
    drawn = np.bincount(learner.choose_many(40_000, eligible=eligible), minlength=4)
    noise = np.sqrt(40_000 * shares * (1 - shares))
    assert (np.abs(drawn - 40_000 * shares) <= 4.5 * noise + 1e-6).all()
    likely = shares * 40_000 > 5
    if likely.sum() > 1:
        expected = shares[likely] * drawn[likely].sum() / shares[likely].sum()
        assert stats.chisquare(drawn[likely], expected).pvalue > 1e-4


@everyone
def test_propensities_are_what_arms_are_drawn_with_while_it_learns(policy, objective):
    """The mean of 1{A = k}/p is 1 over 20,000 decisions, with arms that come and go and shares that move."""
    low, high = RANGES[objective]
    rng = np.random.default_rng(16)
    learner = make(
        policy, objective, seed=17, min_share=0.02, holdout=0.1, warmup=20, half_life="1m", max_share=0.8
    )
    weighed, variance, eligible_times, moved = np.zeros(4), np.zeros(4), np.zeros(4), []
    for step in range(1000):
        eligible = rng.random(4) < 0.8
        eligible[step % 4] = True
        shares = learner.shares(eligible=eligible)
        arms = learner.choose_many(20, eligible=eligible)
        counts = np.bincount(arms, minlength=4)
        weighed[eligible] += counts[eligible] / shares[eligible]
        variance[eligible] += 20 * (1.0 / shares[eligible] - 1.0)
        eligible_times += 20 * eligible
        places = rng.random(20) ** (1 + arms)
        rewards = low + (high - low) * (np.round(places) if KINDS[objective].two_valued else places)
        learner.update_many(arms, rewards, shares[arms])
        learner.advance(100 * step)
        moved.append(learner.shares())
    assert (np.abs(weighed - eligible_times) <= 4 * np.sqrt(variance)).all()
    assert (np.ptp(moved, axis=0) > 0.05).all()


@everyone
def test_seeds_repeat_and_many_choices_are_single_ones(policy, objective):
    one, many, other = (make(policy, objective, seed=seed, min_share=0.1) for seed in (3, 3, 4))
    arms = many.choose_many(100)
    assert arms.dtype == np.intp
    assert [one.choose() for _ in range(100)] == arms.tolist()
    assert other.choose_many(100).tolist() != arms.tolist()
    eligible = [True, False, True, True]
    assert [one.choose(eligible=eligible) for _ in range(50)] == many.choose_many(
        50, eligible=eligible
    ).tolist()
    unseeded = (make(policy, objective, min_share=0.1).choose_many(100).tolist() for _ in range(2))
    assert next(unseeded) != next(unseeded)


@everyone
def test_what_is_no_reward_is_refused_and_nothing_counted(policy, objective):
    learner = make(policy, objective, seed=1)
    learner.update(1, 1.0)
    before = bits(learner.statistics())
    wrong = [float("nan"), float("inf"), -float("inf"), 1e300, "a", None, [1.0, 1.0]]
    wrong += beyond(traits_of(objective))
    for reward in wrong:
        with pytest.raises(InvalidInput):
            learner.update(0, reward)
        with pytest.raises(InvalidInput):
            learner.update_counts([1, 1, 1, 1], reward)
        with pytest.raises(InvalidInput):
            learner.shares(pending=[1, 1, 1, 1], pending_value=reward)
        with pytest.raises(InvalidInput):
            learner.update_many([0, 1, 2], [1.0, 1.0, reward])
    for arm in (-1, 4, 1.0, "0", None, 2**70):
        with pytest.raises(InvalidInput):
            learner.update(arm, 1.0)
        with pytest.raises(InvalidInput):
            learner.update_many([0, arm], [1.0, 1.0])
    for arms, rewards in [
        ([0], [1.0, 1.0]),
        ([[0]], [[1.0]]),
        ([0.0], [1.0]),
        (0, 1.0),
        ([0], [1j]),
        ([0], ["1"]),
    ]:
        with pytest.raises(InvalidInput):
            learner.update_many(arms, rewards)
    for counts in ([1, 1, 1], [1, 1, 1, -1], [0.5] * 4, "abcd", None, [2**70] * 4):
        with pytest.raises(InvalidInput):
            learner.update_counts(counts, 1.0)
    assert bits(learner.statistics()) == before


@everyone
def test_what_is_no_mask_or_weight_is_refused(policy, objective):
    learner = make(policy, objective, seed=1)
    for eligible in ([True] * 3, [1, 1, 1, 1], [False] * 4, "abcd", True, [[True] * 4], [None] * 4):
        for ask in (learner.shares, learner.choose, lambda **mask: learner.choose_many(1, **mask)):
            with pytest.raises(InvalidInput, match="eligible"):
                ask(eligible=eligible)
    for pending in (
        [1.0] * 3,
        [-1.0, 0, 0, 0],
        [float("nan"), 0, 0, 0],
        [float("inf"), 0, 0, 0],
        "abcd",
        1.0,
    ):
        with pytest.raises(InvalidInput, match="pending"):
            learner.shares(pending=pending, pending_value=RANGES[objective][0])
    for n in (-1, 1.5, "a", None):
        with pytest.raises(InvalidInput, match="whole number"):
            learner.choose_many(n)


@everyone
def test_arrays_of_other_types_and_layouts_work(policy, objective):
    arms, rewards = some(objective, 4, 40, seed=11)
    rewards = np.round(np.clip(rewards, 0, 1))
    plain, odd = make(policy, objective), make(policy, objective)
    plain.update_many(arms, rewards)
    wide_arms, wide_rewards = np.repeat(arms.astype(np.uint8), 2), np.repeat(rewards.astype(np.float32), 2)
    wide_arms.flags.writeable = wide_rewards.flags.writeable = False
    odd.update_many(wide_arms[::2], wide_rewards[::2])
    assert bits(plain.statistics()) == bits(odd.statistics())
    odd.update_many([], [])
    odd.update_many(np.array([], dtype=np.int64), np.array([], dtype=np.float64))
    odd.update(np.int32(1), np.float32(1))
    plain.update(True, True)
    assert bits(plain.statistics()) == bits(odd.statistics())


@everyone
def test_forgetting_nothing_is_no_change_bit_for_bit(policy, objective):
    arms, rewards = some(objective, 4, 50, seed=12)
    learner = make(policy, objective, seed=1)
    learner.update_many(arms, rewards)
    before, shares = bits(learner.statistics()), learner.shares().tobytes()
    learner.forget(1)
    assert bits(learner.statistics()) == before
    assert learner.shares().tobytes() == shares
    for factor in (0, -0.5, 1.5, float("nan"), "a", None):
        with pytest.raises(InvalidInput, match="factor"):
            learner.forget(factor)
    assert bits(learner.statistics()) == before


@everyone
def test_forgetting_decays_weights_and_neither_means_nor_what_was_set(policy, objective):
    arms, rewards = some(objective, 4, 50, seed=12)
    learner, fresh = make(policy, objective, seed=1), make(policy, objective, seed=1)
    learner.update_many(arms, rewards)
    before, means, parameters = learner.statistics(), learner.means, learner.state()["parameters"]
    learner.forget(0.25)
    for name, values in learner.statistics().items():
        np.testing.assert_array_equal(values, before[name] if name == "mean" else 0.25 * before[name])
    np.testing.assert_allclose(learner.means, means, rtol=1e-12)
    assert learner.observed.tolist() == np.bincount(arms, minlength=4).tolist()
    assert learner.state()["parameters"] == parameters
    for _ in range(400):
        learner.forget(0.5)
    assert bits(learner.statistics()) == bits(fresh.statistics())
    np.testing.assert_array_equal(learner.shares(), fresh.shares())
    learner.update_many(arms, rewards)
    np.testing.assert_allclose(learner.means, means, rtol=1e-12)


@everyone
def test_a_choice_follows_what_is_forgotten(policy, objective):
    """What is kept for choosing is made again; a cap has arms chosen from the table of shares."""
    arms, rewards = some(objective, 4, 400, seed=12)
    for cap in (1.0, 0.9999):
        learner = make(policy, objective, seed=1, max_share=cap)
        learner.update_many(arms, rewards)
        learner.choose_many(10)
        for factor in (0.5, 0.02, 1e-200):
            learner.forget(factor)
            shares = learner.shares()
            drawn = np.bincount(learner.choose_many(20_000), minlength=4)
            assert (
                np.abs(drawn - 20_000 * shares) <= 5 * np.sqrt(20_000 * shares * (1 - shares)) + 1e-6
            ).all()


@everyone
def test_time_forgets_by_half_lives(policy, objective):
    arms, rewards = some(objective, 4, 50, seed=13)
    timed, stamped, endless = (make(policy, objective, half_life=h) for h in ("10s", None, None))
    assert not timed.advance(5_000)
    for at_ms, factor in ((5_000, 1.0), (15_000, 0.5), (14_000, 1.0), (15_000, 1.0), (18_000, 2.0**-0.3)):
        for learner in (timed, stamped, endless):
            learner.update_many(arms, rewards)
        assert timed.advance(at_ms) == (factor < 1.0)
        stamped.forget(factor)
        assert not endless.advance(at_ms)
    assert bits(timed.statistics()) == bits(stamped.statistics())
    assert endless.counts.sum() == 250
    assert timed.state()["clock_ms"] == 18_000
    assert endless.state()["clock_ms"] is None
    again = policy.from_state(timed.state())
    for learner in (timed, again):
        learner.advance(20_000)
    assert bits(timed.statistics()) == bits(again.statistics())
    timed.advance(10**15)
    assert not timed.counts.any()


@everyone
def test_a_warm_up_is_even_over_the_arms_that_are_short(policy, objective):
    value = RANGES[objective][1]
    learner = make(policy, objective, seed=1, warmup=3)
    assert learner.shares().tolist() == [0.25] * 4
    learner.update_counts([3, 2, 0, 5], value)
    assert learner.shares().tolist() == [0.0, 0.5, 0.5, 0.0]
    assert learner.shares(eligible=[True, True, False, True]).tolist() == [0.0, 1.0, 0.0, 0.0]
    assert set(learner.choose_many(50).tolist()) == {1, 2}
    plain = make(policy, objective, seed=1)
    plain.update_counts([3, 2, 0, 5], value)
    alone = [True, False, False, True]
    assert learner.shares(eligible=alone).tolist() == plain.shares(eligible=alone).tolist()
    assert learner.shares(decided=[3, 3, 3, 3]).tolist() == plain.shares().tolist()
    assert learner.shares(decided=[9, 9, 2, 9]).tolist() == [0.0, 0.0, 1.0, 0.0]
    for decided in ([1] * 3, [-1] * 4, "abcd"):
        with pytest.raises(InvalidInput, match="decided"):
            learner.shares(decided=decided)
    learner.update_many([1, 2, 2, 2], [value] * 4)
    plain.update_many([1, 2, 2, 2], [value] * 4)
    np.testing.assert_allclose(learner.shares(), plain.shares(), atol=0 if not policy.weighs else 1)
    learner.forget(0.1)
    plain.forget(0.1)
    assert set(learner.choose_many(2000).tolist()) == set(plain.choose_many(2000).tolist())
    assert policy.from_state(learner.state()).shares().tobytes() == learner.shares().tobytes()


@everyone
@pytest.mark.parametrize("bound", [{}, {"min_share": 0.1}, {"max_share": 0.35}])
@pytest.mark.parametrize("eligible", [None, [True, False, True, True]])
def test_a_holdout_is_mixed_in_and_drawn(policy, objective, bound, eligible):
    arms, rewards = some(objective, 4, 30, seed=9)
    plain, learner = (make(policy, objective, seed=10, holdout=h, **bound) for h in (0.0, 0.3))
    for each in (plain, learner):
        each.update_many(arms, rewards, np.full(30, 0.25))
    allowed = np.array([True] * 4 if eligible is None else eligible)
    shares = learner.shares(eligible=eligible)
    expected = 0.7 * plain.shares(eligible=eligible) + 0.3 * allowed / allowed.sum()
    np.testing.assert_allclose(shares, expected, rtol=1e-14)
    assert abs(shares.sum() - 1.0) < 1e-14
    drawn = np.bincount(learner.choose_many(40_000, eligible=eligible), minlength=4)
    assert (np.abs(drawn - 40_000 * shares) <= 4.5 * np.sqrt(40_000 * shares * (1 - shares)) + 1e-6).all()
    whole = make(policy, objective, holdout=1.0, **bound)
    whole.update_many(arms, rewards, np.full(30, 0.25))
    np.testing.assert_allclose(whole.shares(), 0.25, rtol=1e-14)


@everyone
def test_a_ramp_is_the_most_of_its_arm(policy, objective):
    arms, rewards = some(objective, 4, 30, seed=9)
    learner = make(policy, objective, min_share=0.05)
    learner.update_many(arms, rewards)
    free = learner.shares()
    assert learner.shares(ramps=np.ones(4)).tobytes() == free.tobytes()
    best = int(free.argmax())
    ramps = np.ones(4)
    ramps[best] = 0.01
    held = learner.shares(ramps=ramps)
    assert held[best] == 0.01
    others = np.arange(4) != best
    np.testing.assert_allclose(held[others] / 0.99, free[others] / free[others].sum(), rtol=1e-12)
    for wrong in ([1.0] * 3, [-1.0] * 4, "abcd"):
        with pytest.raises(InvalidInput, match="ramps"):
            learner.shares(ramps=wrong)


@everyone
def test_arms_may_be_added(policy, objective):
    arms, rewards = some(objective, 4, 40, seed=14)
    learner = make(policy, objective, seed=3, holdout=0.1, half_life="1h", warmup=2)
    learner.update_many(arms, rewards)
    learner.advance(1_000)
    grown = learner.grown(6)
    assert type(grown) is policy
    assert grown.n_arms == 6
    assert learner.n_arms == 4
    for name, values in learner.statistics().items():
        assert grown.statistics()[name].tolist() == [*values.tolist(), 0.0, 0.0]
    assert grown.observed.tolist() == [*learner.observed.tolist(), 0, 0]
    assert grown.state()["clock_ms"] == 1_000
    first = [True] * 4 + [False] * 2
    np.testing.assert_allclose(grown.shares(eligible=first)[:4], learner.shares(), rtol=0, atol=1e-12)
    assert grown.shares().tolist() == [0.1 / 6] * 4 + [0.1 / 6 + 0.45] * 2
    assert learner.grown(4).shares().tobytes() == learner.shares().tobytes()
    for n_arms in (3, 0, "5", None):
        with pytest.raises(InvalidInput, match="n_arms"):
            learner.grown(n_arms)


@everyone
def test_a_pseudo_history_counts_as_observations_do(policy, objective):
    low, high = RANGES[objective]
    history = {"n": [8, 0, 4, 20], "mean": [low, high, high, (low + high) / 2]}
    informed, seen = make(policy, objective, pseudo_history=history, warmup=1), make(policy, objective)
    assert not informed.observed.any()
    assert informed.shares().tolist() == [0.25] * 4
    seen.update_counts([8, 0, 0, 10], low, np.full(4, 0.25))
    seen.update_counts([0, 0, 4, 10], high, np.full(4, 0.25))
    np.testing.assert_allclose(informed.means, seen.means)
    np.testing.assert_array_equal(informed.counts, seen.counts)
    if not KINDS[objective].unbounded:
        np.testing.assert_allclose(informed.shares(decided=[1] * 4), seen.shares(), atol=1e-12)
    informed.forget(0.5)
    np.testing.assert_array_equal(informed.counts, [4, 0, 2, 10])
    if KINDS[objective].unbounded:
        history = {"n": 4.0, "mean": 1.0, "std": [0.0, 1.0, 2.0, 3.0]}
        spread = make(policy, objective, pseudo_history=history)
        assert spread.statistics()["m2"].tolist() == [0.0, 4.0, 16.0, 36.0]


@everyone
def test_propensities_are_for_policies_that_weigh(policy, objective):
    arms, rewards = some(objective, 4, 30, seed=15)
    plain, informed, parts = (make(policy, objective, seed=1) for _ in range(3))
    plain.update_many(arms, rewards)
    chances = np.random.default_rng(1).uniform(0.05, 1.0, 30)
    informed.update_many(arms, rewards, chances)
    for arm, reward, chance in zip(arms, rewards, chances, strict=True):
        parts.update(arm, reward, propensity=chance)
    assert bits(informed.statistics()) == bits(parts.statistics())
    assert (bits(informed.statistics()) == bits(plain.statistics())) == (not policy.weighs)
    if policy.weighs:
        before = bits(informed.statistics())
        for wrong in (0.0, -1.0, 1.5, float("nan"), "a"):
            with pytest.raises(InvalidInput, match="propensity"):
                informed.update(0, 1.0, wrong)
            with pytest.raises(InvalidInput, match="propensities"):
                informed.update_many([0, 1], [1.0, 1.0], [0.5, wrong])
            with pytest.raises(InvalidInput, match="propensities"):
                informed.update_counts([1] * 4, 1.0, [0.5, 0.5, 0.5, wrong])
        with pytest.raises(InvalidInput, match="propensities"):
            informed.update_many([0, 1], [1.0, 1.0], [0.5])
        assert bits(informed.statistics()) == before


@pytest.mark.parametrize("policy", CONTEXT_FREE.values(), ids=CONTEXT_FREE)
def test_parameters_that_cannot_be_are_refused(policy):
    for n_arms in (0, -1, 1.5, "3", None, True, 2**40):
        with pytest.raises(InvalidInput, match="n_arms must be a whole number"):
            policy(n_arms)
    for parameters in (
        {"min_share": 0.4},
        {"max_share": 0},
        {"min_share": float("nan")},
        {"seed": -1},
        {"seed": "a"},
        {"objective": "other"},
        {"objective": None},
        {"low": 0.0},
        {"objective": "bounded", "low": 1.0, "high": 1.0},
        {"objective": "bounded", "low": 0.0, "high": float("inf")},
        {"objective": "bounded", "high": "1"},
        {"objective": "bounded", "high": 1e200},
        {"holdout": -0.1},
        {"holdout": 1.5},
        {"holdout": "a"},
        {"warmup": -1},
        {"warmup": 1.5},
        {"warmup": True},
        {"half_life": "0s"},
        {"half_life": "soon"},
        {"refresh": "now"},
        {"half_life": 3600},
        {"pseudo_history": [1.0, 2.0]},
        {"pseudo_history": {"n": 1.0}},
        {"pseudo_history": {"n": -1.0, "mean": 0.5}},
        {"pseudo_history": {"n": [1.0, 2.0], "mean": 0.5}},
        {"pseudo_history": {"n": 1.0, "mean": 1e300}},
        {"pseudo_history": {"n": 1.0, "mean": 0.5, "std": 1.0}},
        {"pseudo_history": {"n": 1.0, "mean": "a"}},
    ):
        with pytest.raises(InvalidInput):
            policy(3, **parameters)
    with pytest.raises(TypeError, match="heat"):
        policy(3, heat=1.0)


@pytest.mark.parametrize("policy", CONTEXT_FREE.values(), ids=CONTEXT_FREE)
def test_what_is_no_state_is_refused(policy):
    whole = policy(3, seed=1).state()
    for change in (
        {"kind": "other"},
        {"n_arms": 4},
        {"objective": "other"},
        {"parameters": {"other": 1}},
        {"parameters": None},
        {"min_share": 2.0},
        {"extra": 1},
        {"randomness": np.zeros(4, dtype=np.uint64)},
        {"randomness": np.ones(3, dtype=np.uint64)},
        {"randomness": [1, 1, 1, 1]},
        {"statistics": None},
        {"statistics": {"n": np.zeros(3)}},
        {"statistics": {"n": np.zeros(3), "total": np.ones(3)}},
        {"statistics": {"n": -np.ones(3), "total": np.zeros(3)}},
        {"statistics": {"n": np.full(3, np.nan), "total": np.zeros(3)}},
        {"statistics": {"n": np.zeros(2), "total": np.zeros(2)}},
        {"statistics": {"n": np.zeros(3), "total": "abc"}},
        {"observed": np.zeros(2, dtype=np.int64)},
        {"observed": -np.ones(3, dtype=np.int64)},
        {"observed": None},
        {"clock_ms": "now"},
        {"clock_ms": -1},
        {"half_life": "never"},
        {"warmup": None},
        {"holdout": 2},
    ):
        with pytest.raises(InvalidInput):
            policy.from_state({**whole, **change})
    for missing in whole:
        with pytest.raises(InvalidInput):
            policy.from_state({key: value for key, value in whole.items() if key != missing})
    with pytest.raises(InvalidInput):
        policy.from_state(None)


@pytest.mark.parametrize("policy", CONTEXT_FREE.values(), ids=CONTEXT_FREE)
def test_arms_that_were_never_made_refuse_and_do_not_crash(policy):
    empty = policy.__new__(policy)
    for use in (empty.choose, lambda: empty.choose_many(1), lambda: empty.update(0, 1.0), empty.statistics):
        with pytest.raises((InvalidInput, AttributeError, TypeError)):
            use()


@everyone
def test_no_holdout_is_a_number_too(policy, objective):
    with pytest.raises(InvalidInput, match="holdout must be a finite number, not None"):
        make(policy, objective, holdout=None)


@everyone
def test_no_mean_of_a_pseudo_history_is_guessed(policy, objective):
    history = {"n": 1.0, "mean": {0: 1.0, 2: 1.0, 3: 1.0}}
    with pytest.raises(InvalidInput, match=r"pseudo_history\.mean must have arm 1, too"):
        make(policy, objective, pseudo_history=history)
    make(policy, objective, pseudo_history=history | {"n": {0: 1.0, 2: 1.0, 3: 1.0}})
