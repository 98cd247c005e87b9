"""Policies of other libraries: one decision, and one learned reward, through their documented public APIs.

`PEERS` is the table of libraries. Each entry is a function that imports its library and returns its policies, keyed by
the closest kind of ours. A policy is a function from observations (`Seen`) to a `Peer`. A library that is not installed
raises ImportError, which the table shows as a gap.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Libraries without a way to learn in batches are shown so many of the observations; their cost does not depend on it.
ONE_BY_ONE = 2000


class Seen(NamedTuple):
    """Observations: arms (N,), rewards (N,) of 0 or 1, and with context x (N, d)."""

    n_arms: int
    arms: NDArray[np.int64]
    rewards: NDArray[np.float64]
    x: NDArray[np.float32] | None = None


class Peer(NamedTuple):
    """Trained policy: statements for `timeit`, with their `names`; None if the library has no such call.

    The arm learned is `ARM`; `next(rewards)` is the reward of a step, 0 or 1; a batch is `arms` and `values`.
    what: the policy's name in its library, and what differs from ours.
    """

    what: str
    names: dict[str, Any]
    choose: str | None
    update: str | None
    step: str | None
    batch: str | None = None


ARM = 1
Makers = Mapping[str, Callable[[Seen], Peer]]


def mabwiser() -> Makers:
    from mabwiser.mab import MAB, LearningPolicy

    def free(policy: Any, seen: Seen) -> Peer:
        mab = MAB(list(range(seen.n_arms)), policy, seed=1)
        mab.fit(seen.arms, seen.rewards)
        return Peer(
            type(policy).__name__,
            {"mab": mab},
            "mab.predict()",
            f"mab.partial_fit([{ARM}], [1])",
            "mab.partial_fit([mab.predict()], [next(rewards)])",
            "mab.partial_fit(arms, values)",
        )

    def contextual(policy: Any, seen: Seen) -> Peer:
        mab = MAB(list(range(seen.n_arms)), policy, seed=1)
        mab.fit(seen.arms, seen.rewards, seen.x)
        return Peer(
            type(policy).__name__,
            {"mab": mab, "xs": cycle([row[None, :] for row in seen.x])},
            "mab.predict(next(xs))",
            f"mab.partial_fit([{ARM}], [next(rewards)], next(xs))",
            "x = next(xs); mab.partial_fit([mab.predict(x)], [next(rewards)], x)",
        )

    return {
        "fixed_split": lambda seen: free(LearningPolicy.Random(), seen),
        "epsilon_greedy": lambda seen: free(LearningPolicy.EpsilonGreedy(epsilon=0.1), seen),
        "softmax": lambda seen: free(LearningPolicy.Softmax(tau=0.05), seen),
        "ucb1": lambda seen: free(LearningPolicy.UCB1(alpha=1.0), seen),
        "thompson": lambda seen: free(LearningPolicy.ThompsonSampling(), seen),
        "lin_ucb": lambda seen: contextual(LearningPolicy.LinUCB(alpha=1.0), seen),
        "lin_ts": lambda seen: contextual(LearningPolicy.LinTS(alpha=0.5), seen),
    }


def river() -> Makers:
    from river import bandit, proba

    def free(policy: Any, seen: Seen) -> Peer:
        arms = range(seen.n_arms)
        # Exp3 weighs a reward by the probabilities of the last pull.
        policy.pull(arms)
        for arm, reward in zip(seen.arms.tolist(), seen.rewards.tolist(), strict=True):
            policy.update(arm, int(reward))
        return Peer(
            type(policy).__name__,
            {"policy": policy, "arms": arms},
            "policy.pull(arms)",
            f"policy.update({ARM}, 1)",
            "policy.update(policy.pull(arms), next(rewards))",
        )

    def contextual(policy: Any, seen: Seen) -> Peer:
        contexts = [dict(enumerate(row)) for row in seen.x.tolist()]
        # Each arm once: its cost does not depend on how much was learned.
        for arm, context in zip(range(seen.n_arms), contexts, strict=False):
            policy.update(arm, context, 1.0)
        return Peer(
            type(policy).__name__,
            {"policy": policy, "arms": range(seen.n_arms), "xs": cycle(contexts)},
            "policy.pull(arms, context=next(xs))",
            f"policy.update({ARM}, next(xs), next(rewards))",
            "x = next(xs); policy.update(policy.pull(arms, context=x), x, next(rewards))",
        )

    return {
        "fixed_split": lambda seen: free(bandit.RandomPolicy(seed=1), seen),
        "epsilon_greedy": lambda seen: free(bandit.EpsilonGreedy(epsilon=0.1, seed=1), seen),
        "ucb1": lambda seen: free(bandit.UCB(delta=1.0, seed=1), seen),
        "thompson": lambda seen: free(bandit.ThompsonSampling(reward_obj=proba.Beta(), seed=1), seen),
        "exp3": lambda seen: free(bandit.Exp3(gamma=0.1, seed=1), seen),
        "lin_ucb": lambda seen: contextual(bandit.LinUCBDisjoint(seed=1), seen),
    }


def bayesianbandits() -> Makers:
    import bayesianbandits as bb

    def chance(samples: NDArray[np.float64]) -> NDArray[np.float64]:
        return samples[..., 1]

    def free(policy: Any, what: str, seen: Seen) -> Peer:
        arms = [
            bb.Arm(k, reward_function=chance, learner=bb.DirichletClassifier({0: 1.0, 1: 1.0}))
            for k in range(seen.n_arms)
        ]
        agent = bb.Agent(arms, policy, random_seed=1)
        # Exp3 weighs a reward by the probabilities of the last pull.
        agent.pull()
        for k, arm in enumerate(arms):
            rewards = seen.rewards[seen.arms == k].astype(int)
            arm.update(np.ones((rewards.size, 1)), rewards)
        return Peer(
            what,
            {"agent": agent, "one": np.ones(1, dtype=int), "np": np},
            "agent.pull()",
            f"agent.select_for_update({ARM}).update(one)",
            "agent.pull(); agent.update(np.array([next(rewards)]))",
        )

    def contextual(policy: Any, what: str, learner: Callable[[], Any], seen: Seen) -> Peer:
        arms = [bb.Arm(k, learner=learner()) for k in range(seen.n_arms)]
        agent = bb.ContextualAgent(arms, policy, random_seed=1)
        x = seen.x.astype(float)
        for k in range(seen.n_arms):
            agent.select_for_update(k).update(x[seen.arms == k], seen.rewards[seen.arms == k])
        return Peer(
            what,
            {"agent": agent, "xs": cycle([row[None, :] for row in x]), "np": np},
            "agent.pull(next(xs))",
            f"agent.select_for_update({ARM}).update(next(xs), np.array([next(rewards)]))",
            "x = next(xs); agent.pull(x); agent.update(x, np.array([next(rewards)]))",
        )

    def linear() -> Any:
        return bb.NormalInverseGammaRegressor()

    def logistic() -> Any:
        return bb.BayesianGLM(alpha=1.0, link="logit")

    quantile = "UpperConfidenceBound: a quantile of 1,000 draws"
    return {
        "epsilon_greedy": lambda seen: free(bb.EpsilonGreedy(0.1), "EpsilonGreedy", seen),
        "ucb1": lambda seen: free(bb.UpperConfidenceBound(), quantile, seen),
        "thompson": lambda seen: free(bb.ThompsonSampling(), "ThompsonSampling", seen),
        "exp3": lambda seen: free(bb.EXP3A(), "EXP3A", seen),
        "lin_ucb": lambda seen: contextual(bb.UpperConfidenceBound(), quantile, linear, seen),
        "lin_ts": lambda seen: contextual(bb.ThompsonSampling(), "ThompsonSampling", linear, seen),
        "logistic_ts": lambda seen: contextual(
            bb.ThompsonSampling(), "ThompsonSampling, BayesianGLM", logistic, seen
        ),
    }


def gittins() -> Makers:
    import gittins as engine

    def make(bits: int, seen: Seen) -> Peer:
        state = engine.create(bits=bits, horizon=3600.0)
        candidates = [(str(k), {}) for k in range(seen.n_arms)]
        contexts = (
            [{}] if seen.x is None else [{f"x{j}": v for j, v in enumerate(row)} for row in seen.x.tolist()]
        )
        for reward, context in zip(seen.rewards[:ONE_BY_ONE].tolist(), cycle(contexts), strict=False):
            record = engine.decide(state, context, candidates, 0.0, "web-1")
            engine.learn(state, record.decision_id, reward, 0.0)
        names = {"gittins": engine, "state": state, "candidates": candidates, "xs": cycle(contexts)}
        decide = 'record = gittins.decide(state, next(xs), candidates, 0.0, "web-1"); '
        # A decision alone would stay open and make the state grow, and nothing is learned without one.
        return Peer(
            f"its only policy, {bits} bits",
            names,
            None,
            None,
            decide + "gittins.learn(state, record.decision_id, float(next(rewards)), 0.0)",
        )

    return {
        "epsilon_greedy": lambda seen: make(8, seen),
        "lin_ucb": lambda seen: make(12, seen),
    }


def contextualbandits() -> Makers:
    from contextualbandits import online

    def make(policy: Any, seen: Seen) -> Peer:
        x = seen.x.astype(float)
        policy.fit(x, seen.arms, seen.rewards)
        names = {"policy": policy, "xs": cycle([row[None, :] for row in x]), "np": np, "arm": np.array([ARM])}
        return Peer(
            type(policy).__name__,
            names,
            "policy.predict(next(xs))",
            "policy.partial_fit(next(xs), arm, np.array([next(rewards)]))",
            "x = next(xs); policy.partial_fit(x, policy.predict(x), np.array([next(rewards)]))",
        )

    return {
        "lin_ucb": lambda seen: make(online.LinUCB(seen.n_arms, alpha=1.0, random_state=1), seen),
        "lin_ts": lambda seen: make(online.LinTS(seen.n_arms, v_sq=0.25, random_state=1), seen),
    }


def vowpalwabbit() -> Makers:
    from vowpalwabbit import Workspace

    # The examples' text is made beforehand, but for the label: what making it costs depends on the caller.
    def texts(seen: Seen) -> list[str]:
        if seen.x is None:
            return ["| constant:1"]
        return ["| " + " ".join(f"x{j}:{v:.6g}" for j, v in enumerate(row)) for row in seen.x.tolist()]

    def plain(what: str, options: str, seen: Seen) -> Peer:
        """Arms by number (--cb_explore), each with weights of its own."""
        vw = Workspace(f"--cb_explore {seen.n_arms} {options} --quiet --random_seed 1")
        shown = texts(seen)
        for arm, reward, text in zip(
            seen.arms[:ONE_BY_ONE].tolist(), seen.rewards.tolist(), cycle(shown), strict=False
        ):
            vw.learn(f"{arm + 1}:{-reward:g}:{1 / seen.n_arms:g} {text}")
        names = {"vw": vw, "xs": cycle(shown), "arms": range(seen.n_arms), "draw": random.Random(1).choices}
        return Peer(
            what,
            names,
            "draw(arms, vw.predict(next(xs)))[0]",
            f'vw.learn(f"{ARM + 1}:{{-next(rewards)}}:0.5 {{next(xs)}}")',
            "x = next(xs); p = vw.predict(x); k = draw(arms, p)[0]; "
            'vw.learn(f"{k + 1}:{-next(rewards)}:{p[k]} {x}")',
        )

    def by_features(what: str, options: str, seen: Seen) -> Peer:
        """Arms by features (--cb_explore_adf), one namespace for the context and one for the arm, and products."""
        vw = Workspace(f"--cb_explore_adf {options} -q sa --quiet --random_seed 1")
        lines = [f"|a {k}" for k in range(seen.n_arms)]
        shared = [f"shared |s {text[2:]}" for text in texts(seen)]

        def labelled(x: str, arm: int, cost: float, chance: float) -> list[str]:
            return [x, *lines[:arm], f"0:{cost}:{chance} {lines[arm]}", *lines[arm + 1 :]]

        for arm, reward, x in zip(
            seen.arms[: ONE_BY_ONE // 10].tolist(), seen.rewards.tolist(), cycle(shared), strict=False
        ):
            vw.learn(labelled(x, arm, -reward, 1 / seen.n_arms))
        names = {
            "vw": vw,
            "xs": cycle(shared),
            "lines": lines,
            "labelled": labelled,
            "arms": range(seen.n_arms),
            "draw": random.Random(1).choices,
        }
        return Peer(
            what,
            names,
            "draw(arms, vw.predict([next(xs), *lines]))[0]",
            f"vw.learn(labelled(next(xs), {ARM}, -next(rewards), 0.5))",
            "x = next(xs); p = vw.predict([x, *lines]); k = draw(arms, p)[0]; "
            "vw.learn(labelled(x, k, -next(rewards), p[k]))",
        )

    return {
        "epsilon_greedy": lambda seen: plain("--cb_explore", "--epsilon 0.1", seen),
        "softmax": lambda seen: by_features("--cb_explore_adf --softmax", "--softmax --lambda 20", seen),
        "lin_ucb": lambda seen: plain("--cb_explore, its default: epsilon-greedy", "", seen),
        "squarecb": lambda seen: by_features("--cb_explore_adf --squarecb", "--squarecb", seen),
    }


PEERS: dict[str, Callable[[], Makers]] = {
    "mabwiser": mabwiser,
    "river": river,
    "bayesianbandits": bayesianbandits,
    "gittins": gittins,
    "contextualbandits": contextualbandits,
    "vowpalwabbit": vowpalwabbit,
}
