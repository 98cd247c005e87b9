"""Remote versions: readiness, what is read of the model once, and background scores."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import msgspec
import pytest
from upstreams import ThrowawayUpstream

from bandit_serve.api.decisions import ScoreRequest
from bandit_serve.base.http_address import HttpAddress
from bandit_serve.errors import (
    BanditServeError,
    ContentRefused,
    InvalidInput,
    ModelLost,
    TooLarge,
    UpstreamFailed,
)
from bandit_serve.registry.registry import REMOTE, Version
from bandit_serve.serving.kinds import check_of, patience_s, rows_at_once
from bandit_serve.serving.open_inference import check_question
from bandit_serve.serving.request_form import check_form
from bandit_serve.serving.upstream_version import MAX_FAILURES_IN_TURN, MAX_TRIALS_AT_ONCE, UpstreamVersion
from bandit_serve.upstreams.pool import MAX_CONNECTIONS, UpstreamPool
from bandit_serve.upstreams.upstream import AllowedUpstreams, Upstream

T = TypeVar("T")
AGE = [{"name": "age", "datatype": "FP32", "shape": [-1, 1]}]


@pytest.fixture
def server() -> Iterator[ThrowawayUpstream]:
    with ThrowawayUpstream(inputs=AGE) as upstream:
        yield upstream


def run(server: ThrowawayUpstream, scenario: Callable[[UpstreamVersion], Awaitable[T]], **fields: Any) -> T:
    upstream = Upstream(**{"url": server.base, "protocol": "open-inference", "timeout": "300ms", **fields})

    async def whole() -> T:
        pool = UpstreamPool(AllowedUpstreams([HttpAddress.parse(server.base)]))
        try:
            asked = UpstreamVersion(pool, upstream, "ranker", "v1")
            await asked.warm()
            return await scenario(asked)
        finally:
            await pool.close()

    return asyncio.run(whole())


def request(**fields: Any) -> ScoreRequest:
    return msgspec.convert(fields, ScoreRequest)


def test_inputs_are_read_once_and_only_they_are_sent(server: ThrowawayUpstream) -> None:
    async def scenario(asked: UpstreamVersion) -> None:
        for age in (30, 40):
            scores = await asked.score(request(user_id="u", features={"age": age, "more": 1}))
            assert scores == {"outputs": {"probabilities": [0.5, 0.5], "label": "yes"}}

    run(server, scenario)
    path = "/v2/models/ranker"
    assert [each.path for each in server.asked] == [f"{path}/ready", path, *[f"{path}/infer"] * 2]
    tensor = {"name": "age", "shape": [1, 1], "datatype": "FP32"}
    assert [each.body for each in server.asked[2:]] == [
        {"inputs": [{**tensor, "data": [age]}]} for age in (30.0, 40.0)
    ]


def test_the_model_may_have_another_name_there(server: ThrowawayUpstream) -> None:
    async def scenario(asked: UpstreamVersion) -> None:
        await asked.score(request(features={"age": 1}))

    run(server, scenario, model="there.v2")
    assert server.asked[-1].path == "/v2/models/there.v2/infer"


def test_a_request_without_an_input_is_refused_and_not_sent(server: ThrowawayUpstream) -> None:
    async def scenario(asked: UpstreamVersion) -> None:
        with pytest.raises(ContentRefused, match="it lacks the input 'age'"):
            await asked.score(request(user_id="u"))
        with pytest.raises(InvalidInput, match=r"features\.more: the model has no such input"):
            await asked.score(request(features={"age": 1, "more": 2}), alone=True)

    run(server, scenario)
    assert server.n_asked == 0


def test_background_scores_are_in_order_and_a_few_at_once(server: ThrowawayUpstream) -> None:
    async def scenario(asked: UpstreamVersion) -> list[Any]:
        requests = [request(user_id=f"u{i}", item_id="i") for i in range(3 * MAX_TRIALS_AT_ONCE)]
        return [each.scores for each in await asked.score_all(requests)]

    with_items = {"url": server.url, "protocol": "json"}
    assert run(server, scenario, **with_items) == [{"prediction": 0.5}] * 3 * MAX_TRIALS_AT_ONCE
    assert [each.body["user_id"] for each in server.asked] == [f"u{i}" for i in range(3 * MAX_TRIALS_AT_ONCE)]


def test_background_scores_of_one_that_hangs_are_given_up(server: ThrowawayUpstream) -> None:
    server.mode = "hang"

    async def scenario(asked: UpstreamVersion) -> list[Any]:
        requests = [request(user_id="u", item_id="i") for _ in range(200)]
        return [each.scores for each in await asked.score_all(requests)]

    scores = run(server, scenario, url=server.url, protocol="json")
    assert len(scores) == 200
    assert all(isinstance(each, BanditServeError) for each in scores)
    assert MAX_FAILURES_IN_TURN <= server.n_asked <= 2 * MAX_TRIALS_AT_ONCE


@pytest.mark.parametrize("mode", ["deepest", "beyond_float"])
def test_whatever_an_answer_holds_is_a_failure_of_the_upstream(server: ThrowawayUpstream, mode: str) -> None:
    async def scenario(asked: UpstreamVersion) -> None:
        server.mode = mode
        with pytest.raises(UpstreamFailed, match="gave an answer that does not fit the request"):
            await asked.score(request(features={"age": 1}))
        trials = await asked.score_all([request(features={"age": 1})])
        assert [type(each.scores) for each in trials] == [UpstreamFailed]

    run(server, scenario)


def test_metadata_that_can_not_be_read_are_a_failure_of_the_upstream(server: ThrowawayUpstream) -> None:
    server.mode = "deepest"

    async def scenario(asked: UpstreamVersion) -> None:
        raise AssertionError("it is not warm")

    with pytest.raises(ModelLost, match="gave metadata that are none"):
        run(server, scenario)


@pytest.mark.parametrize("mode", ["hang", "unready", "unknown"])
def test_readiness_is_the_upstreams_own(server: ThrowawayUpstream, mode: str) -> None:
    async def scenario(asked: UpstreamVersion) -> None:
        await asked.check_ready()
        server.mode = mode
        began_s = time.monotonic()
        with pytest.raises(UpstreamFailed, match=r"gave no answer in 300 ms|answered with the status [45]0"):
            await asked.check_ready()
        assert time.monotonic() - began_s < 0.3 + 2.0

    run(server, scenario)
    assert server.readiness == 3, "once to warm it"


def test_a_shadow_is_asked_nothing_that_is_too_large(server: ThrowawayUpstream) -> None:
    """Its live version may speak another protocol, in which the same request is small."""
    large = request(item_ids=[f"i{i}" for i in range(10_000)], features=[1.0] * 10_000)

    async def scenario(asked: UpstreamVersion) -> None:
        trials = await asked.score_all([large] * 5 + [request(features={"age": 1})])
        assert [type(each.scores) for each in trials] == [TooLarge] * 5 + [dict]

    run(server, scenario)
    assert server.n_asked == 1


def test_what_a_kind_asks_is_known_without_its_upstream() -> None:
    remote = Upstream("http://a/", "json", timeout="250ms")
    version = Version("m", "v1", "staged", "", 0, REMOTE, 1, 1, remote=remote)
    assert check_of(version) is check_form
    assert patience_s(version) == 0.25
    spoken = msgspec.structs.replace(remote, protocol="open-inference")
    assert check_of(msgspec.structs.replace(version, remote=spoken)) is check_question
    assert (
        rows_at_once(version)
        == MAX_CONNECTIONS
        < rows_at_once(msgspec.structs.replace(version, remote=msgspec.UNSET))
    )
    assert patience_s(msgspec.structs.replace(version, remote=msgspec.UNSET)) is None


def test_a_version_is_written_with_remote_only_where_it_has_one() -> None:
    remote = Upstream("http://a/", "json", headers={"A": "env:B"})
    plain = Version("m", "v1", "staged", "abc", 3, "popularity", 1, 1)
    assert "remote" not in msgspec.json.decode(msgspec.json.encode(plain))
    for version in (plain, msgspec.structs.replace(plain, remote=remote)):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(version), type=Version) == version
