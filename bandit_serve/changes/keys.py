"""Changes of callers' keys: creating and revoking one. Every live worker knows of it when a method returns."""

from __future__ import annotations

from bandit_serve.changes.changes import Changes
from bandit_serve.changes.models import require_name
from bandit_serve.errors import InvalidInput
from bandit_serve.folds.replica import Replica
from bandit_serve.registry.api_keys import (
    KeyCreated,
    KeyRevoked,
    Keys,
    NewKey,
    Scope,
    creation,
    new_key,
    revocation,
)
from bandit_serve.registry.registry import Registry
from bandit_serve.replication.tail import Tail
from bandit_serve.store.keys import COMMON
from bandit_serve.store.store import Store

MAX_LIFE_MS = 3_660 * 86_400_000


class KeyChanges:
    """Keys of callers, and their changes."""

    def __init__(self, store: Store, replica: Replica, tail: Tail, changes: Changes) -> None:
        self._store = store
        self._replica = replica
        self._tail = tail
        self._changes = changes

    async def known(self) -> Keys:
        """Returns the keys, up to date with their log."""
        await self._tail.refresh(COMMON)
        return self._replica.registry.keys

    async def create(
        self, name: str | None, scope: Scope, life_ms: int | None, who: str, tenant: str | None = None
    ) -> NewKey:
        """Makes a key that is valid for `life_ms`, or until it is revoked; of a `tenant`, or of the service itself.

        Raises `InvalidInput` for a name that is none or a life of no length or more than ten years, and `Conflict`
        where there is no room.
        """
        if name is not None:
            require_name("name", name)
        if tenant is not None:
            require_name("tenant", tenant)
        if life_ms is not None and not 0 < life_ms <= MAX_LIFE_MS:
            raise InvalidInput("expires: expected a time above 0 and up to 3660d.")
        now_ms = await self._store.time_ms()
        made = new_key(name, scope, None if life_ms is None else now_ms + life_ms, who, tenant)

        def decide(registry: Registry) -> KeyCreated:
            return creation(registry.keys, made.event, now_ms)

        await self._changes.create_key(decide)
        return made

    async def revoke(self, id: str, who: str, tenant: str | None = None) -> bool:
        """Revokes a key; False if it was revoked already.

        Raises `NotFound`, where a `tenant` is named also for a key that is not of that one.
        """

        def decide(registry: Registry) -> KeyRevoked | None:
            return revocation(registry.keys, id, who, tenant)

        return await self._changes.revoke_key(decide) is not None
