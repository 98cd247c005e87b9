"""Contract of contextual policies. Each one listed in `POLICIES` is tested."""

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

CONTEXTUAL = {kind: policy for kind, policy in POLICIES.items() if policy.contextual}
D = 3
ARM_FEATURES = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.5, -1.0], [-1.0, 0.25], [2.0, 0.5]])
everyone = pytest.mark.parametrize(
    ("policy", "objective", "shared"),
    [
        pytest.param(policy, objective, shared, id=f"{kind}-{objective}{'-shared' * shared}")
        for kind, policy in CONTEXTUAL.items()
        for objective in KINDS
        if objective in policy.objectives
        for shared in (False, True)
    ],
)
each = pytest.mark.parametrize("policy", CONTEXTUAL.values(), ids=CONTEXTUAL)


def make(policy, objective="binary", shared=False, n_arms=4, n_features=D, **parameters):
    parameters |= bounds_of(objective)
    if shared:
        parameters["arm_features"] = ARM_FEATURES[:n_arms]
    return policy(n_arms, n_features, objective=objective, **parameters)


def rewards_of(objective):
    low, high = RANGES[objective]
    return st.sampled_from([low, high]) if KINDS[objective].two_valued else st.floats(low, high)


def some(objective, n_arms, n, seed, n_features=D):
    """Arms, rewards and features, `n` of each: the rewards differ between arms and by the features."""
    rng = np.random.default_rng(seed)
    low, high = RANGES[objective]
    arms = rng.integers(0, n_arms, n)
    x = rng.standard_normal((n, n_features))
    places = 1 / (1 + np.exp(-(x[:, 0] * (arms % 3 - 1) + 0.5 * arms - 1 + rng.standard_normal(n))))
    rewards = low + (high - low) * (np.round(places) if KINDS[objective].two_valued else places)
    assert n < 2 or np.ptp(rewards) > 0
    return arms, rewards, x


def bits(arrays):
    return {name: values.tobytes() for name, values in arrays.items()}


def whole(policy):
    return bits(policy.statistics()), bits(policy.factors()), policy.observed.tolist()


def assert_valid(policy, shares, eligible):
    even = policy.holdout / eligible.sum()
    assert shares.shape == (policy.n_arms,)
    assert abs(shares.sum() - 1.0) <= 1e-15 * policy.n_arms
    assert (shares[~eligible] == 0.0).all()
    floor = even + (1 - policy.holdout) * policy.min_share
    assert (shares[eligible] >= floor * (1 - 1e-14)).all()
    cap = even + (1 - policy.holdout) * max(policy.max_share, 1.0 / eligible.sum())
    assert (shares <= cap * (1 + 1e-14)).all()


@each
def test_the_table_says_what_the_class_says(policy):
    assert POLICIES[policy.kind] is policy
    assert policy.objectives <= set(KINDS)
    assert policy.contextual
    assert set(policy(2, 3).state()["parameters"]) == set(policy.parameters)


@everyone
@settings(max_examples=scaled(12, 100), deadline=None)
@given(data=st.data())
def test_shares_are_valid_on_every_reachable_state(policy, objective, shared, data):
    n_arms = data.draw(st.integers(1, 6))
    min_share = data.draw(st.one_of(st.just(0.0), st.floats(0.0, 1.0 / n_arms)))
    max_share = data.draw(st.one_of(st.just(1.0), st.floats(max(min_share, 1e-6), 1.0)))
    learner = make(
        policy,
        objective,
        shared,
        n_arms,
        seed=1,
        min_share=min_share,
        max_share=max_share,
        holdout=data.draw(st.sampled_from([0.0, 0.1, 1.0])),
        warmup=data.draw(st.sampled_from([0, 0, 2])),
    )
    entry = st.one_of(st.floats(-3, 3, width=32), st.sampled_from([0.0, 1.0, 1e-30, -1e30, 3e38]))
    vector = st.lists(entry, min_size=D, max_size=D)
    reward, arm = rewards_of(objective), st.integers(0, n_arms - 1)
    for _ in range(data.draw(st.integers(0, 4))):
        way = data.draw(st.sampled_from(["one", "many", "forget"]))
        if way == "one":
            learner.update(data.draw(arm), data.draw(reward), data.draw(vector))
        elif way == "many":
            rows = data.draw(st.lists(st.tuples(arm, reward, vector), max_size=20))
            x = np.array([v for _, _, v in rows]).reshape(len(rows), D)
            learner.update_many([k for k, _, _ in rows], [r for _, r, _ in rows], x)
        else:
            learner.forget(data.draw(st.sampled_from([1.0, 0.5, 1e-3, 1e-200])))
    allowed = data.draw(st.sets(st.integers(0, n_arms - 1), min_size=1))
    eligible = np.isin(np.arange(n_arms), list(allowed))
    x = data.draw(vector)
    assert_valid(learner, learner.shares(x), np.full(n_arms, True))
    assert_valid(learner, learner.shares(x, eligible), eligible)
    for _ in range(5):
        assert eligible[learner.choose(x, eligible)]
    assert 0 <= learner.choose(x) < n_arms
    means, widths = learner.scores_of(x)
    assert np.isfinite(means).all()
    assert (widths >= 0).all()


