"""Choices and updates of policies, each against its NumPy formula or an empty call, one group each.

    python -m pytest benchmarks/bench_policies.py --benchmark-enable --benchmark-columns=median,iqr

The figures are of 1,000 calls, so that microseconds of the table are nanoseconds a call, unless the
group's name says otherwise. NumPy's are vectorised over the arms; where a formula may be reckoned in float32, too, it
has a row of its own, and the faster one counts.
"""

import timeit

import numpy as np
import pytest

from bandit_serve.policies import POLICIES, FixedSplit, Thompson, _draw

CALLS = 1000
REWARDS = 1000
ARMS = pytest.mark.parametrize("n_arms", [2, 10, 100, 1000])
KINDS = pytest.mark.parametrize("kind", [kind for kind, policy in POLICIES.items() if not policy.contextual])


def measure(benchmark, group, statement, calls=CALLS, rounds=100, **names):
    """Calls through `timeit`, whose loop costs less than a call of `benchmark`'s own."""
    benchmark.group = group
    benchmark.name = benchmark.name.replace(f"[{group}]", "")
    timer = timeit.Timer(statement, globals=names)
    timer.timeit(calls)
    benchmark.pedantic(timer.timeit, args=(calls,), rounds=rounds, warmup_rounds=3)


def rewards(n_arms=10, n=REWARDS):
    rng = np.random.default_rng(0)
    arms = rng.integers(0, n_arms, n)
    return arms, (rng.random(n) < 0.1).astype(float)


def learned(policy, n_arms=10, objective="binary"):
    learner = policy(n_arms, seed=1, objective=objective)
    arms, values = rewards(n_arms, 100 * n_arms)
    learner.update_many(arms, values, np.full(values.size, 1.0 / n_arms))
    return learner


CHOICE = "choose from current shares: at most 3 x an empty call"


def test_empty_call(benchmark):
    measure(benchmark, CHOICE, "kernel.nothing()", kernel=_draw)


@ARMS
def test_share_sampler(benchmark, n_arms):
    shares = np.random.default_rng(0).dirichlet(np.ones(n_arms))
    measure(benchmark, CHOICE, "sampler.choose()", sampler=_draw.ShareSampler(shares, seed=1))


@ARMS
def test_fixed_split(benchmark, n_arms):
    shares = np.random.default_rng(0).dirichlet(np.ones(n_arms))
    measure(benchmark, CHOICE, "policy.choose()", policy=FixedSplit(n_arms, shares=shares, seed=1))


@ARMS
def test_numpy_choice(benchmark, n_arms):
    cumulative = np.random.default_rng(0).dirichlet(np.ones(n_arms)).cumsum()
    measure(
        benchmark,
        CHOICE,
        "cumulative.searchsorted(rng.random())",
        cumulative=cumulative,
        rng=np.random.default_rng(1),
    )


# At K = 10 and K = 1,000 against the faster of NumPy's.
TARGETS = {"thompson": "at most 0.06 x and 0.65 x NumPy", "ucb1": "at most 0.05 x and 0.75 x NumPy"}
TOP_TWO = """
draws = rng.beta(alpha, beta); first = arm = draws.argmax()
if rng.random() < 0.5:
    while arm == first: arm = rng.beta(alpha, beta).argmax()
"""
SOFTMAX = "weights = np.exp((total / n - (total / n).max()) / temperature)"
# Twenty halvings of the interval from the mean to 1, for all arms at once: to within 1e-6.
KL_UCB = """
p = np.minimum(np.maximum(total / n, tiny), one - tiny); most = np.log(n.sum()) / n
low = p; high = np.ones_like(p)
for _ in range(20):
    q = half * (low + high)
    over = p * np.log(p / q) + (one - p) * np.log((one - p) / (one - q)) > most
    high = np.where(over, q, high); low = np.where(over, low, q)
arm = low.argmax()
"""
EXP3 = (
    "weights = np.exp(rate * (gain - gain.max())); shares = (one - gamma) * weights / weights.sum() + floor; "
    "shares.cumsum().searchsorted(rng.random())"
)
FORMULAS = {
    "fixed_split": "cumulative.searchsorted(rng.random())",
    "epsilon_greedy": "rng.integers(n.size) if rng.random() < 0.1 else (total / n).argmax()",
    "softmax": SOFTMAX + "; sums = weights.cumsum(); sums.searchsorted(sums[-1] * rng.random())",
    "ucb1": "(total / n + np.sqrt(two * np.log(n.sum()) / n)).argmax()",
    "thompson": "rng.beta(alpha, beta).argmax()",
    "top_two_thompson": TOP_TWO,
    "kl_ucb": KL_UCB,
    "exp3": EXP3,
}
IN_FLOAT32 = ("epsilon_greedy", "softmax", "ucb1", "kl_ucb", "exp3")


def formula_names(n_arms, dtype):
    seen = learned(Thompson, n_arms).statistics()
    names = {
        **seen,
        "alpha": 1.0 + seen["total"],
        "beta": 1.0 + seen["n"] - seen["total"],
        "cumulative": np.full(n_arms, 1.0 / n_arms).cumsum(),
        "gain": n_arms * seen["total"],
    }
    return {
        **{name: values.astype(dtype) for name, values in names.items()},
        "two": dtype(2.0),
        "temperature": dtype(0.05),
        "one": dtype(1.0),
        "half": dtype(0.5),
        "tiny": dtype(1e-6),
        "gamma": dtype(0.1),
        "rate": dtype(0.1 / n_arms),
        "floor": dtype(0.1 / n_arms),
    }


