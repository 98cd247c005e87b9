"""Commands that work on a store: the options that say which one, and the running of what they do."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any

import typer

from bandit_serve.cli.access import connected, following, store_url
from bandit_serve.cli.data_directory import require_data_directory
from bandit_serve.settings import Settings, load_settings

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Why, for the history.")]

Work = Callable[..., Awaitable[None]]

# By the names of the settings that they set.
WHERE: dict[str, Any] = {
    "store": Annotated[
        str | None,
        typer.Option(
            help="redis://, rediss:// or unix:// URL (default: the private server of the data directory)."
        ),
    ],
    "data": Annotated[str | None, typer.Option(help="Data directory (default: bandit-serve-data).")],
    "artifacts": Annotated[
        str | None,
        typer.Option(
            help="Where model files are kept: store, or a URL for fsspec (default: the data directory)."
        ),
    ],
    "namespace": Annotated[
        str | None, typer.Option(help="Prefix of all keys in the store (default: bandit_serve).")
    ],
    "store_timeout": Annotated[str | None, typer.Option(help="Longest wait for the store (default: 1s).")],
    "max_artifact": Annotated[
        int | None, typer.Option(help="Largest artifact, in bytes (default: 4294967296).")
    ],
}
CONFIG = Annotated[str | None, typer.Option(help="Config file (TOML).")]


def with_state(work: Work) -> Callable[..., None]:
    """A command from `work(node, …)`: the node has the state and follows the logs."""

    async def run(settings: Settings, url: str, arguments: dict[str, Any]) -> None:
        async with following(settings, url) as node:
            await work(node, **arguments)

    return _command(work, run)


def of_existing_store(work: Work) -> Work:
    """Marks `work` as one that makes nothing new: where there is no store, it does not make one."""
    work.of_existing_store = True  # type: ignore[attr-defined]
    return work


def with_store(work: Work) -> Callable[..., None]:
    """A command from `work(node, …)`: the node's store may be used, and nothing is read yet."""

    async def run(settings: Settings, url: str, arguments: dict[str, Any]) -> None:
        async with connected(settings, url) as node:
            await work(node, **arguments)

    return _command(work, run)


def _command(
    work: Work, run: Callable[[Settings, str, dict[str, Any]], Coroutine[Any, Any, None]]
) -> Callable[..., None]:
    """`work` without its first parameter and with the options of `WHERE`."""

    def command(config: str | None, **arguments: Any) -> None:
        flags = {name: arguments.pop(name) for name in WHERE}
        settings = load_settings(flags, config=config)
        if getattr(work, "of_existing_store", False):
            require_data_directory(settings)
        with store_url(settings) as url:
            asyncio.run(run(settings, url, arguments))

    own = list(inspect.signature(work, eval_str=True).parameters.values())[1:]
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in (*WHERE.items(), ("config", CONFIG))
    ]
    own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    functools.update_wrapper(command, work, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    del command.__wrapped__  # type: ignore[attr-defined]
    command.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in (*own, *options)}
    return command
