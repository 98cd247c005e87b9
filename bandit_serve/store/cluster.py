"""Calls to a Redis Cluster: each command goes to the master that has its key's slot."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Sequence
from typing import Any

from hiredis import pack_command
from redis import exceptions as redis_errors
from redis.crc import key_slot

from bandit_serve.errors import StoreRefused
from bandit_serve.store.calls import Calls
from bandit_serve.store.cluster_view import N_SLOTS, ClusterView
from bandit_serve.store.poll import ask_most
from bandit_serve.store.url import Address, StoreUrl

log = logging.getLogger(__name__)

MAX_REDIRECTIONS = 5
MAX_ASKED_NODES = 9
REFRESH_PAUSE_S = 0.1
ASKING = pack_command(("ASKING",))
# After these, other nodes may have the slots.
SIGNS_OF_CHANGE = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ClusterDownError,
    redis_errors.ReadOnlyError,
    TimeoutError,
)


class Cluster:
    """Masters of a cluster by slot, with calls to each, as `calls.RunsCommands`.

    Redirections are followed on the connection that got them: a node that answers MOVED or ASK has not executed the
    command, so nothing is sent twice. Any other failure is the caller's, and has the slots looked up again in the
    background. A slot that is half here and half there is an outage until its move is done.
    """

    def __init__(self, url: StoreUrl, *, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._calls: dict[Address, Calls] = {}
        self._masters: list[Address | None] = [None] * N_SLOTS
        self._view: ClusterView | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        for calls in self._calls.values():
            await calls.close()

    async def view(self) -> ClusterView:
        """The newest view of the cluster, asked for now. Raises as `execute_command`."""
        await self._refresh()
        assert self._view is not None
        return self._view

    def calls_to(self, node: Address) -> Calls:
        """Calls to one node."""
        if node not in self._calls:
            self._calls[node] = Calls(self._url, timeout_s=self._timeout_s, node=node)
        return self._calls[node]

    async def master_of(self, key: str) -> Address:
        """Master that has a key. Raises as `execute_command`."""
        return await self._master(key_slot(key.encode()))

    def known_master(self, key: str) -> Address | None:
        """As `master_of`, without a question to the cluster; None where that would be needed."""
        return self._masters[key_slot(key.encode())]

    async def execute_command(self, *command: Any) -> Any:
        """Sends one command to the master of its key, and returns the reply.

        Raises redis-py's errors, TimeoutError, and StoreRefused where the URL names no cluster.
        """
        return (await self._execute(_slot_of(command), pack_command(command), 1))[0]

    async def execute_before(self, following: tuple[Any, ...], *command: Any) -> tuple[Any, Any]:
        """Sends two commands in one write, as `RunsCommands.execute_before`, to the master of the first one's key."""
        packed = pack_command(command) + pack_command(following)
        first, second = await self._execute(_slot_of(command), packed, 2)
        return first, second

    async def execute_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Sends commands with one write for each master; returns their replies or errors, in order.

        A command that is redirected is sent again by itself.
        """
        by_master: dict[Address, list[int]] = {}
        replies: list[Any] = [None] * len(commands)
        for number, command in enumerate(commands):
            try:
                by_master.setdefault(await self._master(_slot_of(command)), []).append(number)
            except (*SIGNS_OF_CHANGE, StoreRefused) as error:
                replies[number] = error
        groups = by_master.items()
        answered = await asyncio.gather(
            *(
                self._send_group(master, [commands[number] for number in numbers])
                for master, numbers in groups
            )
        )
        for (_, numbers), group in zip(groups, answered, strict=True):
            for number, reply in zip(numbers, group, strict=True):
                replies[number] = reply
        for number, reply in enumerate(replies):
            if isinstance(reply, redis_errors.AskError):
                replies[number] = await self._execute_again(commands[number])
        return replies

    async def _send_group(self, master: Address, commands: list[tuple[Any, ...]]) -> list[Any]:
        packed = b"".join(pack_command(command) for command in commands)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self.calls_to(master).exchange(packed, len(commands), in_place=True)
        except SIGNS_OF_CHANGE as error:
            self.refresh_soon()
            return [error] * len(commands)

    async def _execute_again(self, command: tuple[Any, ...]) -> Any:
        try:
            return await self.execute_command(*command)
        except (redis_errors.RedisError, TimeoutError) as error:
            return error

    async def _execute(self, slot: int, packed: bytes, n_replies: int) -> list[Any]:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._follow(slot, packed, n_replies)
        except SIGNS_OF_CHANGE:
            self.refresh_soon()
            raise

    async def _follow(self, slot: int, packed: bytes, n_replies: int) -> list[Any]:
        """Sends packed commands for a slot to its master, and on to whichever node that one names."""
        node, asking, redirections = await self._master(slot), False, 0
        while True:
            try:
                if not asking:
                    return await self.calls_to(node).exchange(packed, n_replies)
                return (await self.calls_to(node).exchange(ASKING + packed, n_replies + 1))[1:]
            except redis_errors.AskError as redirection:
                # MOVED is a kind of ASK to redis-py. A node that names no host means its own.
                node = Address(redirection.host or node.host, redirection.port)
                asking = not isinstance(redirection, redis_errors.MovedError)
                if not asking:
                    self._masters[slot] = node
                    self.refresh_soon()
                redirections += 1
                if redirections > MAX_REDIRECTIONS:
                    raise

    async def _master(self, slot: int) -> Address:
        master = self._masters[slot]
        if master is None:
            await self._refresh()
            master = self._masters[slot]
        if master is None:
            raise redis_errors.ClusterDownError("CLUSTERDOWN no node has the slot")
        return master

    def refresh_soon(self) -> None:
        """Begins to look up all slots again, unless that is under way."""
        if self._refreshing is None and not self._closed:
            self._refreshing = asyncio.create_task(self._look_up(), name="slots of the cluster")
            self._refreshing.add_done_callback(self._looked_up)

    async def _refresh(self) -> None:
        self.refresh_soon()
        if self._refreshing is not None:
            await asyncio.shield(self._refreshing)

    def _looked_up(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        if not task.cancelled() and task.exception() is not None:
            log.debug("the slots of the cluster can not be looked up: %r", task.exception())

    async def _look_up(self) -> None:
        if self._view is not None:
            # Many calls fail at once, and a cluster takes seconds to agree.
            await asyncio.sleep(REFRESH_PAUSE_S)
        views = await ask_most([self._ask(node) for node in self._to_ask()])
        view = max(views, key=lambda view: (view.whole, view.epoch))
        masters: list[Address | None] = [None] * N_SLOTS
        for shard in view.shards:
            for first, last in shard.ranges:
                masters[first : last + 1] = [shard.master] * (last - first + 1)
        self._view, self._masters = view, masters
        await self._forget_all_but({*view.addresses, *self._url.addresses})

    def _to_ask(self) -> list[Address]:
        """Some of the known nodes, and of those in the URL, which may have other addresses by now."""
        known = [] if self._view is None else list(self._view.addresses)
        named = [address for address in self._url.addresses if address not in known]
        random.shuffle(known)
        random.shuffle(named)
        half = MAX_ASKED_NODES // 2
        return [*known[: MAX_ASKED_NODES - min(half, len(named))], *named][:MAX_ASKED_NODES]

    async def _ask(self, node: Address) -> ClusterView:
        async with asyncio.timeout(self._timeout_s):
            calls = self.calls_to(node)
            try:
                info = await calls.execute_command("CLUSTER", "INFO")
                slots = await calls.execute_command("CLUSTER", "SLOTS")
            except redis_errors.ResponseError as error:
                if "cluster support disabled" in str(error) or "unknown command" in str(error).lower():
                    raise StoreRefused(
                        "The store is no Redis Cluster: name a single server with redis://, and one behind "
                        "sentinels with redis+sentinel://."
                    ) from None
                raise
        return ClusterView.of(info, slots, node)

    async def _forget_all_but(self, nodes: set[Address]) -> None:
        for node in self._calls.keys() - nodes:
            if not self._calls[node].n_open:
                with contextlib.suppress(redis_errors.RedisError):
                    await self._calls.pop(node).close()


def _slot_of(command: tuple[Any, ...]) -> int:
    """Slot of the first key of a command."""
    match command[0]:
        case "EVAL" | "EVALSHA":
            key = command[3]
        case "XREAD":
            key = command[command.index("STREAMS") + 1]
        case "MEMORY":
            key = command[2]
        case _:
            key = command[1]
    return int(key_slot(key if isinstance(key, bytes) else key.encode()))
