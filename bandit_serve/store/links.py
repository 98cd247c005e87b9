"""Links to a store of each kind: calls, command methods, the reader of logs, and what differs between the kinds."""

from __future__ import annotations

import math
import time
from typing import Any

from bandit_serve.log.times import CLOCK_TOLERANCE_MS
from bandit_serve.store.blocking_reader import FAR_BLOCK_MS, BlockingReader
from bandit_serve.store.bucket_reader import BucketReader
from bandit_serve.store.calls import Calls
from bandit_serve.store.client import CommandMethods, open_client, open_tail_client
from bandit_serve.store.clock import LogClock
from bandit_serve.store.cluster import Cluster
from bandit_serve.store.cluster_view import N_SLOTS
from bandit_serve.store.connection import renew, sentinels_of
from bandit_serve.store.facts import inspect
from bandit_serve.store.keys import BY_BUCKET, BY_EXPERIMENT, KeyLayout, Keys
from bandit_serve.store.outages import Outages
from bandit_serve.store.survey import Survey, SurveyedShard
from bandit_serve.store.url import Address, StoreUrl, parse_store_url

SAME_CLOCK_MS = CLOCK_TOLERANCE_MS // 10


def open_link(
    url: str,
    keys: Keys,
    outages: Outages,
    clock: LogClock,
    *,
    timeout_s: float,
    block_s: float,
    beside: Link | None = None,
) -> Link:
    """Makes a link to a store of any kind; it connects when first used.

    One `beside` another, of the same store, has its connections, and a reader of its own.
    """
    where = parse_store_url(url)
    if where.kind == "cluster":
        cluster = beside if isinstance(beside, ClusterLink) else None
        return ClusterLink(where, keys, outages, clock, timeout_s=timeout_s, beside=cluster)
    server = beside if isinstance(beside, ServerLink) else None
    return ServerLink(where, keys, clock, timeout_s=timeout_s, block_s=block_s, beside=server)


def layout_of(url: str) -> KeyLayout:
    """Layout of the keys in a store, by its kind."""
    return BY_BUCKET if parse_store_url(url).kind == "cluster" else BY_EXPERIMENT


class ServerLink:
    """Link to a single server, or to the master that sentinels name.

    Scripts, other commands and the reader have connections of their own. The reader waits for up to `block_s` in the
    server, and longer for logs that nothing came into lately.
    """

    def __init__(
        self,
        url: StoreUrl,
        keys: Keys,
        clock: LogClock,
        *,
        timeout_s: float,
        block_s: float,
        beside: ServerLink | None = None,
    ) -> None:
        self._url = url
        self._clock = clock
        self._timeout_s = timeout_s
        self._is_owner = beside is None
        self._owner: ServerLink = self if beside is None else beside._owner
        self._renewed_s = self._reader_renewed_s = -math.inf
        self.calls: Calls = Calls(url, timeout_s=timeout_s) if beside is None else beside.calls
        # Any: redis-py types every reply as bytes or str; with our options all are bytes.
        self.client: Any = open_client(url, timeout_s=timeout_s) if beside is None else beside.client
        near = open_tail_client(url, block_s=block_s, timeout_s=timeout_s)
        far = open_tail_client(url, block_s=FAR_BLOCK_MS / 1000, timeout_s=timeout_s)
        self.reader = BlockingReader(near, far, keys)

    async def close(self) -> None:
        if self._is_owner:
            await self.client.aclose()
            await self.calls.close()
        await self.reader.close()

    async def renew(self, began_s: float = math.inf) -> None:
        """Replaces all connections before their next use: another server may be the store by then.

        began_s: when the call began that failed, of `time.monotonic()`. Those that were replaced since stay: many calls
        fail at once, and each would else cut off what the others have just opened.
        """
        if self._owner._renewed_s <= began_s:
            self._owner._renewed_s = time.monotonic()
            await self.calls.renew()
            await renew(self.client.connection_pool)
        if self._reader_renewed_s <= began_s:
            self._reader_renewed_s = time.monotonic()
            await self.reader.renew()

    def where(self, owner: str) -> str:
        """Part of the store that has an owner's keys, for `Outages`."""
        return ""

    def shift_ms(self, key: str) -> int:
        """Log time minus the clock of the server that has a key."""
        return self._clock.shift_ms

    async def server_ms(self, key: str) -> int:
        """Clock of the server that has a key, Unix time."""
        return _milliseconds(await self.calls.execute_command("TIME"))

    async def compare_clocks(self, key: str) -> None:
        """Nothing: `Store.time_ms` has asked the only server."""

    async def to_common(self) -> Calls:
        """Calls to the server that has the common keys of all namespaces, for commands without a key."""
        return self.calls

    async def survey(self, n_confirming: int) -> Survey:
        facts = await inspect(self.client)
        if self._url.kind != "sentinel":
            return Survey("single", (SurveyedShard(str(self._url), facts),), n_confirming)
        view = await sentinels_of(self._url, self._timeout_s).view()
        shard = SurveyedShard(str(view.master), facts)
        return Survey("sentinel", (shard,), n_confirming, n_sentinels=view.n_sentinels)


