"""Rewards by unit through one worker, with a real store and without HTTP."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pytest
from builders import created, eventually, experiment, exposed, record
from stores import ThrowawayStore

from bandit_serve.api.rewards import Reward
from bandit_serve.base.clock import unix_ms
from bandit_serve.changes.changes import Changes
from bandit_serve.errors import SetAside, StoreUnavailable
from bandit_serve.folds.assignment import rendezvous
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.folds.unit_exposures import InForce
from bandit_serve.log import events
from bandit_serve.log.events import REVISION, REWARD, Change, Changed
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.repairs import Repaired
from bandit_serve.replication.exposures_log import ExposuresLog
from bandit_serve.replication.keyring import load_keyring
from bandit_serve.replication.tail import Tail
from bandit_serve.rewards import by_unit, unmatched
from bandit_serve.rewards.by_unit import RewardsByUnit
from bandit_serve.rewards.event_ids import hash_event
from bandit_serve.rewards.looks import Looks
from bandit_serve.rewards.rewards import Rewards
from bandit_serve.server.ending import end
from bandit_serve.store.store import Store

WINDOW_MS = 3_600_000
METRICS = [
    {"name": "revenue", "kind": "continuous", "role": "objective"},
    {"name": "bought", "kind": "binary"},
    {"name": "stars", "kind": "bounded", "low": 0, "high": 5},
]


@pytest.fixture
def server() -> Iterator[ThrowawayStore]:
    with ThrowawayStore(appendfsync="no") as running:
        yield running


class Scene:
    """One worker's way of rewards by unit, and a hand that writes exposures of other workers into the log."""

    def __init__(self, store: Store, unmatched_ms: int) -> None:
        self.store = store
        self.replica = Replica()
        self.tail = Tail(store, self.replica)
        self.exposures = ExposuresLog(store, self.replica)
        self.flushes = 0
        self.rewards: Rewards
        self.by_unit: RewardsByUnit
        self._unmatched_ms = unmatched_ms
        self._first = 0

    async def begin(self, **fields: Any) -> None:
        made = experiment(unit="user", metrics=METRICS, **fields)
        await Changes(self.store, self.replica, self.tail).create(created(made, uid=7))
        self.rewards = Rewards(self.store, self.replica, self.tail, await load_keyring(self.store))

        async def flush() -> None:
            self.flushes += 1

        self.by_unit = RewardsByUnit(
            self.store,
            self.replica,
            self.tail,
            self.exposures,
            self.rewards.appender_of,
            flush,
            unmatched_ms=self._unmatched_ms,
        )

    async def expose(
        self,
        units: Sequence[str],
        arms: Sequence[int],
        ago_ms: Sequence[int],
        n_arms: int = 2,
        **more: Any,
    ) -> int:
        """Appends exposures; returns the number of the first of them."""
        now_ms = await self.store.time_ms()
        event = exposed(self._first, arms, [now_ms - ago for ago in ago_ms], n_arms=n_arms)
        hashes = rendezvous(self.replica.experiments["e"].record).hash_units(list(units))
        event = msgspec.structs.replace(event, units=hashes.tobytes(), **more)
        await self.store.append("e", events.EXPOSED, events.encode(event))
        first, self._first = self._first, self._first + len(arms)
        return first

    async def send(self, unit: str, value: float | None, event_id: str, **fields: Any) -> str:
        (verdict,) = await self.by_unit.submit([unit_reward("e", unit, value, event_id, **fields)])
        return verdict

    async def revisions(self) -> list[tuple[int, int, float, float]]:
        """Decision's number, metric, value and former value of all revisions in the log."""
        rows = [
            np.frombuffer(entry.data, REVISION)
            for entry in await self.store.read("e", START, 1_000)
            if entry.kind == events.REVISED
        ]
        return [
            (int(row["counter"]), int(row["metric"]), float(row["value"]), float(row["former"]))
            for some in rows
            for row in some
        ]


