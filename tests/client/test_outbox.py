"""Rewards in the background: the bound, when they are sent, what becomes of those that are not, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from bandit_serve_client import Client, OutboxSettings, Reward, SyncClient, UnitReward, calls
from bandit_serve_client.backlog import Backlog
from bandit_serve_client.seldom import SeldomWarning
from both_clients import CLIENTS
from scale import scaled
from scripted_server import CLOSE, HANG, Received, Script, ScriptedServer, answer
from services import ThrowawayService, clean_environment

Make = Callable[..., Any]
FOREVER_S = 3600.0
RESTARTS = scaled(2, 10)
EXPERIMENT = {
    "id": "button",
    "arms": [{"name": "blue"}, {"name": "green"}],
    "metrics": [{"name": "click", "kind": "binary"}],
    "attribution": {"missing": "ignore"},
    "policy": {"kind": "fixed_split"},
}


@pytest.fixture(params=CLIENTS)
def client_of(request: pytest.FixtureRequest) -> Make:
    made: Make = CLIENTS[request.param]
    return made


def verdicts(request: Received, _: int = 0) -> Script:
    """The verdict on each reward is its metric, `accepted` where it has none."""
    each = [reward.get("metric", "accepted") for reward in json.loads(request.body)["rewards"]]
    report = {"accepted": len(each), "duplicates": 0, "rejected": 0, "verdicts": each}
    return answer(json.dumps(report).encode())


def ids(request: Received) -> list[str]:
    return [reward["decision_id"] for reward in json.loads(request.body)["rewards"]]


def rewards(n: int) -> list[Reward]:
    return [Reward(f"t{i}", float(i)) for i in range(n)]


def test_rewards_are_sent_together_and_in_their_order(client_of: Make) -> None:
    settings = OutboxSettings(flush_every=FOREVER_S)
    with ScriptedServer(verdicts) as server, client_of(server.url, outbox=settings) as client:
        assert all(client.queue(reward) for reward in rewards(100))
        assert client.n_queued == 100
        assert server.received == []
        assert client.flush()
        assert [ids(request) for request in server.received] == [[f"t{i}" for i in range(100)]]
        assert client.n_queued == 0
        assert client.counts == {"accepted": 100}


def test_they_are_sent_when_there_are_enough(client_of: Make) -> None:
    settings = OutboxSettings(flush_every=FOREVER_S, flush_at=10)
    with ScriptedServer(verdicts) as server, client_of(server.url, outbox=settings) as client:
        for reward in rewards(25):
            client.queue(reward)
        wait_for(client, lambda: len(server.received) == 2)
        assert [len(ids(request)) for request in server.received] == [10, 10]
        wait_for(client, lambda: client.n_queued == 5)


def test_they_are_sent_when_they_have_waited(client_of: Make) -> None:
    settings = OutboxSettings(flush_every=0.05)
    with ScriptedServer(verdicts) as server, client_of(server.url, outbox=settings) as client:
        client.queue(Reward("t", 1.0))
        wait_for(client, lambda: client.n_queued == 0)
        client.queue(Reward("u", 1.0))
        wait_for(client, lambda: client.n_queued == 0)
        assert [ids(request) for request in server.received] == [["t"], ["u"]]


def wait_for(client: Any, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Waits while the client's event loop runs, if it has one."""
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s
        client._connections.pause(0.01) if isinstance(client, SyncClient) else pause(client)


def pause(client: Any) -> None:
    client._runner.run(asyncio.sleep(0.01))


def test_at_the_bound_the_newest_is_refused(client_of: Make, caplog: pytest.LogCaptureFixture) -> None:
    settings = OutboxSettings(max_queued=10, flush_every=FOREVER_S)
    with ScriptedServer(verdicts) as server, client_of(server.url, outbox=settings) as client:
        started_s = time.monotonic()
        assert [client.queue(reward) for reward in rewards(13)] == [True] * 10 + [False] * 3
        assert time.monotonic() - started_s < 5
        assert client.counts == {"refused": 3}
        client.flush()
        assert ids(server.received[0]) == [f"t{i}" for i in range(10)]
        assert client.queue(Reward("again", 1.0))
        assert client.counts == {"refused": 3, "accepted": 10}
    assert [r.message for r in caplog.records] == [
        "a reward was refused, as 10 wait to be sent (1 since the last warning)"
    ]


