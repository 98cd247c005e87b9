"""Check that a store's keys are laid out as they are read: by experiment on one server, by bucket on a cluster."""

from __future__ import annotations

from typing import Any

from bandit_serve.errors import StoreRefused
from bandit_serve.store.keys import BY_EXPERIMENT, COMMON, Keys


async def check_layout(client: Any, keys: Keys) -> None:
    """Marks a store that is empty, and raises StoreRefused for one whose keys are laid out in another way.

    Keys by experiment have no mark: every store of before is so.
    """
    marked = await client.get(keys.layout_mark)
    wanted = str(keys.layout)
    if marked is None and keys.layout != BY_EXPERIMENT:
        if await client.exists(keys.log(COMMON), keys.identity, keys.token_keys):
            raise StoreRefused(
                "The keys on this cluster are laid out for a single server: write a backup of that server, and restore "
                "it into an empty cluster or another namespace."
            )
        await client.setnx(keys.layout_mark, wanted)
        marked = await client.get(keys.layout_mark)
    found = str(BY_EXPERIMENT) if marked is None else marked.decode()
    if found != wanted:
        raise StoreRefused(
            f"The keys in this store are laid out by {found}, and here they have to be by {wanted}: restore a backup "
            "into an empty store or another namespace."
        )