@everyone
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_batch_is_the_sequence_bit_for_bit(policy, objective, shared, data):
    n = data.draw(st.integers(0, 90))
    arms, rewards, x = some(objective, 4, n + 2, seed=n)
    arms, rewards, x = arms[:n], rewards[:n], x[:n]
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=3)))
    looks = data.draw(st.sets(st.integers(0, n), max_size=5))
    one, many, parts = (make(policy, objective, shared, seed=1) for _ in range(3))
    for i, (arm, value, row) in enumerate(zip(arms, rewards, x, strict=True)):
        # Looking at shares makes inverses anew when it comes; what is learned must not depend on it.
        if i in looks:
            one.shares(row)
        one.update(arm, value, row)
    many.update_many(arms, rewards, x)
    for start, end in zip([0, *cuts], [*cuts, n], strict=True):
        parts.update_many(arms[start:end], rewards[start:end], x[start:end])
    assert whole(one) == whole(many) == whole(parts)
    probe = np.array([0.3, -0.7, 1.0])
    assert one.shares(probe).tobytes() == many.shares(probe).tobytes()


@everyone
def test_a_state_goes_on_identically(policy, objective, shared):
    arms, rewards, x = some(objective, 4, 90, seed=5)
    original = make(
        policy,
        objective,
        shared,
        seed=6,
        min_share=0.05,
        max_share=0.9,
        holdout=0.1,
        warmup=20,
        half_life="2m",
    )
    original.advance(1_000)
    original.update_many(arms[:75], rewards[:75], x[:75])
    original.advance(31_000)
    original.update_many(arms[75:], rewards[75:], x[75:])
    original.choose_many(x[:17])
    state = original.state()
    packed = msgpack.packb(
        state, default=lambda array: {"dtype": array.dtype.str, "shape": array.shape, "data": array.tobytes()}
    )
    unpacked = msgpack.unpackb(
        packed,
        object_hook=lambda m: (
            np.frombuffer(m["data"], dtype=m["dtype"]).reshape(m["shape"]) if "dtype" in m else m
        ),
    )
    copies = [
        policy.from_state(state),
        policy.from_state(unpacked),
        copy.deepcopy(original),
        pickle.loads(pickle.dumps(original)),
    ]
    assert 0 < (original.observed < 20).sum() < 4
    choices = original.choose_many(x).tolist()
    original.update_many(arms, rewards, x)
    original.advance(75_000)
    original.update_many(arms, rewards, x)
    assert (original.observed >= 20).all()
    assert len(set(choices)) > 1
    for again in copies:
        assert bits(again.statistics()) == bits(state["statistics"])
        assert bits(again.factors()) == bits(state["factors"])
        assert again.choose_many(x).tolist() == choices
        again.update_many(arms, rewards, x)
        assert again.advance(75_000)
        again.update_many(arms, rewards, x)
        assert whole(again) == whole(original)
        assert again.shares(x[0]).tobytes() == original.shares(x[0]).tobytes()
        assert again.clock_ms == original.clock_ms
        assert again.randomness.tolist() == original.randomness.tolist()


