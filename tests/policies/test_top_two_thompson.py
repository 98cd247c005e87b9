import numpy as np
import pytest

from bandit_serve.errors import InvalidInput
from bandit_serve.policies import Thompson, TopTwoThompson


def observed(policy, wins, losses, **parameters):
    learner = policy(len(wins), seed=1, **parameters)
    learner.update_counts(wins, 1.0)
    learner.update_counts(losses, 0.0)
    return learner


def by_redrawing(policy, draw, beta, runs, seed):
    """Frequencies of Russo 2016, Algorithm 3, as it stands there: draws until another arm is the best."""
    rng = np.random.default_rng(seed)
    counts = np.zeros(policy.n_arms)
    leader = draw(rng, runs).argmax(axis=1)
    arms = leader.copy()
    waiting = np.flatnonzero(rng.random(runs) >= beta)
    while len(waiting):
        arms[waiting] = draw(rng, len(waiting)).argmax(axis=1)
        waiting = waiting[arms[waiting] == leader[waiting]]
    np.add.at(counts, arms, 1)
    return counts / runs


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.8, 1.0])
@pytest.mark.parametrize(
    ("wins", "losses"), [([3, 5, 9], [20, 20, 20]), ([0, 30, 2, 1], [0, 10, 5, 1]), ([20, 14], [50, 60])]
)
def test_shares_are_those_of_drawing_again(beta, wins, losses):
    policy = observed(TopTwoThompson, wins, losses, beta=beta)
    alpha, other = 1.0 + np.array(wins), 1.0 + np.array(losses)
    runs = 100_000
    frequencies = by_redrawing(policy, lambda rng, n: rng.beta(alpha, other, (n, alpha.size)), beta, runs, 2)
    shares = policy.shares()
    noise = np.sqrt(shares * (1 - shares) / runs)
    assert (np.abs(frequencies - shares) <= 4.5 * noise + 1e-6).all()
    drawn = np.bincount(policy.choose_many(runs), minlength=policy.n_arms) / runs
    assert (np.abs(drawn - shares) <= 4.5 * noise + 1e-6).all()


def test_beta_one_is_thompson_and_two_arms_at_beta_zero_change_places():
    plain = observed(Thompson, [3, 5, 9], [20, 20, 20]).shares()
    np.testing.assert_allclose(
        observed(TopTwoThompson, [3, 5, 9], [20, 20, 20], beta=1.0).shares(), plain, atol=1e-15
    )
    swapped = observed(TopTwoThompson, [5, 9], [20, 20], beta=0.0).shares()
    np.testing.assert_allclose(swapped, observed(Thompson, [5, 9], [20, 20]).shares()[::-1], atol=1e-12)


@pytest.mark.parametrize("trials", [1000, 10**5, 10**9])
def test_a_certain_leader_leaves_the_rest_to_its_challengers(trials):
    """However near to 1 its probability is, in time that does not grow with that."""
    wins = [trials * 6 // 10, trials // 2, trials // 2, trials // 10]
    policy = observed(TopTwoThompson, wins, [trials - w for w in wins])
    shares = policy.shares()
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.25, 0.0], atol=1e-4)
    drawn = np.bincount(policy.choose_many(20_000), minlength=4)
    assert np.abs(drawn - [10_000, 5_000, 5_000, 0]).max() < 400
    eligible = [True, False, True, True]
    np.testing.assert_allclose(policy.shares(eligible=eligible), [0.5, 0, 0.5, 0], atol=1e-4)
    drawn = np.bincount(policy.choose_many(20_000, eligible=eligible), minlength=4)
    assert np.abs(drawn - [10_000, 0, 10_000, 0]).max() < 400
    policy.update_counts([0, trials // 2, 0, 0], 1.0)
    drawn = np.bincount(policy.choose_many(20_000), minlength=4)
    expected = 20_000 * policy.shares()
    assert np.abs(drawn - expected).max() < 400, "what was kept for the former state is not used again"
    assert expected[1] > 9_000


def test_shares_pass_smoothly_into_certainty():
    """From where challengers are told apart by the chance that they are the best to where they no longer are."""
    before = None
    for wins in range(5100, 6000, 10):
        policy = observed(TopTwoThompson, [wins, 5000, 4990, 3000], [10_000 - wins, 5000, 5010, 7000])
        shares = policy.shares()
        assert shares.sum() == pytest.approx(1.0, abs=1e-14)
        assert shares[1] > shares[2] > shares[3]
        if before is not None:
            assert np.abs(shares - before).max() < 0.05
        before = shares


@pytest.mark.parametrize("objective", ["continuous", "count", "bounded"])
def test_other_likelihoods_are_thompsons(objective):
    rng = np.random.default_rng(3)
    arms = rng.integers(0, 3, 60)
    rewards = np.clip(rng.normal(0.3 + 0.1 * arms, 0.2), 0, 1)
    plain = Thompson(3, objective=objective)
    policy = TopTwoThompson(3, objective=objective, seed=4)
    for learner in (plain, policy):
        learner.update_many(arms, rewards)
    best = plain.shares()
    odds = best / (1 - best)
    np.testing.assert_allclose(
        policy.shares(), best * (0.5 + 0.5 * (odds.sum() - odds)), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("beta", [-0.1, 1.1, "a", None, float("nan")])
def test_a_beta_that_cannot_be_is_refused(beta):
    with pytest.raises(InvalidInput, match="beta"):
        TopTwoThompson(2, beta=beta)
