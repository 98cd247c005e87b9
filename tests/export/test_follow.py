"""`bandit-serve export --follow`: each decision in one file, once, through kills at any moment."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from commands import bandit_serve
from http_calls import new_name, running
from scale import scaled
from services import ThrowawayService, clean_environment
from stores import wait_until

KILLS = scaled(3, 20)


class Following:
    """`bandit-serve export --follow` as a process of its own."""

    def __init__(self, service: ThrowawayService, name: str, out: Path, *options: str) -> None:
        words = [
            "export",
            name,
            "--data",
            str(service.data),
            "--out",
            str(out),
            "--follow",
            "--every",
            "100ms",
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bandit_serve", *words, *options],
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._out = out
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            self.lines.extend(output)

    def wait_for_parts(self, n: int) -> None:
        wait_until(lambda: self.has_ended or len(parts_of(self._out)) >= n)

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def end(self, number: signal.Signals) -> int:
        self._process.send_signal(number)
        status = self._process.wait(60)
        self._reader.join()
        return status


class Traffic:
    """Decisions and rewards, each a while after its decision, in a thread of its own."""

    def __init__(self, service: ThrowawayService, name: str) -> None:
        self._service = service
        self._name = name
        self._ended = threading.Event()
        self.rewards: list[float] = []
        self.decided = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        chance = random.Random(3)
        path = f"/v1/experiments/{self._name}/decide/batch"
        while not self._ended.wait(0.05):
            answer = self._service.call("POST", path, {"requests": [{}] * 20})
            tokens = [each["decision_id"] for each in answer.body["responses"] if chance.random() < 0.5]
            self.decided += 20
            values = [float(chance.random() < 0.4) for _ in tokens]
            pairs = zip(tokens, values, strict=True)
            rewards = [{"decision_id": token, "value": value} for token, value in pairs]
            verdicts = self._service.call("POST", "/v1/rewards", {"rewards": rewards}).body["verdicts"]
            accepted = zip(values, verdicts, strict=True)
            self.rewards += [value for value, verdict in accepted if verdict == "accepted"]

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


def parts_of(out: Path) -> dict[str, str]:
    """Parts by name, with a digest of their content."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.glob("date=*/part-*.parquet")
    }


def rows_in(out: Path) -> list[dict[str, Any]]:
    # Each file is read by itself: readers of the folder must not find what is no part.
    return [row for name in parts_of(out) for row in pq.ParquetFile(out / name).read().to_pylist()]


def name_of(row: dict[str, Any]) -> tuple[str, int]:
    return row["incarnation"], row["number"]


def n_rows(out: Path) -> int:
    return sum(pq.read_metadata(out / name).num_rows for name in parts_of(out))


@pytest.fixture(scope="module")
def followed(
    service: ThrowawayService, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Traffic]:
    """Name, folder and traffic of an experiment that was followed through kills."""
    name = running(
        service,
        id=new_name(),
        policy={"kind": "thompson", "min_share": 0.1},
        attribution={"missing": "zero", "window": "2s"},
    )
    out = tmp_path_factory.mktemp("follow") / "out"
    traffic = Traffic(service, name)
    seen: dict[str, str] = {}
    chance = random.Random(5)
    try:
        for _ in range(KILLS):
            following = Following(service, name, out)
            following.wait_for_parts(len(parts_of(out)) + 1)
            # Anywhere in what it does next.
            time.sleep(chance.random() * 0.3)
            following.end(signal.SIGKILL)
            parts = parts_of(out)
            assert {part: parts[part] for part in seen} == seen
            seen = parts
    finally:
        traffic.end()
    return name, out, traffic


def test_each_decision_is_in_one_file_once(
    service: ThrowawayService, followed: tuple[str, Path, Traffic]
) -> None:
    name, out, traffic = followed
    former = parts_of(out)
    following = Following(service, name, out)
    wait_until(lambda: following.has_ended or n_rows(out) >= traffic.decided, 90.0)
    assert following.end(signal.SIGTERM) == 0, following.lines
    assert parts_of(out).items() >= former.items()
    rows = rows_in(out)
    times = Counter(map(name_of, rows))
    assert len(rows) == len(times) == traffic.decided
    assert all(row["closed"] and row["shares"] is not None for row in rows)
    rewards = [row["reward_click"] for row in rows if row["reward_click"] is not None]
    assert (len(rewards), sum(rewards)) == (len(traffic.rewards), sum(traffic.rewards))
    # And so says the whole log.
    whole = out.parent / "whole"
    ran = bandit_serve("export", name, "--data", service.data, "--out", whole, "--json")
    assert ran.document["rows"] == traffic.decided
    assert sorted(pq.read_table(whole).drop(["date"]).to_pylist(), key=name_of) == sorted(rows, key=name_of)
    assert not list(out.glob("_pending/*"))
    assert not (out.parent / ".out.following").exists()


def test_one_process_follows_into_a_folder(
    service: ThrowawayService, followed: tuple[str, Path, Traffic]
) -> None:
    name, out, _ = followed
    following = Following(service, name, out)
    wait_until(lambda: following.has_ended or (out.parent / ".out.following" / "spool").exists())
    second = bandit_serve("export", name, "--data", service.data, "--out", out, "--follow")
    assert (second.status, "Another process writes to" in second.err) == (1, True), second
    assert following.end(signal.SIGINT) == 0, following.lines


def test_another_experiment_does_not_go_on_there(
    service: ThrowawayService, followed: tuple[str, Path, Traffic]
) -> None:
    _, out, _ = followed
    other = running(service, id=new_name())
    state = json.loads((out / "_follow.json").read_text())
    for options in ((), ("--format", "csv")):
        ran = bandit_serve("export", other, "--data", service.data, "--out", out, "--follow", *options)
        assert ran.status == 1
        assert "another experiment or format can not go on there" in ran.err
    assert json.loads((out / "_follow.json").read_text()) == state
