"""Outbox of a thread: rewards are queued at once, and sent in the background."""

from __future__ import annotations

import atexit
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from bandit_serve_client.backlog import Backlog, OutboxSettings, report_rejected
from bandit_serve_client.errors import ClientError
from bandit_serve_client.forks import forget_in_children
from bandit_serve_client.rewards import AnyReward, RewardsReport

Send = Callable[[Sequence[AnyReward], float], RewardsReport]


class Outbox:
    """Queue that any thread may fill, and a thread that empties it; it starts with the first reward.

    `send` sends a batch within seconds. What is queued when the process ends is sent then, within `close_timeout`.
    """

    def __init__(self, send: Send, timeout_s: float, settings: OutboxSettings) -> None:
        self._send = send
        self._timeout_s = timeout_s
        self._settings = settings
        self._close_until_s: float | None = None
        self.forget()
        forget_in_children(self)

    def forget(self) -> None:
        """Leaves all that is queued to the process that this one was forked from, which will send it."""
        self._backlog = Backlog(self._settings)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._flushed_up_to = 0
        atexit.unregister(self.close)

    @property
    def counts(self) -> Counter[str]:
        """Counts of verdicts, and of rewards `refused` at the bound and `lost` at the end."""
        with self._changed:
            return self._backlog.counts.copy()

    def __len__(self) -> int:
        return len(self._backlog)

    def put(self, reward: AnyReward) -> bool:
        """Queues a reward without waiting; False where the queue is full or closed."""
        with self._changed:
            if self._close_until_s is not None:
                return self._backlog.refuse("the client is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="bandit-serve-outbox", daemon=True)
                self._thread.start()
                atexit.register(self.close)
            queued = self._backlog.add(reward)
            if queued and len(self._backlog) in (1, self._settings.flush_at):
                self._changed.notify_all()
        return queued

    def flush(self, timeout: float | None = None) -> bool:
        """Waits until all that is queued now has its verdict; False where `timeout`, in seconds, was too short."""
        with self._changed:
            up_to = self._backlog.n_added
            self._flushed_up_to = max(self._flushed_up_to, up_to)
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._backlog.n_settled >= up_to, timeout)

    def close(self) -> None:
        """Sends what is queued, within `close_timeout`; what is left then is counted as `lost`, and logged."""
        with self._changed:
            if self._close_until_s is None:
                self._close_until_s = time.monotonic() + self._settings.close_timeout
                self._backlog.end_pause()
            thread = self._thread
            self._changed.notify_all()
        atexit.unregister(self.close)
        if thread is not None:
            thread.join(max(0.0, self._close_until_s - time.monotonic()))
        with self._changed:
            self._backlog.abandon()

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            report: RewardsReport | ClientError
            try:
                report = self._send(batch, self._allowed_s())
            except ClientError as error:
                report = error
            with self._changed:
                if not len(self._backlog):
                    # `close` has given up what was left.
                    return
                if isinstance(report, ClientError):
                    rejected = self._backlog.put_off(batch, report)
                else:
                    rejected = self._backlog.settle(batch, report)
            report_rejected(rejected, self._settings.on_rejected)
            with self._changed:
                self._changed.notify_all()

    def _next_batch(self) -> list[AnyReward] | None:
        """Waits for a batch that is due; None when the outbox is closed and nothing is left to do."""
        with self._changed:
            while True:
                if not len(self._backlog):
                    if self._close_until_s is not None:
                        return None
                    self._changed.wait()
                    continue
                closing = self._close_until_s is not None
                hurry = closing or self._backlog.n_settled < self._flushed_up_to
                due_in_s = self._backlog.due_in_s(hurry=hurry)
                if closing and self._allowed_s() <= due_in_s:
                    return None
                if due_in_s <= 0:
                    return self._backlog.batch()
                self._changed.wait(due_in_s)

    def _allowed_s(self) -> float:
        if self._close_until_s is None:
            return self._timeout_s
        return min(self._timeout_s, self._close_until_s - time.monotonic())
