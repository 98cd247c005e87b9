"""Webhook: an address that is told of events, as the configuration names it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from bandit_serve.base.mistakes import expected_one_of
from bandit_serve.base.secrets import MASK, know_secrets
from bandit_serve.base.validation import field_error
from bandit_serve.errors import FieldError, UsageError

WebhookEvent = Literal[
    "winner", "harm", "alarm", "srm", "drift", "ejection", "set_aside", "degraded", "promotion"
]
EVENTS: tuple[WebhookEvent, ...] = get_args(WebhookEvent)
MAX_WEBHOOKS = 32
MAX_URL_CHARS = 2_048
MIN_SECRET_CHARS = 12
"""What is shorter behind the host is an ordinary word, which must not be masked wherever it stands."""
SETTING = "webhooks"

_secret = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]{0,255}|file:/[^\x00-\x1f\x7f]+")
_visible = re.compile(r"[\x21-\x7e]+")


class Webhook(Struct, frozen=True, forbid_unknown_fields=True):
    """Address that is told of `events`. `secret` names the place of the key that signs: `env:NAME` or `file:/PATH`."""

    url: str
    events: tuple[WebhookEvent, ...]
    secret: str | None = None

    @property
    def place(self) -> str:
        """Address without what may be secret in it: many receivers have a token in the path or the query."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


def read_webhooks(text: str) -> tuple[Webhook, ...]:
    """Webhooks of the setting's value, JSON. Raises `UsageError` with all that is wrong with them.

    What follows the host in an address is a secret from now on.
    """
    try:
        webhooks = msgspec.json.decode(text, type=list[Webhook])
    except msgspec.ValidationError as error:
        raise _wrong([_explained(error)]) from None
    except msgspec.DecodeError:
        raise _wrong([FieldError(SETTING, "expected a list of tables in the config file, or JSON")]) from None
    errors = (
        [] if len(webhooks) <= MAX_WEBHOOKS else [FieldError(SETTING, f"expected at most {MAX_WEBHOOKS}")]
    )
    for number, webhook in enumerate(webhooks):
        errors += [FieldError(f"{SETTING}[{number}].{at}", detail) for at, detail in _faults(webhook).items()]
    if len({webhook.url for webhook in webhooks}) < len(webhooks):
        errors.append(FieldError(SETTING, "expected each url once: name all of its events together"))
    if errors:
        raise _wrong(errors)
    for webhook in webhooks:
        behind = webhook.url.removeprefix(webhook.place).lstrip("/?")
        if len(behind) >= MIN_SECRET_CHARS:
            know_secrets(behind)
    return tuple(webhooks)


def shown_webhooks(text: str) -> str:
    """Value of the setting without what is secret in addresses."""
    try:
        webhooks = msgspec.json.decode(text, type=list[Webhook])
        shown = [msgspec.structs.replace(each, url=f"{each.place}/{MASK}") for each in webhooks]
    except (ValueError, msgspec.DecodeError):
        return MASK
    return msgspec.json.encode(shown).decode()


def written(value: Any) -> Any:
    """Value of the setting as text, where a config file has it as tables."""
    return msgspec.json.encode(value).decode() if isinstance(value, list) else value


def _faults(webhook: Webhook) -> Mapping[str, str]:
    """What is wrong with a webhook, by its field."""
    faults = {}
    if not _is_address(webhook.url):
        faults["url"] = "expected an http:// or https:// URL without user, password or fragment"
    if not webhook.events or len(set(webhook.events)) < len(webhook.events):
        faults["events"] = "expected at least one event, each once"
    if webhook.secret is not None and not _secret.fullmatch(webhook.secret):
        faults["secret"] = (
            'expected "env:NAME" or "file:/PATH", where the secret is, and never the secret itself'
        )
    return faults


def _is_address(url: str) -> bool:
    if len(url) > MAX_URL_CHARS or not _visible.fullmatch(url) or "#" in url or "\\" in url:
        return False
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc and port != 0
    )


def _explained(error: msgspec.ValidationError) -> FieldError:
    field = field_error(error, SETTING)
    # Other mistakes may quote nothing of the value.
    if ".events[" in field.at and "Invalid enum value" in field.detail:
        given = re.search(r"'([^']{0,40})'", field.detail)
        return FieldError(field.at, expected_one_of(given[1] if given else "", EVENTS))
    return field


def _wrong(errors: list[FieldError]) -> UsageError:
    return UsageError(f"The setting {SETTING} is wrong: {errors[0].at}: {errors[0].detail}.", errors)
