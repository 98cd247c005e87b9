"""Rewards that wait to be sent, in their order, with a bound: the rules, without threads or tasks."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bandit_serve_client.errors import ClientError, Problem, Unsendable
from bandit_serve_client.rewards import COUNTED, MAX_BATCH, AnyReward, RewardsReport
from bandit_serve_client.seldom import SeldomWarning, log

MIN_PAUSE_S = 0.1
MAX_PAUSE_S = 5.0
PASSING = frozenset({401, 403, 408, 429})
"""Statuses below 500 that are not about the rewards: the key may be replaced, the quota is renewed."""

Rejected = Sequence[tuple[AnyReward, str]]
"""Rewards that changed nothing, with their verdicts."""
OnRejected = Callable[[AnyReward, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxSettings:
    """Settings of the background.

    max_queued : rewards that may wait. At the bound the newest is refused and counted as `refused`; those that wait
        keep their order, and none is dropped for another.
    max_queued_bytes : memory in bytes that they may take, with the same rule at the bound.
    flush_at : rewards that are sent at once as soon as so many wait, at most 10,000.
    flush_every : seconds that a reward waits for others.
    on_rejected : called with each reward that changed nothing and its verdict, in the background; without it they are
        logged as a warning.
    close_timeout : seconds that closing, and the end of the process, wait for what is queued.
    """

    max_queued: int = 10_000
    max_queued_bytes: int = 32 * 2**20
    flush_at: int = 500
    flush_every: float = 0.2
    on_rejected: OnRejected | None = None
    close_timeout: float = 5.0

    def __post_init__(self) -> None:
        if min(self.max_queued, self.max_queued_bytes) < 1 or not 1 <= self.flush_at <= MAX_BATCH:
            raise ValueError(
                f"expected max_queued and max_queued_bytes of at least 1 and flush_at from 1 to {MAX_BATCH}"
            )
        if self.flush_every < 0 or self.close_timeout < 0:
            raise ValueError("expected flush_every and close_timeout of at least 0 seconds")


class Backlog:
    """Queue of rewards. `counts` has verdicts, and `refused`, `lost` and `failed_sends`."""

    def __init__(self, settings: OutboxSettings) -> None:
        self.settings = settings
        self.counts: Counter[str] = Counter()
        self.n_added = 0
        self.n_settled = 0
        self._waiting: deque[AnyReward] = deque()
        self._n_bytes = 0
        self._due_s = 0.0
        self._not_before_s = 0.0
        self._pause_s = MIN_PAUSE_S
        self._limit = settings.flush_at
        self._refusing = SeldomWarning()
        self._failing = SeldomWarning()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, reward: AnyReward) -> bool:
        """Queues a reward; False where the queue is full."""
        n_bytes = reward.n_bytes
        if len(self._waiting) >= self.settings.max_queued:
            return self.refuse(f"{self.settings.max_queued} wait to be sent")
        if self._n_bytes + n_bytes > self.settings.max_queued_bytes:
            return self.refuse(f"{self._n_bytes} bytes of them wait to be sent")
        if not self._waiting:
            self._due_s = time.monotonic() + self.settings.flush_every
        self._waiting.append(reward)
        self._n_bytes += n_bytes
        self.n_added += 1
        return True

    def refuse(self, why: str) -> bool:
        """Counts a reward that is not queued; returns False."""
        self.counts["refused"] += 1
        self._refusing.warn(f"a reward was refused, as {why}")
        return False

    def due_in_s(self, *, hurry: bool) -> float:
        """Seconds until the next batch may be sent; with `hurry` a reward does not wait for others."""
        now_s = time.monotonic()
        waits = not hurry and len(self._waiting) < self.settings.flush_at
        due_s = max(self._not_before_s, self._due_s) if waits else self._not_before_s
        return max(0.0, due_s - now_s)

    def batch(self) -> list[AnyReward]:
        """Returns the oldest rewards, which stay until they are settled."""
        return list(itertools.islice(self._waiting, self._limit))

    def settle(self, batch: Sequence[AnyReward], report: RewardsReport) -> Rejected:
        """Takes a batch out of the queue; returns the rewards that changed nothing."""
        self._take(len(batch))
        self._limit, self._pause_s = self.settings.flush_at, MIN_PAUSE_S
        self.counts.update(report.verdicts)
        return [pair for pair in zip(batch, report.verdicts, strict=True) if pair[1] not in COUNTED]

    def put_off(self, batch: Sequence[AnyReward], error: Exception) -> Rejected:
        """Keeps a batch that could not be sent; returns the rewards that never can be.

        One that is refused for what is in it is sent in halves, until the reward that is refused is alone: it is
        `invalid`. All else passes, be it an error that nobody thought of: the batch is sent again, after a pause that
        grows.
        """
        self.counts["failed_sends"] += 1
        is_refused = isinstance(error, Unsendable) or (
            isinstance(error, Problem) and error.status < 500 and error.status not in PASSING
        )
        if is_refused and len(batch) > 1:
            self._limit = len(batch) // 2
        elif is_refused:
            self._take(1)
            self._limit = self.settings.flush_at
            self.counts["invalid"] += 1
            return [(batch[0], "invalid")]
        else:
            asked_s = getattr(error, "retry_after", None) or 0.0
            pause_s = max(min(asked_s, MAX_PAUSE_S), self._pause_s * random.uniform(0.5, 1.5))
            self._not_before_s = time.monotonic() + pause_s
            self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
            why = str(error) if isinstance(error, ClientError) else repr(error)
            self._failing.warn(f"rewards wait, as they could not be sent: {why}")
        return []

    def end_pause(self) -> None:
        """Lets the next batch be sent at once, however long the service was away: there is no later."""
        self._not_before_s, self._pause_s = 0.0, MIN_PAUSE_S

    def abandon(self) -> None:
        """Gives up what is queued, and says so."""
        if self._waiting:
            self.counts["lost"] += len(self._waiting)
            log.warning("%d rewards were not sent before the end", len(self._waiting))
            self._take(len(self._waiting))

    def _take(self, n: int) -> None:
        for _ in range(n):
            self._n_bytes -= self._waiting.popleft().n_bytes
        self.n_settled += n
        self._due_s = time.monotonic() + self.settings.flush_every


def report_rejected(rejected: Rejected, on_rejected: OnRejected | None) -> None:
    """Calls `on_rejected` for each, or logs them."""
    if on_rejected is not None:
        for reward, verdict in rejected:
            try:
                on_rejected(reward, verdict)
            except Exception:
                log.exception("on_rejected failed")
    elif rejected:
        verdicts = Counter(verdict for _, verdict in rejected)
        listed = ", ".join(f"{verdict} {n}" for verdict, n in sorted(verdicts.items()))
        log.warning("%d rewards were rejected: %s", len(rejected), listed)
