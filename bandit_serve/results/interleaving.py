"""InterleavingResult between two arms whose lists are interleaved: a sign test over requests that holds at any time.

A request prefers the arm whose items had more clicks. If neither ranks better, swapping the teams of a draft changes
nothing but the sign, so each sign is a fair coin, whatever users and lists are like; a tie says nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bandit_serve.results.columns import RewardColumns
from bandit_serve.results.sequence import tuning

EXPECTED_CONTESTS = 500
"""Number of contests at which the test is sharpest, unless the experiment says `expected_samples`."""
MAX_OPEN_REQUESTS = 500_000
"""Requests with clicks whose windows are open. Of more, the earliest are closed early."""
_BISECTIONS = 60


class InterleavingResult(Struct, frozen=True):
    """Contests by the arm that won them. `win_rate` is the part of the won ones that control lost; its `interval` and
    the `p_value` against 1/2 hold at every time. `pending`: contests whose window is open.
    """

    wins: dict[str, int]
    ties: int
    pending: int
    win_rate: float | None
    interval: tuple[float, float] | None
    p_value: float | None


@dataclass
class Contests:
    """Contests whose windows have closed, and the clicks of those that are open.

    `wins` counts those of arm 0 and of arm 1, `ties` those with clicks on both alike. `log_e` is the
    largest logarithm so far of the evidence against even chances.
    """

    alpha: float
    expected: float
    wins: list[int] = field(default_factory=lambda: [0, 0])
    ties: int = 0
    log_e: float = 0.0
    _lead: dict[int, float] = field(default_factory=dict)
    _due: list[tuple[int, int]] = field(default_factory=list)

    @property
    def pending(self) -> int:
        return len(self._lead)

    @property
    def decided(self) -> int:
        """Number of contests that an arm has won."""
        return sum(self.wins)

    @property
    def weight(self) -> float:
        """Parameter a of the Beta(a, a) prior of the chance to win, as wide as the mixture of `sequence.py`."""
        return max(0.5 * (self.expected / tuning(self.alpha) - 1.0), 0.5)

    def take(self, rewards: RewardColumns, metric: int, closed_ms: int) -> None:
        """Takes the rewards of the objective, `metric`. Those of requests from before `closed_ms` change nothing."""
        rows = rewards.rows
        rows = rows[(rows["metric"] == metric) & (rows["time_ms"] >= closed_ms)]
        values = np.nan_to_num(rows["value"]) - (np.nan_to_num(rows["former"]) if rewards.revised else 0.0)
        signed = np.where(rows["arm"] == 1, values, -values)
        columns = rows["unit"].tolist(), rows["time_ms"].tolist(), signed.tolist()
        for request, time_ms, change in zip(*columns, strict=True):
            if request not in self._lead:
                self._lead[request] = 0.0
                heappush(self._due, (time_ms, request))
                if len(self._lead) > MAX_OPEN_REQUESTS:
                    self._close_first()
            if request in self._lead:
                self._lead[request] += change

    def close(self, closed_ms: int) -> None:
        """Decides the requests that were made before `closed_ms`."""
        while self._due and self._due[0][0] < closed_ms:
            self._close_first()

    def _close_first(self) -> None:
        _, request = heappop(self._due)
        lead = self._lead.pop(request)
        if lead == 0.0:
            self.ties += 1
            return
        self.wins[lead > 0.0] += 1
        self.log_e = max(self.log_e, self.log_e_against(0.5))

    def log_e_against(self, chance: float, times: float = 1.0) -> float:
        """Logarithm of the evidence against a `chance` of arm 1 to win, were there so many `times` the contests."""
        a, (losses, wins) = self.weight, (times * n for n in self.wins)
        mixed = _log_beta(a + wins, a + losses) - _log_beta(a, a)
        if (wins and chance <= 0.0) or (losses and chance >= 1.0):
            return math.inf
        return mixed - (wins and wins * math.log(chance)) - (losses and losses * math.log1p(-chance))

    def interval(self) -> tuple[float, float] | None:
        """Chances of arm 1 to win that the evidence leaves, at level 1 - alpha."""
        n = self.decided
        if n == 0:
            return None
        mode, most = self.wins[1] / n, -math.log(self.alpha)
        return self._end(mode, 0.0, most), self._end(mode, 1.0, most)

    def _end(self, inside: float, outside: float, most: float) -> float:
        if inside == outside:
            return outside
        for _ in range(_BISECTIONS):
            middle = 0.5 * (inside + outside)
            if self.log_e_against(middle) < most:
                inside = middle
            else:
                outside = middle
        return outside

    def winner(self) -> int | None:
        """Arm that wins more often, by the evidence that stands; None without one."""
        if self.log_e_against(0.5) < -math.log(self.alpha):
            return None
        return int(self.wins[1] > self.wins[0])

    def state(self) -> dict[str, NDArray[Any]]:
        order = sorted(self._due)
        return {
            "wins": np.array(self.wins, np.int64),
            "ties": np.array([self.ties], np.int64),
            "log_e": np.array([self.log_e]),
            "request": np.array([request for _, request in order], np.uint64),
            "time_ms": np.array([time_ms for time_ms, _ in order], np.int64),
            "lead": np.array([self._lead[request] for _, request in order]),
        }

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Takes over what `state` gave; `ValueError` for columns that do not fit together."""
        wins, n = state["wins"].tolist(), len(state["request"])
        if len(wins) != 2 or min(wins) < 0 or {len(state["time_ms"]), len(state["lead"])} != {n}:
            raise ValueError("the snapshot's contests do not fit together")
        if not np.isfinite(state["lead"]).all() or len(set(state["request"].tolist())) != n:
            raise ValueError("the snapshot has clicks that no log holds")
        self.wins, self.ties, self.log_e = wins, int(state["ties"][0]), float(state["log_e"][0])
        self._lead = dict(zip(state["request"].tolist(), state["lead"].tolist(), strict=True))
        self._due = list(zip(state["time_ms"].tolist(), state["request"].tolist(), strict=True))
        heapify(self._due)

    def report(self, arm_names: tuple[str, ...], control: int) -> InterleavingResult:
        n, ends = self.decided, self.interval()
        if ends is not None and control == 1:
            ends = 1.0 - ends[1], 1.0 - ends[0]
        return InterleavingResult(
            wins=dict(zip(arm_names, self.wins, strict=True)),
            ties=self.ties,
            pending=self.pending,
            win_rate=self.wins[1 - control] / n if n else None,
            interval=ends,
            p_value=min(1.0, math.exp(-self.log_e)) if n else None,
        )


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
