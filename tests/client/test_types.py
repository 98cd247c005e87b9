"""Types of the client as a caller's type checker sees them: mypy, strict, on the contract's example."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from documents import ROOT

CALLS = """
import asyncio
from typing import assert_type

from bandit_serve_client import (
    Client, Decision, DecisionRequest, Experiment, Model, OpenDecision, Prediction, Problem, Results, RewardsReport,
    SyncClient, Verdict, Version,
)
from bandit_serve.client import Client as Same


async def main() -> None:
    async with Client("http://127.0.0.1:8000", key=None) as c:
        d = await c.decide("ranker-v2", unit="u1", context={"hour": 9})
        assert_type(d, Decision)
        assert_type(await c.reward(d.decision_id, 1.0), Verdict)
        async with c.deciding("checkout", unit="u1") as opened:
            assert_type(opened, OpenDecision)
            opened.reward(1.0, metric="paid", event_id="order-17")
        await c.track("checkout", unit="u1", metric="revenue", value=25.0, event_id="order-17")
        assert_type(await c.decide_many("e", [DecisionRequest("u")]), list[Decision | Problem])
        assert_type(await c.predict("e", "u", k=3), Prediction)
        assert_type(await c.rewards([]), RewardsReport)
        assert_type(await c.experiments.results("e"), Results)
        assert_type((await c.experiments.results("e")).arm("a").metrics["m"].mean, float | None)
        assert_type(await c.models.register("m", b""), Version)


def threads(c: SyncClient) -> None:
    assert_type(c.decide("e"), Decision)
    assert_type(c.experiments.apply({}), Experiment)
    assert_type(c.models.rollback("m"), Model)
    with c.deciding("e") as opened:
        assert_type(opened, OpenDecision)


same: type[Same] = Client
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("", "", "Success"),
        ('context={"hour": 9}', 'contexts={"hour": 9}', "contexts"),
        ("c.reward(d.decision_id, 1.0)", 'c.reward(d.decision_id, "1")', "expected"),
        ("d.decision_id", "d.decision", "has no attribute"),
        ("c.models.rollback", "c.models.roll_back", "has no attribute"),
    ],
)
def test_a_type_checker_knows_the_calls(
    right: str, wrong: str, says: str, tmp_path: Path, cache: Path
) -> None:
    assert right in CALLS
    (tmp_path / "calls.py").write_text(CALLS.replace(right, wrong) if right else CALLS)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(cache), "calls.py"],
        cwd=tmp_path,
        env={"MYPYPATH": f"{ROOT}:{ROOT / 'clients' / 'python'}", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert says in done.stdout, done.stdout + done.stderr
