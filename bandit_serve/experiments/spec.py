"""Configuration of an experiment: arms, metrics, policy, attribution, stopping. Checked in `checks.py`."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from bandit_serve.base.durations import Duration, parse_duration_ms
from bandit_serve.base.names import Name
from bandit_serve.base.packed_maps import with_short_header
from bandit_serve.experiments.audience import AudienceRule
from bandit_serve.experiments.constraint import MAX_CONSTRAINTS, Constraint
from bandit_serve.experiments.dimensions import MAX_DIMENSIONS, Dimension, dimensions_of
from bandit_serve.experiments.layer import Layer
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.stopping import Stopping
from bandit_serve.metrics.kind import Missing, Unit
from bandit_serve.policies import parameters
from bandit_serve.policies.context import MAX_FEATURES, MAX_FIELDS, ContextField

MAX_ARMS = parameters.MAX_ARMS
MAX_METRICS = 32
MAX_SLOTS = 10
MAX_FEATURE = 1e9
MAX_WEIGHT = 1e9
MAX_TEXT_CHARS = 4_000
MAX_OWNER_CHARS = 256
MAX_TAGS = 32
MAX_TAG_CHARS = 64
# Shares follow a ramp in steps of a hundredth of its cap: a vector for each millisecond would flood the log.
RAMP_STEP = 1.01

Status = Literal["draft", "running", "paused", "stopped"]
ArmStatus = Literal["active", "paused", "removed"]
HeldShare = Annotated[float, Meta(gt=0.0, le=1.0)]
# Feature of an arm; policies round it to float32.
Feature = Annotated[float, Meta(ge=-MAX_FEATURE, le=MAX_FEATURE)]


# Worth of one unit of a metric.
MetricWeight = Annotated[float, Meta(ge=-MAX_WEIGHT, le=MAX_WEIGHT)]
Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]
Owner = Annotated[str, Meta(max_length=MAX_OWNER_CHARS)]
Tag = Annotated[str, Meta(min_length=1, max_length=MAX_TAG_CHARS)]


class Arm(Struct, frozen=True, forbid_unknown_fields=True):
    """One alternative. `model` and `version` name what predicts for it; `payload` is handed to the caller.

    `features`, numbers, describe it to a contextual policy, which then learns one model for all arms.
    """

    name: Name
    model: Name | None = None
    version: Name | None = None
    payload: Any = None
    features: Annotated[tuple[Feature, ...], Meta(min_length=1, max_length=MAX_FEATURES)] | None = None


class Ramp(Struct, frozen=True, forbid_unknown_fields=True, rename={"start": "from"}):
    """Cap on an arm's share that rises steadily from `from` to 1 within `over`."""

    start: Annotated[float, Meta(gt=0.0, le=1.0)]
    over: Duration

    @property
    def over_ms(self) -> int:
        return parse_duration_ms(self.over)


class Attribution(Struct, frozen=True, forbid_unknown_fields=True):
    """Window in which a decision's rewards count, and the meaning of a window without any."""

    window: Duration = "1h"
    missing: Missing | None = None

    @property
    def window_ms(self) -> int:
        return parse_duration_ms(self.window)


