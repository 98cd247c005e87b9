"""Keys of tokens that all workers share, from the store."""

from __future__ import annotations

from bandit_serve.log.token import Keyring, new_key
from bandit_serve.store.store import Store


async def load_keyring(store: Store) -> Keyring:
    """Loads the keys that all workers share; adds the first one if there is none."""
    now_ms = await store.time_ms()
    keys = await store.token_keys()
    if not keys:
        await store.add_token_key(0, new_key(now_ms))
        keys = await store.token_keys()
    return Keyring(keys, now_ms)
