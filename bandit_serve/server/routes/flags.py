"""Routes of OpenFeature's remote evaluation."""

from __future__ import annotations

from bandit_serve.api.flags import EvaluationRequest, Flag, FlagList
from bandit_serve.server.route import DECIDE_BYTES, JSON_ONLY, Route

FLAGS: tuple[Route, ...] = (
    Route(
        "POST",
        "/ofrep/v1/evaluate/flags/{experiment}",
        "flags.evaluate",
        "Draws an arm, as a flag (OFREP).",
        "serve",
        EvaluationRequest,
        Flag,
        media=JSON_ONLY,
        max_body=DECIDE_BYTES,
        operation="evaluateFlag",
    ),
    Route(
        "POST",
        "/ofrep/v1/evaluate/flags",
        "flags.evaluate_all",
        "Draws an arm of every experiment, as flags (OFREP); logs nothing.",
        "serve",
        EvaluationRequest,
        FlagList,
        media=JSON_ONLY,
        max_body=DECIDE_BYTES,
        conditional=True,
        operation="evaluateFlags",
    ),
)
