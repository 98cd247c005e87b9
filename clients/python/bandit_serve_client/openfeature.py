"""OpenFeature: decisions are remembered as flags are evaluated, and `track()` rewards them.

Needs `openfeature-sdk`, and a provider for OFREP such as `openfeature-provider-ofrep`.
"""

from __future__ import annotations

import threading
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEvent, ProviderEventDetails
from openfeature.flag_evaluation import FlagEvaluationDetails, FlagResolutionDetails, FlagValueType
from openfeature.hook import Hook, HookContext, HookHints
from openfeature.provider import AbstractProvider, FeatureProvider, Metadata
from openfeature.track import TrackingEventDetails

from bandit_serve_client.rewards import AnyReward, Reward

MAX_REMEMBERED = 100_000
Queue = Callable[[AnyReward], bool]
Rewards = Mapping[str, Mapping[str, str]]


class DecisionHook(Hook):
    """Hook that remembers the last decision of each targeting key and experiment.

    At most `max_remembered` decisions: those that were evaluated longest ago are forgotten first.
    """

    def __init__(self, *, max_remembered: int = MAX_REMEMBERED) -> None:
        self._max_remembered = max_remembered
        self._decision_ids: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._lock = threading.Lock()

    def after(
        self, hook_context: HookContext, details: FlagEvaluationDetails[FlagValueType], hints: HookHints
    ) -> None:
        key = hook_context.evaluation_context.targeting_key
        decision_id = details.flag_metadata.get("decision_id")
        if not key or not isinstance(decision_id, str):
            return
        place = (key, details.flag_key)
        with self._lock:
            self._decision_ids[place] = decision_id
            self._decision_ids.move_to_end(place)
            if len(self._decision_ids) > self._max_remembered:
                self._decision_ids.popitem(last=False)

    def decision_id(self, targeting_key: str, experiment: str) -> str | None:
        """Returns the id of the last decision; None where none was made here, or it was forgotten."""
        with self._lock:
            return self._decision_ids.get((targeting_key, experiment))


class RewardingProvider(AbstractProvider):
    """Provider around `provider`, whose flags it serves, that turns `track()` into rewards.

    queue : takes the rewards: `SyncClient.queue`, or `Client.queue` where flags are evaluated in its event loop.
    rewards : by the name of a tracking event the metric that it rewards, by experiment:
        `{"purchase": {"checkout": "revenue"}}`.

    The reward's value is that of the tracking event, 1 without one; an attribute `event_id` names the event, which then
    counts once. Each call is an event of its own without it. `counts` has the events that were `queued`, `refused` as
    the queue was full, or `unmatched` as no decision of their targeting key is remembered.
    """

    def __init__(
        self, provider: FeatureProvider, queue: Queue, rewards: Rewards, *, hook: DecisionHook | None = None
    ) -> None:
        super().__init__()
        self._provider = provider
        self._queue = queue
        self._rewards = rewards
        self._hook = hook or DecisionHook()
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def counts(self) -> Counter[str]:
        with self._lock:
            return self._counts.copy()

    def track(
        self,
        tracking_event_name: str,
        evaluation_context: EvaluationContext | None = None,
        tracking_event_details: TrackingEventDetails | None = None,
    ) -> None:
        self._provider.track(tracking_event_name, evaluation_context, tracking_event_details)
        key = evaluation_context.targeting_key if evaluation_context is not None else None
        for experiment, metric in self._rewards.get(tracking_event_name, {}).items():
            decision_id = self._hook.decision_id(key, experiment) if key else None
            outcome = "unmatched"
            if decision_id is not None:
                reward = _reward(decision_id, metric, tracking_event_details)
                outcome = "queued" if self._queue(reward) else "refused"
            with self._lock:
                self._counts[outcome] += 1

    def attach(self, on_emit: Callable[[FeatureProvider, ProviderEvent, ProviderEventDetails], None]) -> None:
        self._provider.attach(lambda _, event, details: on_emit(self, event, details))

    def detach(self) -> None:
        self._provider.detach()

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        self._provider.initialize(evaluation_context)

    def shutdown(self) -> None:
        self._provider.shutdown()

    def get_metadata(self) -> Metadata:
        return self._provider.get_metadata()

    def get_provider_hooks(self) -> list[Hook]:
        return [*self._provider.get_provider_hooks(), self._hook]

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        return self._provider.resolve_boolean_details(flag_key, default_value, evaluation_context)

    async def resolve_boolean_details_async(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        return await self._provider.resolve_boolean_details_async(flag_key, default_value, evaluation_context)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        return self._provider.resolve_string_details(flag_key, default_value, evaluation_context)

    async def resolve_string_details_async(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        return await self._provider.resolve_string_details_async(flag_key, default_value, evaluation_context)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        return self._provider.resolve_integer_details(flag_key, default_value, evaluation_context)

    async def resolve_integer_details_async(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        return await self._provider.resolve_integer_details_async(flag_key, default_value, evaluation_context)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        return self._provider.resolve_float_details(flag_key, default_value, evaluation_context)

    async def resolve_float_details_async(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        return await self._provider.resolve_float_details_async(flag_key, default_value, evaluation_context)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        return self._provider.resolve_object_details(flag_key, default_value, evaluation_context)

    async def resolve_object_details_async(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        return await self._provider.resolve_object_details_async(flag_key, default_value, evaluation_context)


def _reward(decision_id: str, metric: str, details: TrackingEventDetails | None) -> Reward:
    value = 1.0 if details is None or details.value is None else details.value
    attributes: Mapping[str, Any] = {} if details is None else details.attributes
    event_id = attributes.get("event_id")
    return Reward(decision_id, value, metric, uuid.uuid4().hex if event_id is None else str(event_id))
