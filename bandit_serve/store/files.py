"""Model files in the store itself, for installations without a shared disk and models of up to 512 MiB."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from bandit_serve.errors import StoreUnavailable, TooLarge
from bandit_serve.store.connection import parse_store_url
from bandit_serve.store.failures import translate_errors
from bandit_serve.store.keys import Keys

CHUNK_BYTES = 2**20
MAX_FILE_BYTES = 512 * 2**20
TIMEOUT_S = 10.0
UNFINISHED_S = 3_600


class StoreFiles:
    """Stores each file as a hash of chunks of 1 MiB, at most 512. Calls block, so they belong into threads."""

    def __init__(self, url: str, namespace: str) -> None:
        self._keys = Keys(namespace)
        where = parse_store_url(url)
        given: dict[str, Any] = {"unix_socket_path": where.path} if where.scheme == "unix" else {}
        if where.scheme != "unix":
            given = {
                "host": where.host,
                "port": where.port,
                "ssl": where.scheme == "rediss",
                **dict(where.tls),
            }
        self._client: Any = Redis(
            **given,
            db=where.db,
            username=where.username,
            password=where.password,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )

    @contextlib.contextmanager
    def _calls(self) -> Iterator[None]:
        """Translates errors, and replaces the connections after an outage: another node may be the store by then."""
        try:
            with translate_errors():
                yield
        except StoreUnavailable:
            self._client.connection_pool.disconnect(inuse_connections=False)
            raise

    def has(self, sha256: str) -> bool:
        """Whether the whole file is there."""
        with self._calls():
            return bool(self._client.hexists(self._keys.artifact(sha256), "chunks"))

    def send(self, sha256: str, path: Path) -> None:
        """Stores a file. Raises `TooLarge` above 512 MiB, `StoreUnavailable` in an outage.

        The file gets its final key when it is whole. Chunks of a sender that died expire after `UNFINISHED_S`.
        """
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise TooLarge(
                f"A model file of {size} bytes is too large for the store, which takes {MAX_FILE_BYTES}."
            )
        key = self._keys.artifact(sha256)
        unfinished = f"{key}:{secrets.token_hex(8)}"
        with self._calls(), open(path, "rb") as file:
            if self._client.hexists(key, "chunks"):
                return
            n = 0
            while chunk := file.read(CHUNK_BYTES):
                with self._client.pipeline() as step:
                    step.hset(unfinished, str(n), chunk).expire(unfinished, UNFINISHED_S)
                    step.execute()
                n += 1
            with self._client.pipeline() as last:
                last.hset(unfinished, "chunks", n).persist(unfinished).rename(unfinished, key)
                last.execute()

    def fetch(self, sha256: str, into: BinaryIO) -> bool:
        """Writes the file's bytes to `into`; False where the store does not have it."""
        key = self._keys.artifact(sha256)
        with self._calls():
            n = self._client.hget(key, "chunks")
            if n is None:
                return False
            for number in range(int(n)):
                into.write(self._client.hget(key, str(number)) or b"")
        return True

    def delete(self, sha256: str) -> None:
        with self._calls():
            self._client.delete(self._keys.artifact(sha256))
