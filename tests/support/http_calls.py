"""Calls that many HTTP tests make: valid bodies, MessagePack, problems, multipart."""

from __future__ import annotations

import itertools
import json
import secrets
from typing import Any

import msgpack
from services import Answer, ThrowawayService

MSGPACK = "application/msgpack"
PROBLEM = "application/problem+json"

_numbers = itertools.count(1)


def new_name(stem: str = "e") -> str:
    return f"{stem}-{next(_numbers)}"


def experiment(**changes: Any) -> dict[str, Any]:
    """Body of a valid experiment with a unique name: two arms, a binary objective, an even split."""
    return {
        "id": new_name(),
        "arms": [{"name": "control"}, {"name": "challenger"}],
        "metrics": [{"name": "click", "kind": "binary"}],
        "policy": {"kind": "fixed_split"},
        "attribution": {"missing": "ignore"},
        **changes,
    }


def draft(service: ThrowawayService, **changes: Any) -> str:
    body = experiment(**changes)
    made = service.call("POST", "/v1/experiments", body)
    assert made.status == 201, made
    return str(body["id"])


def running(service: ThrowawayService, **changes: Any) -> str:
    name = draft(service, **changes)
    started = service.call("POST", f"/v1/experiments/{name}/start")
    assert started.status == 200, started
    return name


def decide(service: ThrowawayService, name: str, **body: Any) -> dict[str, Any]:
    decided = service.call("POST", f"/v1/experiments/{name}/decide", body)
    assert decided.status == 200, decided
    decision: dict[str, Any] = decided.body
    return decision


def decide_many(service: ThrowawayService, name: str, units: list[str]) -> dict[str, list[Any]]:
    """Decides for many units in the columnar form, 10,000 a request."""
    columns: dict[str, list[Any]] = {"decision_ids": [], "arms": [], "propensities": []}
    for start in range(0, len(units), 10_000):
        body = {"units": units[start : start + 10_000]}
        answer = call_msgpack(service, f"/v1/experiments/{name}/decide/batch", body)
        assert answer.status == 200, answer
        columns["arm_names"] = answer.body["arm_names"]
        for column in ("decision_ids", "arms", "propensities"):
            columns[column] += answer.body[column]
    return columns


def reward_many(service: ThrowawayService, tokens: list[str], values: list[float]) -> list[str]:
    verdicts: list[str] = []
    for start in range(0, len(tokens), 10_000):
        pairs = zip(tokens[start : start + 10_000], values[start : start + 10_000], strict=True)
        rewards = [{"decision_id": token, "value": value} for token, value in pairs]
        answer = call_msgpack(service, "/v1/rewards", {"rewards": rewards})
        assert answer.status == 200, answer
        verdicts += answer.body["verdicts"]
    return verdicts


def call_msgpack(
    service: ThrowawayService, path: str, body: Any, accept: str | None = None, method: str = "POST"
) -> Answer:
    """Sends a request in MessagePack; decodes the answer by its content type."""
    headers = {"Content-Type": MSGPACK, **({"Accept": accept} if accept else {})}
    content = body if isinstance(body, bytes) else msgpack.packb(body)
    answer = service.call(method, path, content, headers)
    if answer.headers["Content-Type"] == MSGPACK:
        return answer._replace(body=msgpack.unpackb(answer.body))
    return answer


def check_problem(answer: Answer, status: int, *at: str) -> dict[str, Any]:
    """Asserts that an answer is a problem of this status with errors at these fields; returns its body."""
    assert answer.status == status, answer
    assert answer.headers["Content-Type"] == PROBLEM
    body: dict[str, Any] = answer.body
    assert (
        {"type", "title", "status", "detail"} <= set(body) <= {"type", "title", "status", "detail", "errors"}
    )
    assert body["status"] == status
    assert body["type"].startswith("urn:bandit-serve:problem:")
    assert body["title"]
    assert body["detail"].endswith(".")
    assert all(set(error) == {"at", "detail"} and error["detail"] for error in body.get("errors", []))
    if at:
        assert [error["at"] for error in body["errors"]] == list(at)
    return body


def check_refusal(path: str, answer: Answer, status: int, *at: str) -> dict[str, Any]:
    """Asserts that an answer is an error in the dialect of its path; returns a body with its `detail`."""
    if path.startswith("/v2"):
        assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json"), answer
        assert set(answer.body) == {"error"}
        return {"detail": answer.body["error"]}
    if path.startswith("/ofrep/"):
        assert answer.body["errorDetails"] == answer.body["detail"], answer
        members = {"key", "errorCode", "errorDetails"}
        answer = answer._replace(body={key: answer.body[key] for key in answer.body if key not in members})
    return check_problem(answer, status, *at)


def upload(
    service: ThrowawayService,
    model: str,
    artifact: bytes | None,
    metadata: Any = None,
    timeout_s: float = 30.0,
) -> Answer:
    """Registers a version by multipart/form-data."""
    boundary = secrets.token_hex(16)
    parts = []
    if metadata is not None:
        content = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
        parts.append(_part(boundary, 'name="metadata"', "application/json", content))
    if artifact is not None:
        name = 'name="artifact"; filename="model.safetensors"'
        parts.append(_part(boundary, name, "application/octet-stream", artifact))
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return service.call("POST", f"/v1/models/{model}/versions", body, headers, timeout_s)


def _part(boundary: str, name: str, content_type: str, content: bytes) -> bytes:
    head = f"--{boundary}\r\nContent-Disposition: form-data; {name}\r\nContent-Type: {content_type}\r\n\r\n"
    return head.encode() + content + b"\r\n"
