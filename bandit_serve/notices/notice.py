"""Notice of one event, its name, and its body as webhooks get it."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from bandit_serve.base.clock import rfc3339
from bandit_serve.webhook import WebhookEvent

DAY_MS = 86_400_000
RETOLD_MS = 3_600_000
"""Time after which what has ended and begins again is told again."""
TOLD_MS = 2 * DAY_MS
"""Time for which a notice of an entry is known to be told: longer than its entry is looked at."""


class Notice(Struct, frozen=True):
    """Event at log time `at_ms`. `told` is the name under which it is told once, and its id.

    lasts: whether it is of a state of a worker, which other workers see, too, and which may come again: then `at_ms` is
    in its id. for_ever: whether it is never told again, however long ago it was.
    """

    event: WebhookEvent
    told: str
    at_ms: int
    data: dict[str, Any]
    experiment: str | None = None
    lasts: bool = False
    for_ever: bool = False

    @property
    def id(self) -> str:
        return f"{self.told}:{self.at_ms}" if self.lasts else self.told

    def until_ms(self, now_ms: int) -> int | None:
        """Log time from which it may be told again; None for never."""
        if self.for_ever:
            return None
        return now_ms + RETOLD_MS if self.lasts else self.at_ms + TOLD_MS

    def body(self, tenant: str | None) -> bytes:
        """Body of a webhook's request, JSON. A tenant's ids begin with its name, as those of others may be equal."""
        id, owner = (self.id, UNSET) if tenant is None else (f"{tenant}/{self.id}", tenant)
        return NoticeBody(
            id=id,
            event=self.event,
            tenant=owner,
            experiment=self.experiment or UNSET,
            at=rfc3339(self.at_ms),
            data=self.data,
        ).encoded()


class NoticeBody(Struct, frozen=True, kw_only=True):
    """Body of a webhook's request."""

    id: str
    event: str
    tenant: str | UnsetType = UNSET
    experiment: str | UnsetType = UNSET
    at: str
    data: dict[str, Any]

    def encoded(self) -> bytes:
        """Bytes that are sent and signed."""
        return msgspec.json.encode(self)


class Delivery(Struct, frozen=True):
    """Notice in the outbox, and how far it is delivered: with the bytes that are sent each time.

    `done` are the receivers that have it, `tries` counts those that failed, and `next_ms`, log time, is that of the
    next, each by receiver.
    """

    event: str
    body: bytes
    first_ms: int
    done: tuple[str, ...] = ()
    tries: dict[str, int] = {}
    next_ms: dict[str, int] = {}
