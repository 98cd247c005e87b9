"""Eight experiments under load, three with bad entries: the other five never fail, and `repair` restores the three."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_entries import BAD_ENTRIES, BadEntry, later_change
from commands import bandit_serve
from consistency_checks import (
    KEYS,
    assert_counted,
    assert_states_equal_replay,
    make_experiment,
    wait_until_all_serve,
)
from load import Load
from scale import scaled
from services import ThrowawayService
from stores import ThrowawayStore, gone, wait_until

from bandit_serve.log import events
from bandit_serve.log.entry import Entry
from bandit_serve.log.offset import Offset

WORKERS = 2
WELL = [f"well-{i}" for i in range(5)]
SICK = ["sick-kind", "sick-columns", "sick-change"]


@pytest.fixture
def service(store: ThrowawayStore, tmp_path: Path) -> Iterator[ThrowawayService]:
    flags = ("--snapshot-every", "2s")
    with ThrowawayService(tmp_path, *flags, store=store.url, workers=WORKERS) as running:
        wait_until_all_serve(running, WORKERS)
        yield running


def spoil(store: ThrowawayStore) -> None:
    """Adds a bad entry to each of three logs: an unknown kind, wrong columns, and a change of a later build."""
    with store.client() as client:
        (at, fields), *_ = client.xrange(KEYS.log("sick-change"), count=1)
        change = Entry(Offset.parse(at), events.CHANGED, fields[events.CHANGED])
        bad_entries = {
            "sick-kind": BAD_ENTRIES["an unknown kind"],
            "sick-columns": BAD_ENTRIES["columns of unequal length"],
            "sick-change": BadEntry(events.CHANGED, later_change(change)),
        }
        for name, bad_entry in bad_entries.items():
            client.xadd(KEYS.log(name), {bad_entry.kind: bad_entry.data})
        client.incr(KEYS.head("sick-change"))


class Trickle:
    """Decides for one experiment in an endless loop; `wrong` collects answers that no caller should get."""

    def __init__(self, service: ThrowawayService, name: str) -> None:
        self._service = service
        self._name = name
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.controls = 0
        self.wrong: list[Any] = []

    def _ask(self) -> None:
        while not self._stopping.wait(0.05):
            try:
                answer = self._service.call("POST", f"/v1/experiments/{self._name}/decide", {})
            except OSError:
                continue  # of a worker that was killed as it was asked
            if answer.status != 200:
                self.wrong.append(answer)
            self.controls += answer.status == 200 and answer.body["decision_id"] is None

    def __enter__(self) -> Trickle:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()


def troubled(service: ThrowawayService) -> set[str]:
    try:
        reasons = service.call("GET", "/health/ready").body.get("reasons", ())
    except (OSError, AttributeError):
        return set()
    return {each["experiment"] for each in reasons if each["what"] == "set_aside"}


def kill_all(service: ThrowawayService, store: ThrowawayStore, chance: random.Random) -> None:
    """A worker, all workers, or the store."""
    match chance.randrange(3):
        case 0:
            victims = service.worker_pids()[:1]
        case 1:
            victims = service.worker_pids()
        case _:
            victims = []
            store.kill()
            store.start()
    for victim in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        wait_until(lambda victim=victim: gone(victim))
    wait_until_all_serve(service, WORKERS)


@pytest.mark.timeout(400)
def test_three_poisoned_experiments_of_eight_harm_no_other(
    service: ThrowawayService, store: ThrowawayStore, tmp_path: Path
) -> None:
    for name in (*WELL, *SICK):
        make_experiment(service, name)
    chance = random.Random(11)
    until_s = time.monotonic() + scaled(4, 60)
    with contextlib.ExitStack() as stack:
        loads = [stack.enter_context(Load(service.port, name, clients=2, pause_s=0.02)) for name in WELL]
        loads[0].wait_for_visits(20)
        spoil(store)
        wait_until(lambda: troubled(service) == set(SICK))
        trickles = [stack.enter_context(Trickle(service, name)) for name in SICK]
        restarts = 0
        while time.monotonic() < until_s or restarts < 3:
            kill_all(service, store, chance)
            restarts += 1
            wait_until(lambda: troubled(service) == set(SICK))
            for load in loads:
                load.wait_for_visits(10)
    for trickle in trickles:
        assert trickle.controls > 0
        assert all(answer.status == 503 for answer in trickle.wrong), trickle.wrong[:3]
    where = ("--store", store.url, "--data", tmp_path)
    for name in SICK:
        mended = bandit_serve("repair", name, "--leave-out", "--json", *where)
        assert mended.status == 0, mended
        assert mended.document["taken_up"] == WORKERS
    assert service.call("GET", "/health/ready").body == {"status": "ready"}
    with store.client() as client:
        for name, load in zip(WELL, loads, strict=True):
            assert_counted(service, client, name, load.tally)
            assert_states_equal_replay(client, name, WORKERS)
    for name in SICK:
        decided = service.call("POST", f"/v1/experiments/{name}/decide", {}).body
        given = service.call("POST", "/v1/rewards", {"decision_id": decided["decision_id"], "value": 1})
        assert given.body["accepted"] == 1
    assert bandit_serve("replay", "--json", *where).document["equal"] is True
