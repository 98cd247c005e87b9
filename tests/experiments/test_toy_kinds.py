"""Kinds of metrics that are one file and one line of the table: they pass every contract suite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
SUITES = {
    "duration": [
        "experiments/test_metric_contract.py",
        "policies/test_policies_contract.py",
        "policies/test_contextual_contract.py",
        "http/test_schema_rules.py",
    ],
    "stars": ["experiments/test_metric_contract.py", "http/test_schema_rules.py"],
}


def run(kind: str, *arguments: str) -> str:
    """The output of pytest in a process of its own, in which the kind is there from the start."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS / "support"), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", f"{kind}_kind", *arguments]
    done = subprocess.run(
        command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-2_000:]
    return done.stdout


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", SUITES)
def test_a_kind_passes_the_contract_suites_by_being_listed(kind: str) -> None:
    ran = run(kind, "-rP", "-k", kind, *(str(TESTS / suite) for suite in SUITES[kind]))
    for suite in SUITES[kind]:
        assert f"{suite}::" in ran, f"nothing of {suite} ran"