def test_the_bound_is_one_of_bytes_too(client_of: Make, caplog: pytest.LogCaptureFixture) -> None:
    """A few rewards of long ids take as much as many others; each frees its bytes when it has its verdict."""
    settings = OutboxSettings(max_queued_bytes=100_000, flush_every=FOREVER_S)
    long = [Reward("t" * 20_000, 1.0), Reward("ü" * 5_000, 1.0, event_id="o" * 20_000)]
    with ScriptedServer(verdicts) as server, client_of(server.url, outbox=settings) as client:
        for _ in range(3):
            assert [client.queue(reward) for reward in (*long, *long)] == [True, True, True, False]
            assert client.queue(Reward("t", 1.0))
            assert client.flush(20)
        assert not client.queue(Reward("t" * 100_000, 1.0))
        assert client.counts == {"refused": 4, "accepted": 12}
    assert "bytes of them wait to be sent" in caplog.records[0].message


def test_the_bytes_of_a_reward_are_its_memory() -> None:
    for n in (1, 100, 10_000):
        for text in ("a" * n, "é" * n, "語" * n, "😀" * n):
            assert sys.getsizeof(text) <= Reward(text, 1.0).n_bytes <= 4 * n + 300
            reward = UnitReward(experiment=text, unit=text, value=1.0, metric=text, event_id=text, at=text)
            assert 5 * sys.getsizeof(text) <= reward.n_bytes + 5 * 80


@pytest.mark.parametrize(
    "failure",
    [
        CLOSE,
        answer(b"{}", 503),
        answer(b"{}", 401),
        answer(b"<html>"),
        answer(b"[" * 100_000 + b"]" * 100_000),
        answer(b"[" * 100_000 + b"]" * 100_000, 503),
        answer(b'{"accepted": 1e999, "duplicates": [], "rejected": {}, "verdicts": 3}'),
    ],
)
def test_what_could_not_be_sent_is_sent_again(client_of: Make, failure: Script) -> None:
    def script(request: Received, number: int) -> Script:
        return failure if number < 3 else verdicts(request)

    settings = OutboxSettings(flush_every=0.0)
    with ScriptedServer(script) as server, client_of(server.url, outbox=settings) as client:
        for reward in rewards(5):
            client.queue(reward)
        assert client.flush(20)
        assert client.counts["accepted"] == 5
        counted = Counter(name for request in server.received[3:] for name in ids(request))
        assert counted == {f"t{i}": 1 for i in range(5)}


