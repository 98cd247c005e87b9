"""Courier of the notices in the outbox, in the worker with the lease.

How far each notice is delivered is in the outbox, too. So another worker goes on where this one ends, and what was sent
when it ended is sent once more: the same bytes, with the same id.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from bandit_serve.errors import StoreUnavailable, UpstreamFailed, in_full
from bandit_serve.notices.notice import DAY_MS, Delivery
from bandit_serve.store.outbox import Outbox
from bandit_serve.upstreams.pool import UpstreamPool
from bandit_serve.upstreams.posting import post
from bandit_serve.webhook import Webhook

log = logging.getLogger(__name__)

ROUND_S = 1.0
TIMEOUT_S = 10.0
FIRST_PAUSE_MS, MAX_PAUSE_MS = 1_000, 3_600_000
"""Pauses before a notice is sent again: each twice as long as the one before."""
MAX_FAILURES = 3
"""Failures in turn after which a receiver is left alone for a while, whatever else waits for it."""
MAX_REST_S = 60.0
SIGNATURE = "X-Signature"

_read = msgspec.msgpack.Decoder(Delivery).decode
_write = msgspec.msgpack.Encoder().encode


class Receiver:
    """Webhook as the courier knows it. `key` names it in the outbox, without its address."""

    def __init__(self, webhook: Webhook, number: int, pool: UpstreamPool) -> None:
        self.webhook = webhook
        self.key = hashlib.blake2b(webhook.url.encode(), digest_size=8).hexdigest()
        self._whose = f"the webhook {number} at {webhook.place}"
        self._pool = pool
        self._failures = 0
        self._rests_until_s = 0.0

    @property
    def rests(self) -> bool:
        """Whether it has failed so often that it is left alone now."""
        return time.monotonic() < self._rests_until_s

    async def send(self, body: bytes) -> None:
        """Sends a body, signed if there is a secret. Raises `UpstreamFailed`, also where that can not be read."""
        headers = {}
        if self.webhook.secret is not None:
            secrets = await self._pool.headers.read({SIGNATURE: self.webhook.secret}, self._whose)
            headers[SIGNATURE] = signature(secrets[SIGNATURE], body)
        await post(self._pool, self.webhook.url, body, headers, TIMEOUT_S)

    def succeeded(self) -> None:
        if self._failures:
            log.warning("%s takes notices again", self._whose)
        self._failures = 0

    def failed(self, error: UpstreamFailed) -> None:
        if not self._failures:
            log.warning(
                "%s does not take a notice, which is sent again later: %s", self._whose, in_full(error)
            )
        self._failures += 1
        over = self._failures - MAX_FAILURES
        if over >= 0:
            self._rests_until_s = time.monotonic() + min(2.0 ** min(over, 16), MAX_REST_S)


def signature(secret: str, body: bytes) -> str:
    """Value of the header `X-Signature`: HMAC-SHA256 of the body (RFC 2104), in hexadecimal digits."""
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


class Courier:
    """Delivers while `leads` says so. Counts the deliveries, the tries that failed, and the deliveries given up.

    `waiting` is the number of notices in the outbox at the last look; 0 where this worker does not deliver.
    """

    def __init__(
        self,
        outbox: Outbox,
        webhooks: Sequence[Webhook],
        pool: UpstreamPool,
        leads: Callable[[], bool],
        now_ms: Callable[[], int],
    ) -> None:
        self._outbox = outbox
        self._receivers = [Receiver(webhook, number, pool) for number, webhook in enumerate(webhooks, 1)]
        self._leads = leads
        self._now_ms = now_ms
        self._open: dict[str, Delivery] = {}
        self._cursor = 0
        self.delivered = self.failed = self.given_up = self.waiting = 0

    async def run(self) -> None:
        """Delivers until cancelled."""
        while True:
            await asyncio.sleep(ROUND_S)
            if not self._leads():
                self.waiting = 0
                continue
            try:
                await self._round()
            except StoreUnavailable:
                continue

    async def _round(self) -> None:
        """Goes through the whole outbox once, some notices at a time."""
        cursor: int | None = None
        while cursor != 0 and self._leads():
            cursor, packed = await self._outbox.some(cursor or 0)
            self._open = {id: _read(notice) for id, notice in packed.items()}
            for id in list(self._open):
                await self._put_back_or_out(id)
            # Each is sent to, one notice after another, beside the others.
            await asyncio.gather(*(self._send_to(receiver) for receiver in self._receivers))
        self.waiting = await self._outbox.count()

    def _lacking(self, delivery: Delivery) -> list[Receiver]:
        """Receivers that are to have a notice, and have it not."""
        return [
            each
            for each in self._receivers
            if delivery.event in each.webhook.events and each.key not in delivery.done
        ]

    async def _put_back_or_out(self, id: str) -> None:
        """Takes a notice out that nobody lacks, or whose day is over."""
        lacking = self._lacking(self._open[id])
        over = self._now_ms() - self._open[id].first_ms > DAY_MS
        if lacking and not over:
            return
        for receiver in lacking:
            log.error("a notice for %s is given up after a day: %s", receiver.webhook.place, id)
            self.given_up += 1
        del self._open[id]
        await self._outbox.change(id, None)

    async def _send_to(self, receiver: Receiver) -> None:
        for id in list(self._open):
            delivery = self._open.get(id)
            if delivery is None or receiver.rests or not self._leads():
                continue
            if receiver not in self._lacking(delivery):
                continue
            if self._now_ms() < delivery.next_ms.get(receiver.key, 0):
                continue
            await self._try(id, receiver, delivery.body)

    async def _try(self, id: str, receiver: Receiver, body: bytes) -> None:
        try:
            await receiver.send(body)
        except UpstreamFailed as error:
            receiver.failed(error)
            self.failed += 1
            await self._keep(id, self._after_failure(self._open[id], receiver.key))
        else:
            receiver.succeeded()
            self.delivered += 1
            delivery = self._open[id]
            await self._keep(id, msgspec.structs.replace(delivery, done=(*delivery.done, receiver.key)))

    def _after_failure(self, delivery: Delivery, key: str) -> Delivery:
        tries = delivery.tries.get(key, 0) + 1
        pause_ms = min(FIRST_PAUSE_MS * 2 ** min(tries - 1, 20), MAX_PAUSE_MS)
        next_ms = self._now_ms() + round(pause_ms * random.uniform(0.8, 1.2))
        return msgspec.structs.replace(
            delivery,
            tries=_with(delivery.tries, key, tries),
            next_ms=_with(delivery.next_ms, key, next_ms),
        )

    async def _keep(self, id: str, delivery: Delivery) -> None:
        self._open[id] = delivery
        if self._lacking(delivery):
            await self._outbox.change(id, _write(delivery))
        else:
            del self._open[id]
            await self._outbox.change(id, None)


def _with(numbers: Mapping[str, int], key: str, number: int) -> dict[str, int]:
    return {**numbers, key: number}
