"""Addition of a policy with parameters by one file and one line of the table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bandit_serve.policies.table import policies_table, with_policies_table

TESTS = Path(__file__).parent.parent
SUITES = {
    "firm_grip": ["policies/test_policies_contract.py", "http/test_schema_rules.py"],
    "wide_bound": ["policies/test_contextual_contract.py", "http/test_schema_rules.py"],
}
PARAMETERS: dict[str, dict[str, tuple[list[Any], list[Any]]]] = {
    "firm_grip": {"grip": ([0.2, 0.9, None], [0.0, 0.95, "x"]), "rounds": ([1, 5], [0, 6, 1.5])},
    "wide_bound": {
        "width": ([1, 2.5, None], [0.5, 100]),
        "prior": ([{"precision": 2}], [{"precision": 0}, {"a": 1}]),
    },
}
# What the documents, the description and the configuration make of it, as JSON.
LOOK = """
import json, sys
import msgspec
from bandit_serve.changes.experiment_mistakes import every_mistake
from bandit_serve.experiments.policy import from_experiment
from bandit_serve.experiments.checks import validated
from bandit_serve.experiments.spec import Experiment
from bandit_serve.policies.table import policies_table
from bandit_serve.server.routes import ROUTES
from bandit_serve.server.openapi import document

whole = {
    "id": "e",
    "arms": [{"name": "a"}, {"name": "b"}],
    "metrics": [{"name": "m", "kind": "binary"}],
    "attribution": {"missing": "ignore"},
    "context": [{"name": "x", "kind": "numeric"}],
}

def told(policy):
    return [mistake.at for mistake in every_mistake({**whole, "policy": policy})]

def kept(policy):
    made = validated(msgspec.convert({**whole, "policy": policy}, Experiment))
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=Experiment)
    assert again == made
    return from_experiment(again).state()["parameters"]

policies = json.load(sys.stdin)
taken = [kept(policy) if not told(policy) else None for policy in policies]
print(json.dumps({
    "told": [told(policy) for policy in policies],
    "taken": taken,
    "table": policies_table(),
    "components": document(ROUTES)["components"]["schemas"],
}, default=str))
"""


def run(kind: str, *command: str, given: str = "") -> str:
    """The output of a process in which the kind is in the table from the start."""
    path = os.pathsep.join([str(TESTS / "support"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *command],
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": path},
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-2_000:]
    return done.stdout


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", SUITES)
def test_it_passes_the_contract_suites_by_being_listed(kind: str) -> None:
    suites = [str(TESTS / suite) for suite in SUITES[kind]]
    ran = run(kind, "-m", "pytest", "-v", "-n0", "-p", kind, "-k", kind, *suites)
    for suite in SUITES[kind]:
        assert f"{suite}::" in ran, f"nothing of {suite} ran"


def look(kind: str, policies: list[dict[str, Any]]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(run(kind, "-c", f"import {kind}\n{LOOK}", given=json.dumps(policies)))
    return read


@pytest.mark.parametrize("kind", SUITES)
def test_its_parameters_are_configured_checked_and_described(kind: str) -> None:
    fine = [{"kind": kind, name: value} for name, (values, _) in PARAMETERS[kind].items() for value in values]
    wrong = [
        {"kind": kind, name: value} for name, (_, values) in PARAMETERS[kind].items() for value in values
    ]
    foreign = [{"kind": "exp3", next(iter(PARAMETERS[kind])): 0.5}, {"kind": kind, "gamma": 0.5}]
    described = look(kind, [*fine, *wrong, *foreign])
    assert described["told"][: len(fine)] == [[]] * len(fine)
    for policy, places in zip([*wrong, *foreign], described["told"][len(fine) :], strict=True):
        [name] = set(policy) - {"kind"}
        assert [at.startswith(f"policy.{name}") for at in places] == [True], (policy, places)
    for policy, parameters in zip(fine, described["taken"], strict=False):
        for name in set(policy) - {"kind"}:
            assert policy[name] is None or parameters[name] == policy[name]
    own = described["components"]["FirmGripPolicy" if kind == "firm_grip" else "WideBoundPolicy"][
        "properties"
    ]
    assert set(PARAMETERS[kind]) < set(own)
    assert own["kind"] == {"type": "string", "enum": [kind]}
    for name in PARAMETERS[kind]:
        assert own[name]["description"]
        assert f"| `{kind}` | `{name}` |" in described["table"]
        others = {
            each for each, schema in described["components"].items() if name in schema.get("properties", {})
        }
        assert name == "prior" or len(others) == 1


def test_the_documents_have_the_table_as_it_is() -> None:
    page = TESTS.parent / "docs" / "policies.md"
    assert with_policies_table(page.read_text()) == page.read_text(), "python -m bandit_serve.policies.table"
    assert policies_table() in page.read_text()
