"""Store: connections, durability, all keys and scripts, and a private server where none is named.

Only this package imports redis.
"""

from bandit_serve.store.client import connect, open_client, open_tail_client
from bandit_serve.store.facts import StoreFacts, check, inspect
from bandit_serve.store.failures import translate_errors
from bandit_serve.store.private_server import PrivateServer
from bandit_serve.store.url import StoreUrl, parse_store_url

__all__ = [
    "PrivateServer",
    "StoreFacts",
    "StoreUrl",
    "check",
    "connect",
    "inspect",
    "open_client",
    "open_tail_client",
    "parse_store_url",
    "translate_errors",
]