def unit_reward(experiment: str, unit: str, value: float | None, event_id: str, **fields: Any) -> Reward:
    return Reward(experiment=experiment, unit=unit, value=value, event_id=event_id, **fields)


def ago(ms: int) -> datetime:
    return datetime.now(UTC) - timedelta(milliseconds=ms)


def play(
    server: ThrowawayStore,
    scenario: Callable[[Scene], Awaitable[None]],
    *,
    unmatched_ms: int = 60_000,
    **fields: Any,
) -> None:
    async def run() -> None:
        store = Store(server.url, timeout_s=30)
        scene = Scene(store, unmatched_ms)
        await scene.tail.load()
        following = [asyncio.create_task(scene.tail.run())]
        try:
            await scene.begin(**fields)
            following.append(asyncio.create_task(scene.by_unit.run()))
            await scenario(scene)
        finally:
            await end(following)
            await store.close()

    asyncio.run(run())


def equal(rows: list[tuple[int, int, float, float]], expected: list[tuple[int, int, float, float]]) -> bool:
    return len(rows) == len(expected) and np.array_equal(np.array(rows), np.array(expected), equal_nan=True)


def test_events_of_a_unit_add_up_are_corrected_and_taken_back(server: ThrowawayStore) -> None:
    async def scenario(scene: Scene) -> None:
        first = await scene.expose(["ada", "bob"], [0, 1], [2_000, 1_000])
        assert await scene.send("ada", 10.1, "order-1") == "accepted"
        assert await scene.send("ada", 0.2, "order-2") == "accepted"
        assert await scene.send("ada", 0.2, "order-2") == "duplicate"
        assert await scene.send("ada", 5.0, "order-1") == "corrected"
        assert await scene.send("ada", None, "order-2") == "retracted"
        assert await scene.send("ada", None, "order-3") == "unmatched"
        assert await scene.send("bob", 10.1, "order-1") == "accepted", "ids are a unit's own"
        assert await scene.send("ada", 1, "order-1", metric="bought") == "accepted", "and a metric's"
        nan = math.nan
        assert equal(
            await scene.revisions(),
            [
                (first, 0, 10.1, nan),
                (first, 0, math.fsum([10.1, 0.2]), 10.1),
                (first, 0, math.fsum([5.0, 0.2]), math.fsum([10.1, 0.2])),
                (first, 0, 5.0, 5.2),
                (first + 1, 0, 10.1, nan),
                (first, 1, 1.0, nan),
            ],
        )

    play(server, scenario)


def test_a_reward_joins_what_was_in_force_at_its_time(server: ThrowawayStore) -> None:
    async def scenario(scene: Scene) -> None:
        first = await scene.expose(["ada", "ada", "ada"], [0, 1, 0], [900_000, 600_000, 300_000])
        sent = [(950_000, None), (750_000, first), (450_000, first + 1), (10_000, first + 2), (0, first + 2)]
        for i, (ago_ms, decision) in enumerate(sent):
            verdict = await scene.send("ada", 1.0, f"order-{i}", at=ago(ago_ms))
            assert verdict == ("unmatched" if decision is None else "accepted")
        decisions = [decision for decision, *_ in await scene.revisions()]
        assert decisions == [first, first + 1, first + 2, first + 2]
        # A correction stays with the decision that its event was first joined to.
        assert await scene.send("ada", 2.0, "order-1", at=ago(0)) == "corrected"
        assert (await scene.revisions())[-1][:3] == (first, 0, 2.0)

    play(server, scenario)


def test_windows_close_by_the_decision_that_was_in_force(server: ThrowawayStore) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.expose(["ada", "bob"], [0, 1], [WINDOW_MS + 30_000, WINDOW_MS - 30_000])
        await scene.tail.wait_for_end("e")
        assert await scene.send("bob", 1.0, "o", at=ago(1_000)) == "accepted"
        assert await scene.send("bob", 1.0, "p", at=ago(WINDOW_MS + 1_000)) == "late"
        assert scene.flushes == 0, "nobody waits for what is known to be late"
        assert await scene.send("ada", 1.0, "o", at=ago(1_000)) == "late"

    play(server, scenario)