@everyone
def test_a_state_is_a_copy(policy, objective, shared):
    learner = make(policy, objective, shared, seed=1)
    state = learner.state()
    learner.update(0, 1.0, [1.0, 2.0, 3.0])
    assert not any(values.any() for values in state["statistics"].values())
    before = whole(learner)
    for part in ("statistics", "factors"):
        for values in learner.state()[part].values():
            values[:] = 9
    assert whole(learner) == before


@everyone
def test_order_of_the_arms_does_not_matter(policy, objective, shared):
    arms, rewards, x = some(objective, 6, 120, seed=7)
    order = np.array([3, 1, 5, 0, 4, 2])
    straight, permuted = (
        make(policy, objective, n_arms=6, min_share=0.02, max_share=0.6, **given)
        for given in (
            ({"arm_features": ARM_FEATURES}, {"arm_features": ARM_FEATURES[order]}) if shared else ({}, {})
        )
    )
    straight.update_many(arms, rewards, x)
    permuted.update_many(np.argsort(order)[arms], rewards, x)
    eligible = np.array([True, True, False, True, True, True])
    for row in x[:5]:
        for mask in (None, eligible):
            moved = None if mask is None else mask[order]
            np.testing.assert_allclose(
                permuted.shares(row, moved), straight.shares(row, mask)[order], rtol=0, atol=1e-9
            )


@each
def test_eligible_arms_are_the_policy_over_them_alone(policy):
    """With precisions that were not read since all arms were alike, as they are of all arms' features."""
    arms, rewards, x = some("binary", 5, 60, seed=8)
    eligible = np.array([True, False, True, True, False])
    whole_policy = make(policy, n_arms=5, min_share=0.02)
    whole_policy.update_many(arms, rewards, x)
    row = x[0]
    shares = whole_policy.shares(row, eligible)
    alone = whole_policy.raw_shares(row, np.flatnonzero(eligible))
    expected = 0.02 + (1 - 3 * 0.02) * alone / alone.sum()
    np.testing.assert_allclose(shares[eligible], expected, rtol=0, atol=1e-12)
    assert shares[~eligible].tolist() == [0.0, 0.0]
    assert whole_policy.shares(row, np.full(5, True)).tobytes() == whole_policy.shares(row).tobytes()


@everyone
@pytest.mark.parametrize(
    "bound", [{}, {"min_share": 0.1, "holdout": 0.2}, {"max_share": 0.35}, {"warmup": 8}]
)
@pytest.mark.parametrize("eligible", [None, [True, False, True, True]])
def test_choices_follow_the_shares(policy, objective, shared, bound, eligible):
    arms, rewards, x = some(objective, 4, 30, seed=9)
    learner = make(policy, objective, shared, seed=10, **bound)
    learner.update_many(arms, rewards, x)
    shares = learner.shares(x[0], eligible)
    n = 1_500
    drawn = np.bincount([learner.choose(x[0], eligible) for _ in range(n)], minlength=4)
    noise = np.sqrt(n * shares * (1 - shares))
    assert (np.abs(drawn - n * shares) <= 4.5 * noise + 1e-6).all()
    likely = shares * n > 5
    if likely.sum() > 1:
        expected = shares[likely] * drawn[likely].sum() / shares[likely].sum()
        assert stats.chisquare(drawn[likely], expected).pvalue > 1e-4


@everyone
def test_seeds_repeat_and_many_choices_are_single_ones(policy, objective, shared):
    one, many, other = (make(policy, objective, shared, seed=seed, min_share=0.1) for seed in (3, 3, 4))
    x = some(objective, 4, 100, seed=1)[2]
    arms = many.choose_many(x)
    assert arms.dtype == np.intp
    assert [one.choose(row) for row in x] == arms.tolist()
    assert other.choose_many(x).tolist() != arms.tolist()
    masks = np.random.default_rng(2).random((100, 4)) < 0.6
    masks[:, 1] = True
    chosen = many.choose_many(x, masks)
    assert [one.choose(row, mask) for row, mask in zip(x, masks, strict=True)] == chosen.tolist()
    assert masks[np.arange(100), chosen].all()
    np.testing.assert_array_equal(many.shares_many(x[:5]), [many.shares(row) for row in x[:5]])
    np.testing.assert_array_equal(
        many.shares_many(x[:5], masks[:5]),
        [many.shares(row, mask) for row, mask in zip(x[:5], masks[:5], strict=True)],
    )


