"""Kinds of metrics that are one file and one line of the table: they pass every contract suite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
# An unbounded kind and a bounded one, and suites that go over the table: with a test for each kind, or `ALL` in one.
ALL = "takes_what_its_experiment_takes or no_history_ends_a_fold"
SUITES = [
    ("duration", "metrics/test_metrics_contract.py", None),
    ("duration", "policies/test_policies_contract.py", None),
    ("duration", "policies/test_contextual_contract.py", None),
    ("duration", "http/test_schema_rules.py", None),
    ("duration", "rewards/test_valid_values.py", ALL),
    ("duration", "folds/test_fold_laws.py::test_no_history_ends_a_fold[0]", ALL),
    ("stars", "metrics/test_metrics_contract.py", None),
    ("stars", "http/test_schema_rules.py", None),
    ("stars", "rewards/test_valid_values.py", ALL),
    ("stars", "folds/test_fold_laws.py::test_no_history_ends_a_fold[0]", ALL),
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "suite", "chosen"), SUITES)
def test_a_kind_passes_the_contract_suites_by_being_listed(kind: str, suite: str, chosen: str | None) -> None:
    """In a process of its own, in which the kind is there from the start; where no test is of it, pytest fails."""
    path = os.pathsep.join([str(TESTS / "support"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", f"{kind}_kind"]
    command += ["-k", chosen or kind, str(TESTS / suite)]
    done = subprocess.run(
        command,
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-2_000:]