def test_what_is_no_reward_by_unit_is_invalid(server: ThrowawayStore) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.expose(["ada"], [0], [1_000])
        for fields in (
            {"value": math.nan},
            {"value": math.inf},
            {"metric": "clicks"},
            {"metric": "bought", "value": 0.5},
            {"metric": "stars", "value": 5.1},
            {"event_id": ""},
            {"event_id": "x" * 129},
            {"unit": ""},
            {"unit": "a\nb"},
            {"at": ago(-60_000)},
        ):
            reward = Reward(**{"experiment": "e", "unit": "ada", "value": 1.0, "event_id": "o", **fields})
            assert await scene.by_unit.submit([reward]) == ["invalid"], fields
            mistake = scene.by_unit.refusal(reward)
            assert mistake is not None
            assert mistake[0] in fields
        assert await scene.send("ada", 1.0, "o", at=ago(-5_000)) == "accepted", "clocks may be a little apart"
        (verdict,) = await scene.by_unit.submit([unit_reward("none", "ada", 1.0, "o")])
        assert verdict == "unknown"

    play(server, scenario)


def test_what_the_service_measures_is_sent_by_nobody(server: ThrowawayStore) -> None:
    async def scenario(scene: Scene) -> None:
        served = [
            {"name": "latency_ms", "kind": "continuous", "goal": "minimize", "source": "served"},
            {"name": "error", "kind": "binary", "goal": "minimize", "source": "served"},
            {"name": "revenue", "kind": "continuous", "role": "objective"},
        ]
        made = experiment(id="s", unit="user", metrics=served)
        await Changes(scene.store, scene.replica, scene.tail).create(created(made, uid=8))
        for metric, value in (("latency_ms", 1e6), ("error", 1), ("error", None)):
            reward = unit_reward("s", "ada", value, "o", metric=metric)
            assert await scene.by_unit.submit([reward]) == ["invalid"]
            refusal = scene.by_unit.refusal(reward)
            assert refusal is not None
            assert refusal[0] == "metric"
            assert "revenue" in refusal[1]
        assert await scene.by_unit.submit([unit_reward("s", "ada", 1.0, "o")]) == ["unmatched"]

    play(server, scenario)


def test_an_experiment_whose_units_are_requests_takes_none(server: ThrowawayStore) -> None:
    async def scenario(scene: Scene) -> None:
        made = experiment(id="r")
        await Changes(scene.store, scene.replica, scene.tail).create(created(made, uid=8))
        assert await scene.by_unit.submit([unit_reward("r", "ada", 1.0, "o")]) == ["invalid"]
        mistake = scene.by_unit.refusal(unit_reward("r", "ada", 1.0, "o"))
        assert mistake is not None
        assert mistake[0] == "experiment"
        assert scene.exposures._folded == {}

    play(server, scenario)


def test_one_batch_for_several_experiments_waits_once(server: ThrowawayStore) -> None:
    async def scenario(scene: Scene) -> None:
        other = experiment(id="f", unit="user", metrics=METRICS)
        await Changes(scene.store, scene.replica, scene.tail).create(created(other, uid=9))
        await scene.expose(["ada"], [0], [1_000])
        batch = [
            unit_reward(name, unit, 1.0, "o") for name in ("e", "f", "g") for unit in ("ada", "bob", "eve")
        ]
        started_s = asyncio.get_running_loop().time()
        verdicts = await scene.by_unit.submit(batch * 20)
        assert asyncio.get_running_loop().time() - started_s < 2.0
        assert verdicts[:9] == ["accepted", *["unmatched"] * 5, *["unknown"] * 3]
        assert verdicts[9::9] == ["duplicate"] * 19
        assert scene.flushes == 2

    play(server, scenario)


# Exposures that are still on their way