@everyone
def test_propensities_are_right_while_learning_with_changing_eligibility_and_a_holdout(
    policy, objective, shared
):
    """The mean of 1{A = k} / p over decisions in which arm k may be chosen is 1."""
    rng = np.random.default_rng(11)
    learner = make(policy, objective, shared, seed=12, holdout=0.1, min_share=0.01)
    n = 1_500
    _, rewards, x = some(objective, 4, n, seed=13)
    total, square, count = np.zeros(4), np.zeros(4), np.zeros(4)
    for i in range(n):
        eligible = rng.random(4) < 0.7
        eligible[rng.integers(4)] = True
        shares = learner.shares(x[i], eligible)
        arm = learner.choose(x[i], eligible)
        ratio = (np.arange(4) == arm) / np.where(eligible, shares, 1.0)
        total += ratio
        square += np.where(eligible, 1 / np.where(eligible, shares, 1.0) - 1, 0.0)
        count += eligible
        learner.update(arm, rewards[i], x[i])
    # The differences are a martingale whose variance is the sum of (1 - p) / p.
    assert (np.abs(total - count) <= 4 * np.sqrt(square)).all()


@everyone
def test_one_arm_and_a_thousand(policy, objective, shared):
    rng = np.random.default_rng(14)
    for n_arms in (1, 1000):
        features = {"arm_features": rng.standard_normal((n_arms, 2))} if shared else {}
        learner = make(policy, objective, n_arms=n_arms, seed=1, **features)
        x = rng.standard_normal((60, D))
        low, high = RANGES[objective]
        half = np.arange(n_arms) % 2 == 0
        for _ in range(2):
            assert_valid(learner, learner.shares(x[0]), np.full(n_arms, True))
            assert_valid(learner, learner.shares(x[0], half), half)
            assert half[learner.choose(x[0], half)]
            assert 0 <= learner.choose(x[0]) < n_arms
            learner.update_many(rng.integers(0, n_arms, 60), np.where(x[:, 0] > 0, high, low), x)


@everyone
def test_a_feature_that_comes_late_is_learned(policy, objective, shared):
    low, high = RANGES[objective]
    learner = make(policy, objective, shared, seed=1)
    rng = np.random.default_rng(15)
    early = np.column_stack([np.ones(400), rng.standard_normal(400), np.zeros(400)])
    learner.update_many(rng.integers(0, 4, 400), rng.choice([low, high], 400), early)
    late = np.column_stack([np.ones(400), rng.standard_normal(400), rng.choice([-1.0, 1.0], 400)])
    arms = rng.integers(0, 4, 400)
    learner.update_many(arms, np.where((arms == 2) == (late[:, 2] > 0), high, low), late)
    positive, negative = (learner.shares([1.0, 0.0, sign]) for sign in (1.0, -1.0))
    assert positive[2] > 0.8
    assert negative[2] < 0.1


@everyone
def test_a_feature_that_vanishes_has_its_priors_variance_again(policy, objective, shared):
    arms, rewards, x = some(objective, 4, 400, seed=16)
    learner = make(policy, objective, shared, seed=1)
    learner.update_many(arms, rewards, x)
    probe = np.array([0.0, 0.0, 1.0])
    assert (learner.scores_of(probe)[1] < 0.5).all()
    x[:, 2] = 0.0
    for _ in range(100):
        learner.forget(0.5)
        learner.update_many(arms, rewards, x)
    means, widths = learner.scores_of(probe)
    precision = learner.factors()["precision"]
    assert precision[2] <= 2.0
    if shared:
        # The arm's own features do not vanish; what the probe adds to them does.
        assert (widths**2 >= 0.99 / precision[2]).all()
    else:
        np.testing.assert_allclose(widths**2, 1 / precision[2], rtol=1e-9)
        np.testing.assert_allclose(means, 0.0, atol=1e-9)


@everyone
def test_forgetting_nothing_is_no_change_bit_for_bit(policy, objective, shared):
    learner = make(policy, objective, shared, seed=1)
    learner.update_many(*some(objective, 4, 50, seed=17))
    before = whole(learner)
    learner.forget(1)
    assert whole(learner) == before
    for factor in (0, -0.5, 1.5, float("nan"), "a", None):
        with pytest.raises(InvalidInput, match="factor"):
            learner.forget(factor)
    assert whole(learner) == before


