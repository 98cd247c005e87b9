"""First contact: HEAD requests, SIGHUP, a store that does not answer, a wrong directory."""

from __future__ import annotations

import http.client
import inspect
import json
import os
import signal
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from commands import bandit_serve
from http_calls import check_problem, decide, draft, experiment, reward_many, running
from services import ThrowawayService, clean_environment
from stores import ThrowawayStore, wait_until

from bandit_serve.errors import UsageError
from bandit_serve.server.routes import ROUTES

GETS = [route.path for route in ROUTES if route.method == "GET"]


def asked(service: ThrowawayService, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("path", GETS)
def test_head_is_get_without_its_body(service: ThrowawayService, path: str) -> None:
    name = draft(service)
    for filled in {
        path.replace("{experiment}", known).replace("{model}", "m").replace("{version}", "v")
        for known in (name, "nobody")
    }:
        status, headers, body = asked(service, "GET", filled)
        head_status, head_headers, head_body = asked(service, "HEAD", filled)
        assert (head_status, head_body) == (status, b"")
        assert head_headers["Content-Type"] == headers["Content-Type"]
        assert head_headers.get("ETag") == headers.get("ETag")
        assert int(head_headers["Content-Length"]) > 0
        assert len(body) == int(headers["Content-Length"])


def test_head_changes_nothing_where_there_is_no_get(service: ThrowawayService) -> None:
    name = running(service)
    status, headers, _ = asked(service, "HEAD", f"/v1/experiments/{name}/decide")
    assert (status, headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("kind", "metric", "values"),
    [
        ("binary", {}, {True: "accepted", False: "accepted"}),
        ("count", {}, {True: "invalid", False: "invalid"}),
        ("continuous", {}, {True: "invalid"}),
        ("bounded", {"low": 0.0, "high": 1.0}, {True: "invalid"}),
    ],
)
def test_true_is_a_binary_one(
    service: ThrowawayService, kind: str, metric: dict[str, Any], values: dict[bool, str]
) -> None:
    name = running(service, metrics=[{"name": "m", "kind": kind, **metric}])
    path = f"/v1/experiments/{name}/results"
    for value, verdict in values.items():
        one, another = (decide(service, name, unit=f"{value}-{i}")["decision_id"] for i in range(2))
        assert reward_many(service, [one], [value]) == [verdict]
        single = service.call("POST", "/v1/rewards", {"decision_id": another, "value": value})
        if verdict == "invalid":
            check_problem(single, 400, "value")
        else:
            assert single.status == 200
            assert reward_many(service, [one, another], [float(value)] * 2) == ["duplicate"] * 2
    counted = [arm["metrics"]["m"] for arm in service.call("GET", path).body["arms"]]
    assert sum(each["n"] for each in counted) == (4 if kind == "binary" else 0)
    if kind == "binary":
        assert sum(each["n"] * (each["mean"] or 0.0) for each in counted) == pytest.approx(2.0)


def test_the_end_of_a_terminal_drains(tmp_path: Path) -> None:
    """What was decided a moment before is in the log, as after SIGTERM."""
    with ThrowawayService(tmp_path) as service:
        name = running(service)
        for i in range(20):
            decide(service, name, unit=f"u{i}")
        service.process.send_signal(signal.SIGHUP)
        assert service.process.wait(30) == 0
    with ThrowawayService(tmp_path) as service:
        arms = service.call("GET", f"/v1/experiments/{name}/results").body["arms"]
        assert sum(arm["exposures"] for arm in arms) == 20


def test_nohup_is_heeded(tmp_path: Path) -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        service = ThrowawayService(tmp_path).start()
    finally:
        signal.signal(signal.SIGHUP, former)
    try:
        for pid in (service.process.pid, *service.worker_pids()):
            os.kill(pid, signal.SIGHUP)
        name = running(service)
        decide(service, name, unit="u")
    finally:
        assert service.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_store_that_is_not_there_is_said_once_and_when_it_is_back(tmp_path: Path, workers: int) -> None:
    store = ThrowawayStore()
    command = [sys.executable, "-m", "bandit_serve", "serve", "--data", str(tmp_path), "--port", "0"]
    command += ["--store", store.url, "--workers", str(workers)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=clean_environment()
    )
    lines: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True)
    reader.start()
    try:
        wait_until(lambda: any("waiting for the store" in line for line in lines))
        # A worker asks five times a second.
        threading.Event().wait(4.0)
        waiting = [line for line in lines if "the store" in line]
        assert len(waiting) == 1
        assert "--store (BANDIT_SERVE_STORE)" in waiting[0]
        store.start()
        wait_until(lambda: any("bandit-serve is ready" in line for line in lines))
        assert sum("the store is back" in line for line in lines) == 1
    finally:
        process.terminate()
        process.wait(30)
        reader.join(10)
        process.stdout.close()
        store.__exit__(None, None, None)


