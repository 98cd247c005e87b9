"""Translation of exceptions into status codes."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from bandit_serve import errors
from bandit_serve.errors import (
    BanditServeError,
    Conflict,
    FieldError,
    InvalidInput,
    LimitReached,
    NotBegun,
    Overloaded,
    RateExceeded,
    RewardConflict,
    Unavailable,
)
from bandit_serve.server.problems import (
    PROBLEM_TYPE,
    STATUS,
    TITLES,
    TYPES,
    as_entry,
    problem,
    problem_response,
)

# The whole tree, as the contract's statuses are.
STATUSES = {
    "InvalidInput": 400,
    "UsageError": 400,
    "InvalidToken": 400,
    "InvalidArtifact": 400,
    "Diverged": 400,
    "ContentRefused": 400,
    "TooLarge": 413,
    "UnsupportedMedia": 415,
    "Unauthenticated": 401,
    "Forbidden": 403,
    "NotFound": 404,
    "TooSlow": 408,
    "Late": 410,
    "Conflict": 409,
    "EngineRefused": 409,
    "DeploymentFailed": 409,
    "SwitchedOff": 501,
    "EngineAway": 503,
    "RewardConflict": 409,
    "PreconditionFailed": 412,
    "LimitReached": 429,
    "RateExceeded": 429,
    "NotInstalled": 501,
    "StateFault": 500,
    "Unfoldable": 500,
    "LogLost": 500,
    "UnreadableEntry": 500,
    "SetAside": 503,
    "Unavailable": 503,
    "StoreUnavailable": 503,
    "Overloaded": 503,
    "NotBegun": 503,
    "StoreRefused": 503,
    "ModelFailed": 503,
    "ModelLost": 503,
    "UpstreamFailed": 503,
    "Unparsable": 400,
    "NoTargetingKey": 400,
    "FilesUnavailable": 503,
    "DiskFull": 503,
}


def tree(root: type[BanditServeError] = BanditServeError) -> Iterator[type[BanditServeError]]:
    for kind in root.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield kind
            yield from tree(kind)


def test_every_error_of_the_tree_has_its_status() -> None:
    assert {kind.__name__ for kind in tree()} == set(STATUSES)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    assert errors.__doc__ is not None
    for kind in tree():
        assert kind.__name__ in errors.__doc__


@pytest.mark.parametrize("kind", [*tree()], ids=[kind.__name__ for kind in tree()])
def test_an_error_is_told_with_its_sentence(kind: type[BanditServeError]) -> None:
    response = problem_response(kind("One sentence."))
    assert response.status == STATUSES[kind.__name__]
    assert response.content_type == PROBLEM_TYPE
    assert isinstance(response.body, bytes)
    body = json.loads(response.body)
    assert body["status"] == response.status
    assert body["detail"] == "One sentence."
    assert body["type"].startswith("urn:bandit-serve:problem:")
    assert body["title"]
    assert "errors" not in body
    assert ("Retry-After" in response.headers) == (response.status in (429, 503))


def test_types_are_stable_and_distinct() -> None:
    slugs = [slug for slug, _ in (*TITLES.values(), *TYPES.values())]
    assert len(set(slugs)) == len(slugs)
    assert set(STATUSES.values()) <= set(TITLES)


def test_an_error_may_have_a_type_that_is_not_its_status_alone() -> None:
    assert problem(RewardConflict("No.")).type == "urn:bandit-serve:problem:reward-conflict"
    assert problem(Conflict("No.")).type == "urn:bandit-serve:problem:conflict"
    assert problem(NotBegun("No.")).type == "urn:bandit-serve:problem:not-begun"
    assert problem(Overloaded("No.")).type == "urn:bandit-serve:problem:unavailable"


def test_fields_are_named() -> None:
    error = InvalidInput(
        "No.", [FieldError("arms[1].weight", "expected a number"), FieldError("id", "taken")]
    )
    assert as_entry(error)["errors"] == [
        {"at": "arms[1].weight", "detail": "expected a number"},
        {"at": "id", "detail": "taken"},
    ]


def test_unavailable_says_when_to_try_again() -> None:
    for seconds, header in ((0.2, "1"), (1.0, "1"), (7.0, "7")):
        assert problem_response(Unavailable("Later.", seconds)).headers["Retry-After"] == header


class Unforeseen(BanditServeError):
    pass


@pytest.mark.parametrize(
    "error",
    [
        ValueError("secret"),
        KeyError("secret"),
        RuntimeError("secret"),
        Unforeseen("secret"),
        # Of ours, not of the request's body: whoever reads that says so (`server/arrival.py`).
        TimeoutError("secret"),
        ConnectionResetError("secret"),
    ],
)
def test_what_was_not_foreseen_is_500_without_its_text_and_in_the_log(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        response = problem_response(error)
    assert response.status == 500
    assert isinstance(response.body, bytes)
    assert b"secret" not in response.body
    assert any(record.exc_info and record.exc_info[1] is error for record in caplog.records)


def test_what_aiohttp_raises_is_told_in_our_words() -> None:
    assert problem(web.HTTPNotFound()).status == 404
    too_large = problem(web.HTTPRequestEntityTooLarge(max_size=1, actual_size=2))
    assert too_large.status == 413
    assert too_large.type == problem(errors.TooLarge("x")).type
    response = problem_response(web.HTTPMethodNotAllowed("PUT", ["POST", "GET"]))
    assert response.status == 405
    assert response.headers["Allow"] == "GET, POST"


def test_the_documents_name_every_type_of_problem() -> None:
    page = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
    rows = {
        (int(status), name)
        for status, name in re.findall(r"^\| (\d{3}) \| `([a-z-]+)` \|", page, re.MULTILINE)
    }
    own = {(status_of(kind), name) for kind, (name, _) in TYPES.items()}
    assert rows == {(status, name) for status, (name, _) in TITLES.items()} | own
    assert problem(RateExceeded("x", "requests", 1.0)).type.endswith(":too-many-requests")
    assert problem(LimitReached("x", "experiments")).type.endswith(":limit-reached")


def status_of(kind: type[Exception]) -> int:
    return next(STATUS[each] for each in kind.__mro__ if each in STATUS)
