"""What the supervisor and a worker say to each other. Small: the supervisor imports nothing that only workers need."""

from __future__ import annotations

import signal

import msgspec

from bandit_serve.settings import Settings

# Of a worker, by its `status_fd`: it serves; it takes no more connections.
READY, DRAINING = b"r", b"d"
# To a worker: write the stacks of all threads into the log, whatever they are doing.
SAY_STACKS = signal.SIGUSR2


class Plan(msgspec.Struct, frozen=True):
    """What the supervisor gives to a worker. The `fd`s are inherited."""

    settings: Settings
    store_url: str
    parent: int
    listen_fd: int
    status_fd: int
    counters_fd: int
    beats_fd: int
    n_slots: int
    slot: int
