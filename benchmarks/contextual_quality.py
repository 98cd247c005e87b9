"""Quality of contextual policies on real data and in a linear environment, against other libraries: defaults, one pass.

    python benchmarks/contextual_quality.py [--seeds 10] [--horizon 10000] [--json FILE]

Data sets of scikit-learn become bandits: an arm for each class, features standardised, reward 1 for the right class
and 0 otherwise, rows in a random order; the figure is the mean reward while learning. The linear world has 10 arms,
16 features and noise .5: the figure is the regret a step, less is better. Means over seeds, with standard errors;
all policies see the same orders and worlds. Libraries that are not installed leave a gap.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from bandit_serve.policies import POLICIES

DATA = {"digits": load_digits, "breast_cancer": load_breast_cancer}
LINEAR = "linear, regret a step"
# What is aimed at.
TARGETS = "aimed at: digits: best at least .85, default .75; breast_cancer: best at least .965; linear: at most .035"


class Learner(Protocol):
    def choose(self, x: NDArray[np.float64]) -> int: ...

    def update(self, arm: int, reward: float, x: NDArray[np.float64]) -> object: ...


class Mabwiser:
    """LinUCB, whose default is an alpha of 1; it decides only after a first reward."""

    def __init__(self, n_arms: int, d: int, seed: int, objective: str, alpha: float = 1.0) -> None:
        from mabwiser.mab import MAB, LearningPolicy

        self.mab = MAB(list(range(n_arms)), LearningPolicy.LinUCB(alpha=alpha), seed=seed)
        self.fitted = False

    def choose(self, x: NDArray[np.float64]) -> int:
        return int(self.mab.predict(x[None, :])) if self.fitted else 0

    def update(self, arm: int, reward: float, x: NDArray[np.float64]) -> None:
        learn = self.mab.partial_fit if self.fitted else self.mab.fit
        learn([arm], [reward], x[None, :])
        self.fitted = True


class ContextualBandits:
    """LinUCB with its defaults."""

    def __init__(self, n_arms: int, d: int, seed: int, objective: str) -> None:
        from contextualbandits.online import LinUCB

        self.policy = LinUCB(n_arms, random_state=seed + 1)
        self.fitted = False

    def choose(self, x: NDArray[np.float64]) -> int:
        return int(self.policy.predict(x[None, :])[0]) if self.fitted else 0

    def update(self, arm: int, reward: float, x: NDArray[np.float64]) -> None:
        self.policy.partial_fit(x[None, :], np.array([arm]), np.array([reward]))
        self.fitted = True


class Gittins:
    def __init__(self, n_arms: int, d: int, seed: int, objective: str) -> None:
        import gittins

        self.engine = gittins
        self.state = gittins.create(bits=12, horizon=3600.0)
        self.candidates: list[tuple[str, dict[str, float]]] = [(str(k), {}) for k in range(n_arms)]
        self.salt, self.decision = f"seed-{seed}", 0

    def choose(self, x: NDArray[np.float64]) -> int:
        context = {f"x{j}": v for j, v in enumerate(x.tolist())}
        record = self.engine.decide(self.state, context, self.candidates, 0.0, self.salt)
        self.decision = record.decision_id
        return int(record.chosen)

    def update(self, arm: int, reward: float, x: NDArray[np.float64]) -> None:
        self.engine.learn(self.state, self.decision, float(reward), 0.0)


class VowpalWabbit:
    """Its default, epsilon-greedy over weights for each arm, or SquareCB over the features of arms and products."""

    def __init__(self, n_arms: int, d: int, seed: int, objective: str, squarecb: bool = False) -> None:
        from vowpalwabbit import Workspace

        options = "--cb_explore_adf --squarecb -q sa" if squarecb else f"--cb_explore {n_arms}"
        self.vw = Workspace(f"{options} --quiet --random_seed {seed + 1}")
        self.squarecb, self.arms = squarecb, range(n_arms)
        self.lines = [f"|a {k}" for k in self.arms]
        self.draw = random.Random(seed).choices
        self.chances: Sequence[float] = ()

    def choose(self, x: NDArray[np.float64]) -> int:
        text = " ".join(f"x{j}:{v:.6g}" for j, v in enumerate(x.tolist()))
        self.text = f"shared |s {text}" if self.squarecb else f"| {text}"
        self.chances = self.vw.predict([self.text, *self.lines] if self.squarecb else self.text)
        return self.draw(self.arms, self.chances)[0]

    def update(self, arm: int, reward: float, x: NDArray[np.float64]) -> None:
        # A cost, as its tutorial has it.
        outcome = f"{-reward}:{self.chances[arm]}"
        if self.squarecb:
            labelled = [*self.lines[:arm], f"0:{outcome} {self.lines[arm]}", *self.lines[arm + 1 :]]
            self.vw.learn([self.text, *labelled])
        else:
            self.vw.learn(f"{arm + 1}:{outcome} {self.text}")


def vw_squarecb(n_arms: int, d: int, seed: int, objective: str) -> Learner:
    return VowpalWabbit(n_arms, d, seed, objective, squarecb=True)


def cautious_mabwiser(n_arms: int, d: int, seed: int, objective: str) -> Learner:
    return Mabwiser(n_arms, d, seed, objective, alpha=0.1)


def ours(kind: str, n_arms: int, d: int, seed: int, objective: str) -> Learner:
    policy: Learner = POLICIES[kind](n_arms, d, seed=seed, objective=objective)
    return policy


PEERS: dict[str, Callable[..., Learner]] = {
    "mabwiser LinUCB": Mabwiser,
    "mabwiser LinUCB, alpha .1": cautious_mabwiser,
    "contextualbandits LinUCB": ContextualBandits,
    "gittins": Gittins,
    "vowpalwabbit default": VowpalWabbit,
    "vowpalwabbit squarecb": vw_squarecb,
}
OURS = [kind for kind, policy in POLICIES.items() if policy.contextual]


def learner_of(name: str, n_arms: int, d: int, seed: int, objective: str) -> Learner:
    if name in PEERS:
        return PEERS[name](n_arms, d, seed, objective)
    return ours(name, n_arms, d, seed, objective)


def progressive_reward(name: str, data: str, seed: int) -> float:
    x, y = DATA[data](return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))
    x, y = StandardScaler().fit_transform(x)[order], y[order]
    learner = learner_of(name, len(set(y.tolist())), x.shape[1], seed, "binary")
    right = 0
    for row, label in zip(x, y, strict=True):
        arm = learner.choose(row)
        learner.update(arm, float(arm == label), row)
        right += int(arm == label)
    return right / len(y)


def linear_regret(
    name: str, seed: int, horizon: int, n_arms: int = 10, d: int = 16, noise: float = 0.5
) -> float:
    rng = np.random.default_rng(seed)
    theta = rng.standard_normal((n_arms, d))
    theta /= np.linalg.norm(theta, axis=1, keepdims=True)
    x = rng.standard_normal((horizon, d))
    means = x @ theta.T
    noises = noise * rng.standard_normal(horizon)
    learner = learner_of(name, n_arms, d, seed, "continuous")
    regret = 0.0
    for row, mean, error in zip(x, means, noises, strict=True):
        arm = learner.choose(row)
        learner.update(arm, float(mean[arm] + error), row)
        regret += float(mean.max() - mean[arm])
    return regret / horizon


class Task(NamedTuple):
    name: str
    what: str
    seed: int
    horizon: int


def run(task: Task) -> float | str:
    """Returns the figure, or the reason why there is none."""
    warnings.simplefilter("ignore")
    with threadpool_limits(1):
        try:
            if task.what == LINEAR:
                return linear_regret(task.name, task.seed, task.horizon)
            return progressive_reward(task.name, task.what, task.seed)
        except Exception as error:
            # Of a peer: not installed, or another version than this was written for.
            if task.name not in PEERS:
                raise
            return f"{type(error).__name__}: {error}"


def entry(figures: Sequence[float | str]) -> str:
    numbers = [figure for figure in figures if not isinstance(figure, str)]
    if not numbers:
        return "gap"
    error = np.std(numbers, ddof=1) / np.sqrt(len(numbers)) if len(numbers) > 1 else float("nan")
    return f"{np.mean(numbers):.4f} ± {error:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--horizon", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    columns = [*DATA, LINEAR]
    tasks = [
        Task(name, what, seed, given.horizon)
        for name in [*OURS, *PEERS]
        for what in columns
        # Its rewards are 0 or 1, or between.
        if (name, what) != ("logistic_ts", LINEAR)
        for seed in range(given.seeds)
    ]
    results: dict[str, dict[str, list[float | str]]] = {}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for task, figure in zip(tasks, pool.map(run, tasks), strict=True):
            results.setdefault(task.name, {}).setdefault(task.what, []).append(figure)
    print(f"Means over {given.seeds} seeds and standard errors; T = {given.horizon:,} in the linear world.\n")
    width = max(len(name) for name in results)
    print(f"| {'':{width}} | " + " | ".join(f"{what:21}" for what in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, by_what in results.items():
        entries = [entry(by_what[what]) if what in by_what else "" for what in columns]
        print(f"| {name:{width}} | " + " | ".join(f"{text:21}" for text in entries) + " |")
    print(f"\n{TARGETS}")
    gaps: dict[str, Any] = {
        name: figure
        for name, by_what in results.items()
        for figures in by_what.values()
        for figure in figures
        if isinstance(figure, str)
    }
    for name, why in gaps.items():
        print(f"- {name}: a gap, {why}")
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
