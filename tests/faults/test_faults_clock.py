"""Clocks that are set while a service runs: the store's, the workers', and that of a machine with both."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from consistency_checks import (
    assert_counted,
    assert_states_equal_replay,
    log,
    logged_rewards,
    make_experiment,
    wait_until_all_serve,
)
from load import Load
from scale import scaled
from services import ThrowawayService
from stores import ThrowawayStore, server_binaries, wait_until
from wall_clock import WallClock, needs_faketime

from bandit_serve.store.clock import ESTABLISHED_MS

DAY_S = 86_400
WORKERS = 2
WAIT_S = 30.0
VISITS = scaled(50, 3_000)

pytestmark = [needs_faketime, pytest.mark.timeout(300)]


def clock_off(service: ThrowawayService) -> str | None:
    """Troubles of the clocks, as health reports them."""
    reasons = service.call("GET", "/health/ready").body.get("reasons", [])
    return next((reason["detail"] for reason in reasons if reason["what"] == "clock_off"), None)


def offset_s(service: ThrowawayService) -> float:
    text = service.call("GET", "/metrics").body.decode()
    (line,) = [line for line in text.splitlines() if line.startswith("bandit_serve_clock_offset_seconds ")]
    return float(line.split()[1])


def wait_until_established() -> None:
    """Waits until the clocks of the present workers are trusted."""
    time.sleep(ESTABLISHED_MS / 1000 + 0.5)


def results(service: ThrowawayService, name: str) -> dict[str, Any]:
    answer = service.call("GET", f"/v1/experiments/{name}/results")
    assert answer.status == 200, answer.body
    body: dict[str, Any] = answer.body
    return body


def reward(service: ThrowawayService, token: str, value: float = 1.0) -> Any:
    answer = service.call("POST", "/v1/rewards", {"decision_id": token, "value": value})
    assert answer.status == 200, answer
    return answer.body["verdicts"]


def analysed(service: ThrowawayService, name: str) -> int:
    return sum(arm["metrics"]["click"]["n"] for arm in results(service, name)["arms"])


def test_the_stores_clock_steps_a_day_ahead_and_back_under_load(tmp_path: Path) -> None:
    """Acknowledged rewards count once, windows close on time and not before, and results are always available."""
    wall = WallClock(tmp_path)
    stepped = ThrowawayStore(binary=wall.wrapped(server_binaries()[0]), appendfsync="no")
    with stepped, ThrowawayService(tmp_path / "data", store=stepped.url, workers=WORKERS) as service:
        wait_until_all_serve(service, WORKERS)
        make_experiment(service, "ignored")
        make_experiment(service, "zero", missing="zero")
        make_experiment(service, "quick", missing="zero", window="1s")
        wait_until_established()
        with (
            Load(service.port, "ignored", clients=2, pause_s=0.01) as ignored,
            Load(service.port, "zero", clients=2, pause_s=0.01) as zero,
        ):
            n_quick = 0
            for step_s in (0, DAY_S, 0, -DAY_S, 0):
                wall.step(step_s)
                for load in (ignored, zero):
                    load.wait_for_visits(VISITS)
                for _ in range(5):
                    assert service.call("POST", "/v1/experiments/quick/decide", {}).status == 200
                    n_quick += 1
                wait_until(lambda n_quick=n_quick: analysed(service, "quick") == n_quick, WAIT_S)  # type: ignore[misc]
                assert analysed(service, "zero") == 0
                wait_until(lambda step_s=step_s: (clock_off(service) is not None) == bool(step_s), WAIT_S)  # type: ignore[misc]
        assert not any("Traceback" in line for line in service.output)
        with stepped.client() as client:
            assert_counted(service, client, "ignored", ignored.tally)
            for name, tally in (("ignored", ignored.tally), ("zero", zero.tally)):
                assert not tally.failures
                again = [reward(service, *given) for given in list(tally.acknowledged.items())[:50]]
                assert again == [["duplicate"]] * 50
                entries = log(client, name)
                assert len(logged_rewards(entries)) == len(tally.acknowledged)
                assert_states_equal_replay(client, name, WORKERS)
                times = [entry.offset.time_ms for entry in entries]
                now_ms = time.time_ns() // 1_000_000
                assert now_ms - 300_000 < times[0] <= times[-1] < now_ms + 15_000


def test_a_workers_clock_is_nobodys_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hours behind at first, then fifty days ahead, then right: rewards are on time, batches can be read."""
    wall = WallClock(tmp_path, -7_200)
    with ThrowawayStore(appendfsync="no") as store:
        for name, value in wall.environment.items():
            monkeypatch.setenv(name, value)
        with ThrowawayService(tmp_path / "data", store=store.url) as service:
            make_experiment(service, "e", window="10m")
            for step in (-7_200, 50 * DAY_S, 0):
                wall.step(step)
                decided = service.call("POST", "/v1/experiments/e/decide", {}).body
                assert 0.1 <= decided["propensity"] <= 0.9
                assert reward(service, decided["decision_id"]) == ["accepted"]
                wait_until(lambda step=step: abs(offset_s(service) - step) < 5, WAIT_S)  # type: ignore[misc]
                where = "ahead of" if step > 0 else "behind"
                # The last of the clocks to be heard of may be some seconds old.
                wait_until(
                    lambda where=where, off=bool(step): (  # type: ignore[misc]
                        where in (clock_off(service) or "") if off else clock_off(service) is None
                    ),
                    WAIT_S,
                )
            arms = results(service, "e")["arms"]
            assert sum(arm["metrics"]["click"]["n"] for arm in arms) == 3
            assert sum(arm["exposures"] for arm in arms) == 3
            assert sum(" degraded (clock_off): " in line for line in service.output) == 1
        with store.client() as client:
            times = [entry.offset.time_ms for entry in log(client, "e")]
            assert times[-1] - times[0] < 300_000


def test_a_machine_whose_clock_is_set_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store and its workers have one clock."""
    wall = WallClock(tmp_path)
    for name, value in wall.environment.items():
        monkeypatch.setenv(name, value)
    with (
        ThrowawayStore(appendfsync="no") as store,
        ThrowawayService(tmp_path / "data", store=store.url, workers=WORKERS) as service,
    ):
        wait_until_all_serve(service, WORKERS)
        make_experiment(service, "e", window="10m", missing="zero")
        wait_until_established()
        tokens: list[str] = []
        for step in (0, DAY_S, 0, -DAY_S):
            wall.step(step)
            for _ in range(10):
                tokens.append(service.call("POST", "/v1/experiments/e/decide", {}).body["decision_id"])
                assert reward(service, tokens[-1]) == ["accepted"]
            assert analysed(service, "e") == 0
        assert [reward(service, token) for token in tokens] == [["duplicate"]] * len(tokens)
        with store.client() as client:
            assert_states_equal_replay(client, "e", WORKERS)
