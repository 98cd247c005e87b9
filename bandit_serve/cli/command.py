"""Commands that work on a store: the options that say which one, and the running of what they do."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any

import typer

from bandit_serve.cli.house import open_house, open_store, require_data_directory, store_url
from bandit_serve.cli.setting_options import takes_settings
from bandit_serve.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Why, for the history.")]

Work = Callable[..., Awaitable[None]]

WHERE = ("store", "data", "artifacts", "namespace", "store_timeout", "max_artifact")


def in_house(work: Work) -> Callable[..., None]:
    """A command from `work(house, …)`: `house` is loaded and follows the logs."""

    async def run(settings: Settings, url: str, arguments: dict[str, Any]) -> None:
        async with open_house(settings, url) as house:
            await work(house, **arguments)

    return _command(work, run)


def of_what_is_there(work: Work) -> Work:
    """Marks `work` as one that makes nothing new: where there is no store, it does not make one."""
    work.of_what_is_there = True  # type: ignore[attr-defined]
    return work


def at_store(work: Work) -> Callable[..., None]:
    """A command from `work(store, …)`: the store is checked, and nothing is read yet."""

    async def run(settings: Settings, url: str, arguments: dict[str, Any]) -> None:
        async with open_store(settings, url) as store:
            await work(store, **arguments)

    return _command(work, run)


def _command(
    work: Work, run: Callable[[Settings, str, dict[str, Any]], Coroutine[Any, Any, None]]
) -> Callable[..., None]:
    """`work` without its first parameter and with the options of the settings in `WHERE`."""

    def command(settings: Settings, **arguments: Any) -> None:
        if getattr(work, "of_what_is_there", False):
            require_data_directory(settings)
        with store_url(settings) as url:
            asyncio.run(run(settings, url, arguments))

    return takes_settings(*WHERE)(functools.update_wrapper(command, work))