def test_an_exposure_in_another_workers_buffer_is_waited_for(server: ThrowawayStore) -> None:
    async def scenario(scene: Scene) -> None:
        sending = asyncio.create_task(scene.send("ada", 1.0, "o"))
        await asyncio.sleep(0.05)
        await scene.expose(["ada"], [0], [100])
        assert await sending == "accepted"

    play(server, scenario)


def test_one_whose_window_has_closed_is_no_answer_while_another_may_be_in_a_buffer(
    server: ThrowawayStore,
) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.expose(["u", "w"], [0, 0], [WINDOW_MS + 20_000, WINDOW_MS + 20_000])
        sent = asyncio.create_task(scene.send("u", 2.0, "order"))
        await eventually(lambda: scene.flushes == 1, 5)
        second = await scene.expose(["u"], [1], [5])
        assert await sent == "accepted"
        assert await scene.revisions() == [(second, 0, 2.0, pytest.approx(math.nan, nan_ok=True))]
        assert await scene.send("w", 2.0, "order") == "late"

    play(server, scenario)


def test_an_exposure_that_comes_later_is_found(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_unit, "RETRY_S", 0.05)

    async def scenario(scene: Scene) -> None:
        assert await scene.send("ada", 1.0, "o") == "unmatched"
        assert await scene.send("ada", 2.5, "o") == "unmatched"
        assert await scene.send("ada", 4.0, "p") == "unmatched"
        assert await scene.send("ada", None, "p") == "unmatched"
        assert await scene.send("bob", 7.0, "o") == "unmatched"
        batch = [unit_reward("e", "ada", value, "q") for value in (1.0, None)]
        assert await scene.by_unit.submit(batch) == ["unmatched"] * 2
        first = await scene.expose(["ada"], [0], [5_000])
        await eventually(lambda: len(scene.by_unit.unmatched) == 1)
        assert equal(await scene.revisions(), [(first, 0, 2.5, math.nan)]), (
            "its last value, and what was not taken back"
        )
        assert await scene.send("ada", 2.5, "o") == "duplicate"

    play(server, scenario)


def test_what_waited_does_not_replace_what_came_since(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_unit, "RETRY_S", 3_600.0)

    async def scenario(scene: Scene) -> None:
        assert await scene.send("ada", 1.0, "o") == "unmatched"
        await scene.expose(["ada"], [0], [5_000])
        # Another worker, which has nothing waiting, takes the correction.
        other = Scene(scene.store, 60_000)
        other.replica, other.tail, other.exposures = scene.replica, scene.tail, scene.exposures
        other.by_unit = RewardsByUnit(
            scene.store,
            scene.replica,
            scene.tail,
            scene.exposures,
            scene.rewards.appender_of,
            scene.by_unit._flush,
        )
        assert await other.send("ada", 9.0, "o") == "accepted"
        assert len(scene.by_unit.unmatched) == 1
        await scene.by_unit.look_again()
        assert len(scene.by_unit.unmatched) == 0
        assert [value for _, _, value, _ in await scene.revisions()] == [9.0]

    play(server, scenario)


def worker_of(scene: Scene) -> RewardsByUnit:
    """Another worker's way of rewards by unit."""
    return RewardsByUnit(
        scene.store,
        scene.replica,
        scene.tail,
        ExposuresLog(scene.store, scene.replica),
        scene.rewards.appender_of,
        scene.by_unit._flush,
    )


@pytest.mark.parametrize(
    ("sent", "counted"),
    [
        ((("a", 5.0), ("b", None)), None),
        ((("a", 5.0), ("b", 9.0)), 9.0),
        ((("a", 5.0), ("b", 9.0), ("a", 5.0)), 5.0),
        ((("a", 5.0), ("b", None), ("a", 7.0)), 7.0),
        ((("a", 5.0), ("b", 9.0), ("a", None)), None),
        ((("b", None), ("a", 5.0)), 5.0),
    ],
)
def test_of_what_waits_in_several_workers_the_last_sent_counts(
    server: ThrowawayStore,
    monkeypatch: pytest.MonkeyPatch,
    sent: Sequence[tuple[str, float | None]],
    counted: float | None,
) -> None:
    monkeypatch.setattr(by_unit, "RETRY_S", 3_600.0)

    async def scenario(scene: Scene) -> None:
        workers = {"a": scene.by_unit, "b": worker_of(scene)}
        for worker, value in sent:
            assert await workers[worker].submit([unit_reward("e", "ada", value, "o")]) == ["unmatched"]
        await scene.expose(["ada"], [0], [5_000])
        await scene.tail.wait_for_end("e")
        for worker in workers.values():
            await worker.look_again()
            assert len(worker.unmatched) == 0
        assert [value for _, _, value, _ in await scene.revisions()] == [counted] * (counted is not None)

    play(server, scenario)


