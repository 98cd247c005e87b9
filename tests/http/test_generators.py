"""Generators of API clients: each that is installed reads the description, and a generated client works.

The rules that all of them need are held without them, in tests/http/test_openapi.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from api_schemas import API_DESCRIPTION
from services import ThrowawayService

COMMANDS = {
    "openapi-python-client": [
        "generate",
        "--meta",
        "none",
        "--path",
        "openapi.json",
        "--output-path",
        "made",
    ],
    "openapi-generator-cli": ["generate", "-i", "openapi.json", "-g", "python", "-o", "made"],
    "openapi-typescript": ["openapi.json", "-o", "made/api.ts"],
}
USE = """
import sys
from made import Client
from made.api.decisions import decide
from made.api.experiments import create_experiment, start_experiment
from made.api.rewards import reward
from made.models import (
    Arm, Attribution, AttributionMissingType0, DecideRequest, Experiment, Metric, MetricKind, ReasonRequest, Reward,
)

client = Client(base_url=sys.argv[1])
experiment = Experiment(
    id="made",
    arms=[Arm(name="control"), Arm(name="other")],
    metrics=[Metric(name="click", kind=MetricKind.BINARY)],
    attribution=Attribution(missing=AttributionMissingType0.ZERO),
)
assert create_experiment.sync(client=client, body=experiment).status == "draft"
assert start_experiment.sync("made", client=client, body=ReasonRequest()).status == "running"
decided = decide.sync("made", client=client, body=DecideRequest(unit="u1"))
assert decided.arm in ("control", "other") and decided.propensity == 0.5
counted = reward.sync(client=client, body=Reward(decision_id=decided.decision_id, value=1.0))
assert counted.accepted == 1 and counted.verdicts == ["accepted"]
"""


def made(folder: Path, generator: str) -> None:
    command = shutil.which(generator)
    if command is None:
        pytest.skip(f"{generator} is not installed")
    (folder / "openapi.json").write_text(json.dumps(API_DESCRIPTION))
    (folder / "made").mkdir()
    overwrite = ["--overwrite"] if generator == "openapi-python-client" else []
    done = subprocess.run(
        [command, *COMMANDS[generator], *overwrite], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("generator", COMMANDS)
def test_it_reads_the_description(generator: str, tmp_path: Path) -> None:
    made(tmp_path, generator)
    assert any((tmp_path / "made").rglob("*.*"))


def test_a_client_in_python_works(service: ThrowawayService, tmp_path: Path) -> None:
    pytest.importorskip("attrs")
    pytest.importorskip("httpx")
    made(tmp_path, "openapi-python-client")
    done = subprocess.run(
        [sys.executable, "-c", USE, service.url], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