class Experiment(Struct, frozen=True, forbid_unknown_fields=True):
    """Experiment. `audience` and `layer` say which requests are in it; with `keep_assigned` a unit keeps its arm.

    With the `mode` `interleave` each request gets one list that is drafted from the lists of both arms, in place of
    one arm's. `dimensions` names context fields by whose values results are split.

    With `slots` each request gets a list of that many arms, as far as there are so many, from the first place to the
    last.

    `weights`, by metric, say what the policy makes the most of: the sum of the metrics' means, each times its weight,
    in place of the objective alone. It does so among the shares that keep the `constraints`.

    What is UNSET is not written: so builds without the field can read logs of experiments that do not use it.
    """

    id: Name
    arms: Annotated[tuple[Arm, ...], Meta(min_length=1, max_length=MAX_ARMS)]
    metrics: Annotated[tuple[Metric, ...], Meta(min_length=1, max_length=MAX_METRICS)]
    control: Name | None = None
    unit: Unit = "request"
    policy: PolicySpec = PolicySpec(kind="fixed_split")
    attribution: Attribution = Attribution()
    context: Annotated[tuple[ContextField, ...], Meta(max_length=MAX_FIELDS)] = ()
    stopping: Stopping = Stopping()
    description: Text | UnsetType = UNSET
    owner: Owner | UnsetType = UNSET
    tags: Annotated[tuple[Tag, ...], Meta(max_length=MAX_TAGS)] | UnsetType = UNSET
    hypothesis: Text | UnsetType = UNSET
    audience: AudienceRule | UnsetType = UNSET
    layer: Layer | UnsetType = UNSET
    keep_assigned: Annotated[bool, Meta(extra_json_schema={"default": False})] | UnsetType = UNSET
    mode: (
        Annotated[Literal["allocate", "interleave"], Meta(extra_json_schema={"default": "allocate"})]
        | UnsetType
    ) = UNSET
    dimensions: Annotated[tuple[Name, ...], Meta(max_length=MAX_DIMENSIONS)] | UnsetType = UNSET
    weights: Annotated[dict[Name, MetricWeight], Meta(max_length=MAX_METRICS)] | UnsetType = UNSET
    constraints: Annotated[tuple[Constraint, ...], Meta(max_length=MAX_CONSTRAINTS)] | UnsetType = UNSET
    slots: Annotated[int, Meta(ge=2, le=MAX_SLOTS)] | UnsetType = UNSET

    @property
    def trades(self) -> bool:
        """Whether the policy goes by other metrics beside the objective."""
        return self.weights is not UNSET or self.constraints is not UNSET

    @property
    def keeps_assigned(self) -> bool:
        """Whether units that were met keep their arms when shares change."""
        return self.keep_assigned is True

    @property
    def interleaves(self) -> bool:
        return self.mode == "interleave"

    @property
    def declared(self) -> tuple[Dimension, ...]:
        """Dimensions that were declared."""
        return dimensions_of(self.context, self.dimensions or ())

    @property
    def arm_names(self) -> tuple[str, ...]:
        return tuple(arm.name for arm in self.arms)

    @property
    def control_arm(self) -> int:
        return self.arm_names.index(self.control) if self.control else 0

    @property
    def objective(self) -> Metric:
        return next(metric for metric in self.metrics if metric.role == "objective")

    @property
    def covariates(self) -> tuple[str, ...]:
        """Names of the covariates of its metrics, each once, in the order of the metrics."""
        named = (metric.covariate for metric in self.metrics)
        return tuple(dict.fromkeys(name for name in named if name is not UNSET))

    @property
    def missing(self) -> Missing:
        return self.attribution.missing or "ignore"


class Standing(Struct, frozen=True, forbid_unknown_fields=True):
    """Status and ramp of one arm. A ramp counts from `ramp_since_ms`, Unix time; None in a draft: from the start on.

    `harmed` are the guardrails that have paused it. `overridden` are those that do not pause it any more, because a
    person has resumed it in spite of them. `held` is a cap on its share while a promotion holds it there. None of them
    is written where there are none.
    """

    status: ArmStatus = "active"
    ramp: Ramp | None = None
    ramp_since_ms: int | None = None
    harmed: tuple[Name, ...] | UnsetType = UNSET
    overridden: tuple[Name, ...] | UnsetType = UNSET
    held: HeldShare | UnsetType = UNSET

    @property
    def is_capped(self) -> bool:
        return self.ramp is not None or self.held is not UNSET

    def cap(self, now_ms: int) -> float:
        """Most that the arm's share may be at `now_ms`."""
        risen = self._risen(now_ms)
        return risen if self.held is UNSET else min(risen, self.held)

    def _risen(self, now_ms: int) -> float:
        if self.ramp is None:
            return 1.0
        since_ms = now_ms if self.ramp_since_ms is None else self.ramp_since_ms
        passed = min(max((now_ms - since_ms) / max(self.ramp.over_ms, 1), 0.0), 1.0)
        return self.ramp.start + (1.0 - self.ramp.start) * passed

    def next_cap_ms(self, now_ms: int) -> float:
        """Unix time at which the cap is `RAMP_STEP` times its value at `now_ms`, or 1; infinity if it does not rise."""
        cap = self._risen(now_ms)
        if self.ramp is None or self.ramp_since_ms is None or cap >= 1.0:
            return math.inf
        if self.held is not UNSET and cap >= self.held:
            return math.inf
        to_pass = (min(cap * RAMP_STEP, 1.0) - self.ramp.start) / (1.0 - self.ramp.start)
        return self.ramp_since_ms + math.ceil(to_pass * self.ramp.over_ms)


