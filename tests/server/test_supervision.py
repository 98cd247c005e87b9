"""Supervision: ends of workers, workers that stand still, and successors that fail."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import eventually
from services import ThrowawayService
from stores import gone, wait_until

from bandit_serve.base.troubles import Troubles
from bandit_serve.server.backoff import PAUSES_S, Backoff
from bandit_serve.server.tasks import Tasks

# In every process of the service: SIGUSR1 makes it spin; while the file `broken` is there workers end as they start,
# and with `full` the system has room for no process.
SITE = """
import errno, os, signal

def spin(number, frame):
    def standing_still():
        while True:
            pass
    standing_still()

def end_while_broken():
    if os.path.exists({broken!r}):
        os._exit(3)

def refuse_while_full(fork=os.fork):
    if os.path.exists({full!r}):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return fork()

os.fork = refuse_while_full
signal.signal(signal.SIGUSR1, spin)
os.register_at_fork(after_in_child=end_while_broken)
"""


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """File that keeps workers from starting while it exists."""
    return tmp_path / "broken"


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """File that keeps workers from being forked while it exists."""
    return tmp_path / "full"


@pytest.fixture
def service(
    tmp_path: Path, broken: Path, full: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ThrowawayService]:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE.format(broken=str(broken), full=str(full)))
    monkeypatch.setenv("PYTHONPATH", str(site))
    with ThrowawayService(tmp_path / "data", "--stall-timeout", "2s", workers=2) as running:
        running.wait_for_workers(2)
        yield running


def test_a_worker_that_spins_says_where_and_is_replaced(service: ThrowawayService) -> None:
    victim, other = service.worker_pids()
    os.kill(victim, signal.SIGUSR1)
    wait_until(lambda: gone(victim))
    wait_until(lambda: len(service.worker_pids()) == 2)
    assert other in service.worker_pids()
    assert any(f"worker {victim} has not turned for" in line for line in service.output)
    assert any("in standing_still" in line for line in service.output)


def test_a_worker_that_is_stopped_is_replaced(service: ThrowawayService) -> None:
    victim = service.worker_pids()[0]
    os.kill(victim, signal.SIGSTOP)
    wait_until(lambda: gone(victim))
    service.wait_for_workers(2)


def test_a_service_that_stood_still_as_a_whole_goes_on_as_it_is(service: ThrowawayService) -> None:
    """As on a machine that was suspended: the clock went on, but no worker is at fault."""
    pids = service.worker_pids()
    everyone = [service.process.pid, *pids]
    for pid in everyone:
        os.kill(pid, signal.SIGSTOP)
    asyncio.run(asyncio.sleep(6.0))
    for pid in everyone:
        os.kill(pid, signal.SIGCONT)
    service.wait_for_workers(2)
    asyncio.run(asyncio.sleep(1.0))
    assert service.worker_pids() == pids


def test_successors_that_fail_come_ever_less_often(service: ThrowawayService, broken: Path) -> None:
    broken.touch()
    victim = service.worker_pids()[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: sum("ended with status 3" in line for line in service.output) >= 3)
    pauses = [
        float(match[1])
        for line in service.output
        if (match := re.search(r"ended with status 3; another starts in (\S+) s", line))
    ]
    assert pauses[:3] == list(PAUSES_S[:3])
    assert service.call("GET", "/health/ready").status == 200, "the other worker serves"
    broken.unlink()
    service.wait_for_workers(2)


def test_where_there_is_room_for_no_process_the_service_waits_for_it(
    service: ThrowawayService, full: Path
) -> None:
    full.touch()
    os.kill(service.worker_pids()[0], signal.SIGKILL)
    sentence = "no worker can be started now: Resource temporarily unavailable"
    wait_until(lambda: sum(sentence in line for line in service.output) >= 2)
    assert service.call("GET", "/health/ready").status == 200, "the other worker serves"
    full.unlink()
    service.wait_for_workers(2)


def test_workers_that_fail_together_are_one_failure(service: ThrowawayService, broken: Path) -> None:
    broken.touch()
    n_lines = len(service.output)
    for victim in service.worker_pids():
        os.kill(victim, signal.SIGKILL)

    def failures() -> list[str]:
        return [line for line in service.output[n_lines:] if "ended with status 3" in line]

    wait_until(lambda: len(failures()) >= 4)
    broken.unlink()
    pauses_s = [
        float(match[1]) for line in failures()[:4] if (match := re.search(r"starts in (\S+) s", line))
    ]
    assert max(pauses_s) <= PAUSES_S[1]
    service.wait_for_workers(2)


def test_pauses_grow_to_a_bound_and_begin_anew() -> None:
    backoff = Backoff((1.0, 2.0, 4.0))
    assert [backoff.failed() for _ in range(5)] == [1.0, 2.0, 4.0, 4.0, 4.0]
    backoff.ran_well()
    assert backoff.failed() == 1.0


def test_a_task_that_fails_is_said_and_begins_again(caplog: pytest.LogCaptureFixture) -> None:
    begun = []

    async def chore() -> None:
        begun.append(1)
        if len(begun) <= 2:
            raise RuntimeError(f"bug {len(begun)}")
        await asyncio.Event().wait()

    async def run() -> None:
        troubles = Troubles()
        tasks = Tasks(troubles)
        tasks.repeated("keeper", chore)
        await eventually(lambda: len(begun) == 3)
        assert [each.what for each in troubles] == ["keeper_failed"]
        assert tasks.failures == 2
        await tasks.end()

    asyncio.run(run())
    assert "RuntimeError: bug 1" in caplog.text
    assert "RuntimeError: bug 2" in caplog.text
