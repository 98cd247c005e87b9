"""Runs that are repeated: by a service of their own, in processes that are killed, and by one at a time."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from commands import Finished, bandit_serve
from promoting import promotion_of
from services import ThrowawayService, clean_environment
from stores import ThrowawayStore, gone, wait_until

from bandit_serve.cli import retrain as command
from bandit_serve.cli import retrainer
from bandit_serve.node import Node
from bandit_serve.settings import Settings
from bandit_serve.store.keys import Keys
from bandit_serve.training.ratings import synthetic_ratings

MODEL = "films"
RUN: dict[str, Any] = {
    "families": {"matrix_factorization": {"n_factors": 2, "n_epochs": 1}},
    "search": {"kind": "random", "trials": 1, "jobs": 1, "backend": "sequential"},
    "split": {"kind": "random", "folds": 2},
    "gates": {"staging": "rmse <= 100"},
    "model": MODEL,
}


def run_of(folder: Path, retrain: dict[str, Any], n_ratings: int = 400, **more: Any) -> Path:
    """File that describes a run, beside its ratings."""
    ratings, path = (
        synthetic_ratings(seed=5, n_users=40, n_items=60, n_ratings=n_ratings),
        folder / "ratings.csv",
    )
    rows = zip(ratings.users, ratings.items, ratings.values, strict=True)
    path.write_text(
        "userId,movieId,rating\n" + "".join(f"{user},{item},{value}\n" for user, item, value in rows)
    )
    run = folder / "run.json"
    run.write_text(json.dumps({"data": {"path": str(path)}, **RUN, "retrain": retrain, **more}))
    return run


def retrained(run: Path, *arguments: str | Path) -> Finished:
    return bandit_serve("retrain", run, "--once", *arguments)


def versions_in(service: ThrowawayService) -> list[Any]:
    found = service.call("GET", f"/v1/models/{MODEL}")
    return list(found.body["versions"]) if found.status == 200 else []


def processes(*words: str) -> list[int]:
    """Pids of the processes whose arguments have all the words."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if all(word in arguments for word in words):
                found.append(int(process.name))
    return found


