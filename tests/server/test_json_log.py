"""Log in JSON: every line of a service is an object, whatever process it is of, up to the last word."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from services import ThrowawayService, clean_environment
from stores import gone, wait_until

from bandit_serve.server.companions import Companions
from bandit_serve.settings import Settings

SPIN = """
import signal

def standing_still(number, frame):
    while True:
        pass

signal.signal(signal.SIGUSR1, standing_still)
"""


def objects(service: ThrowawayService) -> list[dict[str, Any]]:
    """Lines of the log; the line that says the address is the only other one."""
    lines = [line for line in list(service.output) if not line.startswith("bandit-serve is ready on ")]
    return [json.loads(line) for line in lines]


def test_the_stacks_of_a_worker_and_the_words_of_a_learner_are_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SPIN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    flags = ("--log-format", "json", "--stall-timeout", "2s", "--learners", "no-such-model")
    with ThrowawayService(tmp_path / "data", *flags) as service:
        # A learner that is just forked still has the supervisor's command.
        wait_until(lambda: len(service.worker_pids()) == 1)
        (victim,) = service.worker_pids()
        os.kill(victim, signal.SIGUSR1)
        wait_until(lambda: gone(victim))
        wait_until(lambda: any("stood here" in line for line in service.output))
        (stacks,) = [each for each in objects(service) if "stood here" in each["message"]]
        assert "in standing_still" in stacks["traceback"]
        assert stacks["worker"] == "supervisor"
        wait_until(lambda: any("no-such-model" in line and "error" in line for line in service.output))
        said = [each for each in objects(service) if each["logger"] == "bandit_serve.server.companions"]
        assert any("no-such-model: error:" in each["message"] for each in said)
        service.wait_for_workers(1)
    objects(service)


def test_the_last_word_of_a_service_that_is_refused_is_an_object(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bandit_serve", "serve", "--data", str(tmp_path / "data")]
    command += ["--log-format", "json", "--host", "no-such-host.invalid"]
    ran = subprocess.run(command, capture_output=True, text=True, env=clean_environment())
    assert ran.returncode == 2
    (line,) = ran.stderr.splitlines()
    said = json.loads(line)
    assert (said["level"], said["worker"]) == ("critical", "supervisor")
    assert "no-such-host.invalid" in said["message"]


def test_a_learner_that_prints_without_end_is_logged_line_by_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learners = Companions(Settings(data=str(tmp_path), learners="films"), "redis://127.0.0.1:9")
    program = "print('a' * 20_000); print('\\x1b[31m b')"
    (learner,) = learners._companions
    learner._command = [sys.executable, "-c", program]
    with caplog.at_level("INFO", "bandit_serve.server.companions"):
        learners.keep()
        wait_until(lambda: any("b" in record.message[-1:] for record in caplog.records))
        learners.wait()
    sizes = [len(record.message) for record in caplog.records if record.message.startswith("films: a")]
    assert sum(sizes) - len("films: ") * len(sizes) == 20_000
    assert max(sizes) <= 8_192 + len("films: ")
