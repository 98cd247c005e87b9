"""Clocks that are set while a service runs: the store's, the workers', and that of a machine with both."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from ledger import (
    assert_counted,
    assert_states_equal_replay,
    make_experiment,
    private_store,
    wait_until_all_serve,
)
from load import Load
from scale import scaled
from services import ThrowawayService
from stepped import WallClock, needs_faketime
from stores import ThrowawayStore, server_binaries, wait_until

DAY_S = 86_400
WORKERS = 2
VISITS = scaled(300, 3_000)
NAMES = {"ignored": "ignore", "counted": "zero"}

pytestmark = [needs_faketime, pytest.mark.timeout(300)]


def clock_off(service: ThrowawayService) -> str | None:
    """What health says about the clocks."""
    reasons = service.call("GET", "/health/ready").body.get("reasons", [])
    return next((reason["detail"] for reason in reasons if reason["what"] == "clock_off"), None)


def offset_s(service: ThrowawayService) -> float:
    text = service.call("GET", "/metrics").body.decode()
    (line,) = [line for line in text.splitlines() if line.startswith("bandit_serve_clock_offset_seconds ")]
    return float(line.split()[1])


def results(service: ThrowawayService, name: str) -> dict[str, Any]:
    found = service.call("GET", f"/v1/experiments/{name}/results")
    assert found.status == 200, found.body
    body: dict[str, Any] = found.body
    return body


def reward(service: ThrowawayService, token: str) -> Any:
    return service.call("POST", "/v1/rewards", {"decision_id": token, "value": 1}).body["verdicts"]


def test_the_stores_clock_steps_a_day_ahead_and_back_under_load(tmp_path: Path) -> None:
    wall = WallClock(tmp_path)
    stepped = ThrowawayStore(binary=wall.wrapped(server_binaries()[0]), appendfsync="no")
    with stepped, ThrowawayService(tmp_path / "data", store=stepped.url, workers=WORKERS) as service:
        wait_until_all_serve(service, WORKERS)
        for name, missing in NAMES.items():
            make_experiment(service, name, missing=missing)
        # Longer than a worker must be known to be believed.
        time.sleep(6)
        with (
            Load(service.port, "ignored", clients=4) as ignored,
            Load(service.port, "counted", clients=4) as counted,
        ):
            n = 0
            for step_s in (0, DAY_S, 0, -DAY_S, 0):
                wall.step(step_s)
                n += VISITS
                for load in (ignored, counted):
                    load.wait_for_visits(n)
                for name in NAMES:
                    results(service, name)
                if step_s:
                    wait_until(lambda: clock_off(service) is not None)
        tallies = {"ignored": ignored.tally, "counted": counted.tally}
        wait_until(lambda: clock_off(service) is None)
        assert not any("Traceback" in line for line in service.output)
        with stepped.client() as client:
            for name, tally in tallies.items():
                assert not tally.failures
                again = [reward(service, token) for token in list(tally.acknowledged)[:50]]
                assert again == [["duplicate"]] * len(again)
                assert_counted(service, client, name, tally)
                assert_states_equal_replay(client, name, WORKERS)
                now_ms = time.time_ns() // 1_000_000
                entries: Any = client.xrange(f"bandit_serve:{{{name}}}:log")
                times = [int(at.partition(b"-")[0]) for at, _ in entries]
                assert times == sorted(times)
                assert now_ms - 300_000 < times[0]
                assert times[-1] < now_ms + 15_000


@pytest.mark.parametrize("step_s", [-7_200, 50 * DAY_S])
def test_a_workers_clock_is_nobodys_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    """It is off from the start, and steps while it serves: rewards are in time, and batches can be read."""
    wall = WallClock(tmp_path, step_s)
    with ThrowawayStore(appendfsync="no") as store:
        for name, value in wall.environment.items():
            monkeypatch.setenv(name, value)
        with ThrowawayService(tmp_path / "data", store=store.url) as service:
            make_experiment(service, "e", window="10m")
            for step in (step_s, 0, step_s, -step_s):
                wall.step(step)
                before_ms = time.time_ns() // 1_000_000
                decided = service.call("POST", "/v1/experiments/e/decide", {})
                assert reward(service, decided.body["decision_id"]) == ["accepted"]
                if step:
                    wait_until(lambda step=step: abs(offset_s(service) - step) < 5)  # type: ignore[misc]
                    said = clock_off(service)
                    assert said is not None
                    assert ("ahead of" if step > 0 else "behind") in said
                else:
                    wait_until(lambda: clock_off(service) is None)
            found = results(service, "e")
            assert sum(arm["metrics"]["click"]["n"] for arm in found["arms"]) == 4
            assert sum(arm["exposures"] for arm in found["arms"]) == 4
            assert abs(before_ms - time.time_ns() // 1_000_000) < 60_000
            assert sum("clock_off" in line and "degraded (" in line for line in service.output) >= 1


def test_a_machine_whose_clock_is_set_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The private store and its workers on one machine."""
    wall = WallClock(tmp_path)
    for name, value in wall.environment.items():
        monkeypatch.setenv(name, value)
    with ThrowawayService(tmp_path / "data", workers=WORKERS) as service:
        wait_until_all_serve(service, WORKERS)
        make_experiment(service, "e", window="10m", missing="zero")
        time.sleep(6)
        tokens: list[str] = []
        for step in (0, DAY_S, 0, -DAY_S):
            wall.step(step)
            for _ in range(20):
                tokens.append(service.call("POST", "/v1/experiments/e/decide", {}).body["decision_id"])
                assert reward(service, tokens[-1]) == ["accepted"]
            results(service, "e")
        assert [reward(service, token) for token in tokens] == [["duplicate"]] * len(tokens)
        with private_store(service) as client:
            assert_states_equal_replay(client, "e", WORKERS)