def group_of(leader: int) -> list[int]:
    """Pids of a process and of those that it started, which are in its group."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if os.getpgid(int(process.name)) == leader:
                    found.append(int(process.name))
            except ProcessLookupError:
                continue
    return found


@pytest.mark.timeout(400)
def test_versions_are_trained_and_go_through_their_gates_though_everything_is_killed(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"offline": "rmse <= 10 * current.rmse"}))
    run = run_of(tmp_path, {"every": "2s", "pause": "2s", "gated": str(plan)})
    with ThrowawayService(tmp_path / "data", "--retrain", str(run)) as service:
        wait_until(lambda: [each["status"] for each in versions_in(service)][:1] == ["staged"], 120)
        moved = service.call("POST", f"/v1/models/{MODEL}/versions/v1/status", {"status": "production"})
        assert moved.status == 200

        def production() -> str:
            return str(service.call("GET", f"/v1/models/{MODEL}").body["production"])

        wait_until(lambda: production() != "v1", 120)
        # While it trains, both go.
        wait_until(lambda: processes("train", str(run)), 120)
        (training,), (keeping,) = processes("train", str(run)), processes("retrain", str(run))
        os.kill(keeping, signal.SIGKILL)
        wait_until(lambda: gone(training), 60)
        n = len(versions_in(service))
        wait_until(lambda: len(versions_in(service)) > n, 120)
        names = [each["version"] for each in versions_in(service)]
        assert len(set(names)) == len(names)
        shown = service.call("GET", f"/v1/models/{MODEL}").body
        promoted = [each for each in shown["history"] if each["status"] == "production"]
        assert promoted[0]["version"] == "v1"
        assert {each["who"].partition(":")[0] for each in promoted[1:]} == {"promotion"}
    wait_until(lambda: not processes("retrain", str(run)), 60)
    wait_until(lambda: not processes("train", str(run)), 60)


def test_it_trains_when_it_is_due_and_one_does_at_a_time(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"every": "30d"})
    with ThrowawayStore() as store:
        where = ("--store", store.url, "--data", tmp_path / "data")
        with store.client() as client:
            lease = Keys().trainer(MODEL)
            client.set(lease, "somebody")
            refused = retrained(run, *where)
            assert refused.status == 1
            assert f"Another process looks after '{MODEL}'." in refused.err
            client.delete(lease)
            done = retrained(run, *where)
            assert done.status == 0, done
            assert "is trained: no version of it was trained yet" in done.out
            assert client.get(lease) is None
        idle = retrained(run, *where)
        assert (idle.status, idle.out.strip()) == (0, f"{MODEL} is not due.")
        shown = bandit_serve("models", "versions", MODEL, "--json", *where)
        assert [each["version"] for each in shown.document["versions"]] == ["v1"]


def test_a_run_that_fails_is_a_failure(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"every": "1d"})
    (tmp_path / "ratings.csv").unlink()
    failed = retrained(run, "--data", tmp_path / "data")
    assert failed.status == 1
    assert "There is no ratings file" in failed.out
    assert f"The run for '{MODEL}' has failed." in failed.err


def test_what_was_trained_before_a_kill_still_begins_its_way_and_a_newer_one_takes_its_place(
    tmp_path: Path,
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"offline": "rmse < 0.5 * current.rmse"}))
    with ThrowawayService(tmp_path / "data") as service:
        where = ("--data", service.data)
        gated = run_of(tmp_path, {"every": "30d", "gated": str(plan)})
        refused = retrained(gated, *where)
        assert refused.status == 1
        assert "no version in production" in refused.err
        (first,) = versions_in(service)
        assert first["status"] == "staged"
        promoted = service.call("POST", f"/v1/models/{MODEL}/versions/v1/status", {"status": "production"})
        assert promoted.status == 200
        # As when it is killed after a version was registered: this one trains and begins nothing.
        again = run_of(tmp_path, {"every": "1s", "pause": "1s"})
        wait_until(lambda: "is trained" in retrained(again, *where).out, 60)
        gated = run_of(tmp_path, {"every": "30d", "gated": str(plan)})
        begun = retrained(gated, *where)
        assert begun.status == 0, begun
        assert "v2 is promoted by steps: p1." in begun.out
        assert "is not due" in begun.out
        wait_until(lambda: promotion_of(service, MODEL, "p1")["state"] == "stopped", 60)
        wait_until(lambda: retrained(gated, *where).out.strip() == f"{MODEL} is not due.", 120)
        newest = run_of(tmp_path, {"every": "1s", "pause": "1s", "gated": str(plan)})
        wait_until(lambda: "v3 is promoted by steps: p2." in retrained(newest, *where).out, 60)
        statuses = {each["version"]: each["status"] for each in versions_in(service)}
        assert (statuses["v1"], statuses["v2"]) == ("production", "retired")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_ends_a_run_with_all_that_it_has_started(tmp_path: Path, number: int, status: int) -> None:
    run = run_of(
        tmp_path,
        {"every": "1d"},
        families={"matrix_factorization": {"n_epochs": [10_000_000, 10_000_001]}},
        search={"kind": "grid", "jobs": 2, "backend": "loky"},
    )
    with ThrowawayStore() as store, ExitStack() as stack:
        arguments = [sys.executable, "-P", "-m", "bandit_serve", "retrain", str(run)]
        arguments += ["--store", store.url, "--data", str(tmp_path / "data")]
        keeper = stack.enter_context(subprocess.Popen(arguments, env=clean_environment()))
        stack.callback(keeper.kill)
        wait_until(lambda: processes("train", str(run)), 120)
        (training,) = processes("train", str(run))
        wait_until(lambda: len(group_of(training)) >= 3, 120)
        started = group_of(training)
        keeper.send_signal(number)
        assert keeper.wait(60) == status
        assert all(gone(pid) for pid in started)
        with store.client() as client:
            assert client.get(Keys().trainer(MODEL)) is None


@pytest.mark.parametrize(
    ("retrain", "told"),
    [
        (None, "lacks `retrain`"),
        ({}, "expected every, drift or when"),
        ({"every": "1d", "gated": "none.toml"}, "none.toml"),
        ({"every": "1d", "gated": "plan.toml"}, "a gate of production"),
    ],
)
def test_wrong_usage_is_a_sentence(tmp_path: Path, retrain: dict[str, Any] | None, told: str) -> None:
    gates = {"gates": {"production": "rmse < 1"}} if "production" in told else {}
    described = {"data": {"path": "r.csv"}, **gates, **({} if retrain is None else {"retrain": retrain})}
    (tmp_path / "run.json").write_text(json.dumps(described))
    ran = retrained(tmp_path / "run.json", "--data", tmp_path / "data")
    assert ran.status != 0
    assert told in ran.err


def test_a_run_whose_lease_another_has_taken_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(retrainer, "RENEW_S", 0.2)
    # Long enough that it never ends by itself here.
    run = run_of(tmp_path, {"every": "1s"}, families={"matrix_factorization": {"n_epochs": 10_000_000}})

    async def scenario(url: str) -> None:
        settings = Settings(store=url, data=str(tmp_path / "data"))
        node = Node(settings, url)
        keeping = asyncio.create_task(command._keep(settings, url, None, run, command._plan(run), False))
        try:
            async with asyncio.timeout(120):
                while not processes("train", str(run)):
                    await asyncio.sleep(0.05)
                await node.store._client.set(node.store.keys.trainer(MODEL), "another")
                while processes("train", str(run)):
                    await asyncio.sleep(0.05)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await node.store.close()

    with ThrowawayStore() as store:
        asyncio.run(scenario(store.url))
    assert "another process looks after it now, and this run is ended" in capfd.readouterr().out
