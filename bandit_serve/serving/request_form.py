"""Form of a request for scores: what all kinds of versions refuse, and what a family needs."""

from __future__ import annotations

from bandit_serve.api.decisions import ScoreRequest
from bandit_serve.base.names import check_all_outside, check_outside
from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.models.feature_columns import checked_features
from bandit_serve.models.model import Feature, Features


def check_form(request: ScoreRequest) -> None:
    """Raises `InvalidInput` unless at most one of `item_id`, `item_ids` and `k` is given and all names are valid."""
    asked = (request.item_id is not None) + (request.item_ids is not None) + (request.k is not None)
    if asked > 1:
        detail = "expected one of item_id, item_ids and k"
        raise InvalidInput(
            f"The request has {asked} of item_id, item_ids and k: {detail}.", [FieldError("", detail)]
        )
    if request.user_id is not None:
        check_outside(request.user_id, "user_id")
    if request.item_id is not None:
        check_outside(request.item_id, "item_id")
    elif request.item_ids is not None:
        check_all_outside(request.item_ids, "item_ids")
    if request.exclude:
        if request.k is None:
            raise InvalidInput(
                "exclude: expected only with k.", [FieldError("exclude", "expected only with k")]
            )
        check_all_outside(request.exclude, "exclude")


def check_family_request(request: ScoreRequest) -> None:
    """`Check` of all families: a user, and exactly one of `item_id`, `item_ids` and `k`."""
    check_form(request)
    if request.item_id is None and request.item_ids is None and request.k is None:
        detail = "expected one of item_id, item_ids and k"
        raise InvalidInput(
            f"The request has 0 of item_id, item_ids and k: {detail}.", [FieldError("", detail)]
        )
    if request.user_id is None:
        detail = "expected a user_id: a model that scores users and items needs one"
        raise InvalidInput(f"user_id: {detail}.", [FieldError("user_id", detail)])


def check_request_with_features(request: ScoreRequest) -> None:
    """`Check` of families that take features: that of all families, and features that become columns."""
    check_family_request(request)
    features = request_features(request)
    if features is None:
        return
    try:
        checked_features(features)
    except InvalidInput as error:
        detail = str(error)
        raise InvalidInput(f"features: {detail}", [FieldError("features", detail)]) from None


def request_features(request: ScoreRequest) -> Features | None:
    """Features of the request by name, x0, x1, … for a list of numbers; None if there are none."""
    if not request.features:
        return None
    if isinstance(request.features, dict):
        return request.features
    numbers: dict[str, Feature] = {f"x{i}": number for i, number in enumerate(request.features)}
    return numbers