@everyone
def test_forgetting_decays_statistics_and_not_the_prior(policy, objective, shared):
    learner, fresh = make(policy, objective, shared, seed=1), make(policy, objective, shared, seed=1)
    learner.update_many(*some(objective, 4, 50, seed=18))
    before, means = learner.statistics(), learner.means
    learner.forget(0.25)
    for name, values in learner.statistics().items():
        np.testing.assert_array_equal(values, before[name] if name == "mean" else 0.25 * before[name])
    np.testing.assert_allclose(learner.means, means, rtol=1e-12)
    for _ in range(400):
        learner.forget(0.5)
    x = np.array([0.2, -0.4, 1.5])
    np.testing.assert_allclose(learner.factors()["precision"], fresh.factors()["precision"])
    np.testing.assert_allclose(learner.factors()["inverse"], fresh.factors()["inverse"], atol=1e-12)
    np.testing.assert_allclose(learner.scores_of(x)[1], fresh.scores_of(x)[1], rtol=1e-12)


@everyone
def test_time_forgets_by_half_lives_in_steps_worth_a_factorization(policy, objective, shared):
    data = some(objective, 4, 50, seed=19)
    timed, stamped, endless = (make(policy, objective, shared, half_life=h) for h in ("64s", None, None))
    assert not timed.advance(5_000)
    for at_ms, faded_ms in ((5_000, 0), (5_999, 0), (6_000, 1_000), (6_900, 0), (4_000, 0), (70_000, 64_000)):
        for learner in (timed, stamped, endless):
            learner.update_many(*data)
        assert timed.advance(at_ms) == (faded_ms > 0)
        stamped.forget(2.0 ** -(faded_ms / 64_000))
        assert not endless.advance(at_ms)
    assert whole(timed) == whole(stamped)
    assert timed.state()["clock_ms"] == 70_000
    assert endless.state()["clock_ms"] is None


@everyone
def test_a_warm_up_is_even_over_the_arms_that_are_short(policy, objective, shared):
    learner = make(policy, objective, shared, seed=1, warmup=2)
    x = [1.0, 0.0, 0.0]
    assert learner.shares(x).tolist() == [0.25] * 4
    for arm in (0, 0, 1):
        learner.update(arm, 1.0, x)
    np.testing.assert_allclose(learner.shares(x), [0, 1 / 3, 1 / 3, 1 / 3], atol=1e-15)
    assert {learner.choose(x) for _ in range(100)} == {1, 2, 3}
    assert learner.shares(x, [True, False, False, False]).tolist() == [1.0, 0, 0, 0]
    assert learner.shares(x, decided=[2, 2, 2, 0]).tolist() == [0, 0, 0, 1.0]
    plain = make(policy, objective, shared)
    for arm in (0, 0, 1):
        plain.update(arm, 1.0, x)
    assert learner.shares(x, decided=[2, 2, 2, 2]).tobytes() == plain.shares(x).tobytes()


@everyone
def test_ramps_cap_single_arms(policy, objective, shared):
    learner = make(policy, objective, shared, holdout=0.2)
    learner.update_many(*some(objective, 4, 60, seed=20))
    shares = learner.shares([1.0, 0.5, 0.0], ramps=[0.1, 1, 1, 1])
    assert shares[0] <= 0.8 * 0.1 + 0.05 + 1e-12
    assert shares.sum() == pytest.approx(1, abs=1e-14)


@everyone
def test_a_grown_policy_is_the_same_with_arms_that_nothing_is_known_of(policy, objective, shared):
    arms, rewards, x = some(objective, 3, 60, seed=21)
    small = make(policy, objective, shared, 3, seed=1, warmup=4)
    small.update_many(arms, rewards, x)
    features = {"arm_features": ARM_FEATURES[:5]} if shared else {}
    grown = small.grown(5, **features)
    never = make(policy, objective, shared, 5, seed=1, warmup=4)
    never.update_many(arms, rewards, x)
    assert whole(grown) == whole(never)
    np.testing.assert_allclose(grown.shares(x[0]), [0, 0, 0, 0.5, 0.5], atol=1e-15)
    assert whole(small.grown(3)) == whole(small)
    for wrong in (2, 0, "a"):
        with pytest.raises(InvalidInput):
            small.grown(wrong)
    with pytest.raises(InvalidInput, match="arm_features"):
        small.grown(4, arm_features=None if shared else ARM_FEATURES[:4])


