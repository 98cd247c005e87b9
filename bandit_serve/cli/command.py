"""Commands that work on a store: their common options, and the node that their work gets."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any

import typer

from bandit_serve.cli.access import connected, following, store_url
from bandit_serve.cli.data_directory import require_data_directory
from bandit_serve.cli.setting_options import takes_settings
from bandit_serve.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Why, for the history.")]

Tenant = Annotated[str | None, typer.Option(help="Whose it is (default: the service itself).")]

Experiment = Annotated[str, typer.Argument(help="The experiment's name.", show_default=False)]

Work = Callable[..., Awaitable[None]]

WHERE = ("store", "data", "artifacts", "namespace", "store_timeout", "max_artifact", "upstreams")


def with_state(work: Work) -> Callable[..., None]:
    """Decorator: makes a command of `work(node, …)`. The node has loaded the state and follows the logs."""

    async def run(settings: Settings, url: str, tenant: str | None, arguments: dict[str, Any]) -> None:
        async with following(settings, url, tenant) as node:
            await work(node, **arguments)

    return _command(work, run)


def of_existing_store(work: Work) -> Work:
    """Decorator: marks `work` as a command that must not create a store where there is none."""
    work.of_existing_store = True  # type: ignore[attr-defined]
    return work


def with_store(work: Work) -> Callable[..., None]:
    """Decorator: makes a command of `work(node, …)`. The node's store is usable, and nothing is read yet."""

    async def run(settings: Settings, url: str, tenant: str | None, arguments: dict[str, Any]) -> None:
        async with connected(settings, url, tenant) as node:
            await work(node, **arguments)

    return _command(work, run)


def _command(
    work: Work, run: Callable[[Settings, str, str | None, dict[str, Any]], Coroutine[Any, Any, None]]
) -> Callable[..., None]:
    """Makes a command of `work`: without its first parameter, and with options for the settings in `WHERE`.

    It gets the node of the tenant that `--tenant` names, unless `work` has that option for something of its own.
    """
    signature = inspect.signature(work, eval_str=True)
    has_tenant = "tenant" in signature.parameters

    def command(settings: Settings, **arguments: Any) -> None:
        tenant = None if has_tenant else arguments.pop("tenant")
        if getattr(work, "of_existing_store", False):
            require_data_directory(settings)
        with store_url(settings) as url:
            asyncio.run(run(settings, url, tenant, arguments))

    functools.update_wrapper(command, work)
    if not has_tenant:
        option = inspect.Parameter("tenant", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Tenant)
        parameters = [*signature.parameters.values(), option]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return takes_settings(*WHERE)(command)