def test_an_outage_ends_with_a_word(tmp_path: Path, store: ThrowawayStore) -> None:
    with ThrowawayService(tmp_path, store=store.url) as service:
        wait_until(lambda: service.call("GET", "/health/ready").body["status"] == "ready")
        store.kill()
        wait_until(lambda: service.call("GET", "/health/ready").body["status"] == "degraded")
        store.start()
        wait_until(lambda: service.call("GET", "/health/ready").body["status"] == "ready")
        wait_until(lambda: sum("the store is back" in line for line in service.output) == 1)


def test_a_directory_without_a_store_is_refused_where_nothing_is_made(tmp_path: Path) -> None:
    data = tmp_path / "bandit-data"
    (tmp_path / "e.json").write_text(
        '{"id": "e", "arms": [{"name": "a"}], "metrics": [{"name": "m", "kind": "continuous"}]}'
    )
    assert bandit_serve("experiments", "apply", tmp_path / "e.json", "--data", data).status == 0
    refused = bandit_serve("experiments", "list", "--data", tmp_path / "bandit-dta")
    assert refused.status == 2
    assert f"Did you mean --data {data}?" in " ".join(refused.err.split())
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["bandit-data"]


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("arms", "add_arm remove_arm pause_arm resume_arm"),
        ("experiments", "list_all show start pause stop results delete"),
        ("models", "list_all show set_status promote rollback versions compare agreement prune mirror"),
        ("learn", "learn"),
        ("repair", "repair"),
        ("replay", "replay_all"),
    ],
)
def test_no_command_that_makes_nothing_new_makes_a_store(tmp_path: Path, module: str, names: str) -> None:
    (tmp_path / "empty").mkdir()
    commands = import_module(f"bandit_serve.cli.{module}")
    for name in names.split():
        command = getattr(commands, name)
        arguments = dict.fromkeys(inspect.signature(command).parameters)
        for wrong, words in (("missing", "is not there"), ("empty", "has no store of its own")):
            with pytest.raises(UsageError, match=words):
                command(**{**arguments, "data": str(tmp_path / wrong)})
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert not list((tmp_path / "empty").iterdir())


def test_many_mistakes_are_told_at_once(service: ThrowawayService) -> None:
    body = experiment(
        arms=[{"name": "a", "modl": "m"}, {"name": "a"}],
        policy={"kind": "thompson", "min_shar": 0.1},
        unt="user",
    )
    refusal = check_problem(
        service.call("POST", "/v1/experiments", body), 400,
        "arms[0].modl", "unt", "policy.min_shar", "arms[1].name",
    )  # fmt: skip
    assert all("did you mean" in error["detail"] for error in refusal["errors"][:3])
    body = experiment(
        arms=[{"name": "a"}, {"name": "a"}, {"name": "b", "model": "m"}],
        control="nobody",
        metrics=[{"name": "m", "kind": "bounded"}, {"name": "n", "kind": "binary", "low": 0.0}],
        attribution={},
    )
    check_problem(
        service.call("POST", "/v1/experiments", body), 400,
        "arms[1].name", "arms[2]", "control", "metrics[0]", "metrics[1]",
    )  # fmt: skip
    unknown = service.call("GET", "/v1/models/m/versions?statsu=staged&limt=3&sort=x")
    problem = check_problem(unknown, 400, "statsu", "limt")
    assert [error["detail"].partition("?")[0] for error in problem["errors"]] == [
        "did you mean status",
        "did you mean limit",
    ]


def test_a_key_that_is_given_twice_is_refused_where_something_is_set_up(service: ThrowawayService) -> None:
    twice = b'{"id": "twice", "id": "again", "unt": 1, "arms": [{"name": "a", "name": "b"}], "metrics": []}'
    problem = check_problem(service.call("POST", "/v1/experiments", twice), 400)
    assert {error["at"] for error in problem["errors"]} == {"id", "unt", "arms[0].name", "metrics"}
    assert service.call("POST", "/v1/experiments", experiment(id="once")).status == 201
    for method, path, body, at in [
        ("PUT", "/policy", b'{"kind": "thompson", "kind": "ucb1"}', "kind"),
        ("POST", "/arms", b'{"name": "x", "payload": {"k": 1, "k": 2}}', "payload.k"),
        ("POST", "/start", b'{"reason": "a", "reason": "b"}', "reason"),
        (
            "PUT",
            "",
            json.dumps(experiment(id="once")).encode()[:-1] + b', "unit": "user", "unit": "request"}',
            "unit",
        ),
    ]:
        check_problem(service.call(method, f"/v1/experiments/once{path}", body), 400, at)
    large = b'{"name": "x", "payload": {"k": 1, "k": "' + b"x" * 50_000 + b'"}}'
    check_problem(service.call("POST", "/v1/experiments/once/arms", large), 400, "payload.k")
    assert service.call("POST", "/v1/experiments/once/start").status == 200
    decided = service.call("POST", "/v1/experiments/once/decide", b'{"unit": "u", "unit": "v"}')
    assert decided.status == 200, "the last one counts there, as the description says"