@each
def test_what_was_learned_is_taken_over_by_another_policy_of_the_same_models(policy):
    learner = make(policy, seed=1)
    learner.update_many(*some("binary", 4, 60, seed=22))
    for kind in POLICIES.values():
        if not kind.contextual:
            successor = make(policy, seed=1)
            plain = kind(4)
            plain.update_many([0, 1, 1], [1, 0, 1])
            successor.take_over(plain)
            assert successor.counts.tolist() == [1, 2, 0, 0]
            continue
        successor = make(kind, seed=1)
        successor.take_over(learner)
        assert successor.observed.tolist() == learner.observed.tolist()
        assert (bits(successor.statistics()) == bits(learner.statistics())) == (kind.logit == policy.logit)


@everyone
def test_what_is_wrong_is_refused_and_nothing_learned(policy, objective, shared):
    learner = make(policy, objective, shared, seed=1)
    x = [1.0, 2.0, 3.0]
    learner.update(1, 1.0, x)
    before = whole(learner)
    wrong = [float("nan"), float("inf"), -float("inf"), 1e300, "a", None, [1.0, 1.0]]
    wrong += beyond(traits_of(objective))
    for reward in wrong:
        with pytest.raises(InvalidInput):
            learner.update(0, reward, x)
        with pytest.raises(InvalidInput):
            learner.update_many([0, 1, 2], [1.0, 1.0, reward], [x] * 3)
    for arm in (-1, 4, 1.0, "0", None, 2**70):
        with pytest.raises(InvalidInput):
            learner.update(arm, 1.0, x)
        with pytest.raises(InvalidInput):
            learner.update_many([0, arm], [1.0, 1.0], [x] * 2)
    for row in (
        [1.0, 2.0],
        [1.0, 2.0, 3.0, 4.0],
        [1.0, float("nan"), 0.0],
        [1.0, float("inf"), 0.0],
        [1.0, 1e39, 0.0],
        ["a", "b", "c"],
        [1j, 0, 0],
        [[1.0, 2.0, 3.0]],
        [None] * 3,
        "abc",
        None,
        1.0,
    ):
        for ask in (
            learner.shares,
            learner.choose,
            lambda row: learner.update(0, 1.0, row),
            lambda row: learner.update_many([0, 1], [1.0, 1.0], [x, row]),
            lambda row: learner.choose_many([row]),
            lambda row: learner.shares_many([row]),
            lambda row: learner.choose_many(row) if np.ndim(row) < 2 else learner.choose(row),
        ):
            with pytest.raises(InvalidInput):
                ask(row)
    with pytest.raises(InvalidInput):
        learner.update_many([0, 1], [1.0, 1.0], [x])
    for eligible in ([True] * 3, [1, 1, 1, 1], [False] * 4, "abcd", True, [None] * 4):
        for ask in (learner.shares, learner.choose):
            with pytest.raises(InvalidInput, match="eligible"):
                ask(x, eligible)
    with pytest.raises(InvalidInput, match="eligible"):
        learner.choose_many([x, x], [[True] * 4] * 3)
    assert whole(learner) == before


@everyone
def test_arrays_of_other_types_and_layouts_work(policy, objective, shared):
    arms, rewards, x = some(objective, 4, 40, seed=23)
    rewards, x = np.round(np.clip(rewards, 0, 1)), np.round(x)
    plain, odd = make(policy, objective, shared, seed=1), make(policy, objective, shared, seed=1)
    plain.update_many(arms, rewards, x)
    for i in range(40):
        row = np.repeat(x[i].astype([np.float32, np.int8, np.float64, ">f8"][i % 4]), 2)
        row.flags.writeable = False
        odd.update(arms[i].astype(np.int16), np.float32(rewards[i]), row[::2] if i % 3 else x[i].tolist())
    assert whole(plain) == whole(odd)
    odd.update_many([], [], np.empty((0, D)))
    odd.update_many([], [], [])
    wide = np.asfortranarray(x.astype(np.float32))
    wide.flags.writeable = False
    odd.update_many(arms.astype(np.uint8), rewards.astype(np.float32), wide)
    plain.update_many(arms, rewards, x)
    assert whole(plain) == whole(odd)
    # What float32 does not hold is rounded before it is used.
    row = x[np.abs(x).sum(axis=1).argmax()]
    fine = row * (1 + 1e-12)
    assert (fine != row).any()
    assert plain.shares(fine).tobytes() == plain.shares(row).tobytes()
    assert plain.shares(fine).tobytes() == plain.shares(fine.astype(np.float32)).tobytes()


