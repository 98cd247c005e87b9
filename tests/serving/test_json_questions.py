"""Protocol `json` of upstreams: what is asked, and which answers fit."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from bandit_serve.api.decisions import ScoredItem, ScoreRequest
from bandit_serve.serving.json_questions import MAX_OUTPUTS, json_question, json_scores

ONE = {"user_id": "u", "item_id": "i"}
SOME = {"user_id": "u", "item_ids": ["a", "b"]}
BEST = {"user_id": "u", "k": 2, "exclude": ["x"]}
PLAIN = {"features": {"age": 3.0, "city": "Ulm", "old": False}}


def request(**fields: Any) -> ScoreRequest:
    return msgspec.convert(fields, ScoreRequest)


@pytest.mark.parametrize(
    "fields",
    [ONE, SOME, BEST, PLAIN, {**ONE, "features": [1.0, 2.5]}, {**ONE, "features": {"tags": ["a", "b"]}}, {}],
)
def test_ids_and_features_are_posted_as_they_came(fields: dict[str, Any]) -> None:
    assert json.loads(json_question(request(**fields))) == fields


@pytest.mark.parametrize(
    ("fields", "answer", "scores"),
    [
        (ONE, {"prediction": 0.5}, {"prediction": 0.5}),
        (ONE, {"prediction": -3, "latency": [1], "predictions": None}, {"prediction": -3.0}),
        (SOME, {"predictions": [1, 2.5]}, {"predictions": [1.0, 2.5]}),
        (BEST, {"items": []}, {"items": []}),
        (
            BEST,
            {"items": [{"item_id": "b", "score": 2, "rank": 1}, {"item_id": "a", "score": 1.5}]},
            {"items": [ScoredItem("b", 2.0), ScoredItem("a", 1.5)]},
        ),
        (PLAIN, {"prediction": 1.0}, {"prediction": 1.0}),
        (
            PLAIN,
            {"outputs": {"label": "yes", "p": [0.25, 0.75], "n": 3, "b": True, "m": [[1], [2]]}},
            {"outputs": {"label": "yes", "p": [0.25, 0.75], "n": 3, "b": True, "m": [[1], [2]]}},
        ),
        (ONE, {"outputs": {"p": [1.0]}}, {"outputs": {"p": [1.0]}}),
    ],
)
def test_answers_that_fit(fields: dict[str, Any], answer: Any, scores: dict[str, Any]) -> None:
    assert json_scores(request(**fields), json.dumps(answer).encode()) == scores


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        (ONE, "{}"),
        (ONE, ""),
        (ONE, "null"),
        (ONE, "[1]"),
        (ONE, '{"prediction": null}'),
        (ONE, '{"prediction": "1"}'),
        (ONE, '{"prediction": true}'),
        (ONE, '{"prediction": [1]}'),
        (ONE, '{"prediction": NaN}'),
        (ONE, '{"prediction": Infinity}'),
        (ONE, '{"prediction": -1e400}'),
        (ONE, '{"predictions": [1]}'),
        (ONE, '{"prediction": 1} x'),
        (ONE, '{"prediction": 1'),
        (ONE, '{"prediction": 1, "predictions": ["x"]}'),
        (SOME, '{"prediction": 1}'),
        (SOME, '{"predictions": [1]}'),
        (SOME, '{"predictions": [1, 2, 3]}'),
        (SOME, '{"predictions": [1, null]}'),
        (SOME, '{"predictions": [1, "2"]}'),
        (BEST, '{"predictions": [1, 2]}'),
        (BEST, '{"items": ["a"]}'),
        (BEST, '{"items": [{"item_id": "a"}]}'),
        (BEST, '{"items": [{"item_id": 1, "score": 1}]}'),
        (BEST, '{"items": [{"item_id": "", "score": 1}]}'),
        (BEST, '{"items": [{"item_id": "a\\u0000", "score": 1}]}'),
        (BEST, '{"items": [{"item_id": "a", "score": 1}, {"item_id": "a", "score": 1}]}'),
        (BEST, '{"items": [{"item_id": "x", "score": 1}]}'),
        (
            BEST,
            '{"items": [{"item_id": "a", "score": 3}, {"item_id": "b", "score": 2}, {"item_id": "c", "score": 1}]}',
        ),
        (PLAIN, '{"outputs": {}}'),
        (PLAIN, '{"outputs": {"x": null}}'),
        (PLAIN, '{"outputs": {"x": {"y": 1}}}'),
        (PLAIN, '{"outputs": {"x": [null]}}'),
        (PLAIN, '{"outputs": {"x": 1e999}}'),
        (PLAIN, '{"outputs": {"x": 99999999999999999999}}'),
        (PLAIN, '{"outputs": {"x": [[[[[[[[[1]]]]]]]]]}}'),
        (PLAIN, '{"outputs": [1]}'),
        (PLAIN, json.dumps({"outputs": {str(i): i for i in range(MAX_OUTPUTS + 1)}})),
        (PLAIN, b'{"outputs": {"x": "\xff"}}'),
    ],
)
def test_answers_that_do_not(fields: dict[str, Any], answer: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        json_scores(request(**fields), answer if isinstance(answer, bytes) else answer.encode())
