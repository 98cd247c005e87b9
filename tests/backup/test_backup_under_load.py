"""Backup of a service in use, and its restore: what was acknowledged before counts, once, and nothing twice."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import bandit_serve
from consistency_checks import KEYS, logged_values, make_experiment, private_store
from load import Connection, Load
from scale import scaled
from services import ThrowawayService
from stores import wait_until
from unit_load import UnitLoad

VISITS = scaled(300, 5_000)
SPEND = [{"name": "spend", "kind": "continuous"}]


class EventsOnce(Load):
    """Load of which each reward is sent with one value: plain, or by an event of its own. `sent` are its bodies."""

    def __init__(self, port: int, experiment: str, **options: Any) -> None:
        super().__init__(port, experiment, **options)
        self.sent: list[dict[str, Any]] = []

    async def _visit(self, connection: Connection, unit: str, chance: random.Random) -> None:
        decide = f"/v1/experiments/{self._experiment}/decide"
        decided = await self._insist(connection, decide, {"unit": unit}, self.tally.decisions)
        if decided is None:
            return
        for number in range(chance.randint(1, 5)):
            value = chance.uniform(-1, 1) * 10.0 ** chance.randint(-6, 6)
            body = {"decision_id": decided.body["decision_id"], "value": value, "metric": "spend"}
            if number:
                body["event_id"] = f"e{number}"
            answered = await self._insist(connection, "/v1/rewards", body, None)
            if answered is None:
                return
            self.sent.append(body)
            self.tally.acknowledged[f"send {len(self.sent)}"] = value

    @property
    def sums(self) -> list[float]:
        values = defaultdict(list)
        for body in self.sent:
            values[body["decision_id"]].append(body["value"])
        return sorted(map(math.fsum, values.values()))


def start_experiment(service: ThrowawayService, name: str, unit: str) -> None:
    described = {
        "id": name,
        "arms": [{"name": "control"}, {"name": "challenger"}],
        "unit": unit,
        "metrics": SPEND,
        "attribution": {"window": "1h", "missing": "ignore"},
    }
    assert service.call("POST", "/v1/experiments", described).status == 201
    assert service.call("POST", f"/v1/experiments/{name}/start").status == 200


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path / "a", "--snapshot-every", "1s", workers=2) as running:
        yield running


def verdicts(service: ThrowawayService, bodies: list[dict[str, Any]]) -> list[str]:
    said: list[str] = []
    for start in range(0, len(bodies), 500):
        answer = service.call("POST", "/v1/rewards", {"rewards": bodies[start : start + 500]})
        assert answer.status == 200, answer.body
        said += answer.body["verdicts"]
    return said


def assert_replays(*where: str) -> None:
    done = bandit_serve("replay", *where, "--json")
    assert done.status == 0, done.out + done.err
    replayed = done.document["experiments"]
    assert len(replayed) == 3
    assert {each["equal"] for each in replayed} == {True}


@pytest.mark.timeout(600)
def test_what_was_acknowledged_counts_once_after_a_restore(service: ThrowawayService, tmp_path: Path) -> None:
    make_experiment(service, "plain")
    start_experiment(service, "events", "request")
    start_experiment(service, "units", "user")
    loads = (
        Load(service.port, "plain", clients=4),
        EventsOnce(service.port, "events", clients=4),
        UnitLoad(service.port, "units", clients=4),
    )
    plain, events, units = loads
    file = tmp_path / "backup"
    with plain, events, units:
        for load in loads:
            load.wait_for_visits(VISITS)
        before = dict(plain.tally.acknowledged)
        sent_before = list(events.sent)
        done = bandit_serve("backup", "--data", service.data, "--out", file, "--json")
        assert done.status == 0, done.err
        for load in loads:
            load.wait_for_visits(VISITS // 3)
    for load in loads:
        assert not load.tally.failures, load.tally.failures[:3]
    assert service.stop() == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert done.document["logs"] == 4

    restored = tmp_path / "b"
    done = bandit_serve("restore", file, "--data", restored, "--json")
    assert done.status == 0, done.err
    assert_replays("--data", str(restored))
    with ThrowawayService(restored, workers=2) as again:
        counted = [{"decision_id": token, "value": value} for token, value in before.items()]
        assert set(verdicts(again, counted)) == {"duplicate"}
        assert set(verdicts(again, sent_before)) == {"duplicate"}
        everything = [
            {"decision_id": token, "value": value} for token, value in plain.tally.acknowledged.items()
        ]
        said = verdicts(again, everything)
        assert set(said) == {"duplicate", "accepted"}
        assert set(verdicts(again, events.sent)) == {"duplicate", "accepted"}
        resend_units(again, units)
        with private_store(again) as client:
            values = logged_values(client, "plain")
            assert len(values) == len(plain.tally.acknowledged)
            assert sum(values.values()) == sum(plain.tally.acknowledged.values())
            assert sorted(logged_values(client, "events").values()) == events.sums
            present = [value for value in logged_values(client, "units").values() if not math.isnan(value)]
            assert sorted(present) == sorted(units.sums.values())
        assert_replays("--data", str(restored))


def resend_units(service: ThrowawayService, load: UnitLoad) -> None:
    """Sends the last value of each event again; those whose exposures came after the backup are decided anew."""
    for unit in load.events:
        service.call("POST", "/v1/experiments/units/decide", {"unit": unit})
    bodies = [
        {"experiment": "units", "unit": unit, "event_id": event, "value": value}
        for unit, sent in load.events.items()
        for event, value in sent.items()
    ]
    assert set(verdicts(service, bodies)) <= {"duplicate", "accepted", "corrected", "retracted", "unmatched"}


@pytest.mark.timeout(600)
def test_a_log_that_is_trimmed_is_restored_with_what_it_began_with(tmp_path: Path) -> None:
    often = ("--snapshot-every", "1s", "--retention-time", "1s")
    file, restored = tmp_path / "backup", tmp_path / "b"
    with ThrowawayService(tmp_path / "a", *often, workers=1) as service:
        make_experiment(service, "plain")
        with Load(service.port, "plain", clients=4) as load:
            with private_store(service) as client:
                wait_until(lambda: client.get(KEYS.trimmed("plain")) is not None)
            for _ in range(3):
                done = bandit_serve("backup", "--data", service.data, "--out", file, "--json")
                assert done.status == 0, done.err
                load.wait_for_visits(100)
        assert not load.tally.failures
        results = service.call("GET", "/v1/experiments/plain/results").body
        acknowledged = load.tally.acknowledged
        assert sum(arm["metrics"]["click"]["n"] for arm in results["arms"]) == len(acknowledged)
    done = bandit_serve("restore", file, "--data", restored)
    assert done.status == 0, done.err
    replayed = bandit_serve("replay", "plain", "--data", restored, "--json")
    assert replayed.status == 0, replayed.out
    assert replayed.document["experiments"][0]["start"] is not None, "from a snapshot, as the log was trimmed"
    with ThrowawayService(restored) as again:
        bodies = [{"decision_id": token, "value": value} for token, value in acknowledged.items()]
        assert set(verdicts(again, bodies)) <= {"duplicate", "accepted"}
        results = again.call("GET", "/v1/experiments/plain/results").body
        assert sum(arm["metrics"]["click"]["n"] for arm in results["arms"]) == len(acknowledged)