@each
def test_parameters_that_cannot_be_are_refused(policy):
    for n_arms in (0, -1, 1.5, "3", None, True, 2**40):
        with pytest.raises(InvalidInput, match="n_arms must be a whole number"):
            policy(n_arms, 3)
    for n_features in (0, -1, 1.5, "3", None, True, 2**40):
        with pytest.raises(InvalidInput, match="n_features must be a whole number"):
            policy(3, n_features)
    with pytest.raises(InvalidInput, match="too large"):
        policy(2**20, 4096)
    for parameters in (
        {"min_share": 0.4},
        {"max_share": 0},
        {"min_share": float("nan")},
        {"seed": -1},
        {"objective": "other"},
        {"objective": None},
        {"low": 0.0},
        {"objective": "bounded", "low": 1.0, "high": 1.0},
        {"holdout": 1.5},
        {"warmup": -1},
        {"half_life": "soon"},
        {"refresh": "now"},
        {"prior": {"precision": 0.0}},
        {"prior": {"mean": 1.0}},
        {"prior": 1.0},
        {"arm_features": [[1.0], [2.0]]},
        {"arm_features": [1.0, 2.0, 3.0]},
        {"arm_features": [[1.0], [float("nan")], [2.0]]},
        {"arm_features": [[], [], []]},
        *(
            {name: value}
            for name in {"alpha", "scale", "gamma"} & set(policy.parameters)
            for value in (0, -1, "a")
        ),
    ):
        with pytest.raises(InvalidInput):
            policy(3, 2, **parameters)
    with pytest.raises(TypeError, match="temperature"):
        policy(3, 2, temperature=1.0)


@each
def test_what_is_no_state_is_refused(policy):
    state = policy(3, 2, seed=1).state()
    statistics, factors = state["statistics"], state["factors"]
    for change in (
        {"kind": "other"},
        {"n_arms": 4},
        {"n_features": 3},
        {"objective": "other"},
        {"parameters": {"other": 1}},
        {"parameters": None},
        {"extra": 1},
        {"randomness": np.zeros(4, dtype=np.uint64)},
        {"statistics": None},
        {"statistics": {**statistics, "gram": np.zeros((3, 4))}},
        {"statistics": {**statistics, "gram": np.full((3, 3), np.nan)}},
        {"statistics": {**statistics, "squares": -np.ones(2)}},
        {"statistics": {**statistics, "total": np.ones(3)}},
        {"statistics": {**statistics, "moment": "abc"}},
        {"factors": {**factors, "precision": np.zeros(2)}},
        {"factors": {**factors, "updates": -np.ones(3, dtype=np.int64)}},
        {"factors": {}},
        {"observed": [0, 0]},
        {"clock_ms": -1},
    ):
        with pytest.raises(InvalidInput):
            policy.from_state({**state, **change})
    for missing in state:
        with pytest.raises(InvalidInput):
            policy.from_state({key: value for key, value in state.items() if key != missing})
    with pytest.raises(InvalidInput):
        policy.from_state(None)


@each
def test_policies_that_were_never_made_refuse_and_do_not_crash(policy):
    empty = policy.__new__(policy)
    x = np.zeros(3)
    for use in (
        lambda: empty.choose(x),
        lambda: empty.choose_many([x]),
        lambda: empty.update(0, 1.0, x),
        lambda: empty.shares(x),
        lambda: empty.forget(0.5),
        lambda: empty.scores_of(x),
        empty.statistics,
        empty.factors,
    ):
        with pytest.raises((InvalidInput, AttributeError, TypeError)):
            use()
