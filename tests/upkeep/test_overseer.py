"""Overseer: starts, ends and pauses that happen by themselves, once, whoever else acts and whatever fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from builders import description, exposed, rewards
from builders import eventually as within
from stores import ThrowawayStore

from bandit_serve.errors import Conflict, InvalidInput
from bandit_serve.experiments.spec import Experiment
from bandit_serve.folds.experiment import HistoryEntry, LiveExperiment
from bandit_serve.log import events
from bandit_serve.log.events import Changed
from bandit_serve.log.offset import START
from bandit_serve.node import Node
from bandit_serve.registry.registry import Version
from bandit_serve.results.ending import Ending
from bandit_serve.server.ending import end
from bandit_serve.settings import Settings
from bandit_serve.upkeep import overseer as module
from bandit_serve.upkeep.keeper import Keeper
from bandit_serve.upkeep.overseer import START_OVERDUE, UNWATCHED, Overseer

HOUR_S = 3_600.0
PATIENCE_S = 60.0
MINUTES_MS = 600_000
GUARDED = [
    {"name": "click", "kind": "binary"},
    {
        "name": "error",
        "kind": "binary",
        "goal": "minimize",
        "role": "guardrail",
        "margin": {"absolute": 0.01},
        "on_harm": "pause_arm",
    },
]


@pytest.fixture(scope="module")
def server() -> Iterator[ThrowawayStore]:
    with ThrowawayStore(appendfsync="no") as running:
        yield running


@pytest.fixture(autouse=True)
def empty(server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch) -> None:
    server.flush()
    monkeypatch.setattr(module, "ROUND_S", 0.05)
    monkeypatch.setattr(module, "RETRY_S", 0.2)


async def eventually(condition: Callable[[], bool]) -> None:
    await within(condition, PATIENCE_S)


class Worker:
    """Node of a worker, its keeper and its overseer, without HTTP. `leads` says whether it acts."""

    def __init__(self, url: str, data: Path, incarnation: int) -> None:
        settings = Settings(data=str(data), store_timeout="2s")
        self.node = Node(settings, url)
        self.leads = True
        node = self.node
        self.keeper = Keeper(
            node.store,
            node.replica,
            node.changes,
            node.results,
            node.exposures,
            incarnation=incarnation,
            snapshot_every_s=HOUR_S,
            retention_s=24 * HOUR_S,
            retention_bytes=2**30,
            key_rotation_s=24 * HOUR_S,
            troubles=node.troubles,
        )
        self.overseer = Overseer(
            node.store,
            node.replica,
            node.results,
            node.automatic_changes,
            node.troubles,
            leads=lambda: self.leads,
        )
        node.replica.on_change(self.overseer.moved)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self.node.tail.load()
        self._tasks.append(asyncio.create_task(self.node.tail.run()))

    def oversee(self) -> None:
        self._tasks.append(asyncio.create_task(self.overseer.run()))

    async def die(self) -> None:
        await end(self._tasks)
        await self.node.store.close()

    async def create(self, **fields: Any) -> LiveExperiment:
        made = msgspec.convert(description(**fields), Experiment)
        return await self.node.experiment_changes.create(made, "test")

    async def running(self, **fields: Any) -> LiveExperiment:
        live = await self.create(**fields)
        return await self.node.experiment_changes.start(live.experiment.id, "test")

    async def in_ms(self, ms: int) -> str:
        return at(await self.node.store.time_ms() + ms)

    async def decide(self, name: str, first: int, n: int, values: dict[int, tuple[int, int]]) -> None:
        """Appends n decisions of each arm and rewards: `values` has the successes of each arm by metric."""
        now_ms = await self.node.store.time_ms()
        arms = np.tile([0, 1], n)
        made = msgspec.structs.replace(exposed(first, arms.tolist(), [now_ms] * 2 * n), revision=2)
        await self.node.store.append(name, events.EXPOSED, events.encode(made))
        for metric, successes in values.items():
            of = [np.arange(n) < each for each in successes]
            each = np.where(arms == 0, np.repeat(of[0], 2), np.repeat(of[1], 2)).astype(float)
            rows = rewards(
                range(first, first + 2 * n),
                values=each.tolist(),
                times_ms=now_ms,
                arms=arms.tolist(),
                metric=metric,
            )
            await self.node.store.append(name, events.REWARDED, rows.tobytes())
        await self.node.tail.wait_for_end(name)

    def live(self, name: str = "e") -> LiveExperiment:
        return self.node.replica.experiments[name]

    def own(self, name: str = "e") -> list[HistoryEntry]:
        """Changes in the history that the service made by itself."""
        return [entry for entry in self.live(name).history if entry.evidence is not msgspec.UNSET]

    def troubles(self) -> set[tuple[str, object]]:
        return {(each.what, each.experiment) for each in self.node.troubles}

    async def register(self, version: str, status: str = "staged") -> None:
        made = Version("m", version, "staged", "0" * 64, 1, "popularity", 1, 1)
        changes = self.node.changes
        await changes.change_models(lambda registry: registry.register(made, "test"))
        if status != "staged":
            await changes.change_models(
                lambda registry: registry.move("m", version, status, now_ms=1, who="test")  # type: ignore[arg-type]
            )


def at(time_ms: int) -> str:
    return (datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=time_ms)).isoformat()


def with_workers(
    server: ThrowawayStore, tmp_path: Path, scenario: Callable[..., Awaitable[None]], n: int = 1
) -> None:
    async def run() -> None:
        workers = [Worker(server.url, tmp_path / str(i), i) for i in range(1, n + 1)]
        try:
            for worker in workers:
                await worker.start()
            await scenario(*workers)
        finally:
            for worker in workers:
                await worker.die()

    asyncio.run(run())


async def rounds(worker: Worker, n: int = 4) -> None:
    """Returns after some rounds of the overseer, of which each begins after the one before has ended."""
    for _ in range(n):
        await asyncio.sleep(module.ROUND_S * 1.5)


# Time


def test_a_draft_starts_at_its_time_and_not_before(server: ThrowawayStore, tmp_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        await worker.create(id="later", stopping={"start_at": await worker.in_ms(MINUTES_MS)})
        start_at = await worker.in_ms(1_500)
        await worker.create(stopping={"start_at": start_at})
        worker.oversee()
        await eventually(lambda: worker.live().record.status == "running")
        started_ms = worker.live().record.started_ms
        assert started_ms is not None
        assert at(started_ms) >= start_at
        (entry,) = worker.own()
        assert (entry.what, entry.who) == ("start", "schedule")
        assert entry.evidence == {"due": start_at.replace("+00:00", "Z").replace("000Z", "Z")}
        await rounds(worker, 8)
        assert len(worker.own()) == 1
        assert worker.live("later").record.status == "draft"
        assert worker.overseer.made == {"start": 1, "stop": 0, "pause_arm": 0}

    with_workers(server, tmp_path, scenario)


def test_two_that_act_at_once_do_each_thing_once(server: ThrowawayStore, tmp_path: Path) -> None:
    async def scenario(*workers: Worker) -> None:
        one, _two = workers
        names = [f"e{i}" for i in range(6)]
        for name in names:
            stopping = {"start_at": await one.in_ms(2_000), "duration": "500ms"}
            await one.create(id=name, stopping=stopping)
        for worker in workers:
            worker.oversee()
        await eventually(
            lambda: all(w.live(name).record.status == "stopped" for w in workers for name in names)
        )
        for worker in workers:
            for name in names:
                assert [entry.what for entry in worker.own(name)] == ["start", "stop"]
        for what in ("start", "stop"):
            await eventually(lambda what=what: sum(w.overseer.made[what] for w in workers) == len(names))

    with_workers(server, tmp_path, scenario, n=2)


def test_who_does_not_lead_does_nothing_and_holds_no_results(server: ThrowawayStore, tmp_path: Path) -> None:
    async def scenario(*workers: Worker) -> None:
        idle, acting = workers
        idle.leads = acting.leads = False
        for worker in workers:
            worker.oversee()
        await idle.running(stopping={"rule": "winner"})
        await idle.create(id="due", stopping={"start_at": await idle.in_ms(1_500)})
        await idle.decide("e", 0, 500, {0: (50, 250)})
        await rounds(idle)
        assert idle.own() == []
        assert idle.live("due").record.status == "draft"
        acting.leads = True
        await eventually(lambda: idle.live().record.status == "stopped")
        await eventually(lambda: idle.live("due").record.status == "running")
        assert idle.node.results.in_memory() == []
        assert idle.overseer.made == {"start": 0, "stop": 0, "pause_arm": 0}

    with_workers(server, tmp_path, scenario, n=2)


def test_a_lease_that_changes_hands_loses_nothing(server: ThrowawayStore, tmp_path: Path) -> None:
    async def scenario(*workers: Worker) -> None:
        one, two = workers
        two.leads = False
        for worker in workers:
            worker.oversee()
        for i in range(8):
            await one.running(id=f"e{i}", stopping={"rule": "winner"})
        for i in range(8):
            one.leads, two.leads = two.leads, one.leads
            await one.decide(f"e{i}", 0, 500, {0: (50, 250)})
        await eventually(lambda: all(one.live(f"e{i}").record.status == "stopped" for i in range(8)))
        for i in range(8):
            (entry,) = one.own(f"e{i}")
            assert (entry.what, one.live(f"e{i}").record.winner) == ("stop", "b")

    with_workers(server, tmp_path, scenario, n=2)


def test_it_ends_at_its_time_also_while_it_is_paused(server: ThrowawayStore, tmp_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        await worker.running(id="paused", stopping={"duration": "1500ms"})
        await worker.node.experiment_changes.pause("paused", "test")
        await worker.running(stopping={"end_at": await worker.in_ms(3_000), "duration": "9d"})
        await worker.decide("e", 0, 500, {0: (50, 250)})
        worker.oversee()
        await eventually(lambda: worker.live().record.status == "stopped")
        await eventually(lambda: worker.live("paused").record.status == "stopped")
        (entry,) = worker.own()
        assert (entry.what, entry.who) == ("stop", "schedule")
        assert worker.live().record.winner == "b"
        assert "b is better on click than a, at level 0.05" in str(entry.reason)
        evidence: Any = entry.evidence
        assert evidence["arms"]["b"]["n"] == 500
        assert evidence["arms"]["b"]["difference"] == pytest.approx(0.4)
        assert worker.live("paused").record.winner is None

    with_workers(server, tmp_path, scenario)


def test_a_start_without_its_model_is_said_and_tried_again(server: ThrowawayStore, tmp_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        await worker.register("lost")
        arms = [{"name": "a"}, {"name": "b", "model": "m", "version": "lost"}]
        others = [f"other{i}" for i in range(5)]
        for name in ("e", *others):
            stopping = {"start_at": await worker.in_ms(1_500)}
            await worker.create(id=name, stopping=stopping, **({"arms": arms} if name == "e" else {}))
        worker.oversee()
        await eventually(lambda: all(worker.live(name).record.status == "running" for name in others))
        await eventually(lambda: (START_OVERDUE, "e") in worker.troubles())
        assert worker.live().record.status == "draft"
        await worker.node.experiment_changes.remove_arm("e", "b", "test")
        await eventually(lambda: worker.live().record.status == "running")
        await eventually(lambda: worker.troubles() == set())
        assert len(worker.own()) == 1

    with_workers(server, tmp_path, scenario)


def test_what_was_to_end_meanwhile_is_not_started(server: ThrowawayStore, tmp_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        worker.leads = False
        start_at, end_at = await worker.in_ms(2_000), await worker.in_ms(2_300)
        await worker.create(stopping={"start_at": start_at, "end_at": end_at})
        worker.oversee()
        await asyncio.sleep(2.5)
        worker.leads = True
        await eventually(lambda: (START_OVERDUE, "e") in worker.troubles())
        with pytest.raises(Conflict, match="was to end at"):
            await worker.node.experiment_changes.start("e", "test")
        assert worker.live().record.status == "draft"
        worker.leads = False
        await eventually(lambda: worker.troubles() == set())

    with_workers(server, tmp_path, scenario)


def test_what_ends_by_itself_gives_back_its_layer(server: ThrowawayStore, tmp_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        layer = {"name": "page", "share": 1.0}
        await worker.running(layer=layer, stopping={"end_at": await worker.in_ms(1_000)})
        with pytest.raises(Conflict):
            await worker.create(id="next", layer=layer)
        worker.oversee()
        await eventually(lambda: worker.live().record.status == "stopped")
        await eventually(lambda: worker.node.replica.registry.layers == {})
        await worker.create(id="next", layer=layer)

    with_workers(server, tmp_path, scenario)


# Rules


@pytest.mark.parametrize("promotes", [True, False])
def test_the_winner_is_promoted_once_where_that_is_asked_for(
    server: ThrowawayStore, tmp_path: Path, promotes: bool
) -> None:
    async def scenario(*workers: Worker) -> None:
        worker = workers[0]
        await worker.register("v1", "production")
        await worker.register("v2")
        arms = [{"name": "a"}, {"name": "b", "model": "m", "version": "v2"}]
        made = description(arms=arms, stopping={"rule": "winner", "promote_winner": promotes})
        live = await worker.node.experiment_changes.create(msgspec.convert(made, Experiment), "test")
        await start_without_models(worker, live)
        for each in workers:
            each.oversee()
            each._tasks.append(asyncio.create_task(each.keeper.run()))
        await worker.decide("e", 0, 500, {0: (50, 250)})
        await eventually(lambda: worker.live().record.status == "stopped")
        model = worker.node.replica.registry.models["m"]
        if promotes:
            await eventually(lambda: worker.node.replica.registry.models["m"].production == "v2")
        await asyncio.sleep(1.2)
        model = worker.node.replica.registry.models["m"]
        assert [
            entry.what
            for entry in model.history
            if entry.who.startswith("experiment:") and entry.version == "v2"
        ] == (["promote"] if promotes else [])
        assert (worker.live().record.winner, model.production) == ("b", "v2" if promotes else "v1")
        assert worker.live().record.unpromoted is (msgspec.UNSET if promotes else True)
        assert worker.live().record.fallback == 1
        assert len(worker.own()) == 1

    with_workers(server, tmp_path, scenario, n=2)


async def start_without_models(worker: Worker, live: LiveExperiment) -> None:
    """Starts an experiment whose versions have no files here."""

    def decide(live: LiveExperiment) -> Changed:
        record = msgspec.structs.replace(
            live.record, status="running", revision=live.record.revision + 1, started_ms=1
        )
        return Changed(record, events.Change("start", "test"))

    await worker.node.changes.change_experiment(live.experiment.id, decide)


def test_a_winner_that_can_not_serve_is_none(server: ThrowawayStore, tmp_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        await worker.register("v2", "failed")
        arms = [{"name": "a"}, {"name": "b", "model": "m", "version": "v2"}]
        live = await worker.create(arms=arms, stopping={"rule": "winner", "promote_winner": True})
        await start_without_models(worker, live)
        worker.oversee()
        await worker.decide("e", 0, 500, {0: (50, 250)})
        await eventually(lambda: worker.live().record.status == "stopped")
        assert worker.live().record.winner is None
        assert "b can not serve" in str(worker.own()[0].reason)

    with_workers(server, tmp_path, scenario)


def test_a_paused_experiment_is_not_ended_by_its_rule(server: ThrowawayStore, tmp_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        await worker.running(stopping={"rule": "winner"})
        await worker.node.experiment_changes.pause("e", "test")
        worker.oversee()
        await worker.decide("e", 0, 500, {0: (50, 250)})
        await rounds(worker)
        assert worker.own() == []
        await worker.node.experiment_changes.start("e", "test")
        await eventually(lambda: worker.live().record.status == "stopped")

    with_workers(server, tmp_path, scenario)


# Guardrails


def test_an_arm_that_does_harm_is_paused_and_a_person_may_resume_it(
    server: ThrowawayStore, tmp_path: Path
) -> None:
    async def scenario(worker: Worker) -> None:
        changes = worker.node.experiment_changes
        further = {**GUARDED[1], "name": "slow"}
        await worker.running(metrics=[*GUARDED, further])
        worker.oversee()
        await worker.decide("e", 0, 300, {0: (30, 30), 1: (3, 150)})
        await eventually(lambda: worker.live().record.arm_statuses["b"] == "paused")
        (entry,) = worker.own()
        assert (entry.what, entry.who, entry.arm) == ("pause_arm", "guardrail", "b")
        evidence: Any = entry.evidence
        assert [(harm["arm"], harm["metric"]) for harm in evidence["harms"]] == [("b", "error")]
        assert evidence["harms"][0]["difference"] == pytest.approx(147 / 300)
        for reason in (None, "  "):
            with pytest.raises(
                InvalidInput, match="a reason is needed, as error paused the arm 'b'"
            ) as refused:
                await changes.resume_arm("e", "b", "test", reason=reason)
            assert [error.at for error in refused.value.errors] == ["reason"]
        await changes.resume_arm("e", "b", "test", reason="the errors are a test's")
        assert worker.live().record.overridden == {"b": ("error",)}
        await worker.decide("e", 600, 300, {0: (30, 30), 1: (3, 150)})
        await rounds(worker)
        assert worker.live().record.arm_statuses["b"] == "active"
        await worker.decide("e", 1200, 300, {2: (3, 150)})
        await eventually(lambda: worker.live().record.arm_statuses["b"] == "paused")
        assert [entry.what for entry in worker.own()] == ["pause_arm", "pause_arm"]
        await changes.resume_arm("e", "b", "test", reason="that, too")
        assert worker.live().record.overridden == {"b": ("error", "slow")}
        await changes.pause_arm("e", "b", "test")
        await changes.resume_arm("e", "b", "test")
        assert worker.live().record.arm_statuses["b"] == "active"

    with_workers(server, tmp_path, scenario)


def test_an_experiment_that_is_to_stop_at_harm_stops_without_a_winner(
    server: ThrowawayStore, tmp_path: Path
) -> None:
    async def scenario(worker: Worker) -> None:
        stopping = {"rule": "winner"}
        await worker.running(metrics=[GUARDED[0], {**GUARDED[1], "on_harm": "stop"}], stopping=stopping)
        worker.oversee()
        await worker.decide("e", 0, 300, {1: (3, 150), 0: (30, 150)})
        await eventually(lambda: worker.live().record.status == "stopped")
        (entry,) = worker.own()
        assert (entry.who, worker.live().record.winner) == ("guardrail", None)

    with_workers(server, tmp_path, scenario)


def test_what_a_person_has_done_meanwhile_holds(server: ThrowawayStore, tmp_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        changes, automatic = worker.node.experiment_changes, worker.node.automatic_changes
        before = (await worker.running()).record
        stop = Ending("stop", "stopping", before.revision, "It is decided.", {"rule": "winner"}, "b")
        pause = Ending("pause_arm", "guardrail", before.revision, "Harm.", {}, arm="b", metrics=("error",))
        await changes.pause("e", "test")
        revision = worker.live().record.revision
        assert await automatic.carry_out(before, stop) is False
        assert await automatic.carry_out(before, pause) is False
        await changes.stop("e", "test")
        await changes.delete("e", "test")
        assert await automatic.carry_out(before, stop) is False
        await worker.running()
        assert await automatic.carry_out(before, stop) is False
        assert worker.live().record.uid != before.uid
        assert worker.own() == []
        assert worker.live().record.revision < revision
        now = worker.live().record
        assert await automatic.carry_out(now, stop) is (now.revision == before.revision)

    with_workers(server, tmp_path, scenario)


# Faults


def test_an_outage_in_the_middle_delays_and_loses_nothing(tmp_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        for i in range(4):
            await worker.running(id=f"e{i}", stopping={"rule": "winner", "duration": "9d"})
        await worker.create(id="due", stopping={"start_at": await worker.in_ms(2_000)})
        worker.oversee()
        for i in range(4):
            await worker.decide(f"e{i}", 0, 500, {0: (50, 250)})
            if i == 1:
                own.kill()
                await asyncio.sleep(1.0)
                own.start()
                await eventually(lambda: worker.node.tail.available)
        names = [f"e{i}" for i in range(4)]
        await eventually(lambda: all(worker.live(name).record.status == "stopped" for name in names))
        await eventually(lambda: worker.live("due").record.status == "running")
        for name in (*names, "due"):
            assert len(worker.own(name)) == 1

    with ThrowawayStore() as own:
        with_workers(own, tmp_path, scenario)


def test_one_that_is_set_aside_or_has_no_results_touches_no_other(
    server: ThrowawayStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(worker: Worker) -> None:
        for name in ("aside", "unread", "e"):
            await worker.running(id=name, stopping={"rule": "winner"})
        await worker.node.results.reach(worker.live("unread"))
        monkeypatch.setattr(worker.node.results.in_memory()[0], "apply", None)
        await worker.node.store.append("aside", events.REWARDED, b"half a reward")
        worker.oversee()
        await eventually(lambda: "aside" in worker.node.replica.aside)
        await worker.decide("unread", 0, 500, {0: (50, 250)})
        await worker.decide("e", 0, 500, {0: (50, 250)})
        await eventually(lambda: worker.live().record.status == "stopped")
        # Its fold is made anew.
        await eventually(lambda: worker.live("unread").record.status == "stopped")
        assert (UNWATCHED, "aside") not in worker.troubles()
        await eventually(lambda: (UNWATCHED, "unread") not in worker.troubles())

    with_workers(server, tmp_path, scenario)


def test_rewards_whose_exposures_were_lost_count_in_the_end(
    server: ThrowawayStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing more comes into the log."""
    monkeypatch.setattr(module, "LATE_S", 0.5)

    async def scenario(worker: Worker) -> None:
        await worker.running(stopping={"rule": "winner", "min_samples": 300})
        worker.oversee()
        await worker.decide("e", 0, 200, {0: (20, 100)})
        lost = rewards(
            range(10_000, 10_400),
            values=[0.0, 1.0] * 200,
            times_ms=await worker.node.store.time_ms(),
            arms=[0, 1] * 200,
            incarnation=5,
        )
        await worker.node.store.append("e", events.REWARDED, lost.tobytes())
        await eventually(lambda: worker.live().record.status == "stopped")
        evidence: Any = worker.own()[0].evidence
        assert [arm["n"] for arm in evidence["arms"].values()] == [400, 400]

    with_workers(server, tmp_path, scenario)


