"""Webhooks in the settings: each mistake is named where it is, and nothing secret is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bandit_serve.base.secrets import concealed
from bandit_serve.errors import UsageError
from bandit_serve.settings import load_settings

GOOD = {"url": "https://alerts.example/t0ken-in-path?key=v4lue", "events": ["winner"], "secret": "env:HOOK"}
URL, EVENTS, SECRET = ("webhooks[0].url", "webhooks[0].events", "webhooks[0].secret")


@pytest.mark.parametrize(
    ("field", "value", "at"),
    [
        ("url", "ftp://alerts.example", URL),
        ("url", "https://", URL),
        ("url", "https://user:password@alerts.example/", URL),
        ("url", "https://alerts.example/#a", URL),
        ("url", "https://alerts.example/a b", URL),
        ("url", "https://alerts.example:99999/", URL),
        ("url", "https://alerts.example\\@internal/", URL),
        ("url", "file:///etc/passwd", URL),
        ("url", f"https://alerts.example/{'a' * 2_048}", URL),
        ("url", 7, URL),
        ("events", [], EVENTS),
        ("events", ["winner", "winner"], EVENTS),
        ("events", ["winer"], "webhooks[0].events[0]"),
        ("events", "winner", EVENTS),
        ("secret", "hunter2-as-it-is", SECRET),
        ("secret", "env:", SECRET),
        ("secret", "file:relative", SECRET),
        ("header", "X", "webhooks[0].header"),
    ],
)
def test_a_mistake_is_named_where_it_is(field: str, value: Any, at: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings({"webhooks": json.dumps([GOOD | {field: value}])}, environ={})
    assert at in [error.at for error in caught.value.errors]
    assert "hunter2" not in str(caught.value)


def test_each_address_is_named_once_and_there_are_not_too_many() -> None:
    for webhooks in ([GOOD, GOOD], [GOOD | {"url": f"https://alerts.example/{n}"} for n in range(33)]):
        with pytest.raises(UsageError, match="expected"):
            load_settings({"webhooks": json.dumps(webhooks)}, environ={})


def test_tables_of_the_config_file_are_the_same_as_json(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    lines = [f"{name} = {json.dumps(value)}" for name, value in GOOD.items()]
    path.write_text("\n".join(["[[webhooks]]", *lines]))
    of_file = load_settings({}, environ={}, config=str(path))
    of_variable = load_settings({}, environ={"BANDIT_SERVE_WEBHOOKS": json.dumps([GOOD])})
    assert of_file.told_webhooks == of_variable.told_webhooks
    (webhook,) = of_file.told_webhooks
    assert (webhook.place, webhook.secret) == ("https://alerts.example", "env:HOOK")


def test_what_may_be_secret_in_an_address_is_shown_nowhere() -> None:
    settings = load_settings({"webhooks": json.dumps([GOOD])}, environ={})
    for text in (repr(settings), json.dumps(settings.shown()), concealed(f"can not reach {GOOD['url']}")):
        assert "t0ken-in-path" not in text
        assert "v4lue" not in text
    assert "https://alerts.example/***" in repr(settings)
