"""Kinds of metrics that are one file and one line of the table: they pass every contract suite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
# An unbounded kind and a bounded one, and suites that go over the table: with a test for each kind, or with all in one.
OVER_ALL = {
    "rewards/test_valid_values.py": "takes_what_its_experiment_takes",
    "folds/test_fold_laws.py::test_no_history_ends_a_fold[0]": "no_history_ends_a_fold",
}
SUITES = {
    "duration": [
        "metrics/test_metrics_contract.py",
        "policies/test_policies_contract.py",
        "policies/test_contextual_contract.py",
        "http/test_schema_rules.py",
        *OVER_ALL,
    ],
    "stars": ["metrics/test_metrics_contract.py", "http/test_schema_rules.py", *OVER_ALL],
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", SUITES)
def test_a_kind_passes_the_contract_suites_by_being_listed(kind: str) -> None:
    """In a process of its own, in which the kind is there from the start; each suite has a test of it."""
    suites = SUITES[kind]
    path = os.pathsep.join([str(TESTS / "support"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-v", "-n0", "-p", f"{kind}_kind"]
    command += ["-k", " or ".join([kind, *OVER_ALL.values()]), *(str(TESTS / suite) for suite in suites)]
    done = subprocess.run(
        command,
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-2_000:]
    for suite in suites:
        file = suite.partition("::")[0]
        assert any(file in line and "PASSED" in line for line in done.stdout.splitlines()), suite
