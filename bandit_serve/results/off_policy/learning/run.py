"""Run: one course of a learning policy, through the decisions of a log that it might have made."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bandit_serve.policies import AnyPolicy, ContextualPolicy
from bandit_serve.results.off_policy.learning.chances import Chances
from bandit_serve.results.off_policy.learning.logged_part import LoggedPart
from bandit_serve.results.sequence import Floats

MAX_AHEAD = 256
"""Decisions that are looked at at once, of which those behind the first accepted one are looked at again."""


class RunSums(NamedTuple):
    """RunSums over the first accepted decisions of a run: their rewards, and their doubly robust values."""

    reward: float
    doubly: float


class ReplayRun:
    """Course of a policy that begins anew and learns from the decisions that it accepts, and from no others.

    A decision is accepted with probability c π(a)/p, where π are the policy's probabilities by what it has learned so
    far, and p those that the arm a was drawn from. `_accepting` has c. Whatever π and p are, the chance is c in all:
    so what is accepted has contexts as they come, arms as the policy draws them, and rewards as those arms bring them.

    `marks` are numbers of accepted decisions, ascending, at which `sums` are kept; at the last one the run ends.
    `accepted` and `offered` count decisions, and `arms` int64 (K,) the accepted ones by arm.
    """

    def __init__(
        self,
        policy: AnyPolicy,
        chances: Chances,
        utility: Callable[[float], float],
        random: Generator,
        marks: list[int],
    ) -> None:
        self._policy = policy
        self._chances = chances
        self._utility = utility
        self._random = random
        self._marks = marks
        self._most = _largest_share(policy)
        self._known: dict[bytes, Floats] = {}
        self.sums: list[RunSums] = []
        self.accepted = 0
        self.offered = 0
        self.arms = np.zeros(policy.n_arms, np.int64)
        self._reward = self._doubly = 0.0
        # Since the last accepted decision: corrections of `_guess`, the value that is supposed meanwhile.
        self._guess = self._corrections = 0.0
        self._terms = self._n_terms = 0.0

    @property
    def is_over(self) -> bool:
        return self.accepted >= self._marks[-1]

    def take(self, decided: LoggedPart, outcomes: Floats, clocks: Callable[[int, int], int]) -> None:
        """Takes n decisions. outcomes: float64 (n, K), what a model of the past says of all arms.

        clocks: time, Unix ms, of the accepted decision of a number, from 0, seen from decision i of these.
        """
        luck = self._random.random(len(decided.arms))
        start = 0
        while start < len(luck) and not self.is_over:
            ahead = slice(start, start + self._ahead)
            start += self._look(decided.those(ahead), outcomes[ahead], luck[ahead], clocks, start)

    def _look(
        self,
        decided: LoggedPart,
        outcomes: Floats,
        luck: Floats,
        clocks: Callable[[int, int], int],
        start: int,
    ) -> int:
        """Takes decisions up to the first accepted one; returns how many those are."""
        rows = np.arange(len(luck))
        target = self._probabilities(decided)
        accepting = self._accepting(decided.shares, target)
        weight = target[rows, decided.arms] / decided.shares[rows, decided.arms]
        hits = luck < accepting * weight
        first = int(hits.argmax()) if hits.any() else len(luck) - 1
        seen = slice(0, first + 1)
        terms = (target[seen] * outcomes[seen]).sum(axis=1)
        terms += weight[seen] * (decided.value - outcomes[rows, decided.arms])[seen]
        self._corrections += float(accepting[seen] @ (terms - self._guess))
        self._terms += float(terms.sum())
        self._n_terms += first + 1
        self.offered += first + 1
        if hits[first]:
            self._accept(decided, first, float(target[first, decided.arms[first]]))
            if self._policy.advance(clocks(self.accepted, start + first)):
                self._known.clear()
        return first + 1

    @property
    def _ahead(self) -> int:
        rate = (self.accepted + 1) / (self.offered + 1)
        return max(1, min(MAX_AHEAD, int((0.5 if self._policy.contextual else 2.0) / rate)))

    def _probabilities(self, decided: LoggedPart) -> Floats:
        """Probabilities, float64 (n, K), with which the policy would choose each arm now."""
        policy = self._policy
        masks = decided.shares > 0.0 if self._chances.masked else None
        if isinstance(policy, ContextualPolicy):
            return policy.shares_many(decided.x[:, : policy.n_features], masks)
        if masks is None:
            return np.broadcast_to(self._shares(None), decided.shares.shape)
        return np.stack([self._shares(mask) for mask in masks])

    def _shares(self, mask: NDArray[np.bool_] | None) -> Floats:
        key = b"" if mask is None else mask.tobytes()
        if key not in self._known:
            assert not isinstance(self._policy, ContextualPolicy)
            self._known[key] = self._policy.shares(eligible=mask)
        return self._known[key]

    def _accepting(self, shares: Floats, target: Floats) -> Floats:
        """Chances c, float64 (n,), in all, to be accepted: the largest with which none is above 1.

        They may go by the past, and not by what is asked now, or some contexts would be accepted more often than they
        come. Where shares or the policy may go by the request, c goes by the least shares that the log ever had.
        """
        chances = self._chances
        if not chances.by_request and not self._policy.contextual:
            least, most = shares, target
        elif chances.masked:
            least, most = chances.least[None], np.ones((1, 1))
        elif self._policy.contextual:
            least, most = chances.least[None], np.full((1, 1), self._most)
        else:
            least, most = chances.least[None], target[:1]
        with np.errstate(divide="ignore"):
            accepting = (least / most).min(axis=1)
        return np.broadcast_to(np.minimum(accepting, 1.0), len(shares))

    def _accept(self, decided: LoggedPart, i: int, chance: float) -> None:
        """Learns from decision i, whose arm the policy would have chosen with this chance."""
        policy, arm, value = self._policy, int(decided.arms[i]), float(decided.value[i])
        self._doubly += self._guess + self._corrections
        self._guess, self._corrections = self._terms / self._n_terms, 0.0
        self._reward += value
        self.accepted += 1
        self.arms[arm] += 1
        if self.accepted == self._marks[len(self.sums)]:
            self.sums.append(RunSums(self._reward, self._doubly))
        # Nothing is learned from decisions of the holdout.
        at_random = policy.holdout / float((decided.shares[i] > 0.0).sum())
        if at_random and self._random.random() * chance < at_random:
            return
        if isinstance(policy, ContextualPolicy):
            policy.update(arm, self._utility(value), decided.x[i, : policy.n_features])
            return
        chance = (chance - at_random) / (1.0 - policy.holdout)
        policy.update(arm, self._utility(value), chance if policy.weighs else None)
        self._known.clear()


def marks_up_to(n: int) -> list[int]:
    """Numbers of one digit and zeros, up to `n`."""
    marks = [digit * 10**power for power in range(len(str(n))) for digit in range(1, 10)]
    return marks[: bisect_right(marks, n)]


def _largest_share(policy: AnyPolicy) -> float:
    """Most that an arm can have, by the floor and the holdout."""
    others = (policy.n_arms - 1) * policy.min_share
    return (1.0 - policy.holdout) * (1.0 - others) + policy.holdout / policy.n_arms
