"""Damaged state: an error of ours with its place in the log, and never a 400 for the caller."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from aiohttp.typedefs import Handler
from http_calls import check_problem, decide, new_name, running, upload
from result_states import state_of
from services import ThrowawayService
from stores import ThrowawayStore, wait_until

from bandit_serve.errors import (
    BanditServeError,
    InvalidInput,
    LogLost,
    ModelLost,
    StateFault,
    StoreUnavailable,
    TooLarge,
    of_our_state,
)
from bandit_serve.log.fold import RESULTS_FOLD
from bandit_serve.log.snapshot import Snapshot
from bandit_serve.models import MatrixFactorization
from bandit_serve.server.app import _answered
from bandit_serve.server.routes import ROUTES
from bandit_serve.store.store import Store


@pytest.fixture(scope="module")
def store() -> Iterator[ThrowawayStore]:
    with ThrowawayStore() as running:
        yield running


@pytest.fixture(scope="module")
def service(store: ThrowawayStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path_factory.mktemp("data"), store=store.url) as running:
        yield running


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    users, items = [f"u{i % 9}" for i in range(99)], [f"i{i % 11}" for i in range(99)]
    ratings = [float(i % 5) for i in range(99)]
    MatrixFactorization(n_factors=2, seed=1, n_epochs=2).fit(users, items, ratings).save(path)
    return path.read_bytes()


def test_only_what_a_caller_gave_can_be_the_callers_fault_but_an_answer_can_be_too_large() -> None:
    def raising(error: Exception) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            raise error

        return handle

    request = make_mocked_request("GET", "/")
    routes = [route for route in ROUTES if route.takes is None and not route.query]
    assert any(413 in route.refuses for route in routes)
    for route in routes:
        with pytest.raises(TooLarge):
            asyncio.run(_answered(route, raising(TooLarge("too much")), request))
        with pytest.raises(StateFault):
            asyncio.run(_answered(route, raising(InvalidInput("wrong")), request))


def traceback_since(service: ThrowawayService, n_lines: int) -> str:
    return "".join(service.output[n_lines:]).partition("Traceback")[2]


SNAPSHOTS = {
    "no snapshot": b"garbage",
    "nothing": b"",
    "another version": zlib.compress(msgspec.msgpack.encode((4, b"", {}))),
    "no record": state_of(b"\xc1", {}),
    "no columns": state_of(msgspec.msgpack.encode({}), {}),
}


@pytest.mark.parametrize("content", SNAPSHOTS.values(), ids=SNAPSHOTS)
def test_a_results_snapshot_that_is_none_is_passed_over_where_the_log_is_whole(
    service: ThrowawayService, store: ThrowawayStore, content: bytes
) -> None:
    name = running(service)
    decide(service, name)

    async def damage() -> None:
        writing = Store(store.url)
        offset = await writing.last_offset(name)
        await writing.write_snapshot(name, RESULTS_FOLD, Snapshot(offset, content))
        await writing.close()

    asyncio.run(damage())
    n_lines = len(service.output)
    answer = service.call("GET", f"/v1/experiments/{name}/results")
    assert answer.status == 200
    wait_until(lambda: "from_state" in traceback_since(service, n_lines))
    decide(service, name)


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.chmod(0o644)
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "changed":
        path.write_bytes(content[:-8] + bytes(8))
    elif how == "a directory":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize("how", ["truncated", "empty", "changed", "a directory"])
def test_a_registered_file_that_is_damaged_is_our_fault(
    service: ThrowawayService, artifact: bytes, how: str
) -> None:
    model = new_name("model")
    version = upload(service, model, artifact).body
    path = service.data / "artifacts" / f"{version['sha256']}.safetensors"
    damaged(path, how)
    try:
        for path_of_route, body in [
            (f"/v1/models/{model}/versions/v1/load", None),
            (f"/v1/models/{model}/versions/v1/predict", {"user_id": "u1", "item_id": "i1"}),
            (f"/v1/models/{model}/versions/v1/status", {"status": "production"}),
        ]:
            n_lines = len(service.output)
            answer = service.call("POST", path_of_route, body)
            problem = check_problem(answer, 503)
            assert str(service.data) not in problem["detail"]
            assert "Errno" not in problem["detail"]
            if body is None:
                wait_until(lambda n=n_lines: model in "".join(service.output[n:]))
    finally:
        path.rmdir() if path.is_dir() else path.unlink()


def test_a_registered_file_above_a_limit_that_was_lowered_is_our_fault(
    store: ThrowawayStore, service: ThrowawayService, artifact: bytes
) -> None:
    model = new_name("model")
    assert upload(service, model, artifact).status == 201
    with ThrowawayService(service.data, "--max-artifact", "1024", store=store.url) as lowered:
        answer = lowered.call("POST", f"/v1/models/{model}/versions/v1/predict", {"user_id": "u", "k": 1})
        check_problem(answer, 503)
        wait_until(lambda: model in "".join(lowered.output))


def test_what_state_refuses_is_a_fault_of_state_and_an_outage_stays_one() -> None:
    for error in (InvalidInput("x"), BanditServeError("x")):
        with (
            pytest.raises(StateFault, match="The shelf can not be read") as raised,
            of_our_state("The shelf"),
        ):
            raise error
        assert raised.value.__cause__ is error
    for error in (StoreUnavailable("x"), LogLost("x"), ModelLost("x"), KeyError("x")):
        with pytest.raises(type(error)), of_our_state("The shelf"):
            raise error
