"""Single rewards that are taken together: none waits for another, and each has its own verdict."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from stores import ThrowawayStore
from test_rewards import UID, token, with_rewards

from bandit_serve.api.rewards import DecisionReward, RewardVerdict
from bandit_serve.errors import Overloaded, StoreUnavailable, UnreadableEntry
from bandit_serve.log.token import Keyring
from bandit_serve.rewards.rewards import Rewards
from bandit_serve.store.store import Store


@pytest.fixture
def server() -> Iterator[ThrowawayStore]:
    with ThrowawayStore(appendfsync="no") as running:
        yield running


Outcomes = dict[int, RewardVerdict | Exception]


async def settled(
    rewards: Rewards, asked: Sequence[DecisionReward], outcomes: Outcomes | None = None
) -> Outcomes:
    """Outcomes by place, in the order in which they come; added to `outcomes` as they do."""
    outcomes = {} if outcomes is None else outcomes
    all_there = asyncio.Event()

    def settle(i: int, outcome: RewardVerdict | Exception) -> None:
        assert i not in outcomes
        outcomes[i] = outcome
        if len(outcomes) == len(asked):
            all_there.set()

    rewards.submit_apart(asked, settle)
    async with asyncio.timeout(30):
        await all_there.wait()
    return outcomes


async def signed(store: Store, rewards: Rewards, n: int) -> list[str]:
    keyring: Keyring = rewards.keyring
    now_ms = await store.time_ms()
    return [keyring.seal.sign(UID, 1, i, now_ms, 1, 0, 0.5, 0) for i in range(n)]


def test_each_has_the_verdict_that_it_would_have_alone(server: ThrowawayStore) -> None:
    async def scenario(store: Store, rewards: Rewards, _: list[int]) -> None:
        tokens = await signed(store, rewards, 5)
        forged = await token(store, 0, secrets.token_bytes(32))
        asked = [
            DecisionReward(tokens[0], 1.0),
            DecisionReward(tokens[0], 1.0),
            DecisionReward(tokens[0], 0.0),
            DecisionReward(tokens[1], 1.0, event_id="e1"),
            DecisionReward(tokens[2], 0.5),
            DecisionReward(tokens[3], 1.0, metric="other"),
            DecisionReward(forged, 1.0),
            DecisionReward(tokens[4], None),
        ]
        expected = [
            "accepted",
            "duplicate",
            "conflict",
            "accepted",
            "invalid",
            "invalid",
            "invalid",
            "invalid",
        ]
        first = await settled(rewards, asked)
        # The experiment is new to this worker at first, and each is taken alone, in an order of its own.
        assert sorted(map(str, first.values())) == sorted(expected)
        again = await settled(rewards, asked)
        won = next(i for i in range(3) if first[i] == "accepted")
        same = ["duplicate" if asked[i].value == asked[won].value else "conflict" for i in range(3)]
        assert [again[i] for i in range(len(asked))] == [*same, "duplicate", *expected[4:]]
        await rewards.drain()

    with_rewards(server, scenario)


@pytest.mark.parametrize(
    "failure", [None, Overloaded("too many"), StoreUnavailable("away"), UnreadableEntry("odd")], ids=str
)
def test_plain_rewards_do_not_wait_for_events_and_do_not_fail_with_them(
    server: ThrowawayStore, failure: Exception | None
) -> None:
    async def scenario(store: Store, rewards: Rewards, _: list[int]) -> None:
        tokens = await signed(store, rewards, 7)
        await rewards.submit([DecisionReward(tokens[6], 1.0)])
        appender, held = rewards._by_uid[UID].appender, asyncio.Event()
        real = appender.append_events

        async def slow(*arguments: Any, **named: Any) -> bytes:
            await held.wait()
            if failure is not None:
                raise failure
            return await real(*arguments, **named)

        appender.append_events = slow  # type: ignore[method-assign]
        asked = [
            DecisionReward(each, 1.0, event_id=f"e{i}" if i % 2 else None)
            for i, each in enumerate(tokens[:6])
        ]
        outcomes: Outcomes = {}
        waiting = asyncio.create_task(settled(rewards, asked, outcomes))
        async with asyncio.timeout(30):
            while len(outcomes) < 3:
                await asyncio.sleep(0.001)
        held.set()
        await waiting
        assert list(outcomes)[:3] == [0, 2, 4]
        assert [outcomes[i] for i in (0, 2, 4)] == ["accepted"] * 3
        assert [outcomes[i] for i in (1, 3, 5)] == [failure or "accepted"] * 3

    with_rewards(server, scenario)


def test_one_that_no_fold_could_read_does_not_spoil_the_others(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(store: Store, rewards: Rewards, _: list[int]) -> None:
        tokens = await signed(store, rewards, 4)
        await rewards.submit([DecisionReward(tokens[3], 1.0)])
        intake = rewards._by_uid[UID]
        real = intake.append

        async def picky(rows: Any, events: Any, x: Any) -> bytes:
            if 1 in rows["counter"]:
                raise ValueError("the second")
            return await real(rows, events, x)

        monkeypatch.setattr(intake, "append", picky)
        outcomes = await settled(rewards, [DecisionReward(each, 1.0) for each in tokens[:3]])
        assert (outcomes[0], outcomes[2]) == ("accepted", "accepted")
        assert isinstance(outcomes[1], ValueError)

    with_rewards(server, scenario)