ACTIVE = Standing()


class Joined(Struct, frozen=True, forbid_unknown_fields=True):
    """Metric that came once the experiment had started: decisions of before `since_ms`, Unix time, have none of it."""

    metric: Name
    since_ms: int


class Record(Struct, frozen=True, forbid_unknown_fields=True):
    """Experiment and where it stands. `revision` counts its changes and is its ETag.

    `uid` is random and names it in tokens, so that a namesake made later refuses them. `standings` are those of the
    first arms; the others are active. With `unpromoted` the winner serves this experiment's callers, and the registry
    stays as it is. `joined`: the metrics that were added after the start.
    """

    experiment: Experiment
    uid: int
    status: Status
    revision: int
    created_ms: int
    updated_ms: int
    started_ms: int | None = None
    stopped_ms: int | None = None
    winner: str | None = None
    standings: tuple[Standing, ...] = ()
    unpromoted: bool | UnsetType = UNSET
    joined: tuple[Joined, ...] | UnsetType = UNSET

    @property
    def since_ms(self) -> dict[str, int]:
        """Unix times from which on decisions are analysed on a metric, by the names of those that joined later."""
        return {} if self.joined is UNSET else {each.metric: each.since_ms for each in self.joined}

    def standing(self, arm: int) -> Standing:
        """Status and ramp of the arm with this index."""
        return self.standings[arm] if arm < len(self.standings) else ACTIVE

    def with_standing(self, arm: int, standing: Standing) -> Record:
        standings = [self.standing(k) for k in range(len(self.experiment.arms))]
        standings[arm] = standing
        return msgspec.structs.replace(self, standings=tuple(standings))

    @property
    def fallback(self) -> int:
        """Arm of everyone who is not drawn for: the winner once the experiment is stopped, control otherwise."""
        if self.status == "stopped" and self.winner is not None:
            return self.experiment.arm_names.index(self.winner)
        return self.experiment.control_arm

    @property
    def draws(self) -> bool:
        """True if arms are drawn, or will be: a paused and a stopped experiment gives everyone its `fallback`."""
        return self.status in ("draft", "running")

    @property
    def overridden(self) -> dict[str, tuple[str, ...]]:
        """Guardrails that do not pause an arm any more, by the arms that have some."""
        pairs = zip(self.experiment.arm_names, self.standings, strict=False)
        return {name: standing.overridden for name, standing in pairs if standing.overridden is not UNSET}

    @property
    def held(self) -> dict[str, float]:
        """Bounds of shares by the arms that a promotion holds there."""
        pairs = zip(self.experiment.arm_names, self.standings, strict=False)
        return {name: standing.held for name, standing in pairs if standing.held is not UNSET}

    def packed(self) -> bytes:
        """MessagePack of the record: the same bytes from every build that knows its fields."""
        experiment = with_short_header(msgspec.msgpack.encode(self.experiment))
        return msgspec.msgpack.encode(msgspec.structs.replace(self, experiment=msgspec.Raw(experiment)))

    @property
    def arm_statuses(self) -> dict[str, ArmStatus]:
        return {name: self.standing(k).status for k, name in enumerate(self.experiment.arm_names)}


_MOVES: dict[str, tuple[Status, ...]] = {
    "start": ("draft", "paused"),
    "pause": ("running",),
    "stop": ("running", "paused"),
}


def may(move: str, status: Status) -> bool:
    """Return whether an experiment in `status` can be started, paused or stopped."""
    return status in _MOVES[move]