@pytest.mark.parametrize("value", [None, 9.0])
def test_what_is_sent_while_another_worker_counts_comes_last(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch, value: float | None
) -> None:
    monkeypatch.setattr(by_unit, "RETRY_S", 3_600.0)

    async def scenario(scene: Scene) -> None:
        other = worker_of(scene)
        assert await scene.send("ada", 5.0, "o") == "unmatched"
        await scene.expose(["ada"], [0], [5_000])
        await scene.tail.wait_for_end("e")
        append = scene.by_unit._append
        verdicts: list[str] = []

        async def after_the_other(*args: Any, only_new: bool = False) -> bytes:
            if only_new:  # between the look at the marks and the append
                verdicts.extend(await other.submit([unit_reward("e", "ada", value, "o")]))
            return await append(*args, only_new=only_new)

        monkeypatch.setattr(scene.by_unit, "_append", after_the_other)
        await scene.by_unit.look_again()
        assert verdicts == ["unmatched" if value is None else "accepted"]
        last = (await scene.revisions())[-1][2]
        assert math.isnan(last) if value is None else last == value

    play(server, scenario)


def test_a_token_takes_back_what_waits_by_unit(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_unit, "RETRY_S", 3_600.0)

    async def scenario(scene: Scene) -> None:
        assert await scene.send("ada", 5.0, "o") == "unmatched"
        assert await scene.send("ada", 6.0, "p") == "unmatched"
        await scene.expose(["ada"], [0], [5_000])
        await scene.tail.wait_for_end("e")
        live = scene.replica.experiments["e"]
        row = np.zeros(1, REWARD)
        row["unit"] = rendezvous(live.record).hash_units(["ada"])
        row["time_ms"], row["value"] = await scene.store.time_ms(), math.nan
        event = np.array([hash_event("o")], np.uint64)
        assert await scene.rewards._intake_of(live).append(row, event, None) == b"u"
        await scene.by_unit.look_again()
        assert len(scene.by_unit.unmatched) == 0
        assert [value for _, _, value, _ in await scene.revisions()] == [6.0]

    play(server, scenario)


def test_after_a_minute_nobody_looks_any_more(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_unit, "RETRY_S", 0.05)

    async def scenario(scene: Scene) -> None:
        assert await scene.send("ada", 1.0, "o") == "unmatched"
        await eventually(lambda: len(scene.by_unit.unmatched) == 0)
        await scene.expose(["ada"], [0], [5_000])
        await asyncio.sleep(0.3)
        assert await scene.revisions() == []
        assert await scene.send("ada", 1.0, "o") == "accepted", "a retry is safe"

    play(server, scenario, unmatched_ms=400)


def test_few_wait_and_the_oldest_go_first(server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unmatched, "MAX_UNMATCHED", 5)

    async def scenario(scene: Scene) -> None:
        batch = [unit_reward("e", "ada", 1.0, f"o{i}") for i in range(9)]
        assert await scene.by_unit.submit(batch) == ["unmatched"] * 9
        assert (len(scene.by_unit.unmatched), scene.by_unit.unmatched.dropped) == (5, 4)

    play(server, scenario)


# Load