def choice_group(kind, n_arms):
    return f"choose, {kind}, K = {n_arms} {TARGETS.get(kind, '')}".rstrip()


@ARMS
@KINDS
def test_choose(benchmark, kind, n_arms):
    policy = learned(POLICIES[kind], n_arms)
    measure(benchmark, choice_group(kind, n_arms), "policy.choose()", rounds=30, policy=policy)


@ARMS
@KINDS
def test_choose_and_update(benchmark, kind, n_arms):
    """As in a simulation: each choice follows an update."""
    policy = learned(POLICIES[kind], n_arms)
    statement = "policy.update(policy.choose(), 0.0, 0.5)"
    measure(benchmark, choice_group(kind, n_arms), statement, rounds=10, policy=policy)


@ARMS
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (kind, dtype)
        for kind in FORMULAS
        for dtype in (np.float64, np.float32)
        if dtype is np.float64 or kind in IN_FLOAT32
    ],
)
def test_numpy_choose(benchmark, kind, dtype, n_arms):
    measure(
        benchmark,
        choice_group(kind, n_arms),
        FORMULAS[kind],
        rounds=30,
        np=np,
        rng=np.random.default_rng(1),
        **formula_names(n_arms, dtype),
    )


FRESH = "choose by a fresh draw from 10 Beta posteriors without observations: at most 0.06 x NumPy"


def test_thompson_fresh(benchmark):
    measure(benchmark, FRESH, "policy.choose()", policy=Thompson(10, seed=1))


def test_numpy_beta_fresh(benchmark):
    names = {"rng": np.random.default_rng(1), "alpha": np.ones(10), "beta": np.ones(10)}
    measure(benchmark, FRESH, "rng.beta(alpha, beta).argmax()", **names)


def normal_group(n_arms):
    return f"choose by a fresh draw from {n_arms} Student t posteriors"


@ARMS
def test_thompson_normal(benchmark, n_arms):
    policy = learned(Thompson, n_arms, objective="continuous")
    measure(benchmark, normal_group(n_arms), "policy.choose()", rounds=30, policy=policy)


@ARMS
def test_numpy_student(benchmark, n_arms):
    measure(
        benchmark,
        normal_group(n_arms),
        "(loc + scale * rng.standard_t(df)).argmax()",
        rounds=30,
        rng=np.random.default_rng(1),
        loc=np.linspace(0.05, 0.15, n_arms),
        scale=np.full(n_arms, 0.03),
        df=np.full(n_arms, 200.0),
    )


def count_group(n_arms):
    return f"choose by a fresh draw from {n_arms} Gamma posteriors"


@ARMS
def test_thompson_counts(benchmark, n_arms):
    policy = learned(Thompson, n_arms, objective="count")
    measure(benchmark, count_group(n_arms), "policy.choose()", rounds=30, policy=policy)


@ARMS
def test_numpy_gamma(benchmark, n_arms):
    measure(
        benchmark,
        count_group(n_arms),
        "(rng.standard_gamma(shape) / rate).argmax()",
        rounds=30,
        rng=np.random.default_rng(1),
        shape=np.linspace(8.0, 12.0, n_arms),
        rate=np.full(n_arms, 100.0),
    )


SINGLE = "one update: at most 0.25 x NumPy"
BATCH = f"updates in a batch of {REWARDS}, so microseconds are nanoseconds a reward: at most 0.03 x NumPy"


@ARMS
@KINDS
def test_update(benchmark, kind, n_arms):
    policy = learned(POLICIES[kind], n_arms)
    measure(benchmark, SINGLE, "policy.update(1, 1.0, 0.5)", policy=policy)


def test_update_of_unbounded_rewards(benchmark):
    measure(benchmark, SINGLE, "policy.update(1, 1.0)", policy=learned(Thompson, objective="continuous"))


@pytest.mark.parametrize("group", [SINGLE, BATCH])
def test_numpy_update(benchmark, group):
    statement = "total[arm] += reward; n[arm] += 1"
    measure(benchmark, group, statement, total=np.zeros(10), n=np.zeros(10), arm=3, reward=1.0)


@ARMS
@KINDS
def test_update_many(benchmark, kind, n_arms):
    arms, values = rewards(n_arms)
    names = {"arms": arms, "values": values, "chances": np.full(REWARDS, 0.5)}
    policy = learned(POLICIES[kind], n_arms)
    measure(benchmark, BATCH, "policy.update_many(arms, values, chances)", calls=1, policy=policy, **names)


def test_update_many_unbounded_rewards(benchmark):
    arms, values = rewards()
    policy = learned(Thompson, objective="continuous")
    measure(
        benchmark, BATCH, "policy.update_many(arms, values)", calls=1, policy=policy, arms=arms, values=values
    )


SHARES = "shares, one call"


@ARMS
@KINDS
def test_shares(benchmark, kind, n_arms):
    group = f"{SHARES}, {n_arms} arms"
    measure(benchmark, group, "policy.shares()", calls=1, rounds=30, policy=learned(POLICIES[kind], n_arms))


def test_shares_of_counts(benchmark):
    policy = learned(Thompson, 1000, objective="count")
    measure(benchmark, f"{SHARES}, 1000 arms", "policy.shares()", calls=1, rounds=30, policy=policy)
