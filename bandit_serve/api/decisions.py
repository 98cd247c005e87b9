"""Bodies of requests and answers for decisions and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from bandit_serve.base.names import GivenName, OutsideName
from bandit_serve.experiments.covariates import MAX_COVARIATE
from bandit_serve.experiments.spec import MAX_ARMS, MAX_METRICS

MAX_BATCH = 10_000
MAX_ITEMS = 10_000
MAX_K = 1_000
MAX_BATCH_ITEMS = 100_000
"""Over all requests of a batch, of `item_ids` and `k` together."""
MAX_CONTEXT = 1_000
MAX_REQUEST_FEATURES = 10_000

Context = Annotated[dict[str, float | str | bool | None], Meta(max_length=MAX_CONTEXT)]
Covariate = Annotated[float, Meta(ge=-MAX_COVARIATE, le=MAX_COVARIATE)]
Covariates = Annotated[dict[GivenName, Covariate | None], Meta(max_length=MAX_METRICS)]
Eligible = Annotated[list[GivenName], Meta(max_length=MAX_ARMS, extra_json_schema={"minItems": 1})]
Items = Annotated[list[OutsideName], Meta(max_length=MAX_ITEMS)]
Texts = Annotated[list[str], Meta(max_length=MAX_REQUEST_FEATURES)]
NamedFeatures = Annotated[dict[str, float | str | bool | Texts], Meta(max_length=MAX_REQUEST_FEATURES)]
Outputs = dict[str, Any]
"""Outputs of a model by name: one number, text or truth value each, or lists of them."""
NumberedFeatures = Annotated[list[float], Meta(max_length=MAX_REQUEST_FEATURES)]


OutsideReason = Literal["holdout", "audience", "layer"]
"""Why a request is outside of an experiment: its unit is held out of all of them, or the audience or the layer."""


class DecideRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """`covariates` are numbers known before the decision, by the names that metrics of the experiment give them."""

    unit: OutsideName | None = None
    context: Context | None = None
    eligible: Eligible | None = None
    covariates: Covariates | None = None


class ScoreRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A model of users and items needs `user_id` and one of `item_id`, `item_ids` and `k`. `exclude` goes with `k`."""

    user_id: OutsideName | None = None
    item_id: OutsideName | None = None
    item_ids: Annotated[list[OutsideName], Meta(min_length=1, max_length=MAX_ITEMS)] | None = None
    k: Annotated[int, Meta(ge=1, le=MAX_K)] | None = None
    exclude: Items = []
    features: NamedFeatures | NumberedFeatures | None = None


class PredictRequest(ScoreRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A decision, then its arm's prediction; `unit` is `user_id` unless it is given."""

    unit: OutsideName | None = None
    context: Context | None = None
    eligible: Eligible | None = None


class DecideBatch(Struct, frozen=True, forbid_unknown_fields=True):
    """Either `requests`, or the columnar form: `units`."""

    requests: Annotated[list[DecideRequest], Meta(max_length=MAX_BATCH)] | UnsetType = UNSET
    units: Annotated[list[OutsideName], Meta(max_length=MAX_BATCH)] | UnsetType = UNSET
    contexts: Annotated[list[Context | None], Meta(max_length=MAX_BATCH)] | None = None


class PredictBatch(Struct, frozen=True, forbid_unknown_fields=True):
    requests: Annotated[list[PredictRequest], Meta(max_length=MAX_BATCH)]


class RawBatch(Struct, frozen=True, forbid_unknown_fields=True):
    """A `DecideBatch` whose entries are as they came, to be read one by one."""

    requests: Annotated[list[Raw], Meta(max_length=MAX_BATCH)] | UnsetType = UNSET
    units: Annotated[list[str], Meta(max_length=MAX_BATCH)] | UnsetType = UNSET
    contexts: Annotated[list[Raw], Meta(max_length=MAX_BATCH)] | None = None


class ModelName(Struct, frozen=True):
    id: str
    version: str


class ScoredItem(Struct, frozen=True):
    item_id: str
    score: float


class PredictedItem(ScoredItem, frozen=True):
    """`arm` and `decision_id` are there in a list of two arms: which of them placed the item, and what its rewards go
    with; null where only one arm was there to draft.
    """

    arm: str | UnsetType = UNSET
    decision_id: str | UnsetType | None = UNSET


class Placed(Struct, frozen=True):
    """Arm in one place of a list.

    `propensity` is the probability with which it was to be drawn from the arms that were not placed above it, and
    `decision_id` goes with the rewards of this place.
    """

    decision_id: str | None
    arm: str
    propensity: float
    model: ModelName | None
    payload: Any


class Decided(Struct, frozen=True):
    """`propensity` is the probability with which `arm` was to be drawn; `decision_id` goes with the rewards.

    A request that is outside of the experiment has control, no `decision_id`, and the `reason`. Where the experiment
    has `slots`, there is a list of arms, from the first place to the last; the other fields are those of the first.
    """

    decision_id: str | None
    experiment: str
    arm: str
    propensity: float
    model: ModelName | None
    payload: Any
    reason: OutsideReason | UnsetType = UNSET
    slots: list[Placed] | UnsetType = UNSET


class Predicted(Struct, frozen=True):
    decision_id: str | None
    experiment: str
    arm: str
    propensity: float
    model: ModelName | None
    payload: Any
    prediction: float | UnsetType = UNSET
    predictions: list[float] | UnsetType = UNSET
    items: list[PredictedItem] | UnsetType = UNSET
    outputs: Outputs | UnsetType = UNSET
    reason: OutsideReason | UnsetType = UNSET


class DecidedColumns(Struct, frozen=True):
    """Decision i was for `units[i]`; `arms[i]` is an index into `arm_names`.

    `reasons` are there where some units are outside of the experiment: null for the others.
    """

    decision_ids: Sequence[str | None]
    arms: list[int]
    propensities: list[float]
    arm_names: list[str]
    reasons: list[OutsideReason | None] | UnsetType = UNSET


class Scored(Struct, frozen=True, kw_only=True):
    """A prediction without an experiment.

    `cached` says that it was not computed for this request; `confidence`, 0 to 1, how much is known of the pair.
    """

    user_id: str | UnsetType = UNSET
    model_id: str
    model_version: str
    latency_ms: float
    cached: bool
    item_id: str | UnsetType = UNSET
    prediction: float | UnsetType = UNSET
    confidence: float | UnsetType = UNSET
    predictions: list[float] | UnsetType = UNSET
    items: list[ScoredItem] | UnsetType = UNSET
    outputs: Outputs | UnsetType = UNSET
