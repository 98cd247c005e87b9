"""Exposures on demand through one worker, with a real store and without HTTP."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator

import numpy as np
import pytest
from builders import created, experiment
from numpy.typing import NDArray
from stores import ThrowawayStore

from bandit_serve.api.rewards import Reward
from bandit_serve.changes.changes import Changes
from bandit_serve.folds.replica import Replica
from bandit_serve.log import events
from bandit_serve.log.events import EXPOSED, ON_DEMAND, REWARDED, Exposed
from bandit_serve.log.offset import START
from bandit_serve.replication.keyring import load_keyring
from bandit_serve.replication.tail import Tail
from bandit_serve.rewards.rewards import Rewards
from bandit_serve.server.ending import end
from bandit_serve.store.store import Store

UID, INCARNATION, UNIT = 7, 5, 99
SHARES = np.array([0.3, 0.7])


@pytest.fixture
def server() -> Iterator[ThrowawayStore]:
    with ThrowawayStore(appendfsync="no") as running:
        yield running


class Worker:
    """Rewards of a real store, and the signing of decisions."""

    def __init__(self, store: Store, rewards: Rewards, replica: Replica) -> None:
        self.store = store
        self.rewards = rewards
        self.replica = replica

    async def token(
        self,
        number: int,
        *,
        arm: int = 1,
        shares: NDArray[np.float64] = SHARES,
        age_ms: int = 0,
        flags: int = 0,
    ) -> str:
        time_ms = await self.store.time_ms() - age_ms
        behind = shares.view(np.float32)
        return self.rewards.keyring.seal.sign(
            UID, INCARNATION, ON_DEMAND + number, time_ms, 1, arm, 0.7, UNIT, flags, behind
        )

    async def log(self) -> list[tuple[bytes, int]]:
        """Kinds and numbers of decisions of the entries after the creation."""
        numbers: list[tuple[bytes, int]] = []
        for entry in await self.store.read("e", START, 1_000):
            event = events.decode(entry.kind, entry.data)
            if isinstance(event, Exposed):
                numbers.append((entry.kind, event.first - ON_DEMAND))
            elif entry.kind == REWARDED:
                rows = np.frombuffer(entry.data, events.REWARD)
                numbers += [(entry.kind, int(counter) - ON_DEMAND) for counter in rows["counter"]]
        return numbers


def as_worker(server: ThrowawayStore, scenario: Callable[[Worker], Awaitable[None]]) -> None:
    async def run() -> None:
        store = Store(server.url, timeout_s=30)
        replica = Replica()
        tail = Tail(store, replica)
        await tail.load()
        following = asyncio.create_task(tail.run())
        try:
            await Changes(store, replica, tail).create(created(experiment(unit="user"), uid=UID))
            rewards = Rewards(store, replica, tail, await load_keyring(store))
            await scenario(Worker(store, rewards, replica))
        finally:
            await end([following])
            await store.close()

    asyncio.run(run())


def test_a_reward_makes_its_exposure_first_and_once(server: ThrowawayStore) -> None:
    async def scenario(worker: Worker) -> None:
        tokens = [await worker.token(number) for number in (4, 2)]
        rewards = [Reward(token, 1.0) for token in tokens]
        assert await worker.rewards.submit(rewards) == ["accepted"] * 2
        assert await worker.rewards.submit(rewards) == ["duplicate"] * 2
        assert await worker.rewards.expose(tokens) == ["duplicate"] * 2
        assert await worker.log() == [(EXPOSED, 4), (EXPOSED, 2), (REWARDED, 4), (REWARDED, 2)]

    as_worker(server, scenario)


def test_a_refused_reward_makes_no_exposure(server: ThrowawayStore) -> None:
    async def scenario(worker: Worker) -> None:
        token = await worker.token(1)
        late = await worker.token(2, age_ms=2 * 3_600_000)
        refused = [Reward(token, 0.5), Reward(token, 1.0, "nothing"), Reward(late, 1.0)]
        assert await worker.rewards.submit(refused) == ["invalid", "invalid", "late"]
        assert await worker.rewards.expose([late]) == ["late"]
        assert await worker.log() == []

    as_worker(server, scenario)


def test_what_takes_something_back_makes_no_exposure(server: ThrowawayStore) -> None:
    async def scenario(worker: Worker) -> None:
        rows, _, behind = worker.rewards.keyring.open([await worker.token(1)], np.array([math.nan]))
        intake = await worker.rewards._rewards_of(UID)
        assert intake is not None
        assert await worker.rewards._demand(UID, intake, rows, behind, [0]) == []
        assert await worker.log() == []

    as_worker(server, scenario)


def test_the_exposure_says_what_the_token_says(server: ThrowawayStore) -> None:
    async def scenario(worker: Worker) -> None:
        held_out = [await worker.token(number, flags=number) for number in (0, 1)]
        assert await worker.rewards.expose(held_out) == ["accepted"] * 2
        entries = [entry for entry in await worker.store.read("e", START, 10) if entry.kind == EXPOSED]
        for number, entry in enumerate(entries):
            event = events.decode(entry.kind, entry.data)
            assert isinstance(event, Exposed)
            columns = events.columns_of(event, 0)
            assert (event.incarnation, event.first, event.revision) == (INCARNATION, ON_DEMAND + number, 1)
            assert (columns.arms.tolist(), columns.units.tolist()) == ([1], [UNIT])
            assert columns.vectors.tolist() == [SHARES.tolist()]
            assert event.held_out_rows() is None if number == 0 else event.held_out_rows().tolist() == [True]

    as_worker(server, scenario)


@pytest.mark.parametrize("shares", [np.full(3, 1 / 3), np.array([1.0, 0.0]), np.array([math.nan, 0.5])])
def test_what_no_fold_could_read_is_unknown(server: ThrowawayStore, shares: NDArray[np.float64]) -> None:
    """As after a repair that left the addition of an arm out."""

    async def scenario(worker: Worker) -> None:
        tokens = [await worker.token(1, shares=shares), await worker.token(2)]
        assert await worker.rewards.expose(tokens) == ["unknown", "accepted"]
        assert await worker.log() == [(EXPOSED, 2)]

    as_worker(server, scenario)


def test_a_decision_that_was_logged_is_an_exposure_already(server: ThrowawayStore) -> None:
    async def scenario(worker: Worker) -> None:
        time_ms = await worker.store.time_ms()
        token = worker.rewards.keyring.seal.sign(UID, INCARNATION, 3, time_ms, 1, 1, 0.7, UNIT)
        assert await worker.rewards.expose([token, "", "x"]) == ["duplicate", "invalid", "invalid"]
        assert await worker.log() == []

    as_worker(server, scenario)


def test_more_than_one_script_takes(server: ThrowawayStore) -> None:
    async def scenario(worker: Worker) -> None:
        tokens = [await worker.token(number * 70_000) for number in range(3)]
        many = [tokens[i % 3] for i in range(1_200)]
        assert (await worker.rewards.expose(many)).count("accepted") == 3
        assert len(await worker.log()) == 3

    as_worker(server, scenario)
