"""Routes of promotions of versions."""

from __future__ import annotations

from bandit_serve.api.promotions import CancelRequest, PromotionList, PromotionRequest, PromotionView
from bandit_serve.server.route import REASON_BYTES, Route

PROMOTION_BYTES = 64 * 1024

PROMOTIONS: tuple[Route, ...] = (
    Route(
        "POST",
        "/v1/models/{model}/promotions",
        "promotions.begin",
        "Begins a version's way into production, which then goes on by itself.",
        "admin",
        PromotionRequest,
        PromotionView,
        status=202,
        refuses=(409, 501),
        max_body=PROMOTION_BYTES,
        operation="promoteVersion",
    ),
    Route(
        "GET",
        "/v1/models/{model}/promotions",
        "promotions.list_all",
        "Promotions of a model's versions, the newest first.",
        "read",
        answers=PromotionList,
        refuses=(413,),
        operation="listPromotions",
    ),
    Route(
        "GET",
        "/v1/models/{model}/promotions/{promotion}",
        "promotions.show",
        "One promotion, with the evidence of each step.",
        "read",
        answers=PromotionView,
        operation="getPromotion",
    ),
    Route(
        "POST",
        "/v1/models/{model}/promotions/{promotion}/cancel",
        "promotions.cancel",
        "Ends a promotion; the version has no traffic of it any more.",
        "admin",
        CancelRequest,
        PromotionView,
        optional=True,
        refuses=(409,),
        max_body=REASON_BYTES,
        operation="cancelPromotion",
    ),
)
