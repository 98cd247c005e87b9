"""Outbox of a thread: rewards are queued at once, and sent in the background."""

from __future__ import annotations

import atexit
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from bandit_serve_client.backlog import Backlog, OutboxSettings, report_rejected
from bandit_serve_client.forks import forget_in_children
from bandit_serve_client.rewards import AnyReward, RewardsReport

Send = Callable[[Sequence[AnyReward], float], RewardsReport]


class Outbox:
    """Queue that any thread may fill, and a thread that empties it and lives while there is something in it.

    `send` sends a batch within seconds. What is queued when the process ends is sent then, within `close_timeout`. An
    outbox that nobody refers to leaves nothing behind when it is empty.
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
        self._lost_from: int | None = None
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
            if self._thread is None and not self._start():
                return self._backlog.refuse("no thread can be started")
            queued = self._backlog.add(reward)
            if queued and len(self._backlog) == self._settings.flush_at:
                self._changed.notify_all()
        return queued

    def flush(self, timeout: float | None = None) -> bool:
        """Waits until all that is queued now has its verdict.

        False where `timeout`, in seconds, was too short, or where some of it was lost by the end of the client.
        """
        with self._changed:
            if not len(self._backlog):
                return True
            up_to = self._backlog.n_added
            self._flushed_up_to = max(self._flushed_up_to, up_to)
            self._changed.notify_all()
            settled = self._changed.wait_for(lambda: self._backlog.n_settled >= up_to, timeout)
            return settled and not (self._lost_from is not None and self._lost_from < up_to)

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
            if len(self._backlog):
                self._lost_from = self._backlog.n_settled
                self._backlog.abandon()
            self._changed.notify_all()

    def _start(self) -> bool:
        """Starts the thread; False where there are too many, or the interpreter is ending."""
        thread = threading.Thread(target=self._work, name="bandit-serve-outbox", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._thread = thread
        atexit.register(self.close)
        return True

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            report: RewardsReport | Exception
            try:
                report = self._send(batch, self._allowed_s())
            except Exception as error:
                report = error
            with self._changed:
                if self._lost_from is not None:
                    # `close` has given up what was left.
                    return
                if isinstance(report, Exception):
                    rejected = self._backlog.put_off(batch, report)
                else:
                    rejected = self._backlog.settle(batch, report)
            report_rejected(rejected, self._settings.on_rejected)
            with self._changed:
                self._changed.notify_all()

    def _next_batch(self) -> list[AnyReward] | None:
        """Waits for a batch that is due; None when nothing is left to do, and the thread ends."""
        with self._changed:
            while True:
                if not len(self._backlog):
                    self._thread = None
                    atexit.unregister(self.close)
                    return None
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