class ClusterLink:
    """Link to a Redis Cluster: all goes through one `Cluster`, the reader's commands, too."""

    def __init__(
        self,
        url: StoreUrl,
        keys: Keys,
        outages: Outages,
        clock: LogClock,
        *,
        timeout_s: float,
        beside: ClusterLink | None = None,
    ) -> None:
        self._url = url
        self._keys = keys
        self._clock = clock
        self._is_owner = beside is None
        self.calls: Cluster = Cluster(url, timeout_s=timeout_s) if beside is None else beside.calls
        self.client: Any = CommandMethods(self.calls, url) if beside is None else beside.client
        self.reader = BucketReader(self.calls, keys, outages, beside=beside is not None)
        # Of the masters whose clocks are far from log time; all others are taken to agree with it.
        self._shifts_ms: dict[Address, int] = {}

    async def close(self) -> None:
        if self._is_owner:
            await self.client.aclose()
            await self.calls.close()

    async def renew(self, began_s: float = math.inf) -> None:
        """Has the slots looked up again; connections that failed are closed already."""
        self.calls.refresh_soon()

    def where(self, owner: str) -> str:
        """Part of the store that has an owner's keys, for `Outages`."""
        return self._keys.layout.tag(owner)

    def shift_ms(self, key: str) -> int:
        """Log time minus the clock of the master that has a key. Log time itself is that of the common keys' master."""
        master = self.calls.known_master(key)
        if master is None or master == self.calls.known_master(self._keys.clock):
            return self._clock.shift_ms
        return self._shifts_ms.get(master, 0)

    async def server_ms(self, key: str) -> int:
        """Clock of the master that has a key, Unix time."""
        master = await self.calls.master_of(key)
        return _milliseconds(await self.calls.calls_to(master).execute_command("TIME"))

    async def compare_clocks(self, key: str) -> None:
        """Compares the clock of the master that has a key with log time, for `shift_ms`.

        The shift moves only as far as the interval of an answer requires, as log time does in `LogClock.adjust`.
        """
        master = await self.calls.master_of(key)
        if master == await self.calls.master_of(self._keys.clock):
            return
        sent_ms = self._clock.now_ms()
        server_ms = await self.server_ms(key)
        least_ms, most_ms = sent_ms - (server_ms + 1), self._clock.now_ms() - server_ms
        shift_ms = min(max(self._shifts_ms.pop(master, 0), least_ms), most_ms)
        if abs(shift_ms) > SAME_CLOCK_MS:
            self._shifts_ms[master] = shift_ms

    async def to_common(self) -> Calls:
        """Calls to the server that has the common keys of all namespaces, for commands without a key."""
        return self.calls.calls_to(await self.calls.master_of(self._keys.clock))

    async def survey(self, n_confirming: int) -> Survey:
        view = await self.calls.view()
        shards = []
        for shard in view.shards:
            client: Any = CommandMethods(self.calls.calls_to(shard.master), self._url)
            shards.append(SurveyedShard(str(shard.master), await inspect(client), shard.n_slots))
        n_unserved = N_SLOTS - sum(shard.n_slots for shard in shards)
        return Survey("cluster", tuple(shards), n_confirming, n_unserved=n_unserved)


def _milliseconds(told: list[bytes]) -> int:
    seconds, micros = map(int, told)
    return seconds * 1000 + micros // 1000


Link = ServerLink | ClusterLink
