"""Receiver of webhooks for tests: a real HTTP server that checks what it gets, and may refuse some of it."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import re
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from scripted_server import CLOSE, Received, Script, ScriptedServer, answer

SECRET = "s3cret-of-the-receiver"


class WebhookReceiver:
    """Receiver in a `with` block. `script(number)` says how the request with this number, from 0, is answered.

    `bodies` has the body of each id that was answered with a status of the 200s, `tries` the number of requests for
    each id. `faults` are requests that are not as they should be.
    """

    def __init__(self, script: Callable[[int], Script] | None = None, secret: str | None = SECRET) -> None:
        self.bodies: dict[str, dict[str, Any]] = {}
        self.tries: dict[str, int] = {}
        self.faults: list[str] = []
        self._bytes: dict[str, bytes] = {}
        self._script = script or (lambda number: answer())
        self._secret = secret
        self._lock = threading.Lock()
        self._server = ScriptedServer(self._take)

    @property
    def url(self) -> str:
        return f"{self._server.url}/hooks/token-of-the-path"

    def webhook(self, *events: str) -> dict[str, Any]:
        signed = {} if self._secret is None else {"secret": "env:HOOK_SECRET"}
        return {"url": self.url, "events": list(events), **signed}

    def of(self, event: str) -> list[dict[str, Any]]:
        """Bodies of one kind of event."""
        return [body for body in list(self.bodies.values()) if body["event"] == event]

    def _take(self, request: Received, number: int) -> Script:
        script = self._script(number)
        with self._lock:
            body = json.loads(request.body)
            id = body["id"]
            if self._bytes.setdefault(id, request.body) != request.body:
                self.faults.append(f"{id} came with another body")
            if self._secret is not None:
                expected = hmac.new(self._secret.encode(), request.body, hashlib.sha256).hexdigest()
                if f"X-Signature: sha256={expected}".encode() not in request.head:
                    self.faults.append(f"{id} is not signed")
            if set(body) - {"experiment", "tenant"} != {"id", "event", "at", "data"}:
                self.faults.append(f"{id} has the fields {sorted(body)}")
            if not re.match(rb"POST /hooks/token-of-the-path HTTP/1.1\r\n", request.head):
                self.faults.append(request.line)
            self.tries[id] = self.tries.get(id, 0) + 1
            if re.match(rb"HTTP/1.1 2", script.sent):
                self.bodies[id] = body
        return script

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, trace)


def unreliable(number: int) -> Script:
    """Answers as it should, most of the time; else with an error, with a redirect, or not at all."""
    redirect = answer(b"", 302, "Location: http://127.0.0.1:1/elsewhere")
    return random.Random(number).choice([answer(status=500), redirect, CLOSE, *[answer()] * 5])
