"""Teller of notices: puts those that a webhook wants into the outbox, each once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import msgspec

from bandit_serve.errors import Overloaded
from bandit_serve.notices.notice import TOLD_MS, Delivery, Notice
from bandit_serve.store.outbox import Outbox
from bandit_serve.store.store import Store
from bandit_serve.webhook import Webhook, WebhookEvent

MAX_KNOWN = 100_000


class Teller:
    """Remembers what it knows to be told for ever, so that the store is asked once about each.

    wanted: the events. tenant: whose they are, where they are a tenant's.
    """

    def __init__(
        self,
        outbox: Outbox,
        wanted: Collection[WebhookEvent],
        now_ms: Callable[[], int],
        tenant: str | None = None,
    ) -> None:
        self._outbox = outbox
        self.wanted = frozenset(wanted)
        self._now_ms = now_ms
        self._tenant = tenant
        self._known: dict[str, None] = {}

    @classmethod
    def of(cls, store: Store, webhooks: Sequence[Webhook], tenant: str | None) -> Teller:
        """Teller of all events that one of the webhooks is told of."""
        wanted = {event for webhook in webhooks for event in webhook.events}
        return cls(Outbox(store), wanted, store.clock.now_ms, tenant)

    async def tell(self, notice: Notice) -> bool:
        """Puts a notice into the outbox unless it was told; returns whether it was put there by this call.

        Raises `StoreUnavailable`, and `Overloaded` where the outbox is full: then it is not told yet.
        """
        if notice.event not in self.wanted or notice.told in self._known:
            return False
        now_ms = self._now_ms()
        delivery = Delivery(notice.event, notice.body(self._tenant), now_ms)
        packed = msgspec.msgpack.encode(delivery)
        is_new = await self._outbox.tell(notice.told, notice.id, packed, now_ms, notice.until_ms(now_ms))
        if is_new is None:
            raise Overloaded("Too many notices wait for webhooks.")
        if not notice.lasts:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[notice.told] = None
        return is_new

    async def tidy(self, is_over: Callable[[str], bool]) -> None:
        """Forgets what may be told again, and in a while the names of notices that can not be found any more."""
        now_ms = self._now_ms()
        await self._outbox.forget(now_ms)
        for told in await self._outbox.told_for_ever():
            if is_over(told):
                await self._outbox.forget_at(told, now_ms + TOLD_MS)