def test_unknown_experiments_of_one_request_cost_one_look_for_news(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(scene: Scene) -> None:
        looks = 0
        news = scene.tail.wait_for_new_experiments

        async def counted() -> None:
            nonlocal looks
            looks += 1
            await news()

        monkeypatch.setattr(scene.tail, "wait_for_new_experiments", counted)
        batch = [unit_reward(f"no-{i}", "ada", 1.0, "o") for i in range(1_000)]
        assert await scene.by_unit.submit(batch) == ["unknown"] * 1_000
        assert looks == 1

    play(server, scenario)


def test_what_arrives_together_shares_looks_and_at_the_tail_nobody_asks_the_store(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(scene: Scene) -> None:
        units = [f"u{i}" for i in range(300)]
        first = await scene.expose(units, [0] * 300, [1_000] * 300)
        await scene.tail.wait_for_end("e")
        assert await scene.send("u0", 1.0, "warm") == "accepted"
        live = scene.replica.experiments["e"]
        await scene.tail.wait_for_end("e")
        await scene.exposures.reach(live)
        asked, looks = 0, 0
        trimmed, read = scene.store.trimmed, scene.exposures.read

        async def counted_trimmed(owner: str) -> Offset:
            nonlocal asked
            asked += owner == "e"
            return await trimmed(owner)

        async def counted_read(*args: Any) -> Any:
            nonlocal looks
            looks += 1
            return await read(*args)

        monkeypatch.setattr(scene.store, "trimmed", counted_trimmed)
        monkeypatch.setattr(scene.exposures, "read", counted_read)
        await scene.exposures.reach(live)
        assert asked == 0
        verdicts = await asyncio.gather(*(scene.send(unit, 1.0, "o") for unit in units))
        assert verdicts == ["accepted"] * 300
        assert looks <= 3
        decisions = [decision for decision, *_ in await scene.revisions()]
        assert sorted(decisions[1:]) == [first + i for i in range(300)], "each joins its own"

    play(server, scenario)


def test_many_that_wait_never_hold_the_loop(server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_unit, "RETRY_S", 3_600.0)

    async def scenario(scene: Scene) -> None:
        for i in range(20_000):
            scene.by_unit.unmatched.keep((7, i + 1, 0, i + 1), 0, 1.0, b"mark")
        sizes: list[int] = []
        look = scene.by_unit._look

        async def counted(live: LiveExperiment, sent: by_unit.UnitEvents) -> InForce:
            sizes.append(len(sent.units))
            return await look(live, sent)

        monkeypatch.setattr(scene.by_unit, "_look", counted)
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        running = asyncio.create_task(others())
        await scene.by_unit.look_again()
        assert turns >= 20
        assert (max(sizes), sum(sizes)) == (by_unit.A_LOOK, 20_000)
        running.cancel()

    play(server, scenario)


# Faults


def test_while_the_store_is_away_there_is_no_verdict(server: ThrowawayStore) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.expose(["ada"], [0], [1_000])
        assert await scene.send("ada", 1.0, "o") == "accepted"
        server.kill()
        with pytest.raises(StoreUnavailable):
            await scene.send("ada", 1.0, "p")
        server.start()
        await eventually(lambda: scene.tail.available)
        assert await scene.send("ada", 1.0, "o") in ("accepted", "duplicate")

    play(server, scenario)


def test_an_experiment_that_is_set_aside_asks_to_come_again(server: ThrowawayStore) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.store.append("e", b"z", b"from the future")
        await eventually(lambda: "e" in scene.replica.aside)
        with pytest.raises(SetAside):
            await scene.send("ada", 1.0, "o")

    play(server, scenario)


def test_what_a_repair_leaves_out_was_never_there(server: ThrowawayStore) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.expose(["ada"], [0], [2_000])
        await scene.expose(["bob"], [1], [1_000])
        assert await scene.send("ada", 1.0, "o") == "accepted"
        entries = [each for each in await scene.store.read("e", START, 100) if each.kind == events.EXPOSED]
        at = str(entries[0].offset)
        repaired = Repaired("e", "leave_out", "test", None, ((at, at),))
        scene.replica.registry.repairs.apply(await scene.store.last_offset("e"), repaired)
        assert await scene.send("ada", 1.0, "p") == "unmatched"
        assert await scene.send("bob", 1.0, "o") == "accepted"

    play(server, scenario)


def test_a_deleted_experiment_is_unknown_and_nothing_waits_for_it(server: ThrowawayStore) -> None:
    async def scenario(scene: Scene) -> None:
        assert await scene.send("ada", 1.0, "o") == "unmatched"
        scene.replica._delete("e")
        assert len(scene.by_unit.unmatched) == 0
        assert scene.exposures._folded == {}

    play(server, scenario)


def test_a_snapshot_has_what_a_trimmed_log_has_not(server: ThrowawayStore) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.expose(["ada", "bob"], [0, 1], [2_000, 1_000])
        await scene.tail.wait_for_end("e")
        await scene.exposures.snapshot(scene.replica.experiments["e"])
        await scene.expose(["eve"], [1], [500])
        trimmed = scene.replica.experiments["e"].offset
        await scene.store.trim("e", trimmed)
        scene.by_unit._looks = Looks(ExposuresLog(scene.store, scene.replica))
        for unit in ("ada", "bob", "eve"):
            assert await scene.send(unit, 1.0, "o") == "accepted"

    play(server, scenario)


def test_without_a_snapshot_only_what_was_trimmed_is_missing(server: ThrowawayStore) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.expose(["ada"], [0], [2_000])
        await scene.tail.wait_for_end("e")
        await scene.store.trim("e", scene.replica.experiments["e"].offset)
        await scene.expose(["bob"], [1], [500])
        assert await scene.send("ada", 1.0, "o") == "unmatched"
        assert await scene.send("bob", 1.0, "o") == "accepted"
        assert scene.replica.experiments["e"].offset > Offset(0, 0)

    play(server, scenario)


def test_an_arm_that_came_in_what_was_trimmed_is_known(server: ThrowawayStore) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.expose(["ada"], [0], [2_000])
        await scene.tail.wait_for_end("e")
        live = scene.replica.experiments["e"]
        await scene.exposures.snapshot(live)
        three = [{"name": "a"}, {"name": "b"}, {"name": "c"}]
        wider = record(experiment(unit="user", metrics=METRICS, arms=three), uid=7, revision=2)
        change = Changed(wider, Change("add_arm", "test", arm="c"))
        await scene.store.append("e", events.CHANGED, events.encode(change))
        await scene.tail.wait_for_end("e")
        await scene.store.trim("e", live.offset)
        scene.by_unit._looks = Looks(ExposuresLog(scene.store, scene.replica))
        await scene.expose(["bob"], [2], [500], n_arms=3)
        assert [await scene.send(unit, 1.0, "o") for unit in ("ada", "bob")] == ["accepted"] * 2

    play(server, scenario)


def test_features_go_with_the_reward(server: ThrowawayStore) -> None:
    async def scenario(scene: Scene) -> None:
        n_features = scene.replica.experiments["e"].n_features
        x = np.arange(2 * n_features, dtype=np.float32).reshape(2, n_features)
        await scene.expose(["ada", "bob"], [0, 1], [2_000, 1_000], x=x.tobytes())
        assert await scene.send("bob", 1.0, "o") == "accepted"
        entry = next(e for e in await scene.store.read("e", START, 100) if e.kind == events.REVISED)
        event = events.decode(entry.kind, entry.data, n_features)
        assert isinstance(event, events.Revised)
        assert event.x is not None
        assert event.x.tolist() == [x[1].tolist()]

    context = [{"name": "hour", "kind": "numeric"}]
    play(server, scenario, context=context, policy={"kind": "lin_ts"})


def test_unix_milliseconds_are_those_of_the_zone() -> None:
    assert unix_ms(datetime.fromisoformat("1970-01-01T01:00:00.0015+01:00")) == 1
    assert unix_ms(datetime.fromisoformat("1969-12-31T23:59:59.9995Z")) == -1
