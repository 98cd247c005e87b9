"""Both clients of the service, called alike."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bandit_serve_client import Client, SyncClient


class Called:
    """`Client` or a part of it, whose calls return when they are done, in the event loop of `runner`."""

    def __init__(self, part: Any, runner: asyncio.Runner) -> None:
        self._part = part
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        own = getattr(self._part, name)
        if name in ("experiments", "models"):
            return Called(own, self._runner)
        return self._waiting(own) if callable(own) else own

    def _waiting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def done(arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
            result = call(*arguments, **named)
            return await result if inspect.isawaitable(result) else result

        return lambda *arguments, **named: self._runner.run(done(arguments, named))


@contextmanager
def asyncio_client(url: str, key: str | None = None, **settings: Any) -> Iterator[Any]:
    with asyncio.Runner() as runner:
        client = Called(Client(url, key, **settings), runner)
        try:
            yield client
        finally:
            client.close()


@contextmanager
def threads_client(url: str, key: str | None = None, **settings: Any) -> Iterator[Any]:
    with SyncClient(url, key, **settings) as client:
        yield client


CLIENTS = {"asyncio": asyncio_client, "threads": threads_client}
