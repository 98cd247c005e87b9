"""Slots of tenants in the memory that the workers of a machine share: counters, and the bucket of their requests."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
from collections.abc import Collection, Iterator
from typing import NamedTuple

from bandit_serve.server.metrics import Counters, enlarge
from bandit_serve.server.rate import NUMBER_BYTES, SharedNumber

MAX_SLOTS = 1_024
"""Tenants whose counters are kept, those that have ended included."""
_DIGEST_BYTES = 16
_BUCKETS_AT = MAX_SLOTS * _DIGEST_BYTES
_DIRECTORY_BYTES = _BUCKETS_AT + MAX_SLOTS * NUMBER_BYTES


class TenantSlot(NamedTuple):
    """Counters of a tenant, and the number that its bucket is."""

    counters: Counters
    bucket: SharedNumber


class TenantSlots:
    """Slots behind the worker's own `counters`, in the same file. One is claimed by the first worker that asks."""

    def __init__(self, counters: Counters) -> None:
        self._own = counters
        if counters.fd >= 0:
            enlarge(counters.fd, counters.nbytes + _DIRECTORY_BYTES)
        self._directory = mmap.mmap(
            counters.fd, _DIRECTORY_BYTES, offset=counters.nbytes if counters.fd >= 0 else 0
        )
        self._buckets = memoryview(self._directory)[_BUCKETS_AT:].cast("d")
        self._starts = (
            counters.nbytes + -(-_DIRECTORY_BYTES // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        )

    def claim(self, tenant: str, present: Collection[str]) -> TenantSlot:
        """Slot of a tenant, with what was counted for it before.

        When all are taken, one of those that are not `present` loses its own.
        """
        with self._locked():
            slots = self._taken()
            number = slots.get(_digest(tenant))
            if number is None and len(slots) < MAX_SLOTS:
                number = len(slots)
            is_new = number is None
            if number is None:
                kept = {_digest(each) for each in present}
                number = next(number for digest, number in slots.items() if digest not in kept)
            own = self._own
            counters = Counters(
                own.routes,
                n_slots=own.n_slots,
                slot=own.slot,
                fd=own.fd,
                start=self._starts + number * own.nbytes,
            )
            if is_new:
                counters.clear()
                self._buckets[number] = 0.0
            self._directory[number * _DIGEST_BYTES : (number + 1) * _DIGEST_BYTES] = _digest(tenant)
            at = own.nbytes + _BUCKETS_AT + number * NUMBER_BYTES
            return TenantSlot(counters, SharedNumber(self._buckets[number : number + 1], own.fd, at))

    def _taken(self) -> dict[bytes, int]:
        slots: dict[bytes, int] = {}
        for number in range(MAX_SLOTS):
            digest = self._directory[number * _DIGEST_BYTES : (number + 1) * _DIGEST_BYTES]
            if not any(digest):
                break
            slots[digest] = number
        return slots

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if self._own.fd < 0:
            yield
            return
        fcntl.lockf(self._own.fd, fcntl.LOCK_EX, _BUCKETS_AT, self._own.nbytes)
        try:
            yield
        finally:
            fcntl.lockf(self._own.fd, fcntl.LOCK_UN, _BUCKETS_AT, self._own.nbytes)


def _digest(tenant: str) -> bytes:
    return hashlib.blake2b(tenant.encode(), digest_size=_DIGEST_BYTES).digest()
