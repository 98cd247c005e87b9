"""Sentinels of a store: which server is the master now, and connections that lead to it."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple, Protocol

from redis.exceptions import AuthenticationError, ReadOnlyError, ResponseError

from bandit_serve.errors import StoreRefused
from bandit_serve.store.poll import ask_most
from bandit_serve.store.url import Address, StoreUrl


class SentinelView(NamedTuple):
    """What one sentinel says of the service. `epoch` counts the failovers that it knows of."""

    epoch: int
    master: Address
    n_replicas: int
    n_sentinels: int


class OpensConnection(Protocol):
    def __call__(self, address: Address, username: str | None, password: str | None) -> Any: ...


class Sentinels:
    """Sentinels that the URL names. They are asked anew for each connection, since an address may have gone over.

    `open_connection` makes a connection of redis-py to an address, with these credentials.
    """

    def __init__(self, url: StoreUrl, open_connection: OpensConnection, timeout_s: float) -> None:
        self._url = url
        self._open = open_connection
        self._timeout_s = timeout_s
        self._asking: asyncio.Task[SentinelView] | None = None

    async def master(self) -> Address:
        return (await self.view()).master

    async def view(self) -> SentinelView:
        """The newest of what the sentinels say. Callers at the same time share the question.

        Raises redis-py's errors where no sentinel answers, and StoreRefused where they know no such service.
        """
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_all(), name="question to the sentinels")
            self._asking.add_done_callback(self._asked)
        return await asyncio.shield(self._asking)

    def _asked(self, task: asyncio.Task[SentinelView]) -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # whoever has asked and is gone by now does not need it

    async def _ask_all(self) -> SentinelView:
        views = await ask_most([self._ask(address) for address in self._url.addresses])
        return max(views, key=lambda view: view.epoch)

    async def _ask(self, address: Address) -> SentinelView:
        url = self._url
        logins = [(url.sentinel_username, url.sentinel_password)]
        if url.sentinel_password is None and url.password is not None:
            logins.append((url.username, url.password))
        for username, password in logins:
            connection = self._open(address, username, password)
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await self._ask_over(connection)
            except (AuthenticationError, ResponseError) as error:
                # Only a sentinel that wants a login is told one.
                if "NOAUTH" not in str(error) and "Authentication required" not in str(error):
                    raise
                wanted = error
            finally:
                await connection.disconnect(nowait=True)
        raise wanted

    async def _ask_over(self, connection: Any) -> SentinelView:
        service = self._url.service
        try:
            await connection.send_command("SENTINEL", "MASTER", service)
            told = await connection.read_response()
            await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
            address = await connection.read_response()
        except ResponseError as error:
            if "No such master" in str(error):
                raise StoreRefused(
                    f"The sentinels know no service {service}: name it as they do in the store's URL."
                ) from None
            if "unknown command" in str(error).lower():
                raise StoreRefused(
                    "The store's URL names sentinels, and what answers there is none: name a single server with "
                    "redis://, and a cluster with redis+cluster://."
                ) from None
            raise
        about = dict(zip(told[::2], told[1::2], strict=True))
        return SentinelView(
            int(about.get(b"config-epoch", 0)),
            Address(address[0].decode(), int(address[1])),
            int(about.get(b"num-slaves", 0)),
            int(about.get(b"num-other-sentinels", 0)) + 1,
        )


class LeadsToMaster:
    """Connection of redis-py that leads to whatever server is the master when it connects."""

    host: str
    port: int

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels

    async def _connect(self) -> None:
        self.host, self.port = await self._sentinels.master()
        await super()._connect()  # type: ignore[misc]

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        await super().on_connect_check_health(check_health)  # type: ignore[misc]
        # A master of old that has just come back thinks that it is one still, and sentinels may not know better yet.
        await self.send_command("ROLE", check_health=False)  # type: ignore[attr-defined]
        role = (await self.read_response())[0]  # type: ignore[attr-defined]
        if role != b"master":
            raise ReadOnlyError("READONLY the server that the sentinels name is a replica")
