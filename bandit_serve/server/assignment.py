"""Assignment of a worker, and the signs that supervisor and worker give each other."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bandit_serve.settings import Settings

if TYPE_CHECKING:
    from bandit_serve.server.tracing import Collector

# Of a worker, by its `status_fd`: it serves; it takes no more connections.
READY, DRAINING = b"r", b"d"
# To a worker: write the stacks of all threads into the log, whatever they are doing.
SAY_STACKS = signal.SIGUSR2
# To either: drain and leave. A terminal that closes sends SIGHUP, which nohup has had ignored.
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SAID_EVERY_S = 30.0
"""Between two sentences in the log that the store is missing."""


def ending_signals() -> list[signal.Signals]:
    """Signals of `ENDING_SIGNALS`, without those that this process was started with as ignored."""
    return [number for number in ENDING_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def store_advice(settings: Settings) -> str:
    if settings.store is None:
        return "The data directory's store.log may say why."
    return "Start it, or name another with --store (BANDIT_SERVE_STORE); bandit-serve doctor says more."


@dataclass(frozen=True)
class Assignment:
    """Settings and inherited file descriptors (`…_fd`) that the supervisor gives a worker.

    `quiet_s` is for how long the worker does not log that the store is missing; None where another worker logs it.
    """

    settings: Settings
    store_url: str
    parent: int
    listen_fd: int
    status_fd: int
    counters_fd: int
    beats_fd: int
    stacks_fd: int
    n_slots: int
    slot: int
    quiet_s: float | None = 0.0
    collector: Collector | None = None