def test_a_log_with_such_events_gives_the_same_state_again(server: ThrowawayStore, tmp_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        stopping = {"start_at": await worker.in_ms(1_500), "duration": "5s"}
        await worker.create(metrics=GUARDED, stopping=stopping)
        worker.oversee()
        await eventually(lambda: worker.live().record.status == "running")
        await worker.decide("e", 0, 300, {0: (30, 30), 1: (3, 150)})
        await eventually(lambda: worker.live().record.arm_statuses["b"] == "paused")
        await worker.node.experiment_changes.resume_arm("e", "b", "test", reason="a test")
        await eventually(lambda: worker.live().record.status == "stopped")
        assert [entry.what for entry in worker.own()] == ["start", "pause_arm", "stop"]
        live = worker.live()
        assert LiveExperiment.from_state(live.offset, live.state()).state() == live.state()
        again: LiveExperiment | None = None
        for entry in await worker.node.store.read("e", START, 10_000):
            event = events.decode(entry.kind, entry.data)
            if again is None:
                assert isinstance(event, Changed)
                again = LiveExperiment(event)
            again.apply(entry.offset, event)
        assert again is not None
        assert again.state() == live.state()

    with_workers(server, tmp_path, scenario)


def test_of_many_only_those_with_rules_are_looked_at(server: ThrowawayStore, tmp_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        for i in range(40):
            await worker.running(id=f"plain{i}")
        await worker.running(stopping={"rule": {"precision": 0.5}})
        await worker.create(id="later", stopping={"start_at": await worker.in_ms(MINUTES_MS)})
        worker.oversee()
        for i in range(40):
            await worker.decide(f"plain{i}", 0, 1, {0: (0, 1)})
        await worker.decide("e", 0, 10, {0: (0, 1)})
        await eventually(lambda: len(worker.node.results.in_memory()) == 1)
        await rounds(worker)
        assert [fold.record.experiment.id for fold in worker.node.results.in_memory()] == ["e"]

    with_workers(server, tmp_path, scenario)
