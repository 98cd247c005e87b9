"""Traffic of the Python clients, compared with the description that the service gives of itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from bandit_serve_client.async_connections import AsyncConnections
from bandit_serve_client.connections import Connections
from bandit_serve_client.http import Answer, Request
from jsonschema import Draft202012Validator


class Traffic:
    """Requests and answers of clients. `operations` are those of the description that were called."""

    def __init__(self, description: dict[str, Any]) -> None:
        self.description = description
        self.operations: set[str] = set()
        self._paths = {
            re.compile(re.sub(r"\{\w+\}", "[^/]+", path) + r"(?:\?.*)?"): methods
            for path, methods in description["paths"].items()
        }

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Compares what both clients send and are answered while the block runs."""
        ask, async_ask = Connections.ask, AsyncConnections.ask

        def checked_ask(connections: Connections, request: Request, until_s: float) -> Answer:
            answer = ask(connections, request, until_s)
            self._check(request, answer)
            return answer

        async def checked_async_ask(
            connections: AsyncConnections, request: Request, until_s: float
        ) -> Answer:
            answer = await async_ask(connections, request, until_s)
            self._check(request, answer)
            return answer

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Connections, "ask", checked_ask)
            patch.setattr(AsyncConnections, "ask", checked_async_ask)
            yield

    def _check(self, request: Request, answer: Answer) -> None:
        (methods,) = [methods for path, methods in self._paths.items() if path.fullmatch(request.path)]
        operation = methods[request.method.lower()]
        self.operations.add(operation["operationId"])
        body = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if body is not None and ("Content-Type", "application/json") in request.headers:
            self._validate(json.loads(request.body), body["schema"])
        response = operation["responses"][str(answer.status)]
        if "$ref" in response:
            response = self.description["components"]["responses"][response["$ref"].rpartition("/")[2]]
        if answer.content:
            schema = response["content"][answer.headers["content-type"]]["schema"]
            self._validate(json.loads(answer.content), schema)

    def _validate(self, value: Any, schema: dict[str, Any]) -> None:
        Draft202012Validator({**schema, "components": self.description["components"]}).validate(value)
