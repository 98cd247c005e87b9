"""Commands `bandit-serve webhooks`: whether receivers take what they will be told."""

from __future__ import annotations

import asyncio
import secrets
from typing import Annotated

import typer
from msgspec import Struct

from bandit_serve.base.clock import now_ms, rfc3339
from bandit_serve.cli.command import AsJson
from bandit_serve.cli.output import print_json, print_table
from bandit_serve.cli.setting_options import takes_settings
from bandit_serve.errors import UpstreamFailed, UsageError, in_full
from bandit_serve.notices.courier import Receiver
from bandit_serve.notices.notice import NoticeBody
from bandit_serve.settings import Settings
from bandit_serve.upstreams.pool import UpstreamPool
from bandit_serve.upstreams.upstream import AllowedUpstreams
from bandit_serve.webhook import EVENTS, WebhookEvent

app = typer.Typer(help="Addresses that are told of events.", no_args_is_help=True)


class TriedWebhook(Struct, frozen=True):
    """Webhook, without what is secret in its address, and why it did not take the notice, if so."""

    url: str
    events: list[str]
    signed: bool
    delivered: bool
    problem: str | None


class TriedWebhooks(Struct, frozen=True):
    """Notice that was sent, and what became of it."""

    id: str
    webhooks: list[TriedWebhook]


@app.callback()
def _webhooks() -> None:
    pass


@app.command("test")
@takes_settings("webhooks")
def send_test(
    settings: Settings,
    event: Annotated[
        WebhookEvent | None, typer.Option(help="What the notice says that it is (default: test).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Sends a notice to each webhook, signed as all are. Its data says that it is a test."""
    if not settings.webhooks:
        raise UsageError(
            f"No webhook is configured: name url and events ({', '.join(EVENTS)}) in `webhooks`."
        )
    tried = asyncio.run(_send(settings, event or "test"))
    if as_json:
        print_json(tried)
    else:
        rows = [
            (each.url, ", ".join(each.events), "yes" if each.signed else "no", each.problem or "delivered")
            for each in tried.webhooks
        ]
        print_table(("Webhook", "Events", "Signed", "Result"), rows, whole=("Webhook",))
    if not all(each.delivered for each in tried.webhooks):
        raise typer.Exit(1)


async def _send(settings: Settings, event: str) -> TriedWebhooks:
    body = NoticeBody(
        id=f"test:{secrets.token_hex(8)}", event=event, at=rfc3339(now_ms()), data={"test": True}
    )
    content, pool = body.encoded(), UpstreamPool(AllowedUpstreams(()))
    tried = []
    try:
        for number, webhook in enumerate(settings.told_webhooks, 1):
            problem = None
            try:
                await Receiver(webhook, number, pool).send(content)
            except UpstreamFailed as error:
                problem = in_full(error)
            tried.append(
                TriedWebhook(
                    webhook.place, list(webhook.events), webhook.secret is not None, problem is None, problem
                )
            )
    finally:
        await pool.close()
    return TriedWebhooks(body.id, tried)
