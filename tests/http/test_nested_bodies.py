"""Bodies that are nested too deep: 400 at the field on every route, never 500."""

from __future__ import annotations

import json

import pytest
from http_calls import MSGPACK, check_problem, draft, new_name, running, upload
from services import ThrowawayService

from bandit_serve.base.nesting import MAX_LEVELS, TOO_DEEP
from bandit_serve.server.route import MULTIPART
from bandit_serve.server.routes import ROUTES

LEVELS = (65, 90, MAX_LEVELS - 3, MAX_LEVELS - 2, 250, 490, 600, 980, 1_500, 20_000)
FORMS = {
    "lists": ("[", "]", "1"),
    "objects": ('{"a":', "}", "1"),
    "not": ('{"not":', "}", '{"field":"c","eq":1}'),
    "all": ('{"all":[', "]}", '{"field":"c","eq":1}'),
}


def deep(form: str, levels: int) -> str:
    opening, closing, leaf = FORMS[form]
    return opening * levels + leaf + closing * levels


def body(service: ThrowawayService, **fields: str) -> tuple[str, bytes]:
    """Name and body of an experiment, with fields in JSON."""
    name = new_name("deep")
    payload = fields.pop("payload", "1")
    arms = f'[{{"name": "a", "payload": {payload}}}, {{"name": "b"}}]'
    plain = {"id": json.dumps(name), "arms": arms, "metrics": '[{"name": "m", "kind": "continuous"}]'}
    return name, ("{" + ",".join(f'"{at}":{text}' for at, text in (plain | fields).items()) + "}").encode()


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("form", FORMS)
def test_an_experiment_is_refused_at_the_field(service: ThrowawayService, form: str, levels: int) -> None:
    value = deep(form, levels)
    for field in ("payload", "audience", "zz", "tags", "policy"):
        name, content = body(service, **{field: value})
        made = service.call("POST", "/v1/experiments", content)
        replaced = service.call("PUT", f"/v1/experiments/{draft(service, id=name)}", content)
        for answer in (made, replaced):
            problem = check_problem(answer, 400)
            places = [error["at"] for error in problem["errors"]]
            assert any(at.startswith("arms[0].payload" if field == "payload" else field) for at in places)
            if levels > MAX_LEVELS:
                assert [error["detail"] for error in problem["errors"]] == [TOO_DEEP]


@pytest.mark.parametrize("form", FORMS)
def test_what_is_just_not_too_deep_is_kept_and_given(service: ThrowawayService, form: str) -> None:
    levels = 60 // (2 if form == "all" else 1)
    name, content = body(service, payload=deep(form, levels))
    assert service.call("POST", "/v1/experiments", content).status == 201
    assert service.call("POST", f"/v1/experiments/{name}/start").status == 200
    expected = json.loads(deep(form, levels))
    given = {
        json.dumps(service.call("POST", f"/v1/experiments/{name}/decide", {}).body["payload"])
        for _ in range(40)
    }
    assert json.dumps(expected) in given


FIELDS = (
    "metadata",
    "metrics",
    "reason",
    "context",
    "requests",
    "units",
    "rewards",
    "features",
    "inputs",
    "zz",
)


def paths(service: ThrowawayService) -> dict[str, str]:
    return {
        "experiment": running(service),
        "model": "nested",
        "version": "v1",
        "arm": "challenger",
        "metric": "revenue",
        "key": "0" * 16,
        "deployment": "nested",
        "promotion": "p1",
    }


def test_every_route_refuses_what_is_too_deep(service: ThrowawayService) -> None:
    """In JSON and MessagePack, as the body and in a field of it, small and large."""
    requests, names = [], paths(service)
    for route in ROUTES:
        if route.method == "GET" or route.media == MULTIPART:
            continue
        path = route.path.format(**names)
        for levels in (120, 20_000):
            for form in FORMS:
                bodies = [deep(form, levels), *(f'{{"{at}": {deep(form, levels)}}}' for at in FIELDS)]
                requests += [(route, path, content.encode(), "application/json") for content in bodies]
            packed = b"\x91" * levels + b"\x01"
            parts = (packed, b"\x81\xa7context" + packed, b"\x81\xa2zz" + packed)
            requests += [(route, path, content, MSGPACK) for content in parts]
    assert len(requests) > 1_000
    for route, path, content, media in requests:
        answer = service.call(route.method, path, content, {"Content-Type": media})
        refused = answer.status in (400, 404, 409, 413, 415)
        # A batch is answered entry by entry.
        by_entry = route.handler.startswith(("decisions.", "rewards."))
        assert refused or (answer.status == 200 and by_entry), (path, content[:60], answer)
    assert service.call("GET", "/health/ready").body["status"] == "ready"


@pytest.mark.parametrize("levels", [63, 64, 65, MAX_LEVELS, MAX_LEVELS + 1, 600, 3_000])
def test_metadata_of_models(service: ThrowawayService, levels: int) -> None:
    value = deep("objects", levels)
    metadata = f'{{"metadata": {value}}}'.encode()
    made = upload(service, new_name("model"), b"no model", metadata)
    assert made.status == 400
    if levels > 64:
        check_problem(made, 400, "metadata")
    remote = service.call("POST", f"/v1/models/{new_name('model')}/versions", metadata)
    assert remote.status in (400, 415)
    patched = service.call("PATCH", "/v1/models/nobody/versions/v1", metadata)
    assert patched.status == (404 if levels < MAX_LEVELS else 400)
