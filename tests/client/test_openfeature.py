"""Hook and provider for the real OpenFeature SDK: decisions are remembered, `track()` rewards them."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from bandit_serve_client import Reward, SyncClient
from bandit_serve_client.openfeature import DecisionHook, RewardingProvider
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEvent
from openfeature.flag_evaluation import FlagEvaluationDetails, FlagType
from openfeature.hook import HookContext
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider
from openfeature.track import TrackingEventDetails
from scripted_server import Received, Script, ScriptedServer, answer

REWARDS = {"purchase": {"checkout": "revenue", "banner": "sales"}, "click": {"banner": "clicks"}}


class Queue:
    """Queue that keeps what it is given, up to `room` rewards."""

    def __init__(self, room: int = 1_000) -> None:
        self.rewards: list[Any] = []
        self._room = room

    def __call__(self, reward: Any) -> bool:
        if len(self.rewards) >= self._room:
            return False
        self.rewards.append(reward)
        return True


def flag(flag_key: str, value: Any = "blue") -> InMemoryFlag[Any]:
    """Flag whose decision is named after the flag and the targeting key, as OFREP has it in the metadata."""

    def evaluate(self: InMemoryFlag[Any], context: EvaluationContext) -> Any:
        key = context.targeting_key
        metadata = {"experiment": flag_key, "propensity": 0.5}
        made = InMemoryFlag("a", {"a": value}, flag_metadata=metadata).resolve(None)
        if key != "paused":
            made.flag_metadata = {**metadata, "decision_id": f"{flag_key}-{key}"}
        return made

    return InMemoryFlag("a", {"a": value}, context_evaluator=evaluate)


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def provider(queue: Queue) -> RewardingProvider:
    flags = {
        "checkout": flag("checkout"),
        "banner": flag("banner", True),
        "n": flag("n", 7),
        "x": flag("x", 0.5),
    }
    return RewardingProvider(InMemoryProvider({**flags, "o": flag("o", {"a": 1})}), queue, REWARDS)


@pytest.fixture
def client(provider: RewardingProvider) -> Iterator[OpenFeatureClient]:
    """A client of the SDK whose provider is the wrapped one."""
    domain = uuid.uuid4().hex
    api.set_provider(provider, domain)
    yield api.get_client(domain)
    api.clear_providers()


def of(key: str | None) -> EvaluationContext:
    return EvaluationContext(targeting_key=key)


def details(value: float | None, **attributes: Any) -> TrackingEventDetails:
    return TrackingEventDetails(value, attributes)


def test_an_event_rewards_the_last_decision_of_its_key(client: OpenFeatureClient, queue: Queue) -> None:
    assert client.get_string_value("checkout", "off", of("ann")) == "blue"
    assert client.get_string_value("checkout", "off", of("bob")) == "blue"
    client.track("purchase", of("ann"), details(25.0, event_id="order-17"))
    assert queue.rewards == [Reward("checkout-ann", 25.0, "revenue", "order-17")]


def test_an_event_rewards_each_experiment_that_names_it(client: OpenFeatureClient, queue: Queue) -> None:
    client.get_string_value("checkout", "off", of("ann"))
    client.get_boolean_value("banner", False, of("ann"))
    client.track("purchase", of("ann"), details(2.0, event_id="o"))
    client.track("click", of("ann"), details(None, event_id=7))
    assert queue.rewards == [
        Reward("checkout-ann", 2.0, "revenue", "o"),
        Reward("banner-ann", 2.0, "sales", "o"),
        Reward("banner-ann", 1.0, "clicks", "7"),
    ]


def test_each_call_is_an_event_of_its_own(client: OpenFeatureClient, queue: Queue) -> None:
    client.get_boolean_value("banner", False, of("ann"))
    client.track("click", of("ann"))
    client.track("click", of("ann"))
    assert [reward.value for reward in queue.rewards] == [1.0, 1.0]
    assert len({reward.event_id for reward in queue.rewards}) == 2


def test_what_matches_nothing_is_counted(
    client: OpenFeatureClient, provider: RewardingProvider, queue: Queue
) -> None:
    client.get_boolean_value("banner", False, of("paused"))
    client.get_boolean_value("banner", False, of(None))
    for key in ("paused", "stranger", None, ""):
        client.track("click", of(key))
    client.track("unknown", of("ann"))
    client.track("click")
    assert queue.rewards == []
    assert provider.counts == {"unmatched": 5}


def test_a_full_queue_is_counted(provider: RewardingProvider) -> None:
    hook = DecisionHook()
    full = RewardingProvider(InMemoryProvider({}), Queue(1), REWARDS, hook=hook)
    evaluate(hook, "ann", "banner", "t")
    for _ in range(3):
        full.track("click", of("ann"))
    assert full.counts == {"queued": 1, "refused": 2}


def evaluate(hook: DecisionHook, key: str | None, experiment: str, decision_id: Any) -> None:
    context = HookContext(experiment, FlagType.STRING, "off", of(key))
    metadata = {} if decision_id is None else {"decision_id": decision_id}
    hook.after(context, FlagEvaluationDetails(experiment, "on", flag_metadata=metadata), {})


def test_the_last_decision_is_the_one_that_is_remembered() -> None:
    hook = DecisionHook()
    evaluate(hook, "ann", "a", "t1")
    evaluate(hook, "ann", "a", "t2")
    evaluate(hook, "ann", "a", None)
    evaluate(hook, "ann", "a", 3)
    evaluate(hook, None, "a", "t4")
    assert hook.decision_id("ann", "a") == "t2"
    assert hook.decision_id("ann", "b") is None


def test_memory_has_a_bound_and_forgets_what_is_oldest() -> None:
    hook = DecisionHook(max_remembered=3)
    for key in ("a", "b", "c"):
        evaluate(hook, key, "e", key)
    evaluate(hook, "a", "e", "again")
    evaluate(hook, "d", "e", "d")
    remembered = [hook.decision_id(key, "e") for key in "abcd"]
    assert remembered == ["again", None, "c", "d"]


def test_flags_are_the_provider_s_own(client: OpenFeatureClient, provider: RewardingProvider) -> None:
    assert client.get_boolean_value("banner", False, of("ann")) is True
    assert client.get_integer_value("n", 0, of("ann")) == 7
    assert client.get_float_value("x", 0.0, of("ann")) == 0.5
    assert client.get_object_value("o", {}, of("ann")) == {"a": 1}
    assert client.get_string_value("nothing", "off", of("ann")) == "off"
    assert provider.get_metadata().name == "In-Memory Provider"

    async def ask() -> list[Any]:
        return [
            await client.get_boolean_value_async("banner", False, of("ann")),
            await client.get_integer_value_async("n", 0, of("ann")),
            await client.get_float_value_async("x", 0.0, of("ann")),
            await client.get_object_value_async("o", {}, of("ann")),
            await client.get_string_value_async("checkout", "off", of("ann")),
        ]

    assert asyncio.run(ask()) == [True, 7, 0.5, {"a": 1}, "blue"]


def test_events_of_the_provider_are_handed_on(queue: Queue) -> None:
    class Emitting(InMemoryProvider):
        tracked: list[str] = []  # noqa: RUF012
        ended = False

        def track(self, tracking_event_name: str, *_: Any) -> None:
            self.tracked.append(tracking_event_name)

        def shutdown(self) -> None:
            self.ended = True

    inner = Emitting({})
    seen: list[str] = []
    domain = uuid.uuid4().hex
    api.set_provider(RewardingProvider(inner, queue, REWARDS), domain)
    client = api.get_client(domain)
    client.add_handler(
        ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, lambda event: seen.append(event.provider_name)
    )
    from openfeature.event import ProviderEventDetails

    inner.emit_provider_configuration_changed(ProviderEventDetails())
    client.track("anything", of("ann"))
    assert seen == ["In-Memory Provider"]
    assert inner.tracked == ["anything"]
    api.clear_providers()
    assert inner.ended


def test_rewards_are_sent_by_the_client() -> None:
    def verdicts(request: Received, _: int) -> Script:
        n = len(json.loads(request.body)["rewards"])
        report = {"accepted": n, "duplicates": 0, "rejected": 0, "verdicts": ["accepted"] * n}
        return answer(json.dumps(report).encode())

    with ScriptedServer(verdicts) as server, SyncClient(server.url) as sending:
        rewarding = RewardingProvider(InMemoryProvider({"banner": flag("banner")}), sending.queue, REWARDS)
        domain = uuid.uuid4().hex
        api.set_provider(rewarding, domain)
        client = api.get_client(domain)
        client.get_string_value("banner", "off", of("ann"))
        client.track("click", of("ann"), details(None, event_id="e"))
        assert sending.flush(20)
        assert json.loads(server.received[0].body) == {
            "rewards": [{"decision_id": "banner-ann", "value": 1.0, "metric": "clicks", "event_id": "e"}]
        }
        api.clear_providers()