def test_the_outbox_survives_any_error(client_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody thought of passes, as others do: the rewards wait, and are sent again."""
    errors: list[Exception] = [RecursionError(), ValueError("v"), MemoryError(), RuntimeError(), KeyError(1)]
    read = calls.read

    def failing(kind: type[Any], value: Any) -> Any:
        if errors:
            raise errors.pop()
        return read(kind, value)

    monkeypatch.setattr("bandit_serve_client.backlog.MAX_PAUSE_S", 0.01)
    monkeypatch.setattr("bandit_serve_client.calls.expecting", lambda form: contextlib.nullcontext())
    monkeypatch.setattr("bandit_serve_client.calls.read", failing)
    settings = OutboxSettings(flush_every=0.0)
    with ScriptedServer(verdicts) as server, client_of(server.url, outbox=settings) as client:
        for reward in rewards(3):
            assert client.queue(reward)
        assert client.flush(20)
        assert client.counts == {"failed_sends": 5, "accepted": 3}
        assert client.queue(Reward("later", 1.0))
        assert client.flush(20)
        assert client.counts["accepted"] == 4


def test_a_time_that_can_not_be_written_is_invalid(client_of: Make) -> None:
    at = datetime.min.replace(tzinfo=timezone(timedelta(hours=2)))
    with ScriptedServer(verdicts) as server, client_of(server.url) as client:
        client.queue(UnitReward(experiment="e", unit="u", value=1.0, at=at))
        client.queue(Reward("t", 1.0))
        assert client.flush(20)
        assert client.counts["accepted"] == client.counts["invalid"] == 1


def test_a_flush_that_ends_with_the_client_says_what_was_lost() -> None:
    """It returns when nothing waits any more, but that is not what it promises."""
    settings = OutboxSettings(flush_every=0.0, close_timeout=0.1)

    async def play(url: str) -> bool:
        client = Client(url, outbox=settings)
        client.queue(Reward("t", 1.0))
        flushing = asyncio.create_task(client.flush())
        await asyncio.sleep(0.05)
        await client.close()
        return await flushing

    with ScriptedServer(lambda *_: HANG) as server:
        assert not asyncio.run(play(server.url))
        client = SyncClient(server.url, outbox=settings)
        client.queue(Reward("t", 1.0))
        with ThreadPoolExecutor(1) as threads:
            flushing = threads.submit(client.flush)
            wait_for(client, lambda: len(server.received) == 2)
            client.close()
            assert not flushing.result(10)
        assert client.counts["lost"] == 1
        assert client.flush()


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_a_client_that_is_dropped_leaves_no_thread() -> None:
    """What it queued is sent all the same."""

    def named() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "bandit-serve-outbox"]

    with ScriptedServer(verdicts) as server:
        dropped = []
        for i in range(20):
            client = SyncClient(server.url, outbox=OutboxSettings(flush_every=0.05))
            assert client.queue(Reward(f"t{i}", 1.0))
            dropped.append(weakref.ref(client))
        del client
        until_s = time.monotonic() + 20
        while named():
            assert time.monotonic() < until_s
            time.sleep(0.01)
        gc.collect()
        assert [reference() for reference in dropped] == [None] * 20
        assert sorted(name for request in server.received for name in ids(request)) == sorted(
            f"t{i}" for i in range(20)
        )


def test_without_another_thread_a_reward_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with ScriptedServer(verdicts) as server, SyncClient(server.url) as client:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            assert not client.queue(Reward("t", 1.0))
        assert client.queue(Reward("t", 1.0))
        assert client.flush(20)
        assert client.counts == {"refused": 1, "accepted": 1}


def test_one_that_is_refused_does_not_hold_up_the_others(client_of: Make) -> None:
    """A whole batch is refused for what is in one of its rewards."""

    def script(request: Received, number: int) -> Script:
        return answer(b"{}", 400) if "t13" in ids(request) else verdicts(request)

    rejected: list[tuple[str, str]] = []
    settings = OutboxSettings(
        on_rejected=lambda reward, verdict: rejected.append((reward.decision_id, verdict))
    )
    with ScriptedServer(script) as server, client_of(server.url, outbox=settings) as client:
        for reward in rewards(50):
            client.queue(reward)
        assert client.flush(20)
        assert rejected == [("t13", "invalid")]
        assert client.counts["accepted"] == 49
        assert client.counts["invalid"] == 1
        assert len(server.received) < 20


def test_one_that_can_not_be_written_does_not_either(client_of: Make) -> None:
    with ScriptedServer(verdicts) as server, client_of(server.url) as client:
        client.queue(Reward("\ud800", 1.0))
        client.queue(Reward("t", 1.0))
        assert client.flush(20)
        assert client.counts["accepted"] == client.counts["invalid"] == 1


def test_only_rewards_are_queued(client_of: Make) -> None:
    with client_of("http://127.0.0.1:9") as client:
        for other in ("t", None, {"decision_id": "t", "value": 1.0}):
            with pytest.raises(TypeError, match="Reward"):
                client.queue(other)
        assert client.n_queued == 0


def test_those_that_changed_nothing_are_named(client_of: Make) -> None:
    rejected: list[tuple[Any, str]] = []

    def note(reward: Any, verdict: str) -> None:
        rejected.append((reward, verdict))
        raise RuntimeError("of the callback")

    named = ["late", "accepted", "unknown", "duplicate", "conflict", "unmatched", "corrected", "retracted"]
    settings = OutboxSettings(on_rejected=note)
    with ScriptedServer(verdicts) as server, client_of(server.url, outbox=settings) as client:
        for verdict in named:
            client.queue(Reward("t", 1.0, verdict))
        assert client.flush(20)
        assert client.counts == Counter(named)
    assert [verdict for _, verdict in rejected] == ["late", "unknown", "conflict", "unmatched"]
    assert rejected[0][0] == Reward("t", 1.0, "late")


def test_or_logged(client_of: Make, caplog: pytest.LogCaptureFixture) -> None:
    with ScriptedServer(verdicts) as server, client_of(server.url) as client:
        for verdict in ("late", "late", "unknown", "accepted"):
            client.queue(Reward("t", 1.0, verdict))
        client.flush(20)
    assert [r.message for r in caplog.records] == ["3 rewards were rejected: late 2, unknown 1"]


def test_closing_sends_what_is_queued(client_of: Make) -> None:
    settings = OutboxSettings(flush_every=FOREVER_S, flush_at=10)
    with ScriptedServer(verdicts) as server, client_of(server.url, outbox=settings) as client:
        for reward in rewards(9):
            client.queue(reward)
        client.close()
        assert ids(server.received[0]) == [f"t{i}" for i in range(9)]
        assert client.n_queued == 0
        assert not client.queue(Reward("t", 1.0))
        assert client.counts == {"accepted": 9, "refused": 1}


def test_closing_does_not_wait_for_the_end_of_a_pause(
    client_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service was away for long, and is back."""
    for bound in ("MIN_PAUSE_S", "MAX_PAUSE_S"):
        monkeypatch.setattr(f"bandit_serve_client.backlog.{bound}", FOREVER_S)

    def script(request: Received, number: int) -> Script:
        return answer(b"{}", 401) if number == 0 else verdicts(request)

    settings = OutboxSettings(flush_every=0.0)
    with ScriptedServer(script) as server, client_of(server.url, outbox=settings) as client:
        client.queue(Reward("t", 1.0))
        wait_for(client, lambda: client.counts["failed_sends"] == 1)
        client.close()
        assert client.counts == {"failed_sends": 1, "accepted": 1}


@pytest.mark.parametrize("failure", [CLOSE, HANG, answer(b"{}", 503, "Retry-After: 60")])
def test_closing_ends_in_time_and_says_what_was_lost(
    client_of: Make, failure: Script, caplog: pytest.LogCaptureFixture
) -> None:
    settings = OutboxSettings(flush_every=0.0, close_timeout=0.3)
    with ScriptedServer(lambda *_: failure) as server:
        with client_of(server.url, outbox=settings) as client:
            for reward in rewards(7):
                client.queue(reward)
            started_s = time.monotonic()
        assert time.monotonic() - started_s < 5
        assert client.counts["lost"] == 7
        assert client.n_queued == 0
    assert "7 rewards were not sent before the end" in [r.message for r in caplog.records]


def test_a_flush_that_is_too_short_says_so(client_of: Make) -> None:
    settings = OutboxSettings(close_timeout=0.1)
    with ScriptedServer(lambda *_: HANG) as server, client_of(server.url, outbox=settings) as client:
        client.queue(Reward("t", 1.0))
        assert not client.flush(0.1)
        assert client.n_queued == 1


def test_a_flush_of_nothing_returns_at_once(client_of: Make) -> None:
    with client_of("http://127.0.0.1:9") as client:
        assert client.flush()


def test_a_loop_that_ends_before_the_client_says_what_was_lost(caplog: pytest.LogCaptureFixture) -> None:
    async def forget(url: str) -> None:
        client = Client(url, outbox=OutboxSettings(flush_every=FOREVER_S))
        client.queue(Reward("t", 1.0))
        await asyncio.sleep(0)

    with ScriptedServer(verdicts) as server:
        asyncio.run(forget(server.url))
        assert server.received == []
    assert [r.message for r in caplog.records] == ["1 rewards were not sent before the end"]


def test_queueing_waits_for_nothing_while_the_service_hangs() -> None:
    with ScriptedServer(lambda *_: HANG) as server:
        settings = OutboxSettings(flush_every=0.0, close_timeout=0.0)
        with SyncClient(server.url, outbox=settings) as client:
            client.queue(Reward("t", 1.0))
            wait_for(client, lambda: len(server.received) == 1)
            started_s = time.monotonic()
            for reward in rewards(1_000):
                assert client.queue(reward)
            assert time.monotonic() - started_s < 2


def test_threads_queue_at_once() -> None:
    with ScriptedServer(verdicts) as server, SyncClient(server.url) as client:

        def queue(thread: int) -> None:
            for i in range(500):
                assert client.queue(Reward(f"t{thread}-{i}", 1.0))

        threads = [threading.Thread(target=queue, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.flush(20)
        sent = Counter(name for request in server.received for name in ids(request))
        assert sent == {f"t{n}-{i}": 1 for n in range(8) for i in range(500)}
        assert client.counts == {"accepted": 4_000}


def test_the_callback_may_queue() -> None:
    """It is called without a lock, so it can neither block who queues nor itself."""
    with ScriptedServer(verdicts) as server:
        queued: list[bool] = []
        settings = OutboxSettings(on_rejected=lambda *_: queued.append(client.queue(Reward("again", 1.0))))
        with SyncClient(server.url, outbox=settings) as client:
            client.queue(Reward("t", 1.0, "late"))
            wait_for(client, lambda: client.counts["accepted"] == 1)
        assert queued == [True]


ENDING = """
import sys
from bandit_serve_client import OutboxSettings, Reward, SyncClient

client = SyncClient(sys.argv[1], outbox=OutboxSettings(flush_every=3600, close_timeout=5))
for i in range(20):
    client.queue(Reward(f"t{i}", 1.0))
END
"""


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise RuntimeError"])
def test_the_end_of_the_process_sends_what_is_queued(end: str) -> None:
    with ScriptedServer(verdicts) as server:
        subprocess.run(
            [sys.executable, "-c", ENDING.replace("END", end), server.url],
            env=clean_environment(),
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert [ids(request) for request in server.received] == [[f"t{i}" for i in range(20)]]


def test_the_end_of_the_process_does_not_wait_for_ever() -> None:
    with ScriptedServer(lambda *_: HANG) as server:
        code = ENDING.replace("END", "").replace("close_timeout=5", "close_timeout=0.2")
        done = subprocess.run(
            [sys.executable, "-c", code, server.url],
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "20 rewards were not sent before the end" in done.stderr
        assert done.returncode == 0


FORKED = """
import os, sys
from bandit_serve_client import OutboxSettings, Reward, SyncClient

client = SyncClient(sys.argv[1], outbox=OutboxSettings(flush_every=3600))
client.decide("e")
client.queue(Reward("of the parent", 1.0))
child = os.fork()
if not child:
    assert client.n_queued == 0
    client.decide("e")
    client.queue(Reward("of the child", 1.0))
    client.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
client.decide("e")
client.close()
"""


def test_a_fork_has_a_queue_and_connections_of_its_own() -> None:
    """What the parent queued is sent by the parent, once; they do not share a connection."""
    decision = b'{"decision_id":"t","experiment":"e","arm":"a","propensity":0.5,"model":null,"payload":null}'

    def script(request: Received, _: int) -> Script:
        return answer(decision) if "decide" in request.line else verdicts(request)

    with ScriptedServer(script) as server:
        done = subprocess.run(
            [sys.executable, "-c", FORKED, server.url],
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        sent = [ids(request) for request in server.received if "rewards" in request.line]
        assert sorted(sent) == [["of the child"], ["of the parent"]]
        decided = [request.connection for request in server.received if "decide" in request.line]
        assert decided[0] == decided[2] != decided[1]


@pytest.mark.parametrize("name", CLIENTS)
def test_each_counts_once_though_the_service_is_killed(name: str, tmp_path: Path) -> None:
    """Rewards are queued and sent while the workers, their supervisor and the store are killed and started again."""
    n = 100
    settings = OutboxSettings(flush_every=0.01, flush_at=20, close_timeout=30)
    with (
        ThrowawayService(tmp_path / "data") as service,
        CLIENTS[name](service.url, timeout=5, outbox=settings) as client,
    ):
        client.experiments.create(EXPERIMENT)
        client.experiments.start("button")
        for _ in range(RESTARTS):
            decision_ids = [client.decide("button", timeout=30).decision_id for _ in range(n)]
            for i, decision_id in enumerate(decision_ids):
                if i == n // 2:
                    for pid in service.worker_pids():
                        os.kill(pid, 9)
                    service.kill()
                assert client.queue(Reward(decision_id, float(i % 2)))
            service.start()
        assert client.flush(60)
        assert client.counts["accepted"] + client.counts["duplicate"] == n * RESTARTS
        arms = [arm.metrics["click"] for arm in client.experiments.results("button").arms]
        assert sum(arm.n for arm in arms) == n * RESTARTS
        assert sum(arm.n * arm.mean for arm in arms) == pytest.approx(n * RESTARTS / 2)


def test_pauses_grow_and_are_those_that_the_service_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from bandit_serve_client.errors import NotConnected, Unavailable

    now_s = 0.0
    monkeypatch.setattr("bandit_serve_client.backlog.time.monotonic", lambda: now_s)
    backlog = Backlog(OutboxSettings())
    backlog.add(Reward("t", 1.0))
    batch, pauses = backlog.batch(), []
    for _ in range(10):
        assert backlog.put_off(batch, NotConnected("away")) == []
        pauses.append(backlog.due_in_s(hurry=True))
    assert 0.05 <= pauses[0] <= 0.15
    assert all(2.5 <= pause <= 7.5 for pause in pauses[7:])
    backlog = Backlog(OutboxSettings())
    backlog.add(Reward("t", 1.0))
    backlog.put_off(backlog.batch(), Unavailable(503, retry_after=3.0))
    assert backlog.due_in_s(hurry=True) == 3.0


def test_warnings_come_seldom(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("bandit_serve_client.seldom.time.monotonic", lambda: now_s)
    warning = SeldomWarning()
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            warning.warn("away")
        now_s = 111.0
        warning.warn("away")
    assert [r.message for r in caplog.records] == [
        "away (1 since the last warning)",
        "away (50 since the last warning)",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_queued": 0},
        {"max_queued_bytes": 0},
        {"flush_at": 0},
        {"flush_at": 10_001},
        {"flush_every": -1},
        {"close_timeout": -1},
    ],
)
def test_settings_have_a_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        OutboxSettings(**wrong)


def test_a_unit_s_reward_has_a_time_with_its_zone() -> None:
    with pytest.raises(ValueError, match="zone"):
        UnitReward(experiment="e", unit="u", value=1.0, at=datetime(2026, 1, 1))
    at = datetime(2026, 1, 1, 12, 0, 0, 250_999, tzinfo=timezone(timedelta(hours=2)))
    reward = UnitReward(experiment="e", unit="u", value=None, event_id="order", at=at)
    assert reward.body() == {
        "experiment": "e",
        "unit": "u",
        "value": None,
        "event_id": "order",
        "at": "2026-01-01T10:00:00.250Z",
    }
